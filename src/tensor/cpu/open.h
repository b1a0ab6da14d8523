/* Opening the CPU backend: all that the rest of src/tensor knows of it. */
#ifndef SPI_TENSOR_CPU_OPEN_H
#define SPI_TENSOR_CPU_OPEN_H

#include "tensor/backend.h"

sp_status spi_cpu_open(sp_context *ctx, spi_device **out);

#endif
