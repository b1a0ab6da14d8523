#include "base/dtype.h"

#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "tensors are used in place as they are stored, which is little-endian"
#endif

const char *sp_dtype_name(sp_dtype dtype) {
    switch (dtype) {
    case SP_DTYPE_AUTO: return "auto";
    case SP_F32: return "F32";
    case SP_BF16: return "BF16";
    case SP_F16: return "F16";
    case SP_I64: return "I64";
    case SP_I32: return "I32";
    case SP_I8: return "I8";
    case SP_U8: return "U8";
    case SP_BOOL: return "BOOL";
    }
    return "unknown";
}

size_t spi_dtype_size(sp_dtype dtype) {
    switch (dtype) {
    case SP_I64: return 8;
    case SP_F32:
    case SP_I32: return 4;
    case SP_BF16:
    case SP_F16: return 2;
    case SP_I8:
    case SP_U8:
    case SP_BOOL: return 1;
    case SP_DTYPE_AUTO: break;
    }
    return 0;
}

static inline uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/*
 * The conversions of one element choose between results and have no branches, so that the loops over them
 * become vector code.
 *
 * F16 is 1 sign, 5 exponent (bias 15) and 10 mantissa bits; F32 is 1, 8 (bias 127) and 23. A subnormal half
 * m * 2^-24 is made exact by putting m under the exponent of 2^-14 and taking 2^-14 away again.
 */
static inline float f32_of_f16(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t magnitude = (uint32_t)(half & 0x7fffu) << 13;
    const uint32_t normal = magnitude + ((127u - 15u) << 23);
    const uint32_t special = magnitude | 0x7f800000u; /* infinity and NaN */
    const uint32_t subnormal = bits_of(float_of(magnitude + (113u << 23)) - 0x1p-14f);
    const uint32_t finite = magnitude < (1u << 23) ? subnormal : normal;
    return float_of(sign | (magnitude >= (31u << 23) ? special : finite));
}

/*
 * Rounds to nearest even. Adding half a unit of the last kept bit, less one unless that bit is odd, carries
 * into it exactly when it must. Subnormal results are rounded by the addition of 0.5, whose last bit is 2^-24.
 */
static inline uint16_t f16_of_f32(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
    const uint32_t normal = (rounded - ((127u - 15u) << 23)) >> 13;
    const uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
    const uint32_t nan = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
    const uint32_t finite = magnitude < (113u << 23) ? subnormal : normal;
    const uint32_t number = magnitude >= 0x477ff000u ? 0x7c00u : finite; /* from 65520 on: infinity */
    return (uint16_t)(sign | (magnitude > 0x7f800000u ? nan : number));
}

static inline uint16_t bf16_of_f32(float value) {
    const uint32_t bits = bits_of(value);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t nan = (bits >> 16) | 0x40u; /* rounding could carry a NaN into infinity */
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

/* Elements are reached with memcpy because mapped tensors may lie at any address. */
static inline uint16_t load16(const unsigned char *from, int64_t i) {
    uint16_t half;
    memcpy(&half, from + 2 * i, sizeof half);
    return half;
}

static inline void store16(unsigned char *to, int64_t i, uint16_t half) {
    memcpy(to + 2 * i, &half, sizeof half);
}

static void f32_from_bf16(float *restrict to, const unsigned char *restrict from, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = float_of((uint32_t)load16(from, i) << 16);
}

static void f32_from_f16(float *restrict to, const unsigned char *restrict from, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = f32_of_f16(load16(from, i));
}

static void bf16_from_f32(unsigned char *restrict to, const float *restrict from, int64_t n) {
    for (int64_t i = 0; i < n; i++) store16(to, i, bf16_of_f32(from[i]));
}

static void f16_from_f32(unsigned char *restrict to, const float *restrict from, int64_t n) {
    for (int64_t i = 0; i < n; i++) store16(to, i, f16_of_f32(from[i]));
}

void spi_to_f32(float *to, const void *from, sp_dtype dtype, int64_t n) {
    if (n <= 0) return;
    if (dtype == SP_F32) memcpy(to, from, (size_t)n * sizeof *to);
    else if (dtype == SP_BF16) f32_from_bf16(to, from, n);
    else if (dtype == SP_F16) f32_from_f16(to, from, n);
}

void spi_from_f32(void *to, const float *from, sp_dtype dtype, int64_t n) {
    if (n <= 0) return;
    if (dtype == SP_F32) memcpy(to, from, (size_t)n * sizeof *from);
    else if (dtype == SP_BF16) bf16_from_f32(to, from, n);
    else if (dtype == SP_F16) f16_from_f32(to, from, n);
}
