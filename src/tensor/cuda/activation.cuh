/* Activations and their derivatives. In bf16 quick exponentials will do; f32 takes accurate ones. */
#pragma once

#include "tensor/cuda/kernel.cuh"

template <typename T> __device__ __forceinline__ float exp_as(float x) {
    return expf(x);
}
template <> __device__ __forceinline__ float exp_as<bf16>(float x) {
    return __expf(x);
}
template <typename T> __device__ __forceinline__ float sigmoid_as(float x) {
    return 1.0f / (1.0f + expf(-x));
}
template <> __device__ __forceinline__ float sigmoid_as<bf16>(float x) {
    return __fdividef(1.0f, 1.0f + __expf(-x));
}
template <typename T> __device__ __forceinline__ float tanh_as(float x) {
    return tanhf(x);
}
/* 1 - 2 / (1 + e^2x) loses what matters to bf16 only where x is so small that tanh x is x. */
template <> __device__ __forceinline__ float tanh_as<bf16>(float x) {
    return fabsf(x) < 0.02f ? x : 1.0f - __fdividef(2.0f, 1.0f + __expf(2.0f * x));
}

/* The normal distribution's; 1 + erf would lose all its digits far below 0. */
template <typename T> __device__ __forceinline__ float cdf_as(float x) {
    return 0.5f * erfcf(-0.707106781f * x);
}
template <> __device__ __forceinline__ float cdf_as<bf16>(float x) {
    return 0.5f * (1.0f + erff(0.707106781f * x));
}

struct slope {
    float y, dy;
};

/* act(x) and act'(x); what of it is not used is not computed. */
template <typename T, int ACT> __device__ __forceinline__ slope activate(float x) {
    if constexpr (ACT == SPI_ACT_SILU) {
        const float s = sigmoid_as<T>(x);
        return {x * s, s * (1.0f + x * (1.0f - s))};
    } else if constexpr (ACT == SPI_ACT_GELU_TANH) {
        const float k = 0.797884561f, cubic = 0.044715f, x2 = x * x; /* k = sqrt(2 / pi) */
        const float t = tanh_as<T>(k * (x + cubic * x * x2));
        return {0.5f * x * (1.0f + t),
                0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * k * (1.0f + 3.0f * cubic * x2)};
    } else if constexpr (ACT == SPI_ACT_GELU_ERF) {
        const float cdf = cdf_as<T>(x);
        return {x * cdf, cdf + x * 0.398942280f * exp_as<T>(-0.5f * x * x)};
    } else {
        return {x > 0.0f ? x : 0.0f, x > 0.0f ? 1.0f : 0.0f};
    }
}
