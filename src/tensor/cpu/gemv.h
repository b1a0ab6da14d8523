/* Products with few rows, where the time goes into reading the weights once. */
#ifndef SPI_TENSOR_CPU_GEMV_H
#define SPI_TENSOR_CPU_GEMV_H

#include "tensor/cpu/cpu.h"

/* Rows of x up to which spi_cpu_gemv is faster than a blocked product. */
#define SPI_GEMV_ROWS 4

/*
 * y [M, N] = x [M, K] W^T + bias (+ residual), W [N, K] with its rows contiguous; M at most SPI_GEMV_ROWS.
 * `work` holds M * K floats.
 */
void spi_cpu_gemv(int threads, spi_mat y, spi_mat x, spi_mat w, const float *bias, const spi_mat *residual,
                  float *work);

#endif
