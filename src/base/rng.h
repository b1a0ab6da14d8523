/*
 * Random numbers from a counter (Philox4x32-10): the value at (seed, stream, index) never depends on what was
 * drawn before, so that recomputation, resuming and any number of threads see the same numbers.
 */
#ifndef SPI_BASE_RNG_H
#define SPI_BASE_RNG_H

#include <stdint.h>

/*
 * Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): one round of Philox4x32;
 * the constants are that paper's. Here, so that kernels draw many at once in vector code.
 */
#define SPI_PHILOX_ROUNDS 10

static inline void spi_philox_round(uint32_t *c0, uint32_t *c1, uint32_t *c2, uint32_t *c3, uint64_t seed,
                                    uint32_t round) {
    const uint32_t k0 = (uint32_t)seed + round * 0x9E3779B9u;
    const uint32_t k1 = (uint32_t)(seed >> 32) + round * 0xBB67AE85u;
    const uint64_t p0 = (uint64_t)0xD2511F53u * *c0, p1 = (uint64_t)0xCD9E8D57u * *c2;
    *c0 = (uint32_t)(p1 >> 32) ^ *c1 ^ k0;
    *c1 = (uint32_t)p1;
    *c2 = (uint32_t)(p0 >> 32) ^ *c3 ^ k1;
    *c3 = (uint32_t)p0;
}

/* Four 32-bit words for counter (stream, index) under key `seed`. */
void spi_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]);

/* Uniform in [0, 1) from the upper 24 bits. */
static inline float spi_unit_of(uint32_t word) {
    return (float)(word >> 8) * 0x1p-24f;
}

/* spi_unit_of word `index % 4` of block `index / 4`. */
float spi_uniform(uint64_t seed, uint64_t stream, uint64_t index);

/* out[i] for i in [0, n): uniform in [low, high), or normal(0, std) by Box-Muller, drawn by `threads` threads.
 */
void spi_fill_uniform(float *out, int64_t n, float low, float high, uint64_t seed, uint64_t stream);
void spi_fill_normal(float *out, int64_t n, float std, uint64_t seed, uint64_t stream, int threads);

/* A random permutation of 0..n-1 (Fisher-Yates). */
void spi_permutation(int64_t *out, int64_t n, uint64_t seed, uint64_t stream);

/* FNV-1a of a name, to give each tensor a stream of its own. */
uint64_t spi_hash_name(const char *name);

#endif
