/* Dropout of rows inside the shadow's kernels. */
#ifndef SPI_TENSOR_CPU_DROP_H
#define SPI_TENSOR_CPU_DROP_H

#include "tensor/backend.h"

/* x [rows, n] times its mask: rows [first, first + rows) of a matrix of n columns. */
void spi_drop_rows(float *x, int64_t first, int64_t rows, int64_t n, const spi_dropout *drop);

#endif
