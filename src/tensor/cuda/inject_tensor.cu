/*
 * Injection of bf16 rows (backend.h; inject.cu chooses). h, s [T, d] bf16; D [d, k], U [k, d], p [T, k] f32, k
 * up to 16. Limit forward: reads h and s, writes h_out: 50 MB at T = 8192, d = 1024, 17 us. Backward: reads
 * h_out, s, dh, ds, writes dh, ds: 100 MB, 34 us.
 *
 *   inject_rows     32 rows a block: p = (h - s) D, the block's warps taking turns at the columns, then h +
 * alpha p U; h is read again, from the caches inject_dp       the same for dp = alpha dropout(dh U^T); leaves
 * alpha p and dp side by side inject_columns  64 columns and a range of rows a block: all the rest of the
 * backward pass
 */
#include "tensor/cuda/inject.cuh"
#include "tensor/cuda/shadow_tensor.cuh"
#include "tensor/cuda/tensor.h"

static narrow down_of(const injection &in) {
    return {in.down, in.k, 1, in.k, NULL};
}
static narrow up_of(const injection &in) {
    return {in.up, in.k, in.d, 1, NULL};
}

static __global__ void __launch_bounds__(PACK_THREADS) pack_weights(packings all) {
    pack_chunk(all, (int)blockIdx.x);
}
static void pack_all(spi_cuda *cuda, const packings &all) {
    launch(cuda, "packing an injection's weights", pack_weights, shape(pieces_of(all), PACK_THREADS), all);
}

static __global__ void __launch_bounds__(ROWS_THREADS, 2)
    inject_rows(rows_of<bf16> out, float *p, rows_of<const bf16> h, rows_of<const bf16> s, injection in,
                const float *down, const float *up) {
    __shared__ float part[SLICES * BLOCK_ROWS * 16];
    __shared__ __align__(16) float small[BLOCK_ROWS * 16];
    const row_place at;
    const int64_t chunks = (in.d + CHUNK - 1) / CHUNK;
    float sum[2][4] = {};
#pragma unroll 2
    for (int64_t q = at.slice; q < chunks; q += SLICES) {
        const int64_t c = q * CHUNK + 8 * at.t;
        raw<bf16> a[2], b[2];
        float x[2][8];
        load_two(a, h, at, c, in.rows, in.d);
        load_two(b, s, at, c, in.rows, in.d);
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int e = 0; e < 8; e++) x[i][e] = a[i].at(e) - b[i].at(e);
            if (in.drop_delta) drop_run(x[i], in.drop, (at.first + 8 * i) * in.d + c);
        }
#pragma unroll
        for (int e = 0; e < 4; e++)
            narrow_step(sum, tf32(x[0][e]), tf32(x[1][e]), tf32(x[0][4 + e]), tf32(x[1][4 + e]),
                        packed_at(down + q * PACKED, e));
    }
    leave_sums(part, 16, 0, sum, at);
    __syncthreads();
#pragma unroll 1
    for (int i = (int)threadIdx.x; i < BLOCK_ROWS * 16; i += ROWS_THREADS) {
        const int64_t row = (int64_t)blockIdx.x * BLOCK_ROWS + i / 16;
        const int j = i % 16;
        const bool real = row < in.rows && j < in.k;
        float x = sum_slices(part, 16, i / 16, j);
        if (real && !in.drop_delta) x *= drop_factor(in.drop, row * in.k + j);
        if (real) p[row * in.k + j] = x;
        small[i] = real ? tf32(in.alpha * x) : 0.0f;
    }
    __syncthreads();
    const float4 *mine = reinterpret_cast<const float4 *>(small) + (at.half * 16 + at.g) * 4 + at.t;
    const float4 a0 = mine[0], a1 = mine[8 * 4];
#pragma unroll 2
    for (int64_t q = at.slice; q < chunks; q += SLICES) {
        const int64_t c = q * CHUNK + 8 * at.t;
        raw<bf16> a[2];
        float x[2][8];
        load_two(a, h, at, c, in.rows, in.d);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float y[4] = {a[0].at(e), a[0].at(4 + e), a[1].at(e), a[1].at(4 + e)};
            widen_step(y, a0, a1, packed_at(up + q * PACKED, e));
            x[0][e] = y[0];
            x[0][4 + e] = y[1];
            x[1][e] = y[2];
            x[1][4 + e] = y[3];
        }
        store_two(out, x, at, c, in.rows, in.d);
    }
}

void spi_cuda_inject_tensor(spi_device *dev, spi_mat h_out, float *p, spi_mat h, spi_mat s,
                            const spi_inject *inject) {
    spi_cuda *cuda = spi_cuda_of(dev);
    const injection in = injection_of(inject, h.rows, h.cols);
    const int64_t packed = chunks_of(in.d) * PACKED;
    float *down = (float *)spi_cuda_scratch(cuda, (size_t)(2 * packed) * sizeof *down);
    if (!down) return;
    float *up = down + packed;
    pack_all(cuda, {{{down_of(in), down, PACKED, true}, {up_of(in), up, PACKED, false}}, 2, in.d});
    launch(cuda, "injecting", inject_rows, shape(blocks_for(in.rows, BLOCK_ROWS), ROWS_THREADS),
           rows<bf16>(h_out), p, rows<const bf16>(h), rows<const bf16>(s), in, (const float *)down,
           (const float *)up);
}

/* ------------------------------------------------------------------ backward */

/* small [T up to a whole block][32]: alpha p, then dp, zeros from k on and below the rows. */
static __global__ void __launch_bounds__(ROWS_THREADS, 2)
    inject_dp(float *small, rows_of<const bf16> dh, const float *p, injection in, const float *up) {
    __shared__ float part[SLICES * BLOCK_ROWS * 16];
    const row_place at;
    const int64_t chunks = (in.d + CHUNK - 1) / CHUNK;
    float sum[2][4] = {};
#pragma unroll 2
    for (int64_t q = at.slice; q < chunks; q += SLICES) {
        raw<bf16> a[2];
        load_two(a, dh, at, q * CHUNK + 8 * at.t, in.rows, in.d);
#pragma unroll
        for (int e = 0; e < 4; e++)
            narrow_step(sum, a[0].at(e), a[1].at(e), a[0].at(4 + e), a[1].at(4 + e),
                        packed_at(up + q * PACKED, e));
    }
    leave_sums(part, 16, 0, sum, at);
    __syncthreads();
#pragma unroll 1
    for (int i = (int)threadIdx.x; i < BLOCK_ROWS * 16; i += ROWS_THREADS) {
        const int64_t row = (int64_t)blockIdx.x * BLOCK_ROWS + i / 16;
        const int j = i % 16;
        const bool real = row < in.rows && j < in.k;
        float x = sum_slices(part, 16, i / 16, j);
        if (real && !in.drop_delta) x *= drop_factor(in.drop, row * in.k + j);
        small[row * 32 + j] = real ? tf32(in.alpha * p[row * in.k + j]) : 0.0f;
        small[row * 32 + 16 + j] = real ? tf32(in.alpha * x) : 0.0f;
    }
}

struct injected {
    rows_of<bf16> dh, ds;
    rows_of<const bf16> h_out, s;
};

typedef column_step<4> inject_step;

/* dh, ds, h_out and s of rows from t on, up to `end`, and their alpha p and dp. */
__device__ __forceinline__ void fetch_step(inject_step &to, const injected &m, const float *small, int64_t t,
                                           int64_t end, const column_place &at, int64_t d) {
    if (t < end) {
        to.fetch(0, {m.dh.data, m.dh.ld}, t, at, end, d);
        to.fetch(1, {m.ds.data, m.ds.ld}, t, at, end, d);
        to.fetch(2, m.h_out, t, at, end, d);
        to.fetch(3, m.s, t, at, end, d);
        to.fetch_narrow(small, t, at);
    }
    copies_close();
}

/* part [ranges][32][d]: dD^T, then dU. */
static __global__ void __launch_bounds__(COLUMNS_THREADS, 2)
    inject_columns(injected m, float *part, const float *small, injection in, const float *down,
                   const float *up, int64_t each) {
    constexpr int depth = inject_step::depth;
    __shared__ __align__(16) inject_step rings[COLUMNS_THREADS / 32][depth];
    const column_place at;
    const int64_t begin = blockIdx.y * each, end = begin + each < in.rows ? begin + each : in.rows;
    const bool real = at.chunk * CHUNK < in.d;
    inject_step *ring = rings[threadIdx.x / 32];
    float4 wd[4], wu[4];
    float sum[32] = {};
    int now = 0;
#pragma unroll
    for (int i = 0; i < depth - 1; i++)
        fetch_step(ring[i], m, small, begin + 8 * (at.share + i * SHARES), real ? end : 0, at, in.d);
#pragma unroll
    for (int e = 0; e < 4; e++) {
        wd[e] = packed_at(down + (real ? at.chunk : 0) * PACKED, e);
        wu[e] = packed_at(up + (real ? at.chunk : 0) * PACKED, e);
    }
    for (int64_t t = begin + 8 * at.share; real && t < end; t += 8 * SHARES, now = (now + 1) % depth) {
        next_step<inject_step>();
        fetch_step(ring[now ? now - 1 : depth - 1], m, small, t + (depth - 1) * 8 * SHARES, end, at, in.d);
        const inject_step &here = ring[now];
        const column_bits dh(here, 0, at), ds(here, 1, at), h(here, 2, at), s(here, 3, at);
        float added[2][4], ddelta[2][4], x[2][4];
        widen_columns(added, wu, here.across(0, at));
        widen_columns(ddelta, wd, here.across(1, at));
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const int64_t index = (t + 2 * at.t + i) * in.d + at.c;
#pragma unroll
            for (int e = 0; e < 4; e++) added[i][e] = h.at(i, e) - added[i][e] - s.at(i, e);
            if (in.drop_delta) {
                drop_run(added[i], in.drop, index);
                drop_run(ddelta[i], in.drop, index);
            }
#pragma unroll
            for (int e = 0; e < 4; e++) x[i][e] = dh.at(i, e);
        }
        sum_columns(sum, added, here.down(1, 0, at), here.down(1, 1, at));
        sum_columns(sum + 16, x, here.down(0, 0, at), here.down(0, 1, at));
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                x[i][e] += ddelta[i][e];
                ddelta[i][e] = ds.at(i, e) - ddelta[i][e];
            }
        store_columns(m.dh, x, t, at, in.rows, in.d);
        store_columns(m.ds, ddelta, t, at, in.rows, in.d);
    }
    add_shares(reinterpret_cast<float *>(rings), sum, at.share);
    if (at.share != 0 || !real) return;
    store_sum(part + blockIdx.y * 32 * in.d, sum, at, in.d);
    store_sum(part + (blockIdx.y * 32 + 16) * in.d, sum + 16, at, in.d);
}

void spi_cuda_inject_tensor_backward(spi_device *dev, spi_mat dh, spi_mat ds, float *ddown, float *dup,
                                     spi_mat h_out, spi_mat s, const float *p, const spi_inject *inject) {
    spi_cuda *cuda = spi_cuda_of(dev);
    const injection in = injection_of(inject, dh.rows, dh.cols);
    const column_split split = split_chunks(cuda, in.rows, in.d);
    const int64_t packed = chunks_of(in.d) * PACKED, blocks = blocks_for(in.rows, BLOCK_ROWS);
    float *narrowing = (float *)spi_cuda_scratch(
        cuda, (size_t)(3 * packed + blocks * BLOCK_ROWS * 32 + split.ranges * 32 * in.d) * sizeof *narrowing);
    if (!narrowing) return;
    float *up = narrowing + packed, *down = up + packed, *small = down + packed;
    float *part = small + blocks * BLOCK_ROWS * 32;
    pack_all(cuda, {{{up_of(in), narrowing, PACKED, true},
                     {up_of(in), up, PACKED, false},
                     {down_of(in), down, PACKED, false}},
                    3,
                    in.d});
    launch(cuda, "the gradient of an injection's p", inject_dp, shape(blocks, ROWS_THREADS), small,
           rows<const bf16>(dh), p, in, (const float *)narrowing);
    const injected m = {rows<bf16>(dh), rows<bf16>(ds), rows<const bf16>(h_out), rows<const bf16>(s)};
    launch(cuda, "the gradient of an injection", inject_columns,
           shape(dim3(split.tiles, split.ranges), COLUMNS_THREADS), m, part, (const float *)small, in,
           (const float *)down, (const float *)up, split.each);
    if (!ddown && !dup) return;
    const parameters to = {{{ddown, 0, (int)in.k, 1, in.k}, {dup, 16, (int)in.k, in.d, 1}}, 2};
    launch(cuda, "adding an injection's gradients", sum_parts, shape(dim3(blocks_for(in.d, 32), 32), 256), to,
           (const float *)part, split.ranges, 32, in.d, in.d);
}
