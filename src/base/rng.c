#include "base/rng.h"

#include <math.h>

/* Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3" (SC 2011), Philox4x32 with ten
 * rounds; the constants are that paper's. */
void spi_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]) {
    uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32);
    uint32_t c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        c0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)p1;
        c2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)p0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

static float to_unit(uint32_t word) {
    return (float)(word >> 8) * 0x1p-24f;
}

float spi_uniform(uint64_t seed, uint64_t stream, uint64_t index) {
    uint32_t words[4];
    spi_philox(seed, stream, index / 4, words);
    return to_unit(words[index % 4]);
}

void spi_fill_uniform(float *out, int64_t n, float low, float high, uint64_t seed, uint64_t stream) {
    for (int64_t i = 0; i < n; i++) out[i] = low + (high - low) * spi_uniform(seed, stream, (uint64_t)i);
}

void spi_fill_normal(float *out, int64_t n, float std, uint64_t seed, uint64_t stream) {
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
