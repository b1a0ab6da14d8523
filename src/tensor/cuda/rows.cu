/*
 * Rows of matrices: conversion, gathering, scattering, sums.
 *
 * A thread takes 8 neighbouring elements (or one where rows do not lie so), and rows in steps of the grid.
 * Limit: memory; each element read once and written once. [8192, 1024] in bf16 copied are 34 MB, 11 us; y += x
 * 50 MB, 17 us.
 */
#include "tensor/cuda/vec.cuh"

/* Elements a thread has at a time. */
#define EACH 8

/* Without gaps both can be seen as one row, whose number of columns is seldom odd. */
static void flatten(spi_mat *a, spi_mat *b) {
    if (a->ld != a->cols || b->ld != b->cols) return;
    a->cols = a->ld = b->cols = b->ld = a->rows * a->cols;
    a->rows = b->rows = a->rows > 0;
}

/* ------------------------------------------------------------------ copies */

/* to[to_index[r]] = from[from_index[r]]; an index NULL stands for r itself. */
template <typename To, typename From, int E>
static __global__ void copy_rows(rows_of<To> to, rows_of<const From> from, const int32_t *to_index,
                                 const int32_t *from_index, int64_t rows, int64_t vecs) {
    const int64_t c = tile_column() * E;
    if (tile_column() >= vecs) return;
    for (int64_t r = tile_row(); r < rows; r += tile_rows()) {
        vec<From, E> v;
        vec<To, E> w;
        v.load(from.row(from_index ? from_index[r] : r) + c);
#pragma unroll
        for (int e = 0; e < E; e++) w.v[e] = v.v[e];
        w.store(to.row(to_index ? to_index[r] : r) + c);
    }
}

/* What is copied: `rows` rows of `to.cols` columns. */
typedef struct copy {
    spi_mat to, from;
    const int32_t *to_index, *from_index;
    int64_t rows;
    const char *what; /* it is for */
} copy;

template <typename To, typename From> static void copy_as(spi_cuda *cuda, const copy *c, bool wide) {
    const int64_t vecs = wide ? c->to.cols / EACH : c->to.cols;
    const tiling t = tile(c->rows, vecs);
    if (wide)
        launch(cuda, c->what, copy_rows<To, From, EACH>, shape(t.grid, t.block), rows<To>(c->to),
               rows<const From>(c->from), c->to_index, c->from_index, c->rows, vecs);
    else
        launch(cuda, c->what, copy_rows<To, From, 1>, shape(t.grid, t.block), rows<To>(c->to),
               rows<const From>(c->from), c->to_index, c->from_index, c->rows, vecs);
}

template <typename To> static void copy_from(spi_cuda *cuda, const copy *c, bool wide) {
    if (c->from.dtype == SP_F16) copy_as<To, __half>(cuda, c, wide);
    else if (c->from.dtype == SP_BF16) copy_as<To, bf16>(cuda, c, wide);
    else copy_as<To, float>(cuda, c, wide);
}

static void run_copy(spi_cuda *cuda, const copy *c) {
    if (c->rows == 0 || c->to.cols == 0) return;
    const bool wide = in_vecs(c->to, EACH) && in_vecs(c->from, EACH);
    if (c->to.dtype == SP_F16) copy_from<__half>(cuda, c, wide);
    else if (c->to.dtype == SP_BF16) copy_from<bf16>(cuda, c, wide);
    else copy_from<float>(cuda, c, wide);
}

void spi_cuda_convert(spi_device *dev, spi_mat to, spi_mat from) {
    if (dev->status != SP_OK) return;
    flatten(&to, &from);
    const copy c = {to, from, NULL, NULL, to.rows, "converting"};
    run_copy(spi_cuda_of(dev), &c);
}

void spi_cuda_gather_rows(spi_device *dev, spi_mat y, spi_mat x, const int32_t *index) {
    if (dev->status != SP_OK) return;
    const copy c = {y, x, NULL, index, y.rows, "gathering rows"};
    run_copy(spi_cuda_of(dev), &c);
}

void spi_cuda_scatter_rows(spi_device *dev, spi_mat y, spi_mat x, const int32_t *index) {
    if (dev->status != SP_OK) return;
    const copy c = {y, x, index, NULL, x.rows, "scattering rows"};
    run_copy(spi_cuda_of(dev), &c);
}

/* ------------------------------------------------------------------ sums */

/* y += a x, or y += a of the one row x where ld is 0 */
template <typename Y, typename X, int E>
static __global__ void add_rows(rows_of<Y> y, rows_of<const X> x, float a, int64_t rows, int64_t vecs) {
    const int64_t c = tile_column() * E;
    if (tile_column() >= vecs) return;
    for (int64_t r = tile_row(); r < rows; r += tile_rows()) {
        vec<Y, E> old;
        vec<X, E> more;
        old.load(y.row(r) + c);
        more.load(x.row(r) + c);
#pragma unroll
        for (int e = 0; e < E; e++) old.v[e] += a * more.v[e];
        old.store(y.row(r) + c);
    }
}

static void run_add(spi_cuda *cuda, spi_mat y, spi_mat x, float a, const char *what) {
    if (y.rows == 0 || y.cols == 0) return;
    const bool wide = in_vecs(y, EACH) && in_vecs(x, EACH);
    const int64_t vecs = wide ? y.cols / EACH : y.cols;
    const tiling t = tile(y.rows, vecs);
    by_float(y.dtype, [&](auto y_tag) {
        by_float(x.dtype, [&](auto x_tag) {
            typedef typename decltype(y_tag)::type Y;
            typedef typename decltype(x_tag)::type X;
            if (wide)
                launch(cuda, what, add_rows<Y, X, EACH>, shape(t.grid, t.block), rows<Y>(y), rows<const X>(x),
                       a, y.rows, vecs);
            else
                launch(cuda, what, add_rows<Y, X, 1>, shape(t.grid, t.block), rows<Y>(y), rows<const X>(x), a,
                       y.rows, vecs);
        });
    });
}

void spi_cuda_add(spi_device *dev, spi_mat y, spi_mat x, float a) {
    if (dev->status != SP_OK) return;
    flatten(&y, &x);
    run_add(spi_cuda_of(dev), y, x, a, "adding");
}

static spi_mat row_of(const float *bias, int64_t n) {
    spi_mat row = spi_mat_of((void *)(uintptr_t)bias, SP_F32, 1, n);
    row.ld = 0;
    return row;
}

void spi_cuda_add_bias(spi_cuda *cuda, spi_mat y, const float *bias) {
    if (cuda->device.status != SP_OK) return;
    run_add(cuda, y, row_of(bias, y.cols), 1.0f, "adding a bias");
}

void spi_cuda_fill_bias(spi_cuda *cuda, spi_mat y, const float *bias) {
    if (cuda->device.status != SP_OK) return;
    const copy c = {y, row_of(bias, y.cols), NULL, NULL, y.rows, "filling in a bias"};
    run_copy(cuda, &c);
}
