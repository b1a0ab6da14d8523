/* Descriptions of matrices from which the copying unit of Hopper and later cards brings boxes (ptx_hopper.cuh).
 */
#ifndef SPI_TENSOR_CUDA_TENSOR_MAP_H
#define SPI_TENSOR_CUDA_TENSOR_MAP_H

#include <cuda.h>

#include "tensor/cuda/cuda.h"

#ifdef __cplusplus
extern "C" {
#endif

#define SPI_BOX_ROWS 64
#define SPI_BOX_COLUMNS 64 /* 128 bytes: a row of shared memory as products read it */

/* Of m, bf16, that starts at a multiple of 16 bytes, as its rows do. false, and no error, where the driver
 * cannot. */
bool spi_cuda_tensor_map(spi_cuda *cuda, CUtensorMap *map, spi_mat m);

#ifdef __cplusplus
}
#endif
#endif
