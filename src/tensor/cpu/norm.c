/* RMSNorm and LayerNorm over segments of rows, forward beside backward. */
#include "tensor/cpu/norm.h"

#include <math.h>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/row.h"
#include "tensor/cpu/split.h"

/* Mean and 1 / sqrt(var + eps) of a segment; the mean of RMS is 0. */
typedef struct statistics {
    float mean, inverse;
} statistics;

/*
 * The first mean carries the rounding of a sum of large numbers where the mean is far from zero; what is left
 * of it in the deviations is taken out of both results.
 */
SPI_CLONES static statistics measure_centred(const float *x, int64_t n, float eps) {
    float sum = 0.0f, rest = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += x[i];
    const float mean = sum / (float)n;
#pragma omp simd reduction(+ : rest, squares)
    for (int64_t i = 0; i < n; i++) {
        const float deviation = x[i] - mean;
        rest += deviation;
        squares += deviation * deviation;
    }
    rest /= (float)n;
    return (statistics){mean + rest, 1.0f / sqrtf(squares / (float)n - rest * rest + eps)};
}

SPI_CLONES static statistics measure_rms(const float *x, int64_t n, float eps) {
    float squares = 0.0f;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < n; i++) squares += x[i] * x[i];
    return (statistics){0.0f, 1.0f / sqrtf(squares / (float)n + eps)};
}

static statistics measure_as(const spi_norm *norm, const float *x, int64_t n) {
    return norm->kind == SPI_NORM_LAYER ? measure_centred(x, n, norm->eps) : measure_rms(x, n, norm->eps);
}

SPI_CLONES static void load(float *restrict to, const void *restrict from, sp_dtype dtype, int64_t n) {
    spi_row_load(to, from, dtype, n);
}

SPI_CLONES static void store(void *restrict to, const float *restrict from, sp_dtype dtype, int64_t n) {
    spi_row_store(to, from, dtype, n);
}

/* ------------------------------------------------------------------ forward */

SPI_CLONES static void apply(float *restrict x, statistics s, float offset, const float *restrict weight,
                             const float *restrict bias, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = (x[i] - s.mean) * s.inverse * (offset + weight[i]);
    if (!bias) return;
    for (int64_t i = 0; i < n; i++) x[i] += bias[i];
}

void spi_norm_row(spi_mat y, spi_mat x, const spi_norm *norm, float *work, int64_t t) {
    const int64_t n = x.cols / norm->groups;
    load(work, spi_mat_at(x, t, 0), x.dtype, x.cols);
    for (int64_t g = 0; g < norm->groups; g++)
        apply(work + g * n, measure_as(norm, work + g * n, n), norm->offset, norm->weight, norm->bias, n);
    store(spi_mat_at(y, t, 0), work, y.dtype, x.cols);
}

void spi_cpu_norm(spi_device *dev, spi_mat y, spi_mat x, const spi_norm *norm) {
    spi_cpu *cpu = spi_cpu_of(dev);
    if (dev->status != SP_OK) return;
    float *work = spi_cpu_scratch(cpu, (size_t)(cpu->threads * x.cols) * sizeof *work);
    if (!work) return;
#pragma omp parallel num_threads(spi_threads_for(cpu->threads, 2 * x.rows * x.cols))
    {
        const spi_range r = spi_my_split(x.rows, 1);
        float *row = work + omp_get_thread_num() * x.cols;
        for (int64_t t = r.begin; t < r.end; t++) spi_norm_row(y, x, norm, row, t);
    }
}

/* ------------------------------------------------------------------ backward */

/*
 * With xhat = (x - mean) / sqrt(var + eps) and g = dy (offset + weight):
 *   dx = (g - xhat mean(g xhat) [- mean(g)]) / sqrt(var + eps);  dweight += dy xhat;  dbias += dy
 * dy becomes dx in place.
 */
SPI_CLONES static void segment_backward(float *restrict dy, const float *restrict x, statistics s, bool centre,
                                        float offset, const float *restrict weight, float *restrict dweight,
                                        float *restrict dbias, int64_t n) {
    float along = 0.0f, sum = 0.0f;
    if (dweight)
        for (int64_t i = 0; i < n; i++) dweight[i] += dy[i] * (x[i] - s.mean) * s.inverse;
    if (dbias)
        for (int64_t i = 0; i < n; i++) dbias[i] += dy[i];
#pragma omp simd reduction(+ : along, sum)
    for (int64_t i = 0; i < n; i++) {
        const float g = dy[i] * (offset + weight[i]);
        along += g * (x[i] - s.mean) * s.inverse;
        sum += g;
    }
    along /= (float)n;
    sum = centre ? sum / (float)n : 0.0f;
    for (int64_t i = 0; i < n; i++)
        dy[i] = s.inverse * (dy[i] * (offset + weight[i]) - (x[i] - s.mean) * s.inverse * along - sum);
}

SPI_CLONES static void add(float *restrict to, const float *restrict from, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] += from[i];
}

void spi_norm_row_backward(spi_mat dx, spi_mat dy, spi_mat x, const spi_norm *norm, const spi_norm_work *w,
                           bool accumulate, int64_t t) {
    const int64_t n = x.cols / norm->groups;
    load(w->x, spi_mat_at(x, t, 0), x.dtype, x.cols);
    load(w->dy, spi_mat_at(dy, t, 0), dy.dtype, x.cols);
    for (int64_t g = 0; g < norm->groups; g++)
        segment_backward(w->dy + g * n, w->x + g * n, measure_as(norm, w->x + g * n, n),
                         norm->kind == SPI_NORM_LAYER, norm->offset, norm->weight, w->dweight, w->dbias, n);
    if (accumulate) {
        load(w->old, spi_mat_at(dx, t, 0), dx.dtype, x.cols);
        add(w->dy, w->old, x.cols);
    }
    store(spi_mat_at(dx, t, 0), w->dy, dx.dtype, x.cols);
}

static spi_norm_work work_of(float *all, int thread, int64_t cols, int64_t n) {
    float *p = all + thread * (3 * cols + 2 * n);
    return (spi_norm_work){p, p + cols, p + 2 * cols, p + 3 * cols, p + 3 * cols + n};
}

void spi_cpu_norm_backward(spi_device *dev, spi_mat dx, spi_mat dy, spi_mat x, const spi_norm *norm,
                           float *dweight, float *dbias, bool accumulate) {
    spi_cpu *cpu = spi_cpu_of(dev);
    if (dev->status != SP_OK) return;
    const int64_t n = x.cols / norm->groups;
    const int threads = spi_threads_for(cpu->threads, 4 * x.rows * x.cols);
    float *all = spi_cpu_scratch(cpu, (size_t)(threads * (3 * x.cols + 2 * n)) * sizeof *all);
    if (!all) return;
    int used = threads;
#pragma omp parallel num_threads(threads)
    {
        const spi_range r = spi_my_split(x.rows, 1);
        spi_norm_work w = work_of(all, omp_get_thread_num(), x.cols, n);
#pragma omp single
        used = omp_get_num_threads();
        memset(w.dweight, 0, (size_t)(2 * n) * sizeof(float));
        if (!dweight) w.dweight = NULL;
        if (!dbias) w.dbias = NULL;
        for (int64_t t = r.begin; t < r.end; t++) spi_norm_row_backward(dx, dy, x, norm, &w, accumulate, t);
    }
    for (int i = 0; i < used; i++) {
        const spi_norm_work w = work_of(all, i, x.cols, n);
        if (dweight) add(dweight, w.dweight, n);
        if (dbias) add(dbias, w.dbias, n);
    }
}
