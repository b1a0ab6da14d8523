/* Products with few rows, where the time goes into reading the weights once. */
#ifndef SPI_TENSOR_CPU_GEMV_H
#define SPI_TENSOR_CPU_GEMV_H

#include "tensor/cpu/cpu.h"

/* Rows of x up to which spi_cpu_gemv is faster than a blocked product. */
#define SPI_GEMV_ROWS 8

/* Floats of working memory that spi_cpu_gemv takes for `rows` rows of x. */
int64_t spi_cpu_gemv_floats(int threads, const spi_weight *w, int64_t rows);

/* spi_cpu_linear for at most SPI_GEMV_ROWS rows of x. */
void spi_cpu_gemv(int threads, spi_mat y, spi_mat x, const spi_weight *w, const float *bias,
                  const spi_mat *residual, float *work);

#endif
