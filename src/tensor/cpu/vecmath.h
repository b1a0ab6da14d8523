/*
 * Elementary functions in plain arithmetic, so that loops over them become vector code. Errors are a few units
 * in the last place of f32 over the whole range.
 */
#ifndef SPI_TENSOR_CPU_VECMATH_H
#define SPI_TENSOR_CPU_VECMATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* e^x: x = n ln 2 + r with |r| <= ln 2 / 2, a polynomial in r, scaled by 2^n in two steps (n may be -150). */
static inline float spi_expf(float x) {
    const float log2e = 1.44269504f, ln2_high = 0.693145752f, ln2_low = 1.42860677e-6f;
    const float high = 88.7228391f, low = -103.972084f;
    const float c = x > high ? high : x < low ? low : x;
    const float shifted = c * log2e + 12582912.0f; /* rounds: 1.5 * 2^23 leaves no fraction bits */
    const float n = shifted - 12582912.0f;
    const float r = (c - n * ln2_high) - n * ln2_low;
    float p = 1.98756912e-4f;
    p = p * r + 1.39819994e-3f;
    p = p * r + 8.33345205e-3f;
    p = p * r + 4.16657962e-2f;
    p = p * r + 1.66666657e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    const int32_t e = (int32_t)(x == x ? n : 0.0f), half = e / 2; /* NaN has no integer */
    const uint32_t bits1 = (uint32_t)(half + 127) << 23, bits2 = (uint32_t)(e - half + 127) << 23;
    float scale1, scale2;
    memcpy(&scale1, &bits1, sizeof scale1);
    memcpy(&scale2, &bits2, sizeof scale2);
    const float y = p * scale1 * scale2;
    return x > high ? INFINITY : x < low ? 0.0f : x != x ? x : y;
}

static inline float spi_sigmoid(float x) {
    return 1.0f / (1.0f + spi_expf(-x));
}

static inline float spi_silu(float x) {
    return x * spi_sigmoid(x);
}

/* d silu / dx */
static inline float spi_silu_grad(float x) {
    const float s = spi_sigmoid(x);
    return s * (1.0f + x * (1.0f - s));
}

/* tanh from e^(-2|x|), a polynomial where that would cancel. */
static inline float spi_tanhf(float x) {
    const float a = fabsf(x), x2 = x * x;
    const float e = spi_expf(-2.0f * a);
    const float far = copysignf((1.0f - e) / (1.0f + e), x);
    float p = -5.70498872745e-3f;
    p = p * x2 + 2.06390887954e-2f;
    p = p * x2 - 5.37397155531e-2f;
    p = p * x2 + 1.33314422036e-1f;
    p = p * x2 - 3.33332819422e-1f;
    const float near = x + x * x2 * p;
    return a < 0.625f ? near : far;
}

/*
 * The error function: x P(x^2) up to 1, 1 - e^-Q(|x|) beyond, 1 from 4 on. P and Q are least-squares fits at
 * Chebyshev nodes, weighted towards the smallest largest error: 2^-29 relative.
 */
static inline float spi_erff(float x) {
    const float a = fabsf(x), x2 = x * x, b = a < 4.0f ? a : 4.0f;
    float p = 7.853858e-05f;
    p = p * x2 - 8.0101925e-04f;
    p = p * x2 + 5.1883277e-03f;
    p = p * x2 - 2.6853811e-02f;
    p = p * x2 + 1.12835854e-01f;
    p = p * x2 - 3.7612626e-01f;
    p = p * x2 + 1.28379107e-01f;
    float q = -1.8638009e-04f;
    q = q * b + 2.947667e-03f;
    q = q * b - 2.1838097e-02f;
    q = q * b + 1.0310682e-01f;
    q = q * b + 6.3814473e-01f;
    q = q * b + 1.1270893f;
    q = q * b + 3.4151258e-04f;
    const float far = copysignf(1.0f - spi_expf(-q), x);
    return a < 1.0f ? x + x * p : x == x ? far : x;
}

/* The standard normal distribution up to x. */
static inline float spi_normal_cdf(float x) {
    return 0.5f * (1.0f + spi_erff(x * 0.707106781f));
}

/* torch.nn.GELU() */
static inline float spi_gelu(float x) {
    return x * spi_normal_cdf(x);
}

/* d gelu / dx */
static inline float spi_gelu_grad(float x) {
    return spi_normal_cdf(x) + x * 0.398942280f * spi_expf(-0.5f * x * x);
}

#endif
