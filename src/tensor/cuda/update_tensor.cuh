/* What the update of bf16 rows shares, forward and backward: its narrow matrices, and moments of rows. */
#pragma once

#include "tensor/cuda/shadow_tensor.cuh"
#include "tensor/cuda/update.cuh"

#define BOTH 32 /* values of a row: 16 of the first network, 16 of the second, zeros from g on */

/* [W0, V0], its columns scaled by the norm's weight if `scaled`; [W3, V2]. */
static inline void pack_in(packing *list, const updating &up, float *to, bool narrows, bool scaled) {
    const float *scale = scaled ? up.norm_weight : NULL;
    list[0] = {{up.w0, up.g, up.d, 1, scale}, to, 2 * PACKED, narrows};
    list[1] = {{up.v0, up.g, up.d, 1, scale}, to + PACKED, 2 * PACKED, narrows};
}
static inline void pack_out(packing *list, const updating &up, float *to, bool narrows) {
    list[0] = {{up.w3, up.g, 1, up.g, NULL}, to, 2 * PACKED, narrows};
    list[1] = {{up.v2, up.g, 1, up.g, NULL}, to + PACKED, 2 * PACKED, narrows};
}

/*
 * constants [2][BOTH], jj a value: the sum of W w, w the norm's weight (rounded one by one as `pack_chunk` does
 * if `rounded`); W times the norm's bias, and the first layer's bias.
 */
__device__ __forceinline__ void update_constant(float *constants, int jj, const updating &up, bool rounded) {
    const int j = jj % 16;
    const float *w = (jj < 16 ? up.w0 : up.v0) + j * up.d;
    float along = 0.0f, offset = 0.0f;
#pragma unroll 4
    for (int64_t c = threadIdx.x; up.norm_weight && j < up.g && c < up.d; c += PACK_THREADS) {
        const float x = w[c] * up.norm_weight[c];
        along += rounded ? tf32(x) : x;
        offset += w[c] * up.norm_bias[c];
    }
    along = block_sum(along);
    offset = block_sum(offset);
    if (threadIdx.x != 0) return;
    if (j < up.g && up.b0) offset += jj < 16 ? up.b0[j] : up.c0[j];
    constants[jj] = along;
    constants[BOTH + jj] = offset;
}

/* What the other kernels find ready: the constants, which take longest and so come first, and all packed. */
static __global__ void __launch_bounds__(PACK_THREADS)
    prepare_update(packings all, float *constants, updating up, bool rounded) {
    const int block = (int)blockIdx.x;
    if (block < BOTH) update_constant(constants, block, up, rounded);
    else pack_chunk(all, block - BOTH);
}
static inline void prepare(spi_cuda *cuda, const packings &all, float *constants, const updating &up,
                           bool rounded) {
    launch(cuda, "preparing an update", prepare_update, shape(BOTH + pieces_of(all), PACK_THREADS), all,
           constants, up, rounded);
}

/*
 * Sums of a lane's two rows, less their first element so that a mean far from zero costs no digits, and of the
 * squares: with as few as one pass.
 */
struct moments {
    float origin[2], sum[2], squares[2];
    __device__ __forceinline__ void begin(rows_of<const bf16> h, const row_place &at, int64_t rows) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            origin[i] = at.first + 8 * i < rows ? to_float(h.row(at.first + 8 * i)[0]) : 0.0f;
            sum[i] = squares[i] = 0.0f;
        }
    }
    __device__ __forceinline__ void add(const raw<bf16> (&x)[2], bool real) {
        if (!real) return;
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int e = 0; e < 8; e++) {
                const float y = x[i].at(e) - origin[i];
                sum[i] += y;
                squares[i] += y * y;
            }
    }
    /* part [SLICES][BLOCK_ROWS][2], origins [BLOCK_ROWS] */
    __device__ __forceinline__ void leave(float2 *part, float *origins, const row_place &at) const {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float a = sum[i] + __shfl_xor_sync(0xffffffffu, sum[i], 1);
            float b = squares[i] + __shfl_xor_sync(0xffffffffu, squares[i], 1);
            a += __shfl_xor_sync(0xffffffffu, a, 2);
            b += __shfl_xor_sync(0xffffffffu, b, 2);
            const int row = at.half * 16 + at.g + 8 * i;
            if (at.t == 0) part[at.slice * BLOCK_ROWS + row] = make_float2(a, b);
            if (at.t == 0 && at.slice == 0) origins[row] = origin[i];
        }
    }
};
template <int S = SLICES>
__device__ __forceinline__ void row_moments(float *mean, float *inverse, const float2 *part,
                                            const float *origins, int row, const updating &up) {
    float sum = 0.0f, squares = 0.0f;
#pragma unroll
    for (int i = 0; i < S; i++) {
        sum += part[i * BLOCK_ROWS + row].x;
        squares += part[i * BLOCK_ROWS + row].y;
    }
    sum /= (float)up.d;
    *mean = origins[row] + sum;
    *inverse = 1.0f / sqrtf(fmaxf(squares / (float)up.d - sum * sum, 0.0f) + up.eps);
}

/* Columns s and 4 + s from c on of a bias, or zeros, for both rows: what widen_step adds to. */
__device__ __forceinline__ void start_with(float (&x)[4], const float *bias, int64_t c, int s, int64_t d) {
    const bool real = bias && c < d;
    x[0] = x[2] = real ? bias[c + s] : 0.0f;
    x[1] = x[3] = real ? bias[c + 4 + s] : 0.0f;
}
