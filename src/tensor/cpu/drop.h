/* Dropout of rows inside the shadow's kernels. */
#ifndef SPI_TENSOR_CPU_DROP_H
#define SPI_TENSOR_CPU_DROP_H

#include "base/rng.h"
#include "tensor/backend.h"

/* x [n] times its mask: row t of a matrix of n columns. */
static inline void spi_drop_row(float *x, int64_t t, int64_t n, const spi_dropout *drop) {
    if (drop->p <= 0.0f) return;
    const float keep = 1.0f / (1.0f - drop->p);
    for (int64_t j = 0; j < n; j++)
        x[j] *= spi_uniform(drop->seed, drop->stream, (uint64_t)(t * n + j)) >= drop->p ? keep : 0.0f;
}

#endif
