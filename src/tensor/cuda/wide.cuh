/* What injection and update of any width share (inject_wide.cu, update_wide.cu). */
#pragma once

#include "tensor/cuda/shadow.cuh"
#include "tensor/cuda/wide.h"

#define WIDE_FLOATS ((int64_t)16 << 20) /* of a chunk's copies of [rows, d] */

/* f(t, c, i) for each element i of [rows, cols], at row t and column c. */
template <typename F> static __global__ void __launch_bounds__(256) each_element(int64_t n, int64_t cols, F f) {
    const int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i < n) f(i / cols, i % cols, i);
}

template <typename F> static void for_each(spi_cuda *cuda, const char *what, int64_t rows, int64_t cols, F f) {
    launch(cuda, what, each_element<F>, shape(blocks_for(rows * cols, 256), 256), rows * cols, cols, f);
}

static inline spi_mat floats(float *data, int64_t rows, int64_t cols) {
    return {data, SP_F32, rows, cols, cols};
}

static inline spi_weight weight_of(const float *data, int64_t rows, int64_t cols, bool transposed) {
    return {floats(const_cast<float *>(data), rows, cols), transposed, NULL};
}

template <typename T> static rows_of<T> rows_from(spi_mat m, int64_t first) {
    return {static_cast<T *>(m.data) + first * m.ld, m.ld};
}

/* Rows of a chunk that copies `copies` matrices. */
static inline int64_t wide_rows(int64_t rows, int64_t d, int64_t copies) {
    const int64_t fit = WIDE_FLOATS / (d * copies);
    return fit < 1 ? 1 : fit < rows ? fit : rows;
}
