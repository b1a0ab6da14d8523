#include "tensor/cpu/drop.h"

#include "base/rng.h"
#include "tensor/cpu/cpu.h"

/* Counters at once, four numbers each. */
#define COUNTERS 16

/* u[i] = spi_uniform(seed, stream, 4 * counter + i), round by round, so that the counters become lanes */
SPI_CLONES static void draw(float *restrict u, uint64_t seed, uint64_t stream, uint64_t counter) {
    uint32_t c0[COUNTERS], c1[COUNTERS], c2[COUNTERS], c3[COUNTERS];
    for (uint64_t i = 0; i < COUNTERS; i++) {
        c0[i] = (uint32_t)(counter + i);
        c1[i] = (uint32_t)((counter + i) >> 32);
        c2[i] = (uint32_t)stream;
        c3[i] = (uint32_t)(stream >> 32);
    }
    for (uint32_t round = 0; round < SPI_PHILOX_ROUNDS; round++) {
#pragma omp simd
        for (int i = 0; i < COUNTERS; i++) spi_philox_round(&c0[i], &c1[i], &c2[i], &c3[i], seed, round);
    }
    for (int64_t i = 0; i < COUNTERS; i++) {
        u[4 * i] = spi_unit_of(c0[i]);
        u[4 * i + 1] = spi_unit_of(c1[i]);
        u[4 * i + 2] = spi_unit_of(c2[i]);
        u[4 * i + 3] = spi_unit_of(c3[i]);
    }
}

SPI_CLONES static void mask(float *restrict x, const float *restrict u, float p, int64_t n) {
    const float keep = 1.0f / (1.0f - p);
    for (int64_t i = 0; i < n; i++) x[i] *= u[i] >= p ? keep : 0.0f;
}

void spi_drop_rows(float *x, int64_t first, int64_t rows, int64_t n, const spi_dropout *drop) {
    if (drop->p <= 0.0f) return;
    float u[4 * COUNTERS];
    const int64_t begin = first * n, end = begin + rows * n;
    for (int64_t at = begin, next; at < end; at = next) {
        const int64_t skip = at % 4, most = at - skip + 4 * COUNTERS;
        next = most < end ? most : end;
        draw(u, drop->seed, drop->stream, (uint64_t)(at / 4));
        mask(x + (at - begin), u + skip, drop->p, next - at);
    }
}
