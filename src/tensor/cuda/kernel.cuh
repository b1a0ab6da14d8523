/* What kernels share: elements of either type as floats, sums over a warp and a block, dispatch by type. */
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "tensor/cuda/launch.cuh"

typedef __nv_bfloat16 bf16;

__device__ __forceinline__ float to_float(float x) {
    return x;
}
__device__ __forceinline__ float to_float(bf16 x) {
    return __bfloat162float(x);
}
template <typename T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) {
    return x;
}
template <> __device__ __forceinline__ bf16 from_float<bf16>(float x) {
    return __float2bfloat16_rn(x);
}

__device__ __forceinline__ uint32_t two_bf16(float low, float high) {
    const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const uint32_t *>(&both);
}

/* 16 bytes of a row: 4 f32 or 8 bf16, at a multiple of 16 bytes. */
template <typename T> struct pack {
    static constexpr int size = 16 / (int)sizeof(T);
    float v[size];

    __device__ __forceinline__ void load(const T *from) {
        const uint4 bits = *reinterpret_cast<const uint4 *>(from);
        const T *t = reinterpret_cast<const T *>(&bits);
#pragma unroll
        for (int i = 0; i < size; i++) v[i] = to_float(t[i]);
    }
    __device__ __forceinline__ void store(T *to) const {
        uint4 bits;
        T *t = reinterpret_cast<T *>(&bits);
#pragma unroll
        for (int i = 0; i < size; i++) t[i] = from_float<T>(v[i]);
        *reinterpret_cast<uint4 *>(to) = bits;
    }
};

/* The same 16 bytes as words that stay in registers. */
__device__ __forceinline__ void floats_of(float (&x)[4], const uint4 &words) {
    x[0] = __uint_as_float(words.x);
    x[1] = __uint_as_float(words.y);
    x[2] = __uint_as_float(words.z);
    x[3] = __uint_as_float(words.w);
}
__device__ __forceinline__ void floats_of(float (&x)[8], const uint4 &words) {
    const uint32_t w[4] = {words.x, words.y, words.z, words.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        x[2 * i] = __uint_as_float(w[i] << 16);
        x[2 * i + 1] = __uint_as_float(w[i] & 0xffff0000u);
    }
}
__device__ __forceinline__ uint4 words_of(const float (&x)[4]) {
    return make_uint4(__float_as_uint(x[0]), __float_as_uint(x[1]), __float_as_uint(x[2]),
                      __float_as_uint(x[3]));
}
__device__ __forceinline__ uint4 words_of(const float (&x)[8]) {
    return make_uint4(two_bf16(x[0], x[1]), two_bf16(x[2], x[3]), two_bf16(x[4], x[5]), two_bf16(x[6], x[7]));
}

__device__ __forceinline__ float warp_sum(float x) {
#pragma unroll
    for (int i = 16; i; i >>= 1) x += __shfl_xor_sync(0xffffffffu, x, i);
    return x;
}
__device__ __forceinline__ float warp_max(float x) {
#pragma unroll
    for (int i = 16; i; i >>= 1) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, i));
    return x;
}

/* Sum over a block of whole warps, at most 1024 threads, for every thread; in the same order each time. */
__device__ __forceinline__ float block_sum(float x) {
    __shared__ float part[32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    x = warp_sum(x);
    __syncthreads(); /* `part` may still be read from the sum before */
    if (lane == 0) part[warp] = x;
    __syncthreads();
    return warp_sum(lane < warps ? part[lane] : 0.0f);
}

/* A row-major matrix for kernels: element (r, c) is data[r * ld + c]. */
template <typename T> struct rows_of {
    T *data;
    int64_t ld;
    __device__ __forceinline__ T *row(int64_t r) const {
        return data + r * ld;
    }
};
template <typename T> static inline rows_of<T> rows(spi_mat m) {
    return {static_cast<T *>(m.data), m.ld};
}

/* Whether rows of m can be read 16 bytes at a time. */
static inline bool packs(spi_mat m) {
    const int64_t each = m.dtype == SP_BF16 ? 8 : 4;
    return (uintptr_t)m.data % 16 == 0 && m.ld % each == 0 && m.cols % each == 0;
}

static inline int64_t blocks_for(int64_t items, int64_t each) {
    return (items + each - 1) / each;
}
