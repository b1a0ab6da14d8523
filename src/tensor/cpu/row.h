/*
 * Rows of activations as f32: every kernel loads a row (or a piece of one) into f32, computes, and stores it
 * back in the matrix's dtype, so that no kernel is written twice.
 */
#ifndef SPI_TENSOR_CPU_ROW_H
#define SPI_TENSOR_CPU_ROW_H

#include <string.h>

#include "tensor/tensor.h"

static inline float spi_bf16_to_f32(uint16_t b) {
    const uint32_t bits = (uint32_t)b << 16;
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* Round to nearest even; NaN stays NaN. */
static inline uint16_t spi_f32_to_bf16(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const uint32_t quiet = (bits >> 16) | 0x40u;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet : rounded);
}

/* Element (row, col) of a matrix. */
static inline void *spi_mat_at(spi_mat m, int64_t row, int64_t col) {
    return (char *)m.data + (size_t)(row * m.ld + col) * (m.dtype == SP_F32 ? 4 : 2);
}

/* to[0..n) = from[0..n) as f32; dtype F32 or BF16. */
static inline void spi_row_load(float *restrict to, const void *restrict from, sp_dtype dtype, int64_t n) {
    if (dtype == SP_F32) {
        memcpy(to, from, (size_t)n * sizeof *to);
    } else {
        const uint16_t *b = from;
        for (int64_t i = 0; i < n; i++) to[i] = spi_bf16_to_f32(b[i]);
    }
}

static inline void spi_row_store(void *restrict to, const float *restrict from, sp_dtype dtype, int64_t n) {
    if (dtype == SP_F32) {
        memcpy(to, from, (size_t)n * sizeof *from);
    } else {
        uint16_t *b = to;
        for (int64_t i = 0; i < n; i++) b[i] = spi_f32_to_bf16(from[i]);
    }
}

#endif
