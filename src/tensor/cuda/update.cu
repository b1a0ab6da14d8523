/*
 * Update (backend.h), forward; backward in update_backward.cu. h, s [T, d]; W0, V0 [g, d], W3, V2 [d, g], z [T,
 * 2 g] f32. Limit: reads h and s, writes s_out: 50 MB at T = 8192, d = 1024 in bf16, 17 us; 4 T d g products
 * and sums of f32, 12 us at g = 10.
 *
 * update_tile: 32 rows a block, 4 a warp; mean and variance, z as sums over the lanes, then a thread takes 4
 * columns of W3 and V2 in registers and mixes them into the 32 rows of s.
 * update_held: one row a cluster, held in registers; few rows, any alignment. update_row: the same of any g and
 * d, through memory.
 * g up to 16 in all but update_row, padded with zeros to 8, 10 or 16; many rows with more go through
 * update_wide.cu. bf16 goes through update_tensor.cu, but for few rows.
 */
#include "tensor/cuda/tensor.h"
#include "tensor/cuda/update.cuh"
#include "tensor/cuda/wide.h"

#define EACH 4 /* rows of a warp */
#define TILE (EACH * SHADOW_THREADS / 32)

/* ------------------------------------------------------------------ tiles of rows */

/* Rows of u: LayerNorm(h), or h. */
template <typename T> struct norm_rows {
    rows_of<const T> h;
    int64_t first;
    const updating &up;
    const float (&mean)[EACH], (&inverse)[EACH];

    template <int P> __device__ __forceinline__ void load(float (&x)[P], int r, int64_t c) const {
        pack<T> a = {};
        const bool real = first + r < up.rows && c < up.d;
        if (real) a.load(h.row(first + r) + c);
#pragma unroll
        for (int i = 0; i < P; i++) {
            x[i] = a.v[i];
            if (up.norm_weight && real)
                x[i] = (x[i] - mean[r]) * inverse[r] * up.norm_weight[c + i] + up.norm_bias[c + i];
        }
    }
};

/* s_out[t + r] = s + q (t - s) from small[r]: act(W0 u) and act(V0 u). A thread takes 4 columns. */
template <typename T, int G>
__device__ __forceinline__ void mix_rows(rows_of<T> s_out, rows_of<const T> s, const float *small, int64_t t,
                                         int rows, const updating &up) {
    const out_weight<G> weight = {up.w3, up.v2, up.g};
    for (int64_t c = threadIdx.x * 4; c < up.d; c += SHADOW_THREADS * 4) {
        float w[2 * G][4], bias[2][4];
#pragma unroll
        for (int i = 0; i < 4; i++) {
#pragma unroll
            for (int j = 0; j < 2 * G; j++) w[j][i] = weight(j, c + i);
            bias[0][i] = up.b3 ? up.b3[c + i] : 0.0f;
            bias[1][i] = up.c2 ? up.c2[c + i] : 0.0f;
        }
        for (int r = 0; r < rows; r += 2) {
            float x[2][4];
#pragma unroll
            for (int k = 0; k < 2; k++)
                if (r + k < rows) load_run(x[k], s.row(t + r + k) + c);
#pragma unroll
            for (int k = 0; k < 2; k++) {
                if (r + k >= rows) break;
                float y[2][4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    y[0][i] = bias[0][i];
                    y[1][i] = bias[1][i];
                }
#pragma unroll
                for (int q = 0; q < 2 * G / 4; q++) {
                    const float4 four = reinterpret_cast<const float4 *>(small + (r + k) * 2 * G)[q];
                    const float a[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
                    for (int j = 0; j < 4; j++)
#pragma unroll
                        for (int i = 0; i < 4; i++) y[(4 * q + j) / G][i] += a[j] * w[4 * q + j][i];
                }
#pragma unroll
                for (int i = 0; i < 4; i++) x[k][i] += gate<T>(y[1][i]) * (y[0][i] - x[k][i]);
                store_run(s_out.row(t + r + k) + c, x[k]);
            }
        }
    }
}

template <typename T, int G>
static __global__ void __launch_bounds__(SHADOW_THREADS, G <= 10 ? 2 : 1)
    update_tile(rows_of<T> s_out, float *z, rows_of<const T> h, rows_of<const T> s, updating up) {
    constexpr int P = pack<T>::size, N = 2 * G;
    __shared__ __align__(16) float tile[N * 32 * P];
    __shared__ __align__(16) float small[TILE * N];
    const int own = (int)threadIdx.x / 32 * EACH;
    const int64_t t = (int64_t)blockIdx.x * TILE;
    float sum[EACH * N], mean[EACH], inverse[EACH];
    if (up.norm_weight) row_statistics(mean, inverse, h, t + own, up);
    project<N, P, EACH>(sum, tile, norm_rows<T>{h, t + own, up, mean, inverse},
                        in_weight<G>{up.w0, up.v0, up.g, up.d}, up.d);
    const int at = fold<EACH * N>::run(sum);
#pragma unroll
    for (int i = 0; i < fold<EACH * N>::count; i++) {
        const int r = own + (at + i) / N, jj = (at + i) % N, j = jj % G;
        const int64_t row = t + r;
        const bool real = row < up.rows && j < up.g;
        float x = sum[i];
        if (real && up.b0) x += jj < G ? up.b0[j] : up.c0[j];
        if (real && z) z[row * 2 * up.g + (jj < G ? 0 : up.g) + j] = x;
        x = activated(x, up.gelu);
        if (real && jj < G) x *= drop_factor(up.drop, row * up.g + j);
        small[r * N + jj] = real ? x : 0.0f;
    }
    __syncthreads();
    mix_rows<T, G>(s_out, s, small, t, (int)(up.rows - t < TILE ? up.rows - t : TILE), up);
}

/* ------------------------------------------------------------------ one row, held */

/* Mean and 1 / sqrt(var + eps) of a row whose elements threadIdx.x + i * blockDim.x, i < cluster_size(), a
 * block holds: each block of the cluster for itself. */
__device__ __forceinline__ void held_statistics(float *mean, float *inverse, const float (&x)[MOST_CLUSTER],
                                                const updating &up) {
    float sum = 0.0f, squares = 0.0f;
#pragma unroll
    for (int i = 0; i < MOST_CLUSTER; i++) sum += x[i];
    *mean = block_sum(sum) / (float)up.d;
#pragma unroll
    for (int i = 0; i < MOST_CLUSTER; i++) {
        const float away = (int)threadIdx.x + i * (int)blockDim.x < up.d ? x[i] - *mean : 0.0f;
        squares += away * away;
    }
    *inverse = 1.0f / sqrtf(block_sum(squares) / (float)up.d + up.eps);
}

/* A thread's values of the weights: of its column, and of lane j the biases of W0 or V0's row j. */
template <int G> struct held_weights {
    float in[2 * G], out[2][G], norm_weight, norm_bias, b3, c2, added;

    __device__ __forceinline__ void load(const updating &up, int64_t c, bool real, int wide) {
        const in_weight<G> weight = {up.w0, up.v0, up.g, up.d};
        const int g = real ? (int)up.g : 0, lane = (int)threadIdx.x % 32, j = lane % G;
        const bool norm = up.norm_weight && real;
        norm_weight = norm ? up.norm_weight[c] : 1.0f;
        norm_bias = norm ? up.norm_bias[c] : 0.0f;
#pragma unroll
        for (int i = 0; i < 2 * G; i++) in[i] = real ? weight(i, c) : 0.0f;
        load_narrow(out[0], up.w3 + c * up.g, g, wide);
        load_narrow(out[1], up.v2 + c * up.g, g, wide);
        b3 = up.b3 && real ? up.b3[c] : 0.0f;
        c2 = up.c2 && real ? up.c2[c] : 0.0f;
        added = up.b0 && lane < 2 * G && j < up.g ? (lane < G ? up.b0 : up.c0)[j] : 0.0f;
    }
};

/* act(z) of the row, in each lane j < 2 G of every warp, from the sums of W0 u and V0 u; z is stored once. */
template <int G>
__device__ __forceinline__ float activate_sum(float sum, float *z, int64_t t, const updating &up) {
    const int lane = (int)threadIdx.x % 32, j = lane % G;
    if (lane >= 2 * G || j >= up.g) return 0.0f;
    if (z && cluster_rank() == 0 && threadIdx.x < 32) z[t * 2 * up.g + (lane < G ? 0 : up.g) + j] = sum;
    const float x = activated(sum, up.gelu);
    return lane < G ? x * drop_factor(up.drop, t * up.g + j) : x;
}

template <typename T, int G>
static __global__ void __launch_bounds__(ROW_THREADS)
    update_held(rows_of<T> s_out, float *z, rows_of<const T> h, rows_of<const T> s, updating up, int wide) {
    __shared__ __align__(16) float small[ROW_THREADS / 32][32];
    dependents_may_start();
    cluster_arrive();
    const int size = cluster_size(), lane = (int)threadIdx.x % 32;
    const int64_t t = blockIdx.x / size, c = (int64_t)cluster_rank() * blockDim.x + threadIdx.x;
    const bool real = c < up.d;
    held_weights<G> w;
    w.load(up, c, real, wide);
    dependency_wait();
    float x[MOST_CLUSTER], u = real ? to_float(h.row(t)[c]) : 0.0f;
    const float old = real ? to_float(s.row(t)[c]) : 0.0f;
    if (up.norm_weight) {
        float mean, inverse;
#pragma unroll
        for (int i = 0; i < MOST_CLUSTER; i++) {
            const int64_t at = threadIdx.x + (int64_t)i * blockDim.x;
            x[i] = at < up.d ? to_float(h.row(t)[at]) : 0.0f;
        }
        held_statistics(&mean, &inverse, x, up);
        u = (u - mean) * inverse * w.norm_weight + w.norm_bias;
    }
#pragma unroll
    for (int j = 0; j < 2 * G; j++) w.in[j] *= u;
    float *own = small[threadIdx.x / 32];
    own[lane] = activate_sum<G>(cluster_sums(w.in) + w.added, z, t, up);
    __syncwarp();
    if (!real) return;
    float y[2] = {w.b3, w.c2};
#pragma unroll
    for (int j = 0; j < 2 * G; j++) y[j / G] += own[j] * w.out[j / G][j % G];
    s_out.row(t)[c] = from_float<T>(old + gate<T>(y[1]) * (y[0] - old));
}

/* ------------------------------------------------------------------ one row, of any size */

/* Row jj of [W0; V0]. */
__device__ __forceinline__ const float *in_row(const updating &up, int64_t jj) {
    return jj < up.g ? up.w0 + jj * up.d : up.v0 + (jj - up.g) * up.d;
}

/* part [2 g] = this block's part of W0 u and V0 u. */
template <typename T> __device__ __forceinline__ void project_row(float *part, const T *h, const updating &up) {
    const int64_t first = (int64_t)cluster_rank() * blockDim.x + threadIdx.x;
    const int64_t step = (int64_t)cluster_size() * blockDim.x;
    float mean = 0.0f, inverse = 1.0f;
    if (up.norm_weight) block_statistics(&mean, &inverse, h, up); /* each block of the cluster for itself */
    for (int64_t from = 0; from < 2 * up.g; from += 16) {
        const int count = (int)(2 * up.g - from < 16 ? 2 * up.g - from : 16);
        float sum[16] = {};
        for (int64_t c = first; c < up.d; c += step) {
            float x = to_float(h[c]);
            if (up.norm_weight) x = (x - mean) * inverse * up.norm_weight[c] + up.norm_bias[c];
#pragma unroll
            for (int j = 0; j < 16; j++)
                if (j < count) sum[j] += x * in_row(up, from + j)[c];
        }
        block_sums(part + from, sum, count);
    }
}

/* Shared: this block's part of z, then act(z). */
template <typename T>
static __global__ void __launch_bounds__(ROW_THREADS)
    update_row(rows_of<T> s_out, float *z, rows_of<const T> h, rows_of<const T> s, updating up) {
    extern __shared__ float memory[];
    const int64_t both = 2 * up.g;
    float *part = memory, *small = memory + both;
    const int size = cluster_size(), rank = cluster_rank();
    const int64_t t = blockIdx.x / size, step = (int64_t)size * blockDim.x;
    dependents_may_start();
    prefetch_share(up.w0, up.d * up.g);
    prefetch_share(up.v0, up.d * up.g);
    prefetch_share(up.w3, up.d * up.g);
    prefetch_share(up.v2, up.d * up.g);
    dependency_wait();
    project_row(part, h.row(t), up);
    cluster_barrier();
    for (int j = (int)threadIdx.x; j < both; j += (int)blockDim.x) {
        float x = 0.0f;
        for (int i = 0; i < size; i++) x += *cluster_at(part + j, i);
        if (up.b0) x += j < up.g ? up.b0[j] : up.c0[j - up.g];
        if (z && rank == 0) z[t * both + j] = x;
        x = activated(x, up.gelu);
        small[j] = j < up.g ? x * drop_factor(up.drop, t * up.g + j) : x;
    }
    __syncthreads();
    for (int64_t c = (int64_t)rank * blockDim.x + threadIdx.x; c < up.d; c += step) {
        float x = up.b3 ? up.b3[c] : 0.0f, y = up.c2 ? up.c2[c] : 0.0f;
        const float old = to_float(s.row(t)[c]);
#pragma unroll 10
        for (int64_t j = 0; j < up.g; j++) {
            x += small[j] * up.w3[c * up.g + j];
            y += small[up.g + j] * up.v2[c * up.g + j];
        }
        s_out.row(t)[c] = from_float<T>(old + gate<T>(y) * (x - old));
    }
    cluster_barrier(); /* the others may still read `part` */
}

/* ------------------------------------------------------------------ the operation */

template <typename T>
static void forward(spi_cuda *cuda, spi_mat s_out, float *z, spi_mat h, spi_mat s, const spi_update *update) {
    const updating up = updating_of(update, h.rows, h.cols);
    const rows_of<T> out = rows<T>(s_out);
    const rows_of<const T> h_rows = rows<const T>(h), s_rows = rows<const T>(s);
    const bool fits = packs(s_out) && packs(h) && packs(s);
    const held_row held = hold_row(cuda, h.cols);
    if ((h.rows <= FEW_ROWS || !fits) && up.g <= 16 && held.threads) {
        const int of_w3 = narrow_width(up.w3, up.g), of_v2 = narrow_width(up.v2, up.g);
        launch(cuda, "updating rows",
               up.g <= 8    ? update_held<T, 8>
               : up.g <= 10 ? update_held<T, 10>
                            : update_held<T, 16>,
               early(shape(h.rows * held.cluster, held.threads, 0, held.cluster)), out, z, h_rows, s_rows, up,
               of_w3 < of_v2 ? of_w3 : of_v2);
    } else if (h.rows <= FEW_ROWS || (up.g <= 16 && !fits)) {
        const int cluster = row_cluster(cuda, h.cols);
        launch(cuda, "updating rows", update_row<T>,
               early(shape(h.rows * cluster, ROW_THREADS, (size_t)(4 * up.g) * sizeof(float), cluster)), out, z,
               h_rows, s_rows, up);
    } else if (up.g > 16) {
        spi_cuda_update_wide(&cuda->device, s_out, z, h, s, update);
    } else if constexpr (sizeof(T) == sizeof(bf16)) {
        spi_cuda_update_tensor(&cuda->device, s_out, z, h, s, update);
    } else {
        launch(cuda, "updating",
               up.g <= 8    ? update_tile<T, 8>
               : up.g <= 10 ? update_tile<T, 10>
                            : update_tile<T, 16>,
               shape(blocks_for(h.rows, TILE), SHADOW_THREADS), out, z, h_rows, s_rows, up);
    }
}

void spi_cuda_update(spi_device *dev, spi_mat s_out, float *z, spi_mat h, spi_mat s, const spi_update *update) {
    if (dev->status != SP_OK || h.rows == 0) return;
    if (h.dtype == SP_BF16) forward<bf16>(spi_cuda_of(dev), s_out, z, h, s, update);
    else forward<float>(spi_cuda_of(dev), s_out, z, h, s, update);
}
