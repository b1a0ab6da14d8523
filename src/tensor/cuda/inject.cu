/*
 * Injection (backend.h), forward beside backward. h, s [T, d]; D [d, k], U [k, d], p [T, k] f32.
 * Limit forward: reads h and s, writes h_out: 50 MB at T = 8192, d = 1024 in bf16, 17 us; 2 T d k products and
 * sums of f32, 8 us at k = 16. Backward: reads h_out, s, dh, ds, writes dh, ds: 100 MB, 34 us; 5 T d k, 23 us.
 *
 * inject_tile: 32 rows a block, 4 a warp; p = (h - s) D as sums over the lanes, then a thread takes 4 columns
 * of U in registers and adds alpha p U to the 32 rows. inject_held: one row a cluster, held in registers; few
 * rows, any alignment. inject_row: the same of any k and d, through memory. inject_dp: 32 rows a block, the
 * gradient of delta D. inject_columns: two columns a thread, all the rest of the backward pass. k up to 16 in
 * all but inject_row, padded with zeros to 8 or 16; more backward, or many rows of it forward, goes through
 * inject_wide.cu. bf16 goes through inject_tensor.cu, but for few rows forward.
 */
#include "tensor/cuda/inject.cuh"
#include "tensor/cuda/tensor.h"
#include "tensor/cuda/wide.h"

#define EACH 4 /* rows of a warp */
#define TILE (EACH * SHADOW_THREADS / 32)

/* Value j of column c of D, and of U. */
struct down_weight {
    static constexpr bool across = true;
    const float *down;
    int64_t k;
    __device__ __forceinline__ float operator()(int j, int64_t c) const {
        return j < k ? down[c * k + j] : 0.0f;
    }
};
struct up_weight {
    static constexpr bool across = false;
    const float *up;
    int64_t k, d;
    __device__ __forceinline__ float operator()(int j, int64_t c) const {
        return j < k ? up[j * d + c] : 0.0f;
    }
};

/* Rows of delta = h - s, with dropout where it falls on them. */
template <typename T> struct delta_rows {
    rows_of<const T> h, s;
    int64_t first, rows, d;
    dropout drop; /* p = 0 where it does not fall on delta */

    template <int P> __device__ __forceinline__ void load(float (&x)[P], int r, int64_t c) const {
        if (first + r < rows && c < d) {
            pack<T> a, b;
            a.load(h.row(first + r) + c);
            b.load(s.row(first + r) + c);
#pragma unroll
            for (int i = 0; i < P; i++) x[i] = a.v[i] - b.v[i];
            drop_run(x, drop, (first + r) * d + c);
        } else {
#pragma unroll
            for (int i = 0; i < P; i++) x[i] = 0.0f;
        }
    }
};

/* Rows of one matrix. */
template <typename T> struct plain_rows {
    rows_of<const T> m;
    int64_t first, rows, d;

    template <int P> __device__ __forceinline__ void load(float (&x)[P], int r, int64_t c) const {
        pack<T> a = {};
        if (first + r < rows && c < d) a.load(m.row(first + r) + c);
#pragma unroll
        for (int i = 0; i < P; i++) x[i] = a.v[i];
    }
};

/* ------------------------------------------------------------------ forward */

/* out[t + r] = h[t + r] + small[r] U for `rows` rows; a thread takes 4 columns. */
template <typename T, int K>
__device__ __forceinline__ void add_expanded(rows_of<T> out, rows_of<const T> h, const float *small, int64_t t,
                                             int rows, const injection &in) {
    for (int64_t c = threadIdx.x * 4; c < in.d; c += SHADOW_THREADS * 4) {
        float4 u[K];
#pragma unroll
        for (int j = 0; j < K; j++)
            u[j] = j < in.k ? *reinterpret_cast<const float4 *>(in.up + j * in.d + c) : make_float4(0, 0, 0, 0);
        for (int r = 0; r < rows; r += 4) {
            float x[4][4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (r + i < rows) load_run(x[i], h.row(t + r + i) + c);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (r + i >= rows) break;
#pragma unroll
                for (int q = 0; q < K / 4; q++) {
                    const float4 a = reinterpret_cast<const float4 *>(small + (r + i) * K)[q];
                    const float p[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        x[i][0] += p[j] * u[4 * q + j].x;
                        x[i][1] += p[j] * u[4 * q + j].y;
                        x[i][2] += p[j] * u[4 * q + j].z;
                        x[i][3] += p[j] * u[4 * q + j].w;
                    }
                }
                store_run(out.row(t + r + i) + c, x[i]);
            }
        }
    }
}

template <typename T, int K>
static __global__ void __launch_bounds__(SHADOW_THREADS, 2)
    inject_tile(rows_of<T> out, float *p, rows_of<const T> h, rows_of<const T> s, injection in) {
    constexpr int P = pack<T>::size;
    __shared__ __align__(16) float tile[K * 32 * P];
    __shared__ __align__(16) float small[TILE * K];
    const int own = (int)threadIdx.x / 32 * EACH;
    const int64_t t = (int64_t)blockIdx.x * TILE;
    float sum[EACH * K];
    delta_rows<T> delta = {h, s, t + own, in.rows, in.d, in.drop};
    if (!in.drop_delta) delta.drop.p = 0.0f;
    project<K, P, EACH>(sum, tile, delta, down_weight{in.down, in.k}, in.d);
    const int at = fold<EACH * K>::run(sum);
#pragma unroll
    for (int i = 0; i < fold<EACH * K>::count; i++) {
        const int r = own + (at + i) / K, j = (at + i) % K;
        const bool real = t + r < in.rows && j < in.k;
        if (real && !in.drop_delta) sum[i] *= drop_factor(in.drop, (t + r) * in.k + j);
        if (real) p[(t + r) * in.k + j] = sum[i];
        small[r * K + j] = real ? in.alpha * sum[i] : 0.0f;
    }
    __syncthreads();
    add_expanded<T, K>(out, h, small, t, (int)(in.rows - t < TILE ? in.rows - t : TILE), in);
}

/* One row, a column a thread: k at most K. */
template <typename T, int K>
static __global__ void __launch_bounds__(ROW_THREADS)
    inject_held(rows_of<T> out, float *p, rows_of<const T> h, rows_of<const T> s, injection in, int wide) {
    __shared__ __align__(16) float small[ROW_THREADS / 32][32];
    dependents_may_start();
    cluster_arrive();
    const int size = cluster_size(), rank = cluster_rank(), lane = (int)threadIdx.x % 32;
    const int64_t t = blockIdx.x / size, c = (int64_t)rank * blockDim.x + threadIdx.x;
    const bool real = c < in.d;
    const up_weight weight = {in.up, in.k, in.d};
    float sum[K], up[K];
    load_narrow(sum, in.down + c * in.k, real ? (int)in.k : 0, wide);
#pragma unroll
    for (int j = 0; j < K; j++) up[j] = real ? weight(j, c) : 0.0f;
    dependency_wait();
    const float old = real ? to_float(h.row(t)[c]) : 0.0f;
    float x = real ? old - to_float(s.row(t)[c]) : 0.0f;
    if (in.drop_delta && real) x *= drop_factor(in.drop, t * in.d + c);
#pragma unroll
    for (int j = 0; j < K; j++) sum[j] *= x;
    float own = cluster_sums(sum);
    if (lane < in.k) {
        if (!in.drop_delta) own *= drop_factor(in.drop, t * in.k + lane);
        if (rank == 0 && threadIdx.x < 32) p[t * in.k + lane] = own;
    }
    small[threadIdx.x / 32][lane] = in.alpha * own;
    __syncwarp();
    if (!real) return;
    float y = old;
#pragma unroll
    for (int j = 0; j < K; j++) y += small[threadIdx.x / 32][j] * up[j];
    out.row(t)[c] = from_float<T>(y);
}

/* Shared: this block's part of p, then alpha p. */
template <typename T>
static __global__ void __launch_bounds__(ROW_THREADS)
    inject_row(rows_of<T> out, float *p, rows_of<const T> h, rows_of<const T> s, injection in, int wide) {
    extern __shared__ float memory[];
    float *part = memory, *scaled = memory + in.k;
    const int size = cluster_size(), rank = cluster_rank();
    const int64_t t = blockIdx.x / size, step = (int64_t)size * blockDim.x;
    const int64_t first = (int64_t)rank * blockDim.x + threadIdx.x;
    dependents_may_start();
    prefetch_share(in.down, in.k * in.d);
    prefetch_share(in.up, in.k * in.d);
    dependency_wait();
    for (int64_t from = 0; from < in.k; from += 16) {
        const int count = (int)(in.k - from < 16 ? in.k - from : 16);
        float sum[16] = {};
        for (int64_t c = first; c < in.d; c += step) {
            float x = to_float(h.row(t)[c]) - to_float(s.row(t)[c]);
            if (in.drop_delta) x *= drop_factor(in.drop, t * in.d + c);
            float w[16];
            load_narrow(w, in.down + c * in.k + from, count, wide);
#pragma unroll
            for (int j = 0; j < 16; j++) sum[j] += x * w[j];
        }
        block_sums(part + from, sum, count);
    }
    cluster_barrier();
    for (int j = (int)threadIdx.x; j < in.k; j += (int)blockDim.x) {
        float sum = 0.0f;
        for (int i = 0; i < size; i++) sum += *cluster_at(part + j, i);
        if (!in.drop_delta) sum *= drop_factor(in.drop, t * in.k + j);
        if (rank == 0) p[t * in.k + j] = sum;
        scaled[j] = in.alpha * sum;
    }
    __syncthreads();
    for (int64_t c = first; c < in.d; c += step) {
        float x = to_float(h.row(t)[c]);
#pragma unroll 16
        for (int64_t j = 0; j < in.k; j++) x += scaled[j] * in.up[j * in.d + c];
        out.row(t)[c] = from_float<T>(x);
    }
    cluster_barrier(); /* the others may still read `part` */
}

template <typename T>
static void forward(spi_cuda *cuda, spi_mat h_out, float *p, spi_mat h, spi_mat s, const spi_inject *inject) {
    const injection in = injection_of(inject, h.rows, h.cols);
    const rows_of<T> out = rows<T>(h_out);
    const rows_of<const T> h_rows = rows<const T>(h), s_rows = rows<const T>(s);
    const bool fits = packs(h_out) && packs(h) && packs(s) && at_16_bytes(in.up);
    const held_row held = hold_row(cuda, h.cols);
    const int wide = narrow_width(in.down, in.k);
    if ((h.rows <= FEW_ROWS || !fits) && in.k <= 16 && held.threads) {
        launch(cuda, "injecting into rows", in.k <= 8 ? inject_held<T, 8> : inject_held<T, 16>,
               early(shape(h.rows * held.cluster, held.threads, 0, held.cluster)), out, p, h_rows, s_rows, in,
               wide);
    } else if (h.rows <= FEW_ROWS || (in.k <= 16 && !fits)) {
        const int cluster = row_cluster(cuda, h.cols);
        launch(cuda, "injecting into rows", inject_row<T>,
               early(shape(h.rows * cluster, ROW_THREADS, (size_t)(2 * in.k) * sizeof(float), cluster)), out, p,
               h_rows, s_rows, in, wide);
    } else if (in.k > 16) {
        spi_cuda_inject_wide(&cuda->device, h_out, p, h, s, inject);
    } else if constexpr (sizeof(T) == sizeof(bf16)) {
        spi_cuda_inject_tensor(&cuda->device, h_out, p, h, s, inject);
    } else {
        launch(cuda, "injecting", in.k <= 8 ? inject_tile<T, 8> : inject_tile<T, 16>,
               shape(blocks_for(h.rows, TILE), SHADOW_THREADS), out, p, h_rows, s_rows, in);
    }
}

void spi_cuda_inject(spi_device *dev, spi_mat h_out, float *p, spi_mat h, spi_mat s, const spi_inject *inject) {
    if (dev->status != SP_OK || h.rows == 0) return;
    if (h.dtype == SP_BF16) forward<bf16>(spi_cuda_of(dev), h_out, p, h, s, inject);
    else forward<float>(spi_cuda_of(dev), h_out, p, h, s, inject);
}

/* ------------------------------------------------------------------ backward */

/* dp [T, K] = alpha dropout(dh U^T), zeros from k on: the gradient of delta D. */
template <typename T, int K>
static __global__ void __launch_bounds__(SHADOW_THREADS, 2)
    inject_dp(float *dp, rows_of<const T> dh, injection in) {
    constexpr int P = pack<T>::size;
    __shared__ __align__(16) float tile[K * 32 * P];
    const int64_t first = (int64_t)blockIdx.x * TILE + threadIdx.x / 32 * EACH;
    float sum[EACH * K];
    project<K, P, EACH>(sum, tile, plain_rows<T>{dh, first, in.rows, in.d}, up_weight{in.up, in.k, in.d}, in.d);
    const int at = fold<EACH * K>::run(sum);
#pragma unroll
    for (int i = 0; i < fold<EACH * K>::count; i++) {
        const int64_t row = first + (at + i) / K;
        const int j = (at + i) % K;
        if (row >= in.rows) continue;
        if (!in.drop_delta && j < in.k) sum[i] *= drop_factor(in.drop, row * in.k + j);
        dp[row * K + j] = in.alpha * sum[i];
    }
}

/* Blocks of inject_columns on a multiprocessor, as their registers allow. */
static constexpr int column_blocks(int K) {
    return K <= 8 ? 3 : 2;
}

/* Two columns' weights and gradients. */
template <int K> struct inject_pair {
    float down[K][2], up[K][2], ddown[K][2], dup[K][2];

    __device__ __forceinline__ void load(const injection &in, int64_t c) {
#pragma unroll
        for (int j = 0; j < K; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                down[j][i] = j < in.k ? in.down[(c + i) * in.k + j] : 0.0f;
                up[j][i] = j < in.k ? in.up[j * in.d + c + i] : 0.0f;
                ddown[j][i] = dup[j][i] = 0.0f;
            }
    }
    /* One row: h_out and s give delta; dh gets the gradient of delta, ds loses it. small: alpha p, then dp. */
    __device__ __forceinline__ void row(float (&dh)[2], float (&ds)[2], float (&h_out)[2], const float (&s)[2],
                                        const float *small, const dropout &drop, int64_t index) {
        float added[2] = {0.0f, 0.0f}, ddelta[2] = {0.0f, 0.0f}, delta[2];
#pragma unroll
        for (int j = 0; j < K; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                added[i] += small[j] * up[j][i];
                ddelta[i] += small[K + j] * down[j][i];
                dup[j][i] += small[j] * dh[i];
            }
#pragma unroll
        for (int i = 0; i < 2; i++) delta[i] = h_out[i] - added[i] - s[i];
        drop_run(delta, drop, index);
        drop_run(ddelta, drop, index);
#pragma unroll
        for (int j = 0; j < K; j++)
#pragma unroll
            for (int i = 0; i < 2; i++) ddown[j][i] += delta[i] * small[K + j];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            dh[i] += ddelta[i];
            ds[i] -= ddelta[i];
        }
    }
};

/* small [SHADOW_ROWS][2 K]: alpha p and dp of rows [t, end). */
template <int K>
__device__ __forceinline__ void load_small(float *small, const float *p, const float *dp, const injection &in,
                                           int64_t t, int64_t end) {
    for (int i = (int)threadIdx.x; i < SHADOW_ROWS * 2 * K; i += SHADOW_COLUMNS) {
        const int64_t row = t + i / (2 * K);
        const int j = i % (2 * K);
        float x = 0.0f;
        if (row < end && j >= K) x = dp[row * K + j - K];
        else if (row < end && j < in.k) x = in.alpha * p[row * in.k + j];
        small[i] = x;
    }
}

/* blockIdx.x: 256 columns; blockIdx.y: a range of `each` rows. part [ranges][2 K][d]: dD^T, then dU. */
template <typename T, int K>
static __global__ void __launch_bounds__(SHADOW_COLUMNS, column_blocks(K))
    inject_columns(rows_of<T> dh, rows_of<T> ds, float *part, rows_of<const T> h_out, rows_of<const T> s,
                   const float *p, const float *dp, injection in, int64_t each) {
    __shared__ __align__(16) float small[SHADOW_ROWS * 2 * K];
    const int64_t c = ((int64_t)blockIdx.x * SHADOW_COLUMNS + threadIdx.x) * 2, begin = blockIdx.y * each;
    const int64_t end = begin + each < in.rows ? begin + each : in.rows;
    const bool active = c < in.d;
    inject_pair<K> pair;
    dropout drop = in.drop;
    if (!in.drop_delta) drop.p = 0.0f;
    pair.load(in, active ? c : 0);
    for (int64_t t = begin; t < end; t += SHADOW_ROWS) {
        const int count = (int)(end - t < SHADOW_ROWS ? end - t : SHADOW_ROWS);
        __syncthreads();
        load_small<K>(small, p, dp, in, t, end);
        __syncthreads();
        for (int r = 0; active && r < count; r += 4) {
            float a[4][2], b[4][2], x[4][2], y[4][2];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (r + i >= count) break;
                load_run(a[i], dh.row(t + r + i) + c);
                load_run(b[i], ds.row(t + r + i) + c);
                load_run(x[i], h_out.row(t + r + i) + c);
                load_run(y[i], s.row(t + r + i) + c);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                if (r + i >= count) break;
                pair.row(a[i], b[i], x[i], y[i], small + (r + i) * 2 * K, drop, (t + r + i) * in.d + c);
                store_run(dh.row(t + r + i) + c, a[i]);
                store_run(ds.row(t + r + i) + c, b[i]);
            }
        }
    }
    if (!active) return;
    float *to = part + blockIdx.y * 2 * K * in.d + c;
#pragma unroll
    for (int j = 0; j < K; j++) {
        store_run(to + j * in.d, pair.ddown[j]);
        store_run(to + (K + j) * in.d, pair.dup[j]);
    }
}

template <typename T, int K>
static void backward(spi_cuda *cuda, spi_mat dh, spi_mat ds, float *ddown, float *dup, spi_mat h_out, spi_mat s,
                     const float *p, const spi_inject *inject) {
    const injection in = injection_of(inject, dh.rows, dh.cols);
    const column_split split = split_columns(cuda, in.rows, in.d, column_blocks(K));
    const int64_t small = (in.rows * K + 15) / 16 * 16;
    float *dp = (float *)spi_cuda_scratch(cuda, (size_t)(small + split.ranges * 2 * K * in.d) * sizeof(float));
    if (!dp) return;
    float *part = dp + small;
    launch(cuda, "the gradient of an injection's p", inject_dp<T, K>,
           shape(blocks_for(in.rows, TILE), SHADOW_THREADS), dp, rows<const T>(dh), in);
    launch(cuda, "the gradient of an injection", inject_columns<T, K>,
           shape(dim3(split.tiles, split.ranges), SHADOW_COLUMNS), rows<T>(dh), rows<T>(ds), part,
           rows<const T>(h_out), rows<const T>(s), p, (const float *)dp, in, split.each);
    if (!ddown && !dup) return;
    const parameters to = {{{ddown, 0, (int)in.k, 1, in.k}, {dup, K, (int)in.k, in.d, 1}}, 2};
    launch(cuda, "adding an injection's gradients", sum_parts, shape(dim3(blocks_for(in.d, 32), 2 * K), 256),
           to, (const float *)part, split.ranges, 2 * K, in.d, in.d);
}

void spi_cuda_inject_backward(spi_device *dev, spi_mat dh, spi_mat ds, float *ddown, float *dup, spi_mat h_out,
                              spi_mat s, const float *p, const spi_inject *inject) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK || dh.rows == 0) return;
    const bool fits = packs(dh) && packs(ds) && packs(h_out) && packs(s);
    if (inject->k > 16 || !fits) spi_cuda_inject_wide_backward(dev, dh, ds, ddown, dup, h_out, s, p, inject);
    else if (dh.dtype == SP_BF16) spi_cuda_inject_tensor_backward(dev, dh, ds, ddown, dup, h_out, s, p, inject);
    else if (inject->k <= 8) backward<float, 8>(cuda, dh, ds, ddown, dup, h_out, s, p, inject);
    else backward<float, 16>(cuda, dh, ds, ddown, dup, h_out, s, p, inject);
}
