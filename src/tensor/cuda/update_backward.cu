/*
 * Update, backward (backend.h; forward in update.cu). Limit: reads h, s, ds, dh, writes ds, dh: 100 MB at T =
 * 8192, d = 1024 in bf16, 34 us; 12 T d g products and sums of f32, 35 us at g = 10. With a = dropout(act(z0)),
 * b = act(z1), t = W3 a + b3, v = V2 b + c2, q = sigmoid(v): update_rows           16 rows a block, 2 a warp:
 * dt = ds q, dv = ds (t - s) q (1 - q); da = W3^T dt, db = V2^T dv as sums over the lanes; from them dz0 =
 * dropout(da) act'(z0), dz1 = db act'(z1) update_state_columns  two columns a thread: ds = ds (1 - q), dW3 +=
 * dt a^T, dV2 += dv b^T, db3, dc2 update_input_columns  two columns a thread: du = W0^T dz0 + V0^T dz1, dW0 +=
 * dz0 u^T, dV0 += dz1 u^T, db0, dc0, the norm's gradients, and dh The norm needs two sums over each row: of du
 * w and of du w x, x being h normalised. As du = W^T dz, sum du w = sum over j of dz_j (W w)_j,   sum du w x =
 * sum over j of dz_j (W (w x))_j, W [2 g, d] being W0 over V0; z = W (w x + norm's bias) + biases gives W (w x)
 * back, so that no pass over d is made for them: `update_constants` prepares W w and what z holds besides W (w
 * x).
 *
 * bf16 goes through update_tensor_backward.cu, whatever the rows.
 */
#include "tensor/cuda/tensor.h"
#include "tensor/cuda/update.cuh"
#include "tensor/cuda/wide.h"

#define EACH 2 /* rows of a warp */
#define TILE (EACH * SHADOW_THREADS / 32)

/* Scratch, f32; values j of the second half of each stand at G + j, zeros between. */
struct update_memory {
    float *constants;   /* [2][2 G]: W w; W bias + b0, c0 */
    float *statistics;  /* [T][4]: mean, 1 / sqrt(var + eps), and the two sums over d of the norm */
    float *active, *dz; /* [T][2 G]: a, b; dz0, dz1 */
    float *part, *bias; /* partial gradients [ranges][4 G + 4][d], [ranges][2][G] */
};

template <typename T> struct states {
    rows_of<T> dh, ds;
    rows_of<const T> h, s;
};

/* ------------------------------------------------------------------ dz */

/* blockIdx.x: row j of [W0; V0]. */
template <int G> static __global__ void __launch_bounds__(256) update_constants(float *constants, updating up) {
    const int jj = (int)blockIdx.x, j = jj % G;
    const float *w = (jj < G ? up.w0 : up.v0) + j * up.d;
    float along = 0.0f, offset = 0.0f;
    for (int64_t c = threadIdx.x; j < up.g && c < up.d; c += blockDim.x) {
        along += w[c] * up.norm_weight[c];
        offset += w[c] * up.norm_bias[c];
    }
    along = block_sum(along);
    offset = block_sum(offset);
    if (threadIdx.x != 0) return;
    if (j < up.g && up.b0) offset += jj < G ? up.b0[j] : up.c0[j];
    constants[jj] = along;
    constants[2 * G + jj] = offset;
}

/* From ds: x[0] = dt, x[1] = dv; slope: what is left of ds. t and v stand in x before. */
template <typename T>
__device__ __forceinline__ void gate_gradient(float &t, float &v, float s, float ds, float *left) {
    const float q = gate<T>(v);
    v = ds * (t - s) * q * (1.0f - q);
    t = ds * q;
    *left = ds * (1.0f - q);
}

/* sum[r][jj] = this lane's part of da, db of the warp's rows; small: their a, b. */
template <typename T, int G>
__device__ __forceinline__ void project_state(float (&sum)[EACH * 2 * G], float *tile, const float *small,
                                              const states<T> &m, int64_t first, const updating &up) {
    constexpr int P = pack<T>::size, N = 2 * G;
    float ab[EACH * N];
#pragma unroll
    for (int i = 0; i < EACH * N; i++) {
        ab[i] = small[i];
        sum[i] = 0.0f;
    }
    for (int64_t column = 0; column < up.d; column += 32 * P) {
        const int64_t c = column + threadIdx.x % 32 * P;
        raw<T> s[EACH] = {}, ds[EACH] = {};
#pragma unroll
        for (int r = 0; r < EACH; r++) {
            if (first + r >= up.rows || c >= up.d) continue;
            s[r].load(m.s.row(first + r) + c);
            ds[r].load(m.ds.row(first + r) + c);
        }
        __syncthreads();
        load_tile<N, P>(tile, out_weight<G>{up.w3, up.v2, up.g}, column, up.d);
        __syncthreads();
#pragma unroll
        for (int e = 0; e < P; e++) {
            float w[N];
#pragma unroll
            for (int q = 0; q < N / 4; q++) {
                const float4 four = tile_at<P>(tile, q, e);
                w[4 * q] = four.x;
                w[4 * q + 1] = four.y;
                w[4 * q + 2] = four.z;
                w[4 * q + 3] = four.w;
            }
            const float b3 = up.b3 && c < up.d ? up.b3[c + e] : 0.0f,
                        c2 = up.c2 && c < up.d ? up.c2[c + e] : 0.0f;
#pragma unroll
            for (int r = 0; r < EACH; r++) {
                float t = b3, v = c2, unused;
#pragma unroll
                for (int j = 0; j < G; j++) {
                    t += ab[r * N + j] * w[j];
                    v += ab[r * N + G + j] * w[G + j];
                }
                gate_gradient<T>(t, v, s[r].at(e), ds[r].at(e), &unused);
#pragma unroll
                for (int j = 0; j < G; j++) {
                    sum[r * N + j] += t * w[j];
                    sum[r * N + G + j] += v * w[G + j];
                }
            }
        }
    }
}

/* small [TILE][2 G] = a, b of the block's rows, kept in to->active as well. */
template <int G>
__device__ __forceinline__ void activate_rows(float *small, const float *z, int64_t t, const updating &up,
                                              const update_memory &to) {
    constexpr int N = 2 * G;
    for (int i = (int)threadIdx.x; i < TILE * N; i += SHADOW_THREADS) {
        const int64_t row = t + i / N;
        const int jj = i % N, j = jj % G;
        float x = 0.0f;
        if (row < up.rows && j < up.g) {
            x = activated(z[row * 2 * up.g + (jj < G ? 0 : up.g) + j], up.gelu);
            if (jj < G) x *= drop_factor(up.drop, row * up.g + j);
        }
        if (row < up.rows) to.active[row * N + jj] = x;
        small[i] = x;
    }
}

template <typename T, int G>
static __global__ void __launch_bounds__(SHADOW_THREADS, G <= 10 ? 2 : 1)
    update_rows(states<T> m, const float *z, updating up, update_memory to) {
    constexpr int P = pack<T>::size, N = 2 * G;
    __shared__ __align__(16) float tile[N * 32 * P];
    __shared__ __align__(16) float small[TILE * N];
    const int own = (int)threadIdx.x / 32 * EACH;
    const int64_t t = (int64_t)blockIdx.x * TILE;
    float sum[EACH * N], mean[EACH], inverse[EACH], weighted[EACH] = {}, along[EACH] = {};
    activate_rows<G>(small, z, t, up, to);
    __syncthreads();
    project_state<T, G>(sum, tile, small + own * N, m, t + own, up);
    const int at = fold<EACH * N>::run(sum);
#pragma unroll
    for (int i = 0; i < fold<EACH * N>::count; i++) {
        const int r = (at + i) / N, jj = (at + i) % N, j = jj % G;
        const int64_t row = t + own + r;
        if (row >= up.rows) continue;
        float x = 0.0f;
        if (j < up.g) {
            const float before = z[row * 2 * up.g + (jj < G ? 0 : up.g) + j];
            x = sum[i] * activated_slope(before, up.gelu);
            if (jj < G) x *= drop_factor(up.drop, row * up.g + j);
            if (up.norm_weight && fold<EACH * N>::first_holder()) {
                const float with_weight = x * to.constants[jj],
                            with_input = x * (before - to.constants[N + jj]);
                weighted[0] += r == 0 ? with_weight : 0.0f;
                weighted[1] += r == 1 ? with_weight : 0.0f;
                along[0] += r == 0 ? with_input : 0.0f;
                along[1] += r == 1 ? with_input : 0.0f;
            }
        }
        to.dz[row * N + jj] = x;
    }
    if (!up.norm_weight) return;
    row_statistics(mean, inverse, m.h, t + own, up);
#pragma unroll
    for (int r = 0; r < EACH; r++) {
        const float sum_weighted = warp_sum(weighted[r]), sum_along = warp_sum(along[r]);
        if (threadIdx.x % 32 == 0 && t + own + r < up.rows)
            reinterpret_cast<float4 *>(to.statistics)[t + own + r] =
                make_float4(mean[r], inverse[r], sum_along / (float)up.d, sum_weighted / (float)up.d);
    }
}

/* ------------------------------------------------------------------ columns */

/* Blocks of a columns kernel on a multiprocessor, as their registers allow. */
static constexpr int column_blocks(int G) {
    return G <= 10 ? 3 : 2;
}

/* small [SHADOW_ROWS][N] = rows [t, end) of from [T][N]; N is a multiple of 4. */
template <int N>
__device__ __forceinline__ void load_rows(float *small, const float *from, int64_t t, int64_t end) {
    const int64_t most = (end - t) * (N / 4);
    __syncthreads();
    for (int i = (int)threadIdx.x; i < SHADOW_ROWS * N / 4; i += SHADOW_COLUMNS)
        if (i < most) reinterpret_cast<float4 *>(small)[i] = reinterpret_cast<const float4 *>(from + t * N)[i];
    __syncthreads();
}

/* blockIdx.x: 256 columns; blockIdx.y: a range of `each` rows. Lines of part: dW3^T, dV2^T, db3, dc2. */
template <typename T, int G>
static __global__ void __launch_bounds__(SHADOW_COLUMNS, column_blocks(G))
    update_state_columns(states<T> m, updating up, update_memory to, int64_t each) {
    constexpr int N = 2 * G;
    __shared__ __align__(16) float small[SHADOW_ROWS * N];
    const int64_t c = ((int64_t)blockIdx.x * SHADOW_COLUMNS + threadIdx.x) * 2, begin = blockIdx.y * each;
    const int64_t end = begin + each < up.rows ? begin + each : up.rows;
    const bool active = c < up.d;
    const out_weight<G> weight = {up.w3, up.v2, up.g};
    float w[N][2], dw[N][2] = {}, bias[2][2] = {}, dbias[2][2] = {};
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int j = 0; j < N; j++) w[j][i] = active ? weight(j, c + i) : 0.0f;
        if (active && up.b3) bias[0][i] = up.b3[c + i];
        if (active && up.c2) bias[1][i] = up.c2[c + i];
    }
    for (int64_t t = begin; t < end; t += SHADOW_ROWS) {
        const int count = (int)(end - t < SHADOW_ROWS ? end - t : SHADOW_ROWS);
        load_rows<N>(small, to.active, t, end);
        for (int r = 0; active && r < count; r += 4) {
            float s[4][2], ds[4][2];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                if (r + k >= count) break;
                load_run(s[k], m.s.row(t + r + k) + c);
                load_run(ds[k], (const T *)m.ds.row(t + r + k) + c);
            }
#pragma unroll
            for (int k = 0; k < 4; k++) {
                if (r + k >= count) break;
                const float *ab = small + (r + k) * N;
                float y[2][2] = {{bias[0][0], bias[0][1]}, {bias[1][0], bias[1][1]}};
#pragma unroll
                for (int j = 0; j < N; j++)
#pragma unroll
                    for (int i = 0; i < 2; i++) y[j / G][i] += ab[j] * w[j][i];
#pragma unroll
                for (int i = 0; i < 2; i++) gate_gradient<T>(y[0][i], y[1][i], s[k][i], ds[k][i], &ds[k][i]);
                store_run(m.ds.row(t + r + k) + c, ds[k]);
#pragma unroll
                for (int i = 0; i < 2; i++) {
#pragma unroll
                    for (int j = 0; j < N; j++) dw[j][i] += y[j / G][i] * ab[j];
                    dbias[0][i] += y[0][i];
                    dbias[1][i] += y[1][i];
                }
            }
        }
    }
    if (!active) return;
    float *part = to.part + blockIdx.y * (4 * G + 4) * up.d + c;
#pragma unroll
    for (int j = 0; j < N; j++) store_run(part + j * up.d, dw[j]);
    store_run(part + N * up.d, dbias[0]);
    store_run(part + (N + 1) * up.d, dbias[1]);
}

/* The same split. Lines of part from 2 G + 2 on: dW0, dV0, the norm's weight and bias. */
template <typename T, int G>
static __global__ void __launch_bounds__(SHADOW_COLUMNS, column_blocks(G))
    update_input_columns(states<T> m, updating up, update_memory to, int64_t each) {
    constexpr int N = 2 * G;
    __shared__ __align__(16) float small[SHADOW_ROWS * N];
    __shared__ float4 statistics[SHADOW_ROWS];
    const int64_t c = ((int64_t)blockIdx.x * SHADOW_COLUMNS + threadIdx.x) * 2, begin = blockIdx.y * each;
    const int64_t end = begin + each < up.rows ? begin + each : up.rows;
    const bool active = c < up.d, norm = up.norm_weight != NULL;
    const in_weight<G> weight = {up.w0, up.v0, up.g, up.d};
    float w[N][2], dw[N][2] = {}, scale[2] = {1.0f, 1.0f}, shift[2] = {}, dscale[2] = {}, dshift[2] = {},
                   dbias = 0.0f;
#pragma unroll
    for (int i = 0; i < 2; i++) {
#pragma unroll
        for (int j = 0; j < N; j++) w[j][i] = active ? weight(j, c + i) : 0.0f;
        if (active && norm) {
            scale[i] = up.norm_weight[c + i];
            shift[i] = up.norm_bias[c + i];
        }
    }
    for (int64_t t = begin; t < end; t += SHADOW_ROWS) {
        const int count = (int)(end - t < SHADOW_ROWS ? end - t : SHADOW_ROWS);
        load_rows<N>(small, to.dz, t, end);
        if (norm) load_rows<4>(reinterpret_cast<float *>(statistics), to.statistics, t, end);
        if (blockIdx.x == 0 && threadIdx.x < N)
            for (int r = 0; r < count; r++) dbias += small[r * N + threadIdx.x];
        for (int r = 0; active && r < count; r += 4) {
            float h[4][2], dh[4][2];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                if (r + k >= count) break;
                load_run(h[k], m.h.row(t + r + k) + c);
                load_run(dh[k], (const T *)m.dh.row(t + r + k) + c);
            }
#pragma unroll
            for (int k = 0; k < 4; k++) {
                if (r + k >= count) break;
                const float *dz = small + (r + k) * N;
                const float4 of_row = norm ? statistics[r + k] : make_float4(0.0f, 1.0f, 0.0f, 0.0f);
                float du[2] = {}, u[2];
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    h[k][i] = (h[k][i] - of_row.x) * of_row.y;
                    u[i] = h[k][i] * scale[i] + shift[i];
                }
#pragma unroll
                for (int j = 0; j < N; j++)
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        du[i] += dz[j] * w[j][i];
                        dw[j][i] += dz[j] * u[i];
                    }
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    dscale[i] += du[i] * h[k][i];
                    dshift[i] += du[i];
                    dh[k][i] += of_row.y * (du[i] * scale[i] - h[k][i] * of_row.z - of_row.w);
                }
                store_run(m.dh.row(t + r + k) + c, dh[k]);
            }
        }
    }
    if (blockIdx.x == 0 && threadIdx.x < N) to.bias[blockIdx.y * N + threadIdx.x] = dbias;
    if (!active) return;
    float *part = to.part + (blockIdx.y * (4 * G + 4) + N + 2) * up.d + c;
#pragma unroll
    for (int j = 0; j < N; j++) store_run(part + j * up.d, dw[j]);
    store_run(part + N * up.d, dscale);
    store_run(part + (N + 1) * up.d, dshift);
}

/* ------------------------------------------------------------------ the operation */

/* Where each is a multiple of 16 floats into one piece of scratch. */
static bool take_memory(spi_cuda *cuda, update_memory *to, int64_t rows, int64_t d, int64_t G, int64_t ranges) {
    float **const places[] = {&to->constants, &to->statistics, &to->active, &to->dz, &to->part, &to->bias};
    const int64_t sizes[] = {4 * G,         4 * rows, 2 * G * rows, 2 * G * rows, ranges * (4 * G + 4) * d,
                             ranges * 2 * G};
    int64_t total = 0;
    for (int i = 0; i < 6; i++) total += (sizes[i] + 15) / 16 * 16;
    float *at = (float *)spi_cuda_scratch(cuda, (size_t)total * sizeof *at);
    for (int i = 0; at && i < 6; i++) {
        *places[i] = at;
        at += (sizes[i] + 15) / 16 * 16;
    }
    return at != NULL;
}

template <int G>
static void add_gradients(spi_cuda *cuda, const spi_update_grads *to, const updating &up,
                          const update_memory &from, int64_t ranges) {
    const int g = (int)up.g;
    const parameters of_columns = {{{to->w3, 0, g, 1, up.g},
                                    {to->v2, G, g, 1, up.g},
                                    {to->b3, 2 * G, 1, 0, 1},
                                    {to->c2, 2 * G + 1, 1, 0, 1},
                                    {to->w0, 2 * G + 2, g, up.d, 1},
                                    {to->v0, 3 * G + 2, g, up.d, 1},
                                    {to->norm_weight, 4 * G + 2, 1, 0, 1},
                                    {to->norm_bias, 4 * G + 3, 1, 0, 1}},
                                   8};
    launch(cuda, "adding an update's gradients", sum_parts, shape(dim3(blocks_for(up.d, 32), 4 * G + 4), 256),
           of_columns, (const float *)from.part, ranges, 4 * G + 4, up.d, up.d);
    if (!to->b0 && !to->c0) return;
    const parameters of_biases = {{{to->b0, 0, 1, 0, 1}, {to->c0, 1, 1, 0, 1}}, 2};
    launch(cuda, "adding an update's biases' gradients", sum_parts, shape(dim3(1, 2), 256), of_biases,
           (const float *)from.bias, ranges, 2, G, up.g);
}

template <typename T, int G>
static void backward(spi_cuda *cuda, spi_mat dh, spi_mat ds, const spi_update_grads *grads, spi_mat h,
                     spi_mat s, const float *z, const spi_update *update) {
    const updating up = updating_of(update, h.rows, h.cols);
    const column_split split = split_columns(cuda, up.rows, up.d, column_blocks(G));
    const states<T> m = {rows<T>(dh), rows<T>(ds), rows<const T>(h), rows<const T>(s)};
    const launch_shape columns = shape(dim3(split.tiles, split.ranges), SHADOW_COLUMNS);
    update_memory to;
    if (!take_memory(cuda, &to, up.rows, up.d, G, split.ranges)) return;
    if (up.norm_weight)
        launch(cuda, "an update's constants", update_constants<G>, shape(2 * G, 256), to.constants, up);
    launch(cuda, "the gradient of an update's rows", update_rows<T, G>,
           shape(blocks_for(up.rows, TILE), SHADOW_THREADS), m, z, up, to);
    launch(cuda, "the gradient of an update's state", update_state_columns<T, G>, columns, m, up, to,
           split.each);
    launch(cuda, "the gradient of an update's input", update_input_columns<T, G>, columns, m, up, to,
           split.each);
    if (grads->w0 || grads->w3 || grads->v0 || grads->v2 || grads->b0 || grads->norm_weight)
        add_gradients<G>(cuda, grads, up, to, split.ranges);
}

template <typename T>
static void backward_of(spi_cuda *cuda, spi_mat dh, spi_mat ds, const spi_update_grads *grads, spi_mat h,
                        spi_mat s, const float *z, const spi_update *update) {
    if (update->g <= 8) backward<T, 8>(cuda, dh, ds, grads, h, s, z, update);
    else if (update->g <= 10) backward<T, 10>(cuda, dh, ds, grads, h, s, z, update);
    else backward<T, 16>(cuda, dh, ds, grads, h, s, z, update);
}

void spi_cuda_update_backward(spi_device *dev, spi_mat dh, spi_mat ds, const spi_update_grads *grads, spi_mat h,
                              spi_mat s, const float *z, const spi_update *update) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK || h.rows == 0) return;
    if (update->g > 16 || !packs(dh) || !packs(ds) || !packs(h) || !packs(s))
        spi_cuda_update_wide_backward(dev, dh, ds, grads, h, s, z, update);
    else if (h.dtype == SP_BF16) spi_cuda_update_tensor_backward(dev, dh, ds, grads, h, s, z, update);
    else backward_of<float>(cuda, dh, ds, grads, h, s, z, update);
}
