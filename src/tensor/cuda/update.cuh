/* What the update's forward and backward kernels share (update.cu, update_backward.cu). */
#pragma once

#include "tensor/cuda/shadow.cuh"

struct updating {
    int64_t rows, d, g;
    float eps;
    bool gelu;
    const float *norm_weight, *norm_bias, *w0, *w3, *v0, *v2, *b0, *b3, *c0, *c2;
    dropout drop;
};

static inline updating updating_of(const spi_update *up, int64_t rows, int64_t d) {
    return {rows,
            d,
            up->g,
            up->eps,
            up->act == SPI_ACT_GELU_ERF,
            up->norm_weight,
            up->norm_bias,
            up->w0,
            up->w3,
            up->v0,
            up->v2,
            up->b0,
            up->b3,
            up->c0,
            up->c2,
            dropout_of(&up->dropout)};
}

__device__ __forceinline__ float sigmoid(float x) {
    return 1.0f / (1.0f + expf(-x));
}

__device__ __forceinline__ float normal_cdf(float x) {
    return 0.5f * erfcf(-0.70710678f * x);
}

__device__ __forceinline__ float activated(float x, bool gelu) {
    return x * (gelu ? normal_cdf(x) : sigmoid(x));
}

__device__ __forceinline__ float activated_slope(float x, bool gelu) {
    if (gelu) return normal_cdf(x) + x * 0.398942280f * expf(-0.5f * x * x);
    const float s = sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}

/* The sigmoid of the gate, once for each element of the state: the quick exponential where bf16 rounds after
 * it. */
template <typename T> __device__ __forceinline__ float gate(float x);
template <> __device__ __forceinline__ float gate<float>(float x) {
    return sigmoid(x);
}
template <> __device__ __forceinline__ float gate<bf16>(float x) {
    return __fdividef(1.0f, 1.0f + __expf(fminf(-x, 80.0f)));
}

/* Value jj of column c of [W0; V0], G each, zeros from g on; and of [W3, V2]. */
template <int G> struct in_weight {
    static constexpr bool across = false;
    const float *w0, *v0;
    int64_t g, d;
    __device__ __forceinline__ float operator()(int jj, int64_t c) const {
        const int j = jj % G;
        return j < g ? (jj < G ? w0 : v0)[j * d + c] : 0.0f;
    }
};
template <int G> struct out_weight {
    static constexpr bool across = true;
    const float *w3, *v2;
    int64_t g;
    __device__ __forceinline__ float operator()(int jj, int64_t c) const {
        const int j = jj % G;
        return j < g ? (jj < G ? w3 : v2)[c * g + j] : 0.0f;
    }
};

/* Mean and 1 / sqrt(var + eps) of R rows of a warp; rows from `rows` on give those of nothing. */
template <typename T, int R>
__device__ __forceinline__ void row_statistics(float (&mean)[R], float (&inverse)[R], rows_of<const T> h,
                                               int64_t first, const updating &up) {
    constexpr int P = pack<T>::size;
    const int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int pass = 0; pass < 2; pass++) {
        float sum[R] = {};
        for (int64_t c = lane * P; c < up.d; c += 32 * P) {
#pragma unroll
            for (int r = 0; r < R; r++) {
                if (first + r >= up.rows) continue;
                pack<T> a;
                a.load(h.row(first + r) + c);
#pragma unroll
                for (int i = 0; i < P; i++)
                    sum[r] += pass == 0 ? a.v[i] : (a.v[i] - mean[r]) * (a.v[i] - mean[r]);
            }
        }
#pragma unroll
        for (int r = 0; r < R; r++) {
            const float average = warp_sum(sum[r]) / (float)up.d;
            if (pass == 0) mean[r] = average;
            else inverse[r] = 1.0f / sqrtf(average + up.eps);
        }
    }
}

/* Mean and 1 / sqrt(var + eps) of one row, by a block. */
template <typename T>
__device__ __forceinline__ void block_statistics(float *mean, float *inverse, const T *h, const updating &up) {
    float sum = 0.0f, squares = 0.0f;
    for (int64_t c = threadIdx.x; c < up.d; c += blockDim.x) sum += to_float(h[c]);
    *mean = block_sum(sum) / (float)up.d;
    for (int64_t c = threadIdx.x; c < up.d; c += blockDim.x) {
        const float x = to_float(h[c]) - *mean;
        squares += x * x;
    }
    *inverse = 1.0f / sqrtf(block_sum(squares) / (float)up.d + up.eps);
}
