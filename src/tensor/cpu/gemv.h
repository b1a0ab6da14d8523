/* Products with few rows, where the time goes into reading the weights once. */
#ifndef SPI_TENSOR_CPU_GEMV_H
#define SPI_TENSOR_CPU_GEMV_H

#include "tensor/cpu/cpu.h"

/* Rows of x up to which spi_cpu_gemv is faster than a blocked product. */
#define SPI_GEMV_ROWS 8

/* Columns of y finished at once. */
#define SPI_GEMV_PIECE 64

/* Floats of working memory that spi_cpu_gemv takes for `rows` rows of x. */
int64_t spi_cpu_gemv_floats(int threads, const spi_weight *w, int64_t rows);

/* spi_cpu_linear for at most SPI_GEMV_ROWS rows of x. */
void spi_cpu_gemv(int threads, spi_mat y, spi_mat x, const spi_weight *w, const float *bias,
                  const spi_mat *residual, float *work);

/* The same for quantised weights (gemv_int8.c), which spi_cpu_gemv leaves to it. */
void spi_cpu_gemv_int8(int threads, spi_mat y, spi_mat x, const spi_weight *w, const float *bias,
                       const spi_mat *residual, float *work);

/* Columns [n, n + count) of row m of y from their sums, which are spoilt. */
void spi_cpu_gemv_finish(spi_mat y, int64_t m, int64_t n, int64_t count, float *sums, const float *bias,
                         const spi_mat *residual);

#endif
