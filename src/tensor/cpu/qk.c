/*
 * Norms of queries and keys and their rotary positions, forward beside backward: a row goes through both at
 * once, while it is in the cache.
 */
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/norm.h"
#include "tensor/cpu/row.h"
#include "tensor/cpu/split.h"

/* (a, b) of pairs (j, j + half) become (a c - b s, b c + a s); `sign` -1 turns back. */
SPI_CLONES static void rotate_f32(float *restrict a, float *restrict b, const float *restrict c,
                                  const float *restrict s, float sign, int64_t half) {
    for (int64_t j = 0; j < half; j++) {
        const float x = a[j], y = b[j], sine = sign * s[j];
        a[j] = x * c[j] - y * sine;
        b[j] = y * c[j] + x * sine;
    }
}

SPI_CLONES static void rotate_bf16(uint16_t *restrict a, uint16_t *restrict b, const float *restrict c,
                                   const float *restrict s, float sign, int64_t half) {
    for (int64_t j = 0; j < half; j++) {
        const float x = spi_bf16_to_f32(a[j]), y = spi_bf16_to_f32(b[j]), sine = sign * s[j];
        a[j] = spi_f32_to_bf16(x * c[j] - y * sine);
        b[j] = spi_f32_to_bf16(y * c[j] + x * sine);
    }
}

/* Row t of x, in place. */
static void rotate_row(spi_mat x, const spi_qk *qk, float sign, int64_t t) {
    const int64_t half = qk->rotary_dim / 2;
    if (half == 0) return;
    const int64_t at = qk->positions[t] * half;
    for (int32_t head = 0; head < qk->heads + qk->kv_heads; head++) {
        void *first = spi_mat_at(x, t, (int64_t)head * qk->head_dim);
        void *second = spi_mat_at(x, t, (int64_t)head * qk->head_dim + half);
        if (x.dtype == SP_F32) rotate_f32(first, second, qk->cos + at, qk->sin + at, sign, half);
        else rotate_bf16(first, second, qk->cos + at, qk->sin + at, sign, half);
    }
}

static void copy_row(spi_mat y, spi_mat x, int64_t t) {
    if (y.data == x.data) return;
    memcpy(spi_mat_at(y, t, 0), spi_mat_at(x, t, 0), (size_t)x.cols * spi_dtype_size(x.dtype));
}

static spi_mat queries(spi_mat m, const spi_qk *qk) {
    return spi_mat_columns(m, 0, (int64_t)qk->heads * qk->head_dim);
}

static spi_mat keys(spi_mat m, const spi_qk *qk) {
    return spi_mat_columns(m, (int64_t)qk->heads * qk->head_dim, (int64_t)qk->kv_heads * qk->head_dim);
}

/* ------------------------------------------------------------------ forward */

static void forward_row(spi_mat y, spi_mat x, const spi_qk *qk, float *work, int64_t t) {
    if (qk->norm_last) rotate_row(x, qk, 1.0f, t);
    if (qk->norms) {
        spi_norm_row(queries(y, qk), queries(x, qk), &qk->q_norm, work, t);
        spi_norm_row(keys(y, qk), keys(x, qk), &qk->k_norm, work, t);
    } else copy_row(y, x, t);
    if (!qk->norm_last) rotate_row(y, qk, 1.0f, t);
}

/* Whether there is anything to do. */
static bool works(spi_mat y, spi_mat x, const spi_qk *qk) {
    return qk->norms || qk->rotary_dim > 1 || y.data != x.data;
}

void spi_cpu_qk(spi_device *dev, spi_mat y, spi_mat x, const spi_qk *qk) {
    spi_cpu *cpu = spi_cpu_of(dev);
    if (dev->status != SP_OK || !works(y, x, qk)) return;
    float *work = qk->norms ? spi_cpu_scratch(cpu, (size_t)(cpu->threads * x.cols) * sizeof *work) : NULL;
    if (qk->norms ? !work : spi_idle(dev)) return;
#pragma omp parallel num_threads(spi_threads_for(cpu->threads, (qk->norms ? 3 : 1) * x.rows * x.cols))
    {
        const spi_range r = spi_my_split(x.rows, 1);
        float *row = work ? work + omp_get_thread_num() * x.cols : NULL;
        for (int64_t t = r.begin; t < r.end; t++) forward_row(y, x, qk, row, t);
    }
}

/* ------------------------------------------------------------------ backward */

/* What the rows of a backward pass share; weights: their gradients are wanted. */
typedef struct backward {
    spi_mat dx, dy, x;
    const spi_qk *qk;
    bool weights;
    int64_t q_each, k_each; /* elements of the norms' weights */
} backward;

/* What one thread works in, and its sums of the weights' gradients. */
static spi_norm_work work_of(const backward *b, float *all, int thread, bool of_keys) {
    float *p = all + thread * (2 * b->x.cols + b->q_each + b->k_each), *sums = p + 2 * b->x.cols;
    return (spi_norm_work){.x = p, .dy = p + b->x.cols, .dweight = of_keys ? sums + b->q_each : sums};
}

static void backward_row(const backward *b, const spi_norm_work *q, const spi_norm_work *k, int64_t t) {
    const spi_qk *qk = b->qk;
    spi_mat dy = b->dy;
    if (!qk->norms || !qk->norm_last) {
        copy_row(b->dx, b->dy, t);
        rotate_row(b->dx, qk, -1.0f, t);
        dy = b->dx;
    }
    if (!qk->norms) return;
    spi_norm_row_backward(queries(b->dx, qk), queries(dy, qk), queries(b->x, qk), &qk->q_norm, q, false, t);
    spi_norm_row_backward(keys(b->dx, qk), keys(dy, qk), keys(b->x, qk), &qk->k_norm, k, false, t);
    if (qk->norm_last) rotate_row(b->dx, qk, -1.0f, t);
}

static void backward_rows(const backward *b, float *all) {
    const spi_range r = spi_my_split(b->dx.rows, 1);
    spi_norm_work q = {0}, k = {0};
    if (all) {
        q = work_of(b, all, omp_get_thread_num(), false);
        k = work_of(b, all, omp_get_thread_num(), true);
        memset(q.dweight, 0, (size_t)(b->q_each + b->k_each) * sizeof(float));
        if (!b->weights) q.dweight = k.dweight = NULL;
    }
    for (int64_t t = r.begin; t < r.end; t++) backward_row(b, &q, &k, t);
}

static void add(float *to, const float *from, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] += from[i];
}

void spi_cpu_qk_backward(spi_device *dev, spi_mat dx, spi_mat dy, spi_mat x, const spi_qk *qk, float *dq_weight,
                         float *dk_weight) {
    spi_cpu *cpu = spi_cpu_of(dev);
    if (dev->status != SP_OK || !works(dx, dy, qk)) return;
    backward b = {.dx = dx, .dy = dy, .x = x, .qk = qk, .weights = dq_weight && dk_weight};
    const int threads = spi_threads_for(cpu->threads, (qk->norms ? 5 : 1) * dx.rows * dx.cols);
    float *all = NULL;
    int used = threads;
    if (qk->norms) {
        b.q_each = (int64_t)qk->heads * qk->head_dim / qk->q_norm.groups;
        b.k_each = (int64_t)qk->kv_heads * qk->head_dim / qk->k_norm.groups;
        all = spi_cpu_scratch(cpu, (size_t)(threads * (2 * x.cols + b.q_each + b.k_each)) * sizeof *all);
    }
    if (qk->norms ? !all : spi_idle(dev)) return;
#pragma omp parallel num_threads(threads)
    {
#pragma omp single
        used = omp_get_num_threads();
        backward_rows(&b, all);
    }
    for (int i = 0; all && b.weights && i < used; i++) {
        add(dq_weight, work_of(&b, all, i, false).dweight, b.q_each);
        add(dk_weight, work_of(&b, all, i, true).dweight, b.k_each);
    }
}
