/* Small f32 products inside kernels, on data that is in the cache. */
#ifndef SPI_TENSOR_CPU_BLOCK_H
#define SPI_TENSOR_CPU_BLOCK_H

#include "tensor/tensor.h"

/* A as it lies in memory: element (i, p) at data[i * row + p * col]. Its transpose is the same data. */
typedef struct spi_block {
    const float *data;
    int64_t row, col;
} spi_block;

static inline spi_block spi_block_of(const float *data, int64_t ld) {
    return (spi_block){data, ld, 1};
}
static inline spi_block spi_block_transposed(const float *data, int64_t ld) {
    return (spi_block){data, 1, ld};
}

/* C [m, n] += A [m, k] B [k, n]; rows of C and B are contiguous. */
void spi_block_product(float *c, int64_t ldc, spi_block a, const float *b, int64_t ldb, int64_t m, int64_t n,
                       int64_t k);

/* to [cols, rows] = from [rows, cols] transposed, rows of `to` ld apart. */
void spi_block_transpose(float *to, int64_t ld, const float *from, int64_t from_ld, int64_t rows, int64_t cols);

/* Rows of a matrix as contiguous f32 [rows, cols], times `scale`; and back. */
void spi_block_load(float *to, spi_mat from, int64_t row, int64_t rows, float scale);
void spi_block_store(spi_mat to, int64_t row, int64_t rows, const float *from);

/* x[i] *= a */
void spi_block_scale(float *x, float a, int64_t n);

/* y[i] += a x[i] */
void spi_block_add(float *y, const float *x, float a, int64_t n);

#endif
