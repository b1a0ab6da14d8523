#include "base/rng.h"

#include <math.h>

/* Fewer than these are drawn sooner than threads are woken. */
#define SERIAL_DRAWS 16384

void spi_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]) {
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    for (uint32_t round = 0; round < SPI_PHILOX_ROUNDS; round++)
        spi_philox_round(&c0, &c1, &c2, &c3, seed, round);
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

float spi_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t words[4];
    spi_philox(seed, stream, index / 4, words);
    return spi_unit_of(words[index % 4]);
}

void spi_fill_uniform(float *out, int64_t n, float low, float high, uint64_t seed, uint64_t stream) {
    for (int64_t i = 0; i < n; i++) out[i] = low + (high - low) * spi_uniform(seed, stream, (uint64_t)i);
}

void spi_fill_normal(float *out, int64_t n, float std, uint64_t seed, uint64_t stream, int threads) {
#pragma omp parallel for schedule(static) num_threads(n < SERIAL_DRAWS ? 1 : threads)
    for (int64_t i = 0; i < n; i += 2) {
        uint32_t words[4];
        spi_philox(seed, stream, (uint64_t)i / 2, words);
        /* In (0, 1], so that the logarithm is finite; double keeps the tails right. */
        const double u = ((double)words[0] + 1.0) * 0x1p-32;
        const double angle = 6.283185307179586 * (double)words[1] * 0x1p-32;
        const double radius = std * sqrt(-2.0 * log(u));
        out[i] = (float)(radius * cos(angle));
        if (i + 1 < n) out[i + 1] = (float)(radius * sin(angle));
    }
}

void spi_permutation(int64_t *out, int64_t n, uint64_t seed, uint64_t stream) {
    for (int64_t i = 0; i < n; i++) out[i] = i;
    for (int64_t i = n - 1; i > 0; i--) {
        uint32_t words[4];
        spi_philox(seed, stream, (uint64_t)i, words);
        /* 64 random bits modulo at most 2^40: the bias is below 2^-24. */
        const uint64_t r = ((uint64_t)words[1] << 32) | words[0];
        const int64_t j = (int64_t)(r % (uint64_t)(i + 1));
        const int64_t t = out[i];
        out[i] = out[j];
        out[j] = t;
    }
}

uint64_t spi_hash_name(const char *name) {
    uint64_t h = 0xcbf29ce484222325u;
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 0x100000001b3u;
    return h;
}
