/*
 * Update of bf16 rows, backward (forward in update_tensor.cu; update_backward.cu has the equations). Limit:
 * reads h, s, ds, dh, writes ds, dh: 100 MB at T = 8192, d = 1024, 34 us; s and ds are read twice, h too under
 * a norm.
 *
 *   update_dz             32 rows a block: dt, dv from W3 a and V2 b, sums over d with W3 and V2, the rows'
 * moments update_state_columns  64 columns and a range of rows a block: ds, dW3, dV2, db3, dc2
 *   update_input_columns  the same: dh, dW0, dV0, db0, dc0 and the norm's gradients
 */
#include "tensor/cuda/tensor.h"
#include "tensor/cuda/update_tensor.cuh"

#define LINES (2 * BOTH + 4) /* of partial gradients */

/* Scratch, f32. Rows up to a whole block, zeros below the matrix's. */
struct gradient_memory {
    float *constants;         /* [2][BOTH] */
    float *statistics;        /* [T][4]: mean, 1 / sqrt(var + eps), and the two sums over d of the norm */
    float *active, *dz;       /* [T][BOTH]: a, b; dz0, dz1 */
    float *narrow, *out, *in; /* W3 and V2 to sum over d, and to widen; W0 and V0 to widen */
    float *part, *bias;       /* [ranges][LINES][d], [ranges][BOTH] */
};

struct states {
    rows_of<bf16> dh, ds;
    rows_of<const bf16> h, s;
};

/* dt, dv in the place of t, v; returns what is left of ds. */
__device__ __forceinline__ float gate_gradient(float *t, float *v, float s, float ds) {
    const float q = gate<bf16>(*v), kept = ds * (1.0f - q);
    *v = kept * (*t - s) * q;
    *t = ds * q;
    return kept;
}

/* ------------------------------------------------------------------ dz */

/* Half the warps of the other rows kernels: one holds its next columns too, more than 64 registers take. */
#define DZ_SLICES (SLICES / 2)
#define DZ_THREADS (2 * DZ_SLICES * 32)

/* small [BLOCK_ROWS][BOTH] = a, b of the block's rows, kept in to.active as well. */
__device__ __forceinline__ void activate_rows(float *small, const float *z, const updating &up,
                                              const gradient_memory &to) {
#pragma unroll 1
    for (int i = (int)threadIdx.x; i < BLOCK_ROWS * BOTH; i += DZ_THREADS) {
        const int64_t row = (int64_t)blockIdx.x * BLOCK_ROWS + i / BOTH;
        const int jj = i % BOTH, j = jj % 16;
        float x = 0.0f;
        if (row < up.rows && j < up.g) {
            x = activated(z[row * 2 * up.g + (jj < 16 ? 0 : up.g) + j], up.gelu);
            if (jj < 16) x *= drop_factor(up.drop, row * up.g + j);
        }
        to.active[row * BOTH + jj] = small[i] = tf32(x);
    }
}

/* A warp has a row, a lane one of its values. */
__device__ __forceinline__ void finish_dz(const float *part, const float2 *moment_part, const float *origins,
                                          const float *z, const updating &up, const gradient_memory &to) {
#pragma unroll 1
    for (int i = (int)threadIdx.x; i < BLOCK_ROWS * BOTH; i += DZ_THREADS) {
        const int jj = i % BOTH, j = jj % 16, r = i / BOTH;
        const int64_t row = (int64_t)blockIdx.x * BLOCK_ROWS + r;
        float x = 0.0f, before = 0.0f;
        if (row < up.rows && j < up.g) {
            before = z[row * 2 * up.g + (jj < 16 ? 0 : up.g) + j];
            x = sum_slices<DZ_SLICES>(part, BOTH, r, jj) * activated_slope(before, up.gelu);
            if (jj < 16) x *= drop_factor(up.drop, row * up.g + j);
        }
        to.dz[row * BOTH + jj] = tf32(x);
        if (!up.norm_weight) continue;
        const float weighted = warp_sum(x * to.constants[jj]);
        const float along = warp_sum(x * (before - to.constants[BOTH + jj]));
        float mean, inverse;
        row_moments<DZ_SLICES>(&mean, &inverse, moment_part, origins, r, up);
        if (jj == 0)
            reinterpret_cast<float4 *>(to.statistics)[row] =
                make_float4(mean, inverse, along / (float)up.d, weighted / (float)up.d);
    }
}

static __global__ void __launch_bounds__(DZ_THREADS, 2)
    update_dz(states m, const float *z, updating up, gradient_memory to) {
    __shared__ __align__(16) float part[DZ_SLICES * BLOCK_ROWS * BOTH];
    __shared__ __align__(16) float small[BLOCK_ROWS * BOTH];
    __shared__ float2 moment_part[DZ_SLICES * BLOCK_ROWS];
    __shared__ float origins[BLOCK_ROWS];
    const row_place at;
    const int64_t chunks = (up.d + CHUNK - 1) / CHUNK;
    const rows_of<const bf16> from = {m.ds.data, m.ds.ld};
    float sum[2][2][4] = {};
    raw<bf16> next_s[2], next_ds[2];
    load_two(next_s, m.s, at, at.slice * CHUNK + 8 * at.t, up.rows, up.d);
    load_two(next_ds, from, at, at.slice * CHUNK + 8 * at.t, up.rows, up.d);
    activate_rows(small, z, up, to);
    if (up.norm_weight) {
        moments own;
        own.begin(m.h, at, up.rows);
#pragma unroll 4
        for (int64_t q = at.slice; q < chunks; q += DZ_SLICES) {
            raw<bf16> h[2];
            load_two(h, m.h, at, q * CHUNK + 8 * at.t, up.rows, up.d);
            own.add(h, q * CHUNK + 8 * at.t < up.d);
        }
        own.leave(moment_part, origins, at);
    }
    __syncthreads();
    const float4 *mine = reinterpret_cast<const float4 *>(small) + (at.half * 16 + at.g) * (BOTH / 4) + at.t;
#pragma unroll 1
    for (int64_t q = at.slice; q < chunks; q += DZ_SLICES) {
        const int64_t c = q * CHUNK + 8 * at.t;
        const raw<bf16> s[2] = {next_s[0], next_s[1]}, ds[2] = {next_ds[0], next_ds[1]};
        load_two(next_s, m.s, at, c + DZ_SLICES * CHUNK, up.rows, up.d);
        load_two(next_ds, from, at, c + DZ_SLICES * CHUNK, up.rows, up.d);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float y[4], v[4];
            start_with(y, up.b3, c, e, up.d);
            start_with(v, up.c2, c, e, up.d);
            widen_step(y, mine[0], mine[8 * BOTH / 4], packed_at(to.out + 2 * q * PACKED, e));
            widen_step(v, mine[4], mine[8 * BOTH / 4 + 4], packed_at(to.out + (2 * q + 1) * PACKED, e));
#pragma unroll
            for (int i = 0; i < 4; i++) {
                gate_gradient(&y[i], &v[i], s[i / 2].at(e + i % 2 * 4), ds[i / 2].at(e + i % 2 * 4));
                y[i] = tf32(y[i]);
                v[i] = tf32(v[i]);
            }
            narrow_step(sum[0], y[0], y[2], y[1], y[3], packed_at(to.narrow + 2 * q * PACKED, e));
            narrow_step(sum[1], v[0], v[2], v[1], v[3], packed_at(to.narrow + (2 * q + 1) * PACKED, e));
        }
    }
    leave_sums(part, BOTH, 0, sum[0], at);
    leave_sums(part, BOTH, 16, sum[1], at);
    __syncthreads();
    finish_dz(part, moment_part, origins, z, up, to);
}

/* ------------------------------------------------------------------ columns */

typedef column_step<2> update_step;

/* Rows from t on, up to `end`, of a state and of its gradient, and the rows' narrow values. */
__device__ __forceinline__ void fetch_step(update_step &to, rows_of<const bf16> state, rows_of<bf16> gradient,
                                           const float *narrow, int64_t t, int64_t end, const column_place &at,
                                           int64_t d) {
    if (t < end) {
        to.fetch(0, state, t, at, end, d);
        to.fetch(1, {gradient.data, gradient.ld}, t, at, end, d);
        to.fetch_narrow(narrow, t, at);
    }
    copies_close();
}

/* Lines of part: dW3^T, dV2^T, db3, dc2. */
static __global__ void __launch_bounds__(COLUMNS_THREADS, 2)
    update_state_columns(states m, updating up, gradient_memory to, int64_t each) {
    constexpr int depth = update_step::depth;
    __shared__ __align__(16) update_step rings[COLUMNS_THREADS / 32][depth];
    const column_place at;
    const int64_t begin = blockIdx.y * each, end = begin + each < up.rows ? begin + each : up.rows;
    const bool real = at.chunk * CHUNK < up.d;
    update_step *ring = rings[threadIdx.x / 32];
    float4 w[2][4];
    float bias[2][4], sum[40] = {}; /* dW3, dV2, db3, dc2 */
    int now = 0;
#pragma unroll
    for (int i = 0; i < depth - 1; i++)
        fetch_step(ring[i], m.s, m.ds, to.active, begin + 8 * (at.share + i * SHARES), real ? end : 0, at,
                   up.d);
#pragma unroll
    for (int e = 0; e < 4; e++) {
        w[0][e] = packed_at(to.out + (real ? 2 * at.chunk : 0) * PACKED, e);
        w[1][e] = packed_at(to.out + (real ? 2 * at.chunk + 1 : 1) * PACKED, e);
        bias[0][e] = up.b3 && at.c < up.d ? up.b3[at.c + e] : 0.0f;
        bias[1][e] = up.c2 && at.c < up.d ? up.c2[at.c + e] : 0.0f;
    }
    for (int64_t t = begin + 8 * at.share; real && t < end; t += 8 * SHARES, now = (now + 1) % depth) {
        next_step<update_step>();
        fetch_step(ring[now ? now - 1 : depth - 1], m.s, m.ds, to.active, t + (depth - 1) * 8 * SHARES, end, at,
                   up.d);
        const update_step &here = ring[now];
        const column_bits s(here, 0, at), ds(here, 1, at);
        float y[2][2][4], left[2][4];
#pragma unroll
        for (int net = 0; net < 2; net++) widen_columns(y[net], w[net], here.across(net, at));
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                y[0][i][e] += bias[0][e];
                y[1][i][e] += bias[1][e];
                left[i][e] = gate_gradient(&y[0][i][e], &y[1][i][e], s.at(i, e), ds.at(i, e));
                sum[32 + e] += y[0][i][e];
                sum[36 + e] += y[1][i][e];
            }
        store_columns(m.ds, left, t, at, up.rows, up.d);
#pragma unroll
        for (int net = 0; net < 2; net++)
            sum_columns(sum + 16 * net, y[net], here.down(net, 0, at), here.down(net, 1, at));
    }
    add_shares(reinterpret_cast<float *>(rings), sum, at.share);
    if (at.share != 0 || !real) return;
    float *part = to.part + blockIdx.y * LINES * up.d;
    store_sum(part, sum, at, up.d);
    store_sum(part + 16 * up.d, sum + 16, at, up.d);
    store_line(part + BOTH * up.d, sum + 32, at, up.d);
    store_line(part + (BOTH + 1) * up.d, sum + 36, at, up.d);
}

/* Lines of part from BOTH + 2 on: dW0, dV0, the norm's weight and bias. */
static __global__ void __launch_bounds__(COLUMNS_THREADS, 2)
    update_input_columns(states m, updating up, gradient_memory to, int64_t each) {
    constexpr int depth = update_step::depth;
    __shared__ __align__(16) update_step rings[COLUMNS_THREADS / 32][depth];
    const column_place at;
    const int64_t begin = blockIdx.y * each, end = begin + each < up.rows ? begin + each : up.rows;
    update_step *ring = rings[threadIdx.x / 32];
    const bool real = at.chunk * CHUNK < up.d, norm = up.norm_weight != NULL;
    float4 w[2][4];
    float scale[4], shift[4], sum[44] = {}; /* dW0, dV0, the norm's weight and bias, db0 and dc0 */
    int now = 0;
#pragma unroll
    for (int i = 0; i < depth - 1; i++)
        fetch_step(ring[i], m.h, m.dh, to.dz, begin + 8 * (at.share + i * SHARES), real ? end : 0, at, up.d);
#pragma unroll
    for (int e = 0; e < 4; e++) {
        w[0][e] = packed_at(to.in + (real ? 2 * at.chunk : 0) * PACKED, e);
        w[1][e] = packed_at(to.in + (real ? 2 * at.chunk + 1 : 1) * PACKED, e);
        scale[e] = norm && at.c < up.d ? up.norm_weight[at.c + e] : 1.0f;
        shift[e] = norm && at.c < up.d ? up.norm_bias[at.c + e] : 0.0f;
    }
    for (int64_t t = begin + 8 * at.share; real && t < end; t += 8 * SHARES, now = (now + 1) % depth) {
        next_step<update_step>();
        fetch_step(ring[now ? now - 1 : depth - 1], m.h, m.dh, to.dz, t + (depth - 1) * 8 * SHARES, end, at,
                   up.d);
        const update_step &here = ring[now];
        const column_bits h(here, 0, at), dh(here, 1, at);
        float du[2][4], dv[2][4], u[2][4];
        widen_columns(du, w[0], here.across(0, at));
        widen_columns(dv, w[1], here.across(1, at));
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float4 of_row = norm ? reinterpret_cast<const float4 *>(to.statistics)[t + 2 * at.t + i]
                                       : make_float4(0.0f, 1.0f, 0.0f, 0.0f);
#pragma unroll
            for (int e = 0; e < 4; e++) {
                const float x = (h.at(i, e) - of_row.x) * of_row.y, g = du[i][e] + dv[i][e];
                u[i][e] = x * scale[e] + shift[e];
                sum[32 + e] += g * x;
                sum[36 + e] += g;
                du[i][e] = dh.at(i, e) + of_row.y * (g * scale[e] - x * of_row.z - of_row.w);
            }
        }
        store_columns(m.dh, du, t, at, up.rows, up.d);
#pragma unroll
        for (int net = 0; net < 2; net++) {
            const float2 a = here.down(net, 0, at), b = here.down(net, 1, at);
            sum_columns(sum + 16 * net, u, a, b);
            sum[40 + 2 * net] += a.x + b.x;
            sum[41 + 2 * net] += a.y + b.y;
        }
    }
    add_shares(reinterpret_cast<float *>(rings), sum, at.share);
    if (at.share != 0 || !real) return;
    float *part = to.part + (blockIdx.y * LINES + BOTH + 2) * up.d;
    store_sum(part, sum, at, up.d);
    store_sum(part + 16 * up.d, sum + 16, at, up.d);
    store_line(part + BOTH * up.d, sum + 32, at, up.d);
    store_line(part + (BOTH + 1) * up.d, sum + 36, at, up.d);
    if (at.chunk != 0) return;
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float x = sum[40 + i] + __shfl_xor_sync(0xffffffffu, sum[40 + i], 1);
        x += __shfl_xor_sync(0xffffffffu, x, 2);
        if (at.t == 0) to.bias[blockIdx.y * BOTH + i / 2 * 16 + 2 * at.g + i % 2] = x;
    }
}

/* ------------------------------------------------------------------ the operation */

static bool take_memory(spi_cuda *cuda, gradient_memory *to, int64_t rows, int64_t d, int64_t ranges) {
    float **const places[] = {&to->constants, &to->statistics, &to->active, &to->dz,  &to->narrow,
                              &to->out,       &to->in,         &to->part,   &to->bias};
    const int64_t whole = blocks_for(rows, BLOCK_ROWS) * BLOCK_ROWS, packed = chunks_of(d) * 2 * PACKED;
    const int64_t sizes[] = {2 * BOTH, 4 * whole, BOTH * whole,       BOTH * whole, packed,
                             packed,   packed,    ranges * LINES * d, ranges * BOTH};
    int64_t total = 0;
    for (int i = 0; i < 9; i++) total += (sizes[i] + 15) / 16 * 16;
    float *at = (float *)spi_cuda_scratch(cuda, (size_t)total * sizeof *at);
    for (int i = 0; at && i < 9; i++) {
        *places[i] = at;
        at += (sizes[i] + 15) / 16 * 16;
    }
    return at != NULL;
}

static void add_gradients(spi_cuda *cuda, const spi_update_grads *to, const updating &up,
                          const gradient_memory &from, int64_t ranges) {
    const int g = (int)up.g;
    const parameters of_columns = {{{to->w3, 0, g, 1, up.g},
                                    {to->v2, 16, g, 1, up.g},
                                    {to->b3, BOTH, 1, 0, 1},
                                    {to->c2, BOTH + 1, 1, 0, 1},
                                    {to->w0, BOTH + 2, g, up.d, 1},
                                    {to->v0, BOTH + 18, g, up.d, 1},
                                    {to->norm_weight, 2 * BOTH + 2, 1, 0, 1},
                                    {to->norm_bias, 2 * BOTH + 3, 1, 0, 1}},
                                   8};
    launch(cuda, "adding an update's gradients", sum_parts, shape(dim3(blocks_for(up.d, 32), LINES), 256),
           of_columns, (const float *)from.part, ranges, LINES, up.d, up.d);
    if (!to->b0 && !to->c0) return;
    const parameters of_biases = {{{to->b0, 0, 1, 0, 1}, {to->c0, 1, 1, 0, 1}}, 2};
    launch(cuda, "adding an update's biases' gradients", sum_parts, shape(dim3(1, 2), 256), of_biases,
           (const float *)from.bias, ranges, 2, 16, up.g);
}

void spi_cuda_update_tensor_backward(spi_device *dev, spi_mat dh, spi_mat ds, const spi_update_grads *grads,
                                     spi_mat h, spi_mat s, const float *z, const spi_update *update) {
    spi_cuda *cuda = spi_cuda_of(dev);
    const updating up = updating_of(update, h.rows, h.cols);
    const column_split split = split_chunks(cuda, up.rows, up.d);
    const states m = {rows<bf16>(dh), rows<bf16>(ds), rows<const bf16>(h), rows<const bf16>(s)};
    const launch_shape columns = shape(dim3(split.tiles, split.ranges), COLUMNS_THREADS);
    packings all = {{}, 6, up.d};
    gradient_memory to;
    if (!take_memory(cuda, &to, up.rows, up.d, split.ranges)) return;
    pack_out(all.list, up, to.narrow, true);
    pack_out(all.list + 2, up, to.out, false);
    pack_in(all.list + 4, up, to.in, false, false);
    prepare(cuda, all, to.constants, up, false);
    launch(cuda, "the gradient of an update's rows", update_dz,
           shape(blocks_for(up.rows, BLOCK_ROWS), DZ_THREADS), m, z, up, to);
    launch(cuda, "the gradient of an update's state", update_state_columns, columns, m, up, to, split.each);
    launch(cuda, "the gradient of an update's input", update_input_columns, columns, m, up, to, split.each);
    if (grads->w0 || grads->w3 || grads->v0 || grads->v2 || grads->b0 || grads->norm_weight)
        add_gradients(cuda, grads, up, to, split.ranges);
}
