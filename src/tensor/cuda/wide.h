/*
 * Injection and update of any width (k, g above 16) and any alignment: products through product.c between small
 * kernels. inject.cu and update.cu choose.
 */
#ifndef SPI_TENSOR_CUDA_WIDE_H
#define SPI_TENSOR_CUDA_WIDE_H

#include "tensor/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

void spi_cuda_inject_wide(spi_device *dev, spi_mat h_out, float *p, spi_mat h, spi_mat s,
                          const spi_inject *inject);
void spi_cuda_inject_wide_backward(spi_device *dev, spi_mat dh, spi_mat ds, float *ddown, float *dup,
                                   spi_mat h_out, spi_mat s, const float *p, const spi_inject *inject);
void spi_cuda_update_wide(spi_device *dev, spi_mat s_out, float *z, spi_mat h, spi_mat s,
                          const spi_update *update);
void spi_cuda_update_wide_backward(spi_device *dev, spi_mat dh, spi_mat ds, const spi_update_grads *grads,
                                   spi_mat h, spi_mat s, const float *z, const spi_update *update);

#ifdef __cplusplus
}
#endif
#endif
