/* What the files of products with few rows share (gemv.cu, gemv_columns.cu, project.cu). */
#pragma once

#include "tensor/cuda/vec.cuh"

#define MOST_ROWS 8
#define MOST_PRODUCTS 3

/* What becomes of a product's sums: y = scale[n] sum + bias[n] + residual; what is NULL is not there. */
typedef struct finish {
    either y, residual;
    const float *scale, *bias;
    int32_t n, rows;
} finish;

/* What is asked of memory before the sum is there; bits of the residual, so that nothing waits for them.
 * RESIDUAL: there may be one. */
struct addends {
    float scale, bias;
    unsigned residual;
};

template <bool RESIDUAL = true>
__device__ __forceinline__ addends fetch_addends(const finish &f, int m, int64_t n) {
    addends a = {1.0f, 0.0f, 0};
    if (m >= f.rows || n >= f.n) return a;
    if (f.scale) a.scale = f.scale[n];
    if (f.bias) a.bias = f.bias[n];
    if (!RESIDUAL || !f.residual.data) return a;
    const int64_t at = m * f.residual.ld + n;
    a.residual = f.residual.wide ? static_cast<const unsigned *>(f.residual.data)[at]
                                 : static_cast<const unsigned short *>(f.residual.data)[at];
    return a;
}

__device__ __forceinline__ float finished(const finish &f, float sum, const addends &a) {
    const float old = __uint_as_float(f.residual.wide ? a.residual : a.residual << 16);
    return sum * a.scale + a.bias + old;
}

__device__ __forceinline__ void store_sum(const finish &f, int m, int64_t n, float sum, const addends &a) {
    if (m < f.rows && n < f.n) f.y.set(m, n, finished(f, sum, a));
}

static inline finish finish_of(spi_mat y, const spi_weight *w, const float *bias) {
    finish f = {};
    f.y = either_of(y);
    f.scale = w->scale;
    f.bias = bias;
    f.n = (int32_t)y.cols;
    f.rows = (int32_t)y.rows;
    return f;
}

/* Calls f with the number of rows that kernels are made for. */
template <typename F> static inline void by_rows_of_x(int64_t rows, F f) {
    if (rows == 1) f(count_tag<1>());
    else if (rows == 2) f(count_tag<2>());
    else if (rows <= 4) f(count_tag<4>());
    else f(count_tag<8>());
}

/* RMS or LAYER (backend.h), of whole rows. */
struct row_norm {
    const float *weight, *bias;
    float eps, offset;
    bool centre; /* LAYER */
};

/* One product of a launch: W [f.n, K]; its first group of rows in the launch's (gemv.cu). */
struct row_product {
    finish f;
    const void *w;
    int64_t ld;
    int32_t first;
};

/* Products of the same x. Paired: gate and up, from which `gated` is made; they are stored with `keep`. */
struct row_products {
    row_product list[MOST_PRODUCTS];
    row_norm norm;
    either gated;
    spi_activation act;
    bool keep;
};

/* Which of the kernels; W's dtype and K are those of all weights. */
struct row_choice {
    int count;
    bool norm, paired;
    bool in_vecs; /* all rows of all weights and of x come in whole vectors; else neither norm nor paired */
    sp_dtype dtype;
    int64_t k;
};

void spi_cuda_gemv_rows(spi_cuda *cuda, row_products *products, const row_choice &choice, spi_mat x);
void spi_cuda_gemv_columns(spi_cuda *cuda, const finish &f, spi_mat x, spi_mat w);
