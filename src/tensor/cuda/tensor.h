/*
 * Injection and update of bf16 rows of any number, k and g up to 16, in the matrix units. Matrices of columns a
 * multiple of 8 that start at multiples of 16 bytes (`packs`); inject.cu and update.cu choose.
 */
#ifndef SPI_TENSOR_CUDA_TENSOR_H
#define SPI_TENSOR_CUDA_TENSOR_H

#include "tensor/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

void spi_cuda_inject_tensor(spi_device *dev, spi_mat h_out, float *p, spi_mat h, spi_mat s,
                            const spi_inject *inject);
void spi_cuda_inject_tensor_backward(spi_device *dev, spi_mat dh, spi_mat ds, float *ddown, float *dup,
                                     spi_mat h_out, spi_mat s, const float *p, const spi_inject *inject);
void spi_cuda_update_tensor(spi_device *dev, spi_mat s_out, float *z, spi_mat h, spi_mat s,
                            const spi_update *update);
void spi_cuda_update_tensor_backward(spi_device *dev, spi_mat dh, spi_mat ds, const spi_update_grads *grads,
                                     spi_mat h, spi_mat s, const float *z, const spi_update *update);

#ifdef __cplusplus
}
#endif
#endif
