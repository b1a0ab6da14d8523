/* Rows of matrices: conversion, embedding, gathering, scattering, sums. */
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/row.h"
#include "tensor/cpu/split.h"

/* ------------------------------------------------------------------ conversion */

SPI_CLONES static void bf16_to_f32(float *restrict to, const uint16_t *restrict from, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = spi_bf16_to_f32(from[i]);
}

SPI_CLONES static void f32_to_bf16(uint16_t *restrict to, const float *restrict from, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = spi_f32_to_bf16(from[i]);
}

static void convert_row(void *to, sp_dtype to_dtype, const void *from, sp_dtype from_dtype, int64_t n) {
    float piece[256];
    if (to_dtype == from_dtype) {
        memcpy(to, from, (size_t)n * spi_dtype_size(to_dtype));
    } else if (to_dtype == SP_F32 && from_dtype == SP_BF16) {
        bf16_to_f32(to, from, n);
    } else if (to_dtype == SP_BF16 && from_dtype == SP_F32) {
        f32_to_bf16(to, from, n);
    } else {
        for (int64_t i = 0; i < n; i += 256) {
            const int64_t m = n - i < 256 ? n - i : 256;
            spi_to_f32(piece, (const char *)from + (size_t)i * spi_dtype_size(from_dtype), from_dtype, m);
            spi_from_f32((char *)to + (size_t)i * spi_dtype_size(to_dtype), piece, to_dtype, m);
        }
    }
}

static void *row_at(spi_mat m, int64_t row) {
    return (char *)m.data + (size_t)(row * m.ld) * spi_dtype_size(m.dtype);
}

void spi_cpu_convert(spi_device *dev, spi_mat to, spi_mat from) {
    if (spi_idle(dev)) return;
#pragma omp parallel num_threads(spi_threads_for(spi_cpu_of(dev)->threads, to.rows *to.cols))
    {
        const spi_range r = spi_my_split(to.rows, 1);
        for (int64_t t = r.begin; t < r.end; t++)
            convert_row(row_at(to, t), to.dtype, row_at(from, t), from.dtype, to.cols);
    }
}

/* ------------------------------------------------------------------ sums */

SPI_CLONES static void add_f32(float *restrict y, const float *restrict x, float a, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += a * x[i];
}

SPI_CLONES static void add_bf16(uint16_t *restrict y, const uint16_t *restrict x, float a, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = spi_f32_to_bf16(spi_bf16_to_f32(y[i]) + a * spi_bf16_to_f32(x[i]));
}

SPI_CLONES static void add_bf16_to_f32(float *restrict y, const uint16_t *restrict x, float a, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += a * spi_bf16_to_f32(x[i]);
}

SPI_CLONES static void add_f32_to_bf16(uint16_t *restrict y, const float *restrict x, float a, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = spi_f32_to_bf16(spi_bf16_to_f32(y[i]) + a * x[i]);
}

/* y += a x over one row */
static void add_row(void *y, sp_dtype y_dtype, const void *x, sp_dtype x_dtype, float a, int64_t n) {
    if (y_dtype == SP_F32) {
        if (x_dtype == SP_F32) add_f32(y, x, a, n);
        else add_bf16_to_f32(y, x, a, n);
    } else {
        if (x_dtype == SP_BF16) add_bf16(y, x, a, n);
        else add_f32_to_bf16(y, x, a, n);
    }
}

void spi_cpu_add(spi_device *dev, spi_mat y, spi_mat x, float a) {
    if (spi_idle(dev)) return;
#pragma omp parallel num_threads(spi_threads_for(spi_cpu_of(dev)->threads, y.rows *y.cols))
    {
        const spi_range r = spi_my_split(y.rows, 1);
        for (int64_t t = r.begin; t < r.end; t++)
            add_row(row_at(y, t), y.dtype, row_at(x, t), x.dtype, a, y.cols);
    }
}

/* ------------------------------------------------------------------ embedding */

SPI_CLONES static void scale_row(float *restrict row, float scale, int64_t n) {
    for (int64_t i = 0; i < n; i++) row[i] *= scale;
}

/* One row of the result; `work` holds cols floats. */
static void embed_row(spi_mat y, int64_t t, const spi_weight *table, int32_t id, float scale,
                      const spi_mat *position_table, int32_t position, float *work) {
    if (scale == 1.0f && !position_table && !table->scale) {
        convert_row(row_at(y, t), y.dtype, row_at(table->m, id), table->m.dtype, y.cols);
        return;
    }
    if (table->scale) spi_cpu_dequantize_row(work, table, id);
    else convert_row(work, SP_F32, row_at(table->m, id), table->m.dtype, y.cols);
    if (scale != 1.0f) scale_row(work, scale, y.cols);
    if (position_table)
        add_row(work, SP_F32, row_at(*position_table, position), position_table->dtype, 1.0f, y.cols);
    convert_row(row_at(y, t), y.dtype, work, SP_F32, y.cols);
}

void spi_cpu_embedding(spi_device *dev, spi_mat y, const spi_weight *table, const int32_t *ids, float scale,
                       const spi_mat *position_table, const int32_t *positions) {
    spi_cpu *cpu = spi_cpu_of(dev);
    if (dev->status != SP_OK) return;
    float *work = spi_cpu_scratch(cpu, (size_t)(cpu->threads * y.cols) * sizeof *work);
    if (!work) return;
#pragma omp parallel num_threads(spi_threads_for(cpu->threads, y.rows *y.cols))
    {
        const spi_range r = spi_my_split(y.rows, 1);
        for (int64_t t = r.begin; t < r.end; t++)
            embed_row(y, t, table, ids[t], scale, position_table, position_table ? positions[t] : 0,
                      work + omp_get_thread_num() * y.cols);
    }
}

/* Threads share the columns, so that rows of the same id add up in order. */
void spi_cpu_embedding_backward(spi_device *dev, float *dtable, spi_mat dy, const int32_t *ids, float scale) {
    if (spi_idle(dev)) return;
#pragma omp parallel num_threads(spi_threads_for(spi_cpu_of(dev)->threads, dy.rows *dy.cols))
    {
        const spi_range r = spi_my_split(dy.cols, 16);
        for (int64_t t = 0; t < dy.rows && r.begin < r.end; t++)
            add_row(dtable + ids[t] * dy.cols + r.begin, SP_F32, spi_mat_at(dy, t, r.begin), dy.dtype, scale,
                    r.end - r.begin);
    }
}

/* ------------------------------------------------------------------ gather and scatter */

void spi_cpu_gather_rows(spi_device *dev, spi_mat y, spi_mat x, const int32_t *index) {
    if (spi_idle(dev)) return;
#pragma omp parallel num_threads(spi_threads_for(spi_cpu_of(dev)->threads, y.rows *y.cols))
    {
        const spi_range r = spi_my_split(y.rows, 1);
        for (int64_t i = r.begin; i < r.end; i++)
            convert_row(row_at(y, i), y.dtype, row_at(x, index[i]), x.dtype, y.cols);
    }
}

void spi_cpu_scatter_rows(spi_device *dev, spi_mat y, spi_mat x, const int32_t *index) {
    if (spi_idle(dev)) return;
#pragma omp parallel num_threads(spi_threads_for(spi_cpu_of(dev)->threads, x.rows *x.cols))
    {
        const spi_range r = spi_my_split(x.rows, 1);
        for (int64_t i = r.begin; i < r.end; i++)
            convert_row(row_at(y, index[i]), y.dtype, row_at(x, i), x.dtype, x.cols);
    }
}
