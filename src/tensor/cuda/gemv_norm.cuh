/* The norm of few rows, made by each block of a product for itself (gemv.cu). */
#pragma once

#include "tensor/cuda/gemv.cuh"
#include "tensor/cuda/ptx.cuh"

/*
 * Sums of V values over a warp, V a power of two: lanes [i * 32 / V, (i + 1) * 32 / V) get that of v[i]. Each
 * step halves the values that a lane is left with.
 */
template <int V> static __device__ __forceinline__ float fold(float (&v)[V], int lane) {
    int left = V;
#pragma unroll
    for (int apart = 16; apart; apart /= 2) {
        if (left > 1) {
            left /= 2;
            const bool upper = lane & apart;
#pragma unroll
            for (int i = 0; i < V / 2; i++) {
                if (i >= left) continue;
                const float mine = upper ? v[i + left] : v[i], theirs = upper ? v[i] : v[i + left];
                v[i] = mine + __shfl_xor_sync(0xffffffffu, theirs, apart);
            }
        } else {
            v[0] += __shfl_xor_sync(0xffffffffu, v[0], apart);
        }
    }
    return v[0];
}

/* v[i] becomes its sum over a block of so many warps. Once for each V: others may read `part` for long. */
template <int WARPS, int V> static __device__ __forceinline__ void sum_over_block(float (&v)[V]) {
    __shared__ float part[WARPS][V];
    const int lane = threadIdx.x % 32;
    const float total = fold<V>(v, lane);
    if (lane % (32 / V) == 0) part[threadIdx.x / 32][lane / (32 / V)] = total;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < V; i++) {
        v[i] = part[0][i];
#pragma unroll
        for (int w = 1; w < WARPS; w++) v[i] += part[w][i];
    }
}

/*
 * x's rows, normed and rounded to X as norm.cu does it, in shared memory, for M >= rows. They come in words of
 * 16 bytes, WORDS of them a vector of the product: word i of vector `at` of row m is to[(m WORDS + i) vecs +
 * at], so that lanes with neighbouring vectors find theirs side by side. Seen by others after a barrier.
 */
template <typename X, int M, int WORDS, int WARPS>
static __device__ __forceinline__ void norm_rows(uint4 *to, rows_of<const X> x, int rows, int vecs,
                                                 const row_norm &norm) {
    constexpr int P = pack<X>::size, threads = WARPS * 32;
    const int words = vecs * WORDS;
    const float n = (float)(words * P);
    float mean[M] = {}, sums[2 * M] = {};
    vec<float, P> weight;
    /* Nothing has read these before: they come from memory, while sums are made. */
    if ((int)threadIdx.x < words) {
        weight.load(norm.weight + threadIdx.x * P);
        if (norm.bias) prefetch(norm.bias + threadIdx.x * P);
    }
    if (norm.centre) {
#pragma unroll 1
        for (int w = threadIdx.x; w < words; w += threads) {
#pragma unroll
            for (int m = 0; m < M; m++) {
                pack<X> a;
                a.load(x.row(m < rows ? m : 0) + w * P);
#pragma unroll
                for (int e = 0; e < P; e++) mean[m] += a.v[e];
            }
        }
        sum_over_block<WARPS, M>(mean);
#pragma unroll
        for (int m = 0; m < M; m++) mean[m] /= n;
    }
#pragma unroll 1
    for (int w = threadIdx.x; w < words; w += threads) {
#pragma unroll
        for (int m = 0; m < M; m++) {
            pack<X> a;
            a.load(x.row(m < rows ? m : 0) + w * P);
#pragma unroll
            for (int e = 0; e < P; e++) {
                const float deviation = a.v[e] - mean[m];
                sums[m] += deviation * deviation;
                sums[M + m] += deviation;
            }
        }
    }
    sum_over_block<WARPS, 2 * M>(sums);
    float inverse[M];
#pragma unroll
    for (int m = 0; m < M; m++) {
        /* What rounding has left of the mean in the deviations is taken out. */
        const float rest = norm.centre ? sums[M + m] / n : 0.0f;
        mean[m] += rest;
        inverse[m] = 1.0f / sqrtf(sums[m] / n - rest * rest + norm.eps);
    }
#pragma unroll 1
    for (int w = threadIdx.x; w < words; w += threads) {
        if (w >= threads) weight.load(norm.weight + w * P);
#pragma unroll
        for (int m = 0; m < M; m++) {
            if (m >= rows) continue;
            pack<X> a;
            a.load(x.row(m) + w * P);
#pragma unroll
            for (int e = 0; e < P; e++) a.v[e] = (a.v[e] - mean[m]) * inverse[m] * (norm.offset + weight.v[e]);
            if (norm.bias) {
                vec<float, P> bias;
                bias.load(norm.bias + w * P);
#pragma unroll
                for (int e = 0; e < P; e++) a.v[e] += bias.v[e];
            }
            a.store(reinterpret_cast<X *>(to + (m * WORDS + w % WORDS) * vecs + w / WORDS));
        }
    }
}
