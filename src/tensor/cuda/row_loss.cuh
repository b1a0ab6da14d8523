/* What the losses over a vocabulary share (head_loss.cu, distill_loss.cu): rows of logits, whose gradient takes
 * their place, and what rows give. */
#pragma once

#include <limits.h>

#include "tensor/cuda/cluster.cuh"
#include "tensor/cuda/vec.cuh"

/* Every chunk fills and empties the card some five times, some 25 us in all: with this many operations of its
 * first product, 1.7 ms, more rows gain nothing. Its logits take at most so many bytes, 2048 rows of 151936 in
 * f32, on small cards this share of the memory. */
#define CHUNK_OPERATIONS 1.3e12
#define CHUNK_BYTES ((size_t)1280 << 20)
#define CHUNK_SHARE 64
#define CHUNK_ROWS 128 /* chunks of more rows are multiples of it, as the products' tiles are */

/* What one row gives. */
struct row_result {
    double loss;
    int32_t hit, unused;
};

/* Rows of logits are padded to a multiple of 16 bytes, of bf16 as of f32. */
static inline int64_t padded(int64_t vocab) {
    return (vocab + 7) / 8 * 8;
}

/* Rows of a chunk whose rows take `bytes` and `operations` each, all chunks about as large. */
static inline int64_t chunk_rows(const spi_cuda *cuda, int64_t rows, size_t bytes, double operations) {
    const size_t share = cuda->memory / CHUNK_SHARE, most = share < CHUNK_BYTES ? share : CHUNK_BYTES;
    const int64_t enough = (int64_t)(CHUNK_OPERATIONS / operations);
    int64_t fit = (int64_t)(most / bytes);
    if (fit > enough) fit = enough;
    fit = fit < 1 ? 1 : fit > CHUNK_ROWS ? fit / CHUNK_ROWS * CHUNK_ROWS : fit;
    if (rows <= fit) return rows;
    const int64_t even = blocks_for(rows, blocks_for(rows, fit));
    return fit > CHUNK_ROWS ? blocks_for(even, CHUNK_ROWS) * CHUNK_ROWS : even;
}

/* Rows [first, first + rows) of m. */
static inline spi_mat some_rows(spi_mat m, int64_t first, int64_t rows) {
    const size_t size = m.dtype == SP_BF16 ? 2 : 4;
    m.data = static_cast<char *>(m.data) + (size_t)(first * m.ld) * size;
    m.rows = rows;
    return m;
}

/* Logits [rows, vocab]. */
static inline spi_mat logits_at(void *data, sp_dtype dtype, int64_t rows, int64_t vocab) {
    return {data, dtype, rows, vocab, padded(vocab)};
}
/* The gradient of f32 logits in the same place: in bf16 the first half of each row. */
static inline spi_mat gradient_at(spi_mat logits, sp_dtype dtype) {
    return {logits.data, dtype, logits.rows, logits.cols, dtype == SP_BF16 ? 2 * logits.ld : logits.ld};
}

/* exp; the quick one where bf16 rounds after it. */
template <typename T> __device__ __forceinline__ float exponential(float x);
template <> __device__ __forceinline__ float exponential<float>(float x) {
    return expf(x);
}
template <> __device__ __forceinline__ float exponential<bf16>(float x) {
    return __expf(x);
}

/* Four elements of the gradient. */
__device__ __forceinline__ void store_four(float *to, const float (&x)[4]) {
    *reinterpret_cast<float4 *>(to) = make_float4(x[0], x[1], x[2], x[3]);
}
__device__ __forceinline__ void store_four(bf16 *to, const float (&x)[4]) {
    uint2 bits;
    bf16 *t = reinterpret_cast<bf16 *>(&bits);
#pragma unroll
    for (int i = 0; i < 4; i++) t[i] = __float2bfloat16_rn(x[i]);
    *reinterpret_cast<uint2 *>(to) = bits;
}

/* The largest x of a block of whole warps, for every thread. */
__device__ __forceinline__ float block_max(float x) {
    __shared__ float part[32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) part[warp] = x;
    __syncthreads();
    return warp_max(lane < warps ? part[lane] : -INFINITY);
}

__device__ __forceinline__ int warp_least(int x) {
#pragma unroll
    for (int i = 16; i; i >>= 1) x = min(x, __shfl_xor_sync(0xffffffffu, x, i));
    return x;
}
/* The least x of a block, for every thread. */
__device__ __forceinline__ int block_least(int x) {
    __shared__ int part[32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    x = warp_least(x);
    __syncthreads();
    if (lane == 0) part[warp] = x;
    __syncthreads();
    return warp_least(lane < warps ? part[lane] : INT_MAX);
}

/* acc[0] += losses, acc[1] += hits, in an order that depends on the number of rows alone. */
static __global__ void __launch_bounds__(256)
    add_results(double *acc, const row_result *results, int64_t rows) {
    __shared__ double losses[256], hits[256];
    double loss = 0.0, hit = 0.0;
    for (int64_t i = threadIdx.x; i < rows; i += 256) {
        loss += results[i].loss;
        hit += results[i].hit;
    }
    losses[threadIdx.x] = loss;
    hits[threadIdx.x] = hit;
    for (int n = 128; n; n /= 2) {
        __syncthreads();
        if ((int)threadIdx.x >= n) continue;
        losses[threadIdx.x] += losses[threadIdx.x + n];
        hits[threadIdx.x] += hits[threadIdx.x + n];
    }
    if (threadIdx.x != 0) return;
    acc[0] += losses[0];
    acc[1] += hits[0];
}

/* The fewest blocks, 1, 2, 4 ..., that hold a row with `each` elements a thread; 0 where no cluster does. */
static inline int blocks_of_row(const spi_cuda *cuda, int64_t vocab, int64_t each, int threads) {
    for (int blocks = 1; blocks <= most_cluster(cuda); blocks *= 2)
        if (vocab <= blocks * each * threads) return blocks;
    return 0;
}
/* Threads of each of them: whole warps. */
static inline int threads_of_row(int64_t vocab, int64_t each, int blocks) {
    return (int)(blocks_for(vocab, each * blocks * 32) * 32);
}
