/*
 * ShadowInjectionModel and ShadowLayer.shadow_inject, forward beside backward: one pass over the hidden state,
 * in blocks of rows.
 */
#include <string.h>

#include "tensor/cpu/block.h"
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/drop.h"
#include "tensor/cpu/split.h"

/* Rows at once: enough to reuse D and U from the cache. */
#define ROWS ((int64_t)48)

/* `out` may be one of the inputs. */
SPI_CLONES static void difference(float *out, const float *a, const float *b, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) out[i] = a[i] - b[i];
}

SPI_CLONES static void scale(float *out, const float *x, float a, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; i++) out[i] = a * x[i];
}

/* ------------------------------------------------------------------ forward */

/* h, s: [rows, d]; a: [rows, k] */
static void forward_block(spi_mat h_out, float *p, spi_mat h, spi_mat s, const spi_inject *in, int64_t t,
                          int64_t rows, float *work) {
    const int64_t d = h.cols, k = in->k;
    float *state = work, *delta = work + ROWS * d, *scaled = delta + ROWS * d;
    spi_block_load(state, h, t, rows, 1.0f);
    spi_block_load(delta, s, t, rows, 1.0f);
    difference(delta, state, delta, rows * d);
    if (in->drop_delta) spi_drop_rows(delta, t, rows, d, &in->dropout);
    memset(p + t * k, 0, (size_t)(rows * k) * sizeof *p);
    spi_block_product(p + t * k, k, spi_block_of(delta, d), in->down, k, rows, k, d);
    if (!in->drop_delta) spi_drop_rows(p + t * k, t, rows, k, &in->dropout);
    scale(scaled, p + t * k, in->alpha, rows * k);
    spi_block_product(state, d, spi_block_of(scaled, k), in->up, d, rows, d, k);
    spi_block_store(h_out, t, rows, state);
}

void spi_cpu_inject(spi_device *dev, spi_mat h_out, float *p, spi_mat h, spi_mat s, const spi_inject *inject) {
    spi_cpu *cpu = spi_cpu_of(dev);
    if (dev->status != SP_OK) return;
    const int64_t floats = ROWS * (2 * h.cols + inject->k);
    float *all = spi_cpu_scratch(cpu, (size_t)(cpu->threads * floats) * sizeof *all);
    if (!all) return;
#pragma omp parallel num_threads(spi_threads_for(cpu->threads, h.rows *h.cols * inject->k))
    {
        const spi_range r = spi_my_split(h.rows, 6);
        for (int64_t t = r.begin; t < r.end; t += ROWS)
            forward_block(h_out, p, h, s, inject, t, r.end - t < ROWS ? r.end - t : ROWS,
                          all + omp_get_thread_num() * floats);
    }
}

/* ------------------------------------------------------------------ backward */

/* One thread's memory; the transposed weights are shared. */
typedef struct backward {
    const float *down_t, *up_t; /* [k, d], [d, k] */
    float *delta, *dh, *ddelta; /* [ROWS, d] */
    float *scaled, *dp;         /* [ROWS, k]: alpha p; the gradient of delta D */
    float *ddown, *dup;         /* [d, k], [k, d]: this thread's share */
} backward;

static int64_t backward_floats(int64_t d, int64_t k) {
    return ROWS * (3 * d + 2 * k) + 2 * d * k;
}

static backward backward_of(float *all, int thread, int64_t d, int64_t k) {
    float *own = all + 2 * d * k + thread * backward_floats(d, k);
    backward b = {.down_t = all, .up_t = all + d * k, .delta = own};
    b.dh = b.delta + ROWS * d;
    b.ddelta = b.dh + ROWS * d;
    b.scaled = b.ddelta + ROWS * d;
    b.dp = b.scaled + ROWS * k;
    b.ddown = b.dp + ROWS * k;
    b.dup = b.ddown + d * k;
    return b;
}

/*
 * delta = h_out - alpha p U - s;  dp = dropout(alpha dh U^T);  ddelta = dp D^T;
 * dh += ddelta;  ds -= ddelta;  dU += (alpha p)^T dh;  dD += delta^T dp
 * drop_delta: dropout of delta and ddelta, not of dp
 */
static void backward_block(spi_mat dh, spi_mat ds, spi_mat h_out, spi_mat s, const float *p,
                           const spi_inject *in, const backward *b, int64_t t, int64_t rows) {
    const int64_t d = dh.cols, k = in->k, n = rows * d;
    spi_block_load(b->delta, h_out, t, rows, 1.0f);
    spi_block_load(b->ddelta, s, t, rows, 1.0f);
    difference(b->delta, b->delta, b->ddelta, n);
    scale(b->scaled, p + t * k, -in->alpha, rows * k);
    spi_block_product(b->delta, d, spi_block_of(b->scaled, k), in->up, d, rows, d, k);
    if (in->drop_delta) spi_drop_rows(b->delta, t, rows, d, &in->dropout);

    spi_block_load(b->dh, dh, t, rows, 1.0f);
    memset(b->dp, 0, (size_t)(rows * k) * sizeof *b->dp);
    spi_block_product(b->dp, k, spi_block_of(b->dh, d), b->up_t, k, rows, k, d);
    if (!in->drop_delta) spi_drop_rows(b->dp, t, rows, k, &in->dropout);
    scale(b->dp, b->dp, in->alpha, rows * k);
    scale(b->scaled, p + t * k, in->alpha, rows * k);
    spi_block_product(b->dup, d, spi_block_transposed(b->scaled, k), b->dh, d, k, d, rows);
    spi_block_product(b->ddown, k, spi_block_transposed(b->delta, d), b->dp, k, d, k, rows);

    memset(b->ddelta, 0, (size_t)n * sizeof *b->ddelta);
    spi_block_product(b->ddelta, d, spi_block_of(b->dp, k), b->down_t, d, rows, d, k);
    if (in->drop_delta) spi_drop_rows(b->ddelta, t, rows, d, &in->dropout);
    spi_block_add(b->dh, b->ddelta, 1.0f, n);
    spi_block_store(dh, t, rows, b->dh);
    spi_block_load(b->dh, ds, t, rows, 1.0f);
    spi_block_add(b->dh, b->ddelta, -1.0f, n);
    spi_block_store(ds, t, rows, b->dh);
}

void spi_cpu_inject_backward(spi_device *dev, spi_mat dh, spi_mat ds, float *ddown, float *dup, spi_mat h_out,
                             spi_mat s, const float *p, const spi_inject *inject) {
    spi_cpu *cpu = spi_cpu_of(dev);
    if (dev->status != SP_OK) return;
    const int64_t d = dh.cols, k = inject->k;
    const int threads = spi_threads_for(cpu->threads, dh.rows * d * k);
    float *all = spi_cpu_scratch(cpu, (size_t)(2 * d * k + threads * backward_floats(d, k)) * sizeof *all);
    if (!all) return;
    spi_block_transpose(all, d, inject->down, k, d, k);
    spi_block_transpose(all + d * k, k, inject->up, d, k, d);
    int used = threads;
#pragma omp parallel num_threads(threads)
    {
        const backward b = backward_of(all, omp_get_thread_num(), d, k);
        const spi_range r = spi_my_split(dh.rows, 6);
#pragma omp single
        used = omp_get_num_threads();
        memset(b.ddown, 0, (size_t)(2 * d * k) * sizeof(float));
        for (int64_t t = r.begin; t < r.end; t += ROWS)
            backward_block(dh, ds, h_out, s, p, inject, &b, t, r.end - t < ROWS ? r.end - t : ROWS);
    }
    for (int i = 0; i < used; i++) {
        const backward b = backward_of(all, i, d, k);
        if (ddown) spi_block_add(ddown, b.ddown, 1.0f, d * k);
        if (dup) spi_block_add(dup, b.dup, 1.0f, d * k);
    }
}
