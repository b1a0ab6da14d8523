/*
 * Weights of 8 bits with a scale for each output: making them, and making numbers of them again.
 *
 * quantize: W [N, K]: a block for each row, which it reads twice (the second time from the cache), 8 elements a
 * thread at a time or one. W [K, N]: blocks of 32 columns look for the largest, then tiles of 32 x 32 are
 * turned in shared memory. Once per weight, when a model is loaded. dequantize: out[n, k] = scale[n] q[n, k] in
 * the dtype of the product at hand, 16 elements a thread. Limit: memory; [12288, 4096] to bf16: 151 MB, 50 us.
 */
#include <math.h>

#include "tensor/cuda/vec.cuh"

#define THREADS 256

/* ------------------------------------------------------------------ quantising */

/* W as it lies, at any address: ALIGNED says that elements lie at multiples of their size. */
template <typename T, bool ALIGNED> struct source {
    const char *data;
    int64_t ld;
    __device__ __forceinline__ float get(int64_t r, int64_t c) const {
        const char *at = data + (r * ld + c) * (int64_t)sizeof(T);
        if constexpr (ALIGNED) {
            return to_float(*reinterpret_cast<const T *>(at));
        } else {
            T value;
            char *bytes = reinterpret_cast<char *>(&value);
#pragma unroll
            for (int i = 0; i < (int)sizeof(T); i++) bytes[i] = at[i];
            return to_float(value);
        }
    }
};

static __device__ __forceinline__ float scale_for(float most) {
    const float scale = most / 127.0f;
    return scale > 0.0f && isfinite(scale) ? scale : 1.0f;
}

static __device__ __forceinline__ int8_t quantized(float x, float scale) {
    return (int8_t)__float2int_rn(fminf(fmaxf(x / scale, -127.0f), 127.0f));
}

/* Largest over a block, for every thread. */
static __device__ __forceinline__ float block_max(float x) {
    __shared__ float part[32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    x = warp_max(x);
    __syncthreads();
    if (lane == 0) part[warp] = x;
    __syncthreads();
    return warp_max(lane < THREADS / 32 ? part[lane] : 0.0f);
}

/* W [N, K] in vectors of 8. */
template <typename T>
static __global__ void __launch_bounds__(THREADS)
    quantize_vecs(float *scales, int8_t *q, rows_of<const T> w, int64_t n, int64_t k) {
    for (int64_t r = blockIdx.x; r < n; r += gridDim.x) {
        float most = 0.0f;
        vec<T, 8> v;
        for (int64_t c = threadIdx.x * 8; c < k; c += THREADS * 8) {
            v.load(w.row(r) + c);
#pragma unroll
            for (int e = 0; e < 8; e++) most = fmaxf(most, fabsf(v.v[e]));
        }
        const float scale = scale_for(block_max(most));
        if (threadIdx.x == 0) scales[r] = scale;
        for (int64_t c = threadIdx.x * 8; c < k; c += THREADS * 8) {
            int8_t out[8];
            v.load(w.row(r) + c);
#pragma unroll
            for (int e = 0; e < 8; e++) out[e] = quantized(v.v[e], scale);
            uint2 bits;
#pragma unroll
            for (int e = 0; e < 8; e++) reinterpret_cast<int8_t *>(&bits)[e] = out[e];
            *reinterpret_cast<uint2 *>(q + r * k + c) = bits;
        }
    }
}

template <typename T, bool ALIGNED>
static __global__ void __launch_bounds__(THREADS)
    quantize_rows(float *scales, int8_t *q, source<T, ALIGNED> w, int64_t n, int64_t k) {
    for (int64_t r = blockIdx.x; r < n; r += gridDim.x) {
        float most = 0.0f;
        for (int64_t c = threadIdx.x; c < k; c += THREADS) most = fmaxf(most, fabsf(w.get(r, c)));
        const float scale = scale_for(block_max(most));
        if (threadIdx.x == 0) scales[r] = scale;
        for (int64_t c = threadIdx.x; c < k; c += THREADS) q[r * k + c] = quantized(w.get(r, c), scale);
    }
}

/* W [K, N]: scales of 32 columns; a block of 32 x 8 threads. */
template <typename T, bool ALIGNED>
static __global__ void __launch_bounds__(THREADS)
    scale_columns(float *scales, source<T, ALIGNED> w, int64_t n, int64_t k) {
    __shared__ float part[8][32];
    const int64_t c = (int64_t)blockIdx.x * 32 + threadIdx.x;
    float most = 0.0f;
    if (c < n)
        for (int64_t r = threadIdx.y; r < k; r += 8) most = fmaxf(most, fabsf(w.get(r, c)));
    part[threadIdx.y][threadIdx.x] = most;
    __syncthreads();
    if (threadIdx.y || c >= n) return;
#pragma unroll
    for (int i = 1; i < 8; i++) most = fmaxf(most, part[i][threadIdx.x]);
    scales[c] = scale_for(most);
}

/* Tiles of q [N, K]: blocks along x over n, along y over k. */
template <typename T, bool ALIGNED>
static __global__ void __launch_bounds__(THREADS)
    quantize_turned(int8_t *q, const float *scales, source<T, ALIGNED> w, int64_t n, int64_t k) {
    __shared__ float turned[32][33];
    const int64_t first_n = (int64_t)blockIdx.x * 32;
    for (int64_t first_k = (int64_t)blockIdx.y * 32; first_k < k; first_k += (int64_t)gridDim.y * 32) {
        __syncthreads();
        for (int i = threadIdx.y; i < 32; i += 8)
            if (first_k + i < k && first_n + threadIdx.x < n)
                turned[i][threadIdx.x] = w.get(first_k + i, first_n + threadIdx.x);
        __syncthreads();
        for (int i = threadIdx.y; i < 32; i += 8)
            if (first_n + i < n && first_k + threadIdx.x < k)
                q[(first_n + i) * k + first_k + threadIdx.x] =
                    quantized(turned[threadIdx.x][i], scales[first_n + i]);
    }
}

template <typename T, bool ALIGNED>
static void quantize_any(spi_cuda *cuda, float *scales, int8_t *q, const spi_weight *w) {
    const int64_t n = spi_weight_out(w), k = spi_weight_in(w);
    const source<T, ALIGNED> from = {static_cast<const char *>(w->m.data), w->m.ld};
    if (w->transposed) {
        const unsigned across = (unsigned)blocks_for(n, 32);
        const int64_t down = blocks_for(k, 32);
        const dim3 block(32, 8), grid(across, (unsigned)(down < 65535 ? down : 65535));
        launch(cuda, "quantising", scale_columns<T, ALIGNED>, shape(across, block), scales, from, n, k);
        if (k)
            launch(cuda, "quantising", quantize_turned<T, ALIGNED>, shape(grid, block), q, scales, from, n, k);
    } else {
        launch(cuda, "quantising", quantize_rows<T, ALIGNED>,
               shape((unsigned)(n < INT32_MAX ? n : INT32_MAX), THREADS), scales, q, from, n, k);
    }
}

template <typename T> static void quantize_as(spi_cuda *cuda, float *scales, int8_t *q, const spi_weight *w) {
    const int64_t n = spi_weight_out(w), k = spi_weight_in(w);
    if (!w->transposed && in_vecs(w->m, 8) && (uintptr_t)q % 8 == 0)
        launch(cuda, "quantising", quantize_vecs<T>, shape((unsigned)(n < INT32_MAX ? n : INT32_MAX), THREADS),
               scales, q, rows<const T>(w->m), n, k);
    else if ((uintptr_t)w->m.data % sizeof(T) == 0) quantize_any<T, true>(cuda, scales, q, w);
    else quantize_any<T, false>(cuda, scales, q, w);
}

void spi_cuda_quantize(spi_device *dev, float *scale, int8_t *q, const spi_weight *w) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK || spi_weight_out(w) == 0) return;
    if (w->m.dtype == SP_BF16) quantize_as<bf16>(cuda, scale, q, w);
    else if (w->m.dtype == SP_F16) quantize_as<__half>(cuda, scale, q, w);
    else quantize_as<float>(cuda, scale, q, w);
}

/* ------------------------------------------------------------------ numbers again */

template <typename T, int E>
static __global__ void dequantize(rows_of<T> to, rows_of<const int8_t> q, const float *scales, int64_t rows,
                                  int64_t vecs) {
    const int64_t c = tile_column() * E;
    if (tile_column() >= vecs) return;
    for (int64_t r = tile_row(); r < rows; r += tile_rows()) {
        const float scale = scales[r];
        vec<int8_t, E> v;
        vec<T, E> w;
        v.load(q.row(r) + c);
#pragma unroll
        for (int e = 0; e < E; e++) w.v[e] = scale * v.v[e];
        w.store(to.row(r) + c);
    }
}

bool spi_cuda_dequantize(spi_cuda *cuda, const spi_weight *w, sp_dtype dtype, spi_mat *out) {
    const spi_mat m = w->m;
    if (cuda->device.status != SP_OK) return false;
    void *data = spi_cuda_room(cuda, (size_t)(m.rows * m.cols * bytes_of(dtype)));
    if (!data) return false;
    *out = spi_mat_of(data, dtype, m.rows, m.cols);
    if (m.rows == 0 || m.cols == 0) return true;
    const bool wide = in_vecs(m, 16) && in_vecs(*out, 16);
    const int64_t vecs = wide ? m.cols / 16 : m.cols;
    const tiling t = tile(m.rows, vecs);
    by_float(dtype, [&](auto tag) {
        typedef typename decltype(tag)::type T;
        const rows_of<T> to = rows<T>(*out);
        const rows_of<const int8_t> q = rows<const int8_t>(m);
        if (wide)
            launch(cuda, "widening a quantised weight", dequantize<T, 16>, shape(t.grid, t.block), to, q,
                   w->scale, m.rows, vecs);
        else
            launch(cuda, "widening a quantised weight", dequantize<T, 1>, shape(t.grid, t.block), to, q,
                   w->scale, m.rows, vecs);
    });
    return cuda->device.status == SP_OK;
}
