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
 * The norm of x's rows, at most M of them, by a block of so many warps: in shared memory, as norm.cu makes it,
 * rounded to X. Rows come in words of 16 bytes, WORDS of them a vector of the product: word i of vector `at` of
 * row m is to[(m WORDS + i) vecs + at], so that lanes with neighbouring vectors find theirs side by side.
 *
 * `begin` and `begin_weight` ask memory for x and each thread's first weights, which nothing has read before,
 * without waiting for them. What `finish` leaves is seen by others after a barrier.
 */
template <typename X, int M, int WORDS, int WARPS> struct norm_of_rows {
    static constexpr int P = pack<X>::size, threads = WARPS * 32;
    uint4 *to;
    int rows, vecs;
    vec<float, P> weight;

    __device__ __forceinline__ uint4 *place(int m, int w) const {
        return to + (m * WORDS + w % WORDS) * vecs + w / WORDS;
    }

    __device__ __forceinline__ void begin_weight(const row_norm &norm) {
        if ((int)threadIdx.x >= vecs * WORDS) return;
        weight.load(norm.weight + threadIdx.x * P);
        if (norm.bias) prefetch(norm.bias + threadIdx.x * P);
    }
    __device__ __forceinline__ void begin(rows_of<const X> x) {
#pragma unroll 1
        for (int w = threadIdx.x; w < vecs * WORDS; w += threads) {
#pragma unroll
            for (int m = 0; m < M; m++)
                if (m < rows) copy16(shared_address(place(m, w)), x.row(m) + w * P, true);
        }
    }

    /* f(m, v) for the words of this thread, v their elements. */
    template <typename F> __device__ __forceinline__ void over_words(F f) const {
#pragma unroll 1
        for (int w = threadIdx.x; w < vecs * WORDS; w += threads) {
#pragma unroll
            for (int m = 0; m < M; m++) {
                pack<X> a;
                a.load(reinterpret_cast<const X *>(place(m < rows ? m : 0, w)));
                f(m, a.v);
            }
        }
    }

    __device__ __forceinline__ void finish(const row_norm &norm) {
        const float n = (float)(vecs * WORDS * P);
        float mean[M] = {}, sums[2 * M] = {}, inverse[M];
        copies_wait();
        if (norm.centre) {
            over_words([&](int m, const float(&v)[P]) {
#pragma unroll
                for (int e = 0; e < P; e++) mean[m] += v[e];
            });
            sum_over_block<WARPS, M>(mean);
#pragma unroll
            for (int m = 0; m < M; m++) mean[m] /= n;
        }
        over_words([&](int m, const float(&v)[P]) {
#pragma unroll
            for (int e = 0; e < P; e++) {
                const float deviation = v[e] - mean[m];
                sums[m] += deviation * deviation;
                sums[M + m] += deviation;
            }
        });
        sum_over_block<WARPS, 2 * M>(sums);
#pragma unroll
        for (int m = 0; m < M; m++) {
            /* What rounding has left of the mean in the deviations is taken out. */
            const float rest = norm.centre ? sums[M + m] / n : 0.0f;
            mean[m] += rest;
            inverse[m] = 1.0f / sqrtf(sums[m] / n - rest * rest + norm.eps);
        }
#pragma unroll 1
        for (int w = threadIdx.x; w < vecs * WORDS; w += threads) {
            if (w >= threads) weight.load(norm.weight + w * P);
#pragma unroll
            for (int m = 0; m < M; m++) {
                if (m < rows) apply(reinterpret_cast<X *>(place(m, w)), w, mean[m], inverse[m], norm);
            }
        }
    }

    __device__ __forceinline__ void apply(X *x, int w, float mean, float inverse, const row_norm &norm) const {
        pack<X> a;
        a.load(x);
#pragma unroll
        for (int e = 0; e < P; e++) a.v[e] = (a.v[e] - mean) * inverse * (norm.offset + weight.v[e]);
        if (norm.bias) {
            vec<float, P> bias;
            bias.load(norm.bias + w * P);
#pragma unroll
            for (int e = 0; e < P; e++) a.v[e] += bias.v[e];
        }
        a.store(x);
    }
};
