/* Neighbouring elements of a row as floats, of any dtype, and how threads are laid over a matrix. */
#pragma once

#include <cuda_fp16.h>

#include "tensor/cuda/kernel.cuh"

__device__ __forceinline__ float to_float(__half x) {
    return __half2float(x);
}
__device__ __forceinline__ float to_float(int8_t x) {
    return (float)x;
}
template <> __device__ __forceinline__ __half from_float<__half>(float x) {
    return __float2half_rn(x);
}

/* What one access of so many bytes moves. */
template <int BYTES> struct word;
template <> struct word<1> { typedef unsigned char type; };
template <> struct word<2> { typedef unsigned short type; };
template <> struct word<4> { typedef unsigned int type; };
template <> struct word<8> { typedef uint2 type; };
template <> struct word<16> { typedef uint4 type; };

/* E elements in accesses as wide as they fill, at most 16 bytes; `from` and `to` are multiples of that. */
template <typename T, int E> struct vec {
    static constexpr int access = E * (int)sizeof(T) < 16 ? E * (int)sizeof(T) : 16;
    static constexpr int words = E * (int)sizeof(T) / access, each = E / words;
    typedef typename word<access>::type word_type;
    float v[E];

    __device__ __forceinline__ void unpack(const word_type &bits, int at) {
        const T *t = reinterpret_cast<const T *>(&bits);
#pragma unroll
        for (int i = 0; i < each; i++) v[at * each + i] = to_float(t[i]);
    }
    __device__ __forceinline__ void load(const T *from) {
        word_type bits[words];
#pragma unroll
        for (int i = 0; i < words; i++) bits[i] = reinterpret_cast<const word_type *>(from)[i];
#pragma unroll
        for (int i = 0; i < words; i++) unpack(bits[i], i);
    }
    __device__ __forceinline__ void store(T *to) const {
#pragma unroll
        for (int i = 0; i < words; i++) {
            word_type bits;
            T *t = reinterpret_cast<T *>(&bits);
#pragma unroll
            for (int j = 0; j < each; j++) t[j] = from_float<T>(v[i * each + j]);
            reinterpret_cast<word_type *>(to)[i] = bits;
        }
    }
};

/* F32 or BF16, known when it runs: where few elements are touched. */
struct either {
    void *data;
    int64_t ld;
    bool wide; /* F32 */

    __device__ __forceinline__ float get(int64_t r, int64_t c) const {
        const int64_t at = r * ld + c;
        return wide ? static_cast<const float *>(data)[at] : to_float(static_cast<const bf16 *>(data)[at]);
    }
    __device__ __forceinline__ void set(int64_t r, int64_t c, float value) const {
        const int64_t at = r * ld + c;
        if (wide) static_cast<float *>(data)[at] = value;
        else static_cast<bf16 *>(data)[at] = from_float<bf16>(value);
    }
};
static inline either either_of(spi_mat m) {
    return {m.data, m.ld, m.dtype == SP_F32};
}

/* A type handed to a generic lambda: by_float(dtype, [&](auto t) { typedef typename decltype(t)::type T; ... })
 */
template <typename T> struct type_tag { typedef T type; };
template <int N> struct count_tag { static constexpr int value = N; };
template <typename F> static inline void by_float(sp_dtype dtype, F f) {
    if (dtype == SP_BF16) f(type_tag<bf16>());
    else f(type_tag<float>());
}

/* Bytes of an element of what kernels read. */
static inline int64_t bytes_of(sp_dtype dtype) {
    return dtype == SP_F32 ? 4 : dtype == SP_I8 ? 1 : 2;
}

/* Whether all rows of m can be read `each` elements at a time in the accesses of vec<T, each>. */
static inline bool in_vecs(spi_mat m, int64_t each) {
    const int64_t bytes = each * bytes_of(m.dtype) < 16 ? each * bytes_of(m.dtype) : 16;
    return (uintptr_t)m.data % (uintptr_t)bytes == 0 && m.cols % each == 0 &&
           (m.rows <= 1 || m.ld * bytes_of(m.dtype) % bytes == 0);
}

/* Blocks of 256 threads over rows of `vecs` vectors: columns along x, rows along y, which kernels go on from in
 * steps of the whole grid. */
struct tiling {
    dim3 grid, block;
};
static inline tiling tile(int64_t rows, int64_t vecs) {
    unsigned x = 1;
    while (x < 128 && x < vecs) x *= 2;
    const unsigned y = 256 / x;
    const int64_t down = blocks_for(rows, y);
    return {dim3((unsigned)blocks_for(vecs, x), (unsigned)(down < 65535 ? down : 65535)), dim3(x, y)};
}
__device__ __forceinline__ int64_t tile_column() {
    return (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
}
__device__ __forceinline__ int64_t tile_row() {
    return (int64_t)blockIdx.y * blockDim.y + threadIdx.y;
}
__device__ __forceinline__ int64_t tile_rows() {
    return (int64_t)gridDim.y * blockDim.y;
}
