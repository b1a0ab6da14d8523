/* Rotary positions: rotate_half of transformers, in place. */
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/row.h"
#include "tensor/cpu/split.h"

/* (a, b) of pairs (j, j + half) become (a c - b s, b c + a s); `sign` -1 turns back. */
SPI_CLONES static void rotate_f32(float *restrict a, float *restrict b, const float *restrict c,
                                  const float *restrict s, float sign, int64_t half) {
    for (int64_t j = 0; j < half; j++) {
        const float x = a[j], y = b[j], sine = sign * s[j];
        a[j] = x * c[j] - y * sine;
        b[j] = y * c[j] + x * sine;
    }
}

SPI_CLONES static void rotate_bf16(uint16_t *restrict a, uint16_t *restrict b, const float *restrict c,
                                   const float *restrict s, float sign, int64_t half) {
    for (int64_t j = 0; j < half; j++) {
        const float x = spi_bf16_to_f32(a[j]), y = spi_bf16_to_f32(b[j]), sine = sign * s[j];
        a[j] = spi_f32_to_bf16(x * c[j] - y * sine);
        b[j] = spi_f32_to_bf16(y * c[j] + x * sine);
    }
}

static void rotate_row(spi_mat x, int64_t t, const spi_rope *rope, float sign) {
    const int64_t half = rope->rotary_dim / 2, at = rope->positions[t] * half;
    for (int32_t head = 0; head < rope->heads; head++) {
        void *first = spi_mat_at(x, t, (int64_t)head * rope->head_dim);
        void *second = spi_mat_at(x, t, (int64_t)head * rope->head_dim + half);
        if (x.dtype == SP_F32) rotate_f32(first, second, rope->cos + at, rope->sin + at, sign, half);
        else rotate_bf16(first, second, rope->cos + at, rope->sin + at, sign, half);
    }
}

void spi_cpu_rope(spi_device *dev, spi_mat x, const spi_rope *rope, bool inverse) {
    if (spi_idle(dev)) return;
#pragma omp parallel num_threads(spi_threads_for(spi_cpu_of(dev)->threads, x.rows *x.cols))
    {
        const spi_range r = spi_my_split(x.rows, 1);
        for (int64_t t = r.begin; t < r.end; t++) rotate_row(x, t, rope, inverse ? -1.0f : 1.0f);
    }
}
