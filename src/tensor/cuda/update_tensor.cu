/*
 * Update of bf16 rows, forward (backend.h; update.cu chooses). h, s [T, d] bf16; W0, V0 [g, d], W3, V2 [d, g],
 * z [T, 2 g] f32, g up to 16. Limit: reads h and s, writes s_out: 50 MB at T = 8192, d = 1024, 17 us.
 *
 * A block takes 32 rows, its warps taking turns at the columns: sums h W w and the rows' moments in one pass,
 * since LayerNorm(h) = (h - mean) / deviation w + b makes z = (W w h - mean sum(W w)) / deviation + W b; h and
 * what W w is rounded to are exact in the product. Then W3 and V2 are applied and mixed into s.
 */
#include "tensor/cuda/tensor.h"
#include "tensor/cuda/update_tensor.cuh"

/* small [BLOCK_ROWS][BOTH] = dropout(act(z0)), act(z1); z is kept if wanted. */
__device__ __forceinline__ void finish_z(float *small, float *z, const float *part, const float2 *moment_part,
                                         const float *origins, const float *constants, const updating &up) {
#pragma unroll 1
    for (int i = (int)threadIdx.x; i < BLOCK_ROWS * BOTH; i += ROWS_THREADS) {
        const int jj = i % BOTH, j = jj % 16;
        const int64_t row = (int64_t)blockIdx.x * BLOCK_ROWS + i / BOTH;
        const bool real = row < up.rows && j < up.g;
        float x = sum_slices(part, BOTH, i / BOTH, jj);
        if (up.norm_weight) {
            float mean, inverse;
            row_moments(&mean, &inverse, moment_part, origins, i / BOTH, up);
            x = inverse * (x - mean * constants[jj]);
        }
        x += constants[BOTH + jj];
        if (real && z) z[row * 2 * up.g + (jj < 16 ? 0 : up.g) + j] = x;
        x = activated(x, up.gelu);
        if (real && jj < 16) x *= drop_factor(up.drop, row * up.g + j);
        small[i] = real ? tf32(x) : 0.0f;
    }
}

static __global__ void __launch_bounds__(ROWS_THREADS, 2)
    update_rows(rows_of<bf16> s_out, float *z, rows_of<const bf16> h, rows_of<const bf16> s, updating up,
                const float *constants, const float *in, const float *out) {
    __shared__ __align__(16) float part[SLICES * BLOCK_ROWS * BOTH];
    __shared__ __align__(16) float small[BLOCK_ROWS * BOTH];
    __shared__ float2 moment_part[SLICES * BLOCK_ROWS];
    __shared__ float origins[BLOCK_ROWS];
    const row_place at;
    const int64_t chunks = (up.d + CHUNK - 1) / CHUNK;
    float sum[2][2][4] = {};
    moments own;
    own.begin(h, at, up.rows);
#pragma unroll 1
    for (int64_t q = at.slice; q < chunks; q += SLICES) {
        const int64_t c = q * CHUNK + 8 * at.t;
        raw<bf16> x[2];
        load_two(x, h, at, c, up.rows, up.d);
        if (up.norm_weight) own.add(x, c < up.d);
#pragma unroll
        for (int e = 0; e < 4; e++)
#pragma unroll
            for (int net = 0; net < 2; net++)
                narrow_step(sum[net], x[0].at(e), x[1].at(e), x[0].at(4 + e), x[1].at(4 + e),
                            packed_at(in + (2 * q + net) * PACKED, e));
    }
    leave_sums(part, BOTH, 0, sum[0], at);
    leave_sums(part, BOTH, 16, sum[1], at);
    own.leave(moment_part, origins, at);
    __syncthreads();
    finish_z(small, z, part, moment_part, origins, constants, up);
    __syncthreads();
    const float4 *mine = reinterpret_cast<const float4 *>(small) + (at.half * 16 + at.g) * (BOTH / 4) + at.t;
    const float4 a0 = mine[0], a1 = mine[8 * BOTH / 4], b0 = mine[4], b1 = mine[8 * BOTH / 4 + 4];
#pragma unroll 1
    for (int64_t q = at.slice; q < chunks; q += SLICES) {
        const int64_t c = q * CHUNK + 8 * at.t;
        raw<bf16> old[2];
        float x[2][8];
        load_two(old, s, at, c, up.rows, up.d);
#pragma unroll
        for (int e = 0; e < 4; e++) {
            float y[4], v[4];
            __syncwarp(); /* no more weights at a time than there are registers for */
            start_with(y, up.b3, c, e, up.d);
            start_with(v, up.c2, c, e, up.d);
            widen_step(y, a0, a1, packed_at(out + 2 * q * PACKED, e));
            widen_step(v, b0, b1, packed_at(out + (2 * q + 1) * PACKED, e));
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const float before = old[i / 2].at(e + i % 2 * 4);
                x[i / 2][e + i % 2 * 4] = before + gate<bf16>(v[i]) * (y[i] - before);
            }
        }
        store_two(s_out, x, at, c, up.rows, up.d);
    }
}

void spi_cuda_update_tensor(spi_device *dev, spi_mat s_out, float *z, spi_mat h, spi_mat s,
                            const spi_update *update) {
    spi_cuda *cuda = spi_cuda_of(dev);
    const updating up = updating_of(update, h.rows, h.cols);
    const int64_t packed = chunks_of(up.d) * 2 * PACKED;
    float *constants = (float *)spi_cuda_scratch(cuda, (size_t)(2 * BOTH + 2 * packed) * sizeof *constants);
    if (!constants) return;
    float *in = constants + 2 * BOTH, *out = in + packed;
    packings all = {{}, 4, up.d};
    pack_in(all.list, up, in, true, true);
    pack_out(all.list + 2, up, out, false);
    prepare(cuda, all, constants, up, true);
    launch(cuda, "updating", update_rows, shape(blocks_for(up.rows, BLOCK_ROWS), ROWS_THREADS),
           rows<bf16>(s_out), z, rows<const bf16>(h), rows<const bf16>(s), up, (const float *)constants,
           (const float *)in, (const float *)out);
}
