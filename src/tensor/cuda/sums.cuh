/* Sums over blocks whose order never changes: each block leaves its part, and one kernel adds the parts. */
#pragma once

#include "tensor/cuda/cuda.h"

/* to[c] += sum over p of parts[p * n + c], in one order. */
void spi_cuda_add_parts(spi_cuda *cuda, float *to, const float *parts, int64_t count, int64_t n);
