/* What the forward and the backward kernels in the matrix units share. */
#pragma once

#include "tensor/cuda/attention.cuh"
#include "tensor/cuda/mma.cuh"

#define ATTENTION_WARPS 4
#define ATTENTION_THREADS (32 * ATTENTION_WARPS)
#define LOG2_E 1.4426950408889634f

/*
 * A block's tile of 16 M rows a warp: query rows of one head, or, where the heads that share a key head are
 * even in number, half as many of two such heads, which halves what is read of keys and values and what is
 * wasted at the diagonal. A warp's rows are of one head.
 */
template <int M> struct query_rows {
    static constexpr int tile = 16 * M * ATTENTION_WARPS;
    attention_seq seq;
    int sequence, head0, kv_head; /* head0: of the tile's first row */
    int rows, row0;               /* of each head; the first */

    __device__ __forceinline__ query_rows(const attention_view &a) {
        const int heads = a.group % 2 == 0 ? 2 : 1, sets = a.heads / heads;
        sequence = blockIdx.x / sets;
        head0 = blockIdx.x % sets * heads;
        kv_head = head0 / a.group;
        rows = tile / heads;
        /* What has the most keys begins first. */
        row0 = (int)(gridDim.y - 1 - blockIdx.y) * rows;
        seq = sequence_of(a, sequence);
    }
    __device__ __forceinline__ int head(int tile_row) const {
        return head0 + (tile_row >= rows);
    }
    __device__ __forceinline__ int row(int tile_row) const {
        return row0 + (tile_row >= rows ? tile_row - rows : tile_row);
    }
    static dim3 grid(const attention_view &a) {
        const int heads = a.group % 2 == 0 ? 2 : 1;
        return dim3((unsigned)(a.count * (a.heads / heads)), (unsigned)blocks_for(a.longest, tile / heads));
    }
    /* The tile of `from`, of the shape of q, to shared memory. */
    template <int D>
    __device__ __forceinline__ void copy(uint32_t to, const bf16 *from, int64_t ld, int head_dim) const {
        const copier<D, ATTENTION_THREADS> mine;
        if (mine.column >= D) return;
        const uint32_t first = mine.to(to);
#pragma unroll
        for (int r = 0; r < tile; r += mine.step) {
            const int at = mine.row + r, in_seq = row(at);
            const bool valid = in_seq < seq.rows && mine.column < head_dim;
            const int64_t piece =
                (int64_t)(seq.first + in_seq) * ld + (int64_t)head(at) * head_dim + mine.column;
            copy16(first + (uint32_t)(r * PITCH<D> * 2), valid ? from + piece : from, valid);
        }
    }
};

/* Keys [begin, end) that any of `rows` query rows from position `first` on sees, of which there are `total`. */
struct key_span {
    int begin, end;
    __device__ __forceinline__ key_span(const attention_view &a, int first, int rows, int total) {
        begin = a.window > 0 ? max(0, first - a.window + 1) : 0;
        end = min(first + rows, total);
    }
};

/* `hidden` where the query at position first + row does not see the key k0 + column. */
template <int M, int N>
__device__ __forceinline__ void mask_scores(float (&s)[M][N][4], int first, int k0, int window, float hidden) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int query = first + m * 16 + g + i / 2 * 8, key = k0 + n * 8 + 2 * t + i % 2;
                if (key > query || (window > 0 && key <= query - window)) s[m][n][i] = hidden;
            }
}

/* ------------------------------------------------------------------ the softmax of the forward kernels */

/* The running softmax of a warp's rows; rows g and g + 8 of each 16. */
template <int M> struct running {
    float most[M][2], sum[M][2]; /* of raw scores; of this lane's columns */
    __device__ __forceinline__ running() {
#pragma unroll
        for (int m = 0; m < M; m++) most[m][0] = most[m][1] = -INFINITY, sum[m][0] = sum[m][1] = 0.0f;
    }
};

/* x = tanh(x scale / cap): scores are then in units of the cap. */
template <int M, int N> __device__ __forceinline__ void cap_scores(float (&s)[M][N][4], float a) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) s[m][n][i] = tanh_fast(s[m][n][i] * a);
}

/* Scores to 2^(unit (s - maximum)); shrink: what there was, times this, is of the new maximum. */
template <int M, int N>
__device__ __forceinline__ void soften(float (&s)[M][N][4], float (&shrink)[M][2], running<M> &run,
                                       float unit) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float most = run.most[m][half], sum = 0.0f;
#pragma unroll
            for (int n = 0; n < N; n++) most = fmaxf(most, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 1));
            most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, 2));
            /* A row may have seen nothing yet, where there is a window. */
            const float base = most == -INFINITY ? 0.0f : most * unit;
            shrink[m][half] = exp2_fast(run.most[m][half] * unit - base);
            run.most[m][half] = most;
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 2 * half; i < 2 * half + 2; i++) {
                    s[m][n][i] = exp2_fast(s[m][n][i] * unit - base);
                    sum += s[m][n][i];
                }
            run.sum[m][half] = run.sum[m][half] * shrink[m][half] + sum;
        }
}

template <int M, int C>
__device__ __forceinline__ void scale_rows(float (&acc)[M][C][4], const float (&by)[M][2]) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < C; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) acc[m][n][i] *= by[m][i / 2];
}

/* scale = 1 / sum of each row; lse of rows [0, count) of the warp. */
template <int M>
__device__ __forceinline__ void finish(running<M> &run, float (&scale)[M][2], float *lse, int count,
                                       float unit) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float sum = run.sum[m][half];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            scale[m][half] = 1.0f / sum;
            const int row = m * 16 + half * 8 + g;
            if (lse && t == 0 && row < count)
                lse[row] = (run.most[m][half] * unit + log2f(sum)) * (1.0f / LOG2_E);
        }
}

/* ------------------------------------------------------------------ launches */

/*
 * Whether a launch may use that much shared memory; more than 48 KiB must be asked for. Of the memory that
 * serves as cache too, all is to be shared memory, so that as many blocks as fit run beside each other.
 */
template <typename Kernel> static bool allow_shared(spi_cuda *cuda, Kernel *kernel, size_t bytes) {
    const void *function = (const void *)kernel;
    if (bytes > (size_t)cuda->shared) return false;
    return spi_cuda_check(
               cuda, cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes),
               "asking for shared memory") &&
           spi_cuda_check(cuda,
                          cudaFuncSetAttribute(function, cudaFuncAttributePreferredSharedMemoryCarveout,
                                               cudaSharedmemCarveoutMaxShared),
                          "asking for shared memory");
}
