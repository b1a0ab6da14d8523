/*
 * Random numbers from a counter (Philox4x32-10): the value at (seed, stream, index) never depends on what was
 * drawn before, so that recomputation, resuming and any number of threads see the same numbers.
 */
#ifndef SPI_BASE_RNG_H
#define SPI_BASE_RNG_H

#include <stdint.h>

/* Four 32-bit words for counter (stream, index) under key `seed`. */
void spi_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]);

/* Uniform in [0, 1) from 24 bits of word `index % 4` of block `index / 4`. */
float spi_uniform(uint64_t seed, uint64_t stream, uint64_t index);

/* out[i] for i in [0, n): uniform in [low, high), or normal(0, std) by Box-Muller. */
void spi_fill_uniform(float *out, int64_t n, float low, float high, uint64_t seed, uint64_t stream);
void spi_fill_normal(float *out, int64_t n, float std, uint64_t seed, uint64_t stream);

/* A random permutation of 0..n-1 (Fisher-Yates). */
void spi_permutation(int64_t *out, int64_t n, uint64_t seed, uint64_t stream);

/* FNV-1a of a name, to give each tensor a stream of its own. */
uint64_t spi_hash_name(const char *name);

#endif
