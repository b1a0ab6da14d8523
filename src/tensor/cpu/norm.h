/* A norm of one row, for operations that norm among other things (norm.c). */
#ifndef SPI_TENSOR_CPU_NORM_H
#define SPI_TENSOR_CPU_NORM_H

#include "tensor/backend.h"

/* Row t of y = norm(x); work [x.cols]. y may be x. */
void spi_norm_row(spi_mat y, spi_mat x, const spi_norm *norm, float *work, int64_t t);

/* What one thread works in: rows of x, dy and the old dx, and its share of the parameters' gradients, or NULL
 * where they are not wanted. `old` is used to accumulate only. */
typedef struct spi_norm_work {
    float *x, *dy, *old, *dweight, *dbias;
} spi_norm_work;

/* Row t of dx (+)= the gradient; dx may be dy. */
void spi_norm_row_backward(spi_mat dx, spi_mat dy, spi_mat x, const spi_norm *norm, const spi_norm_work *w,
                           bool accumulate, int64_t t);

#endif
