#include "tensor/cpu/attention_core.h"

#include <math.h>
#include <string.h>

#include "tensor/cpu/block.h"
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/vecmath.h"

int64_t spi_attn_work(int64_t total, int64_t head_dim) {
    const int64_t ld = (total + 15) / 16 * 16;
    return SPI_ATTN_ROWS * (2 * ld + 4 * head_dim + 2);
}

/* Working memory, one block of query rows. */
typedef struct workspace {
    float *p, *dp;      /* [rows, ld] scores and then probabilities; their gradients */
    float *q, *o, *d_o; /* [rows, head_dim] */
    float *dq;
    float *sum; /* [rows] */
} workspace;

static workspace workspace_of(float *work, int64_t ld, int64_t head_dim) {
    workspace w;
    w.p = work;
    w.dp = w.p + SPI_ATTN_ROWS * ld;
    w.q = w.dp + SPI_ATTN_ROWS * ld;
    w.o = w.q + SPI_ATTN_ROWS * head_dim;
    w.d_o = w.o + SPI_ATTN_ROWS * head_dim;
    w.dq = w.d_o + SPI_ATTN_ROWS * head_dim;
    w.sum = w.dq + SPI_ATTN_ROWS * head_dim;
    return w;
}

/* Keys [begin, end) that a query at `position` sees. */
typedef struct span {
    int64_t begin, end;
} span;

static span visible(const spi_attn *attn, int64_t position) {
    const int64_t begin = attn->window > 0 ? position - attn->window + 1 : 0;
    return (span){begin > 0 ? begin : 0, position + 1};
}

static span visible_block(const spi_attn *attn, int64_t first, int64_t rows) {
    return (span){visible(attn, first).begin, first + rows};
}

SPI_CLONES static void soft_cap(float *x, float cap, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = cap * spi_tanhf(x[i] / cap);
}

SPI_CLONES static float row_max(const float *x, int64_t n) {
    float m = x[0];
#pragma omp simd reduction(max : m)
    for (int64_t i = 0; i < n; i++) m = x[i] > m ? x[i] : m;
    return m;
}

/* x = exp(x - m); the sum */
SPI_CLONES static float exponentials(float *x, float m, int64_t n) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        x[i] = spi_expf(x[i] - m);
        sum += x[i];
    }
    return sum;
}

/* w->p [rows, seen.end - seen.begin] = q k^T, with q already scaled. */
static void scores(const workspace *w, const spi_attn_keys *keys, span seen, int64_t rows, int64_t head_dim) {
    const int64_t n = seen.end - seen.begin;
    for (int64_t i = 0; i < rows; i++) memset(w->p + i * keys->ld, 0, (size_t)n * sizeof *w->p);
    spi_block_product(w->p, keys->ld, spi_block_of(w->q, head_dim), keys->k_t + seen.begin, keys->ld, rows, n,
                      head_dim);
}

/* ------------------------------------------------------------------ forward */

/* Row i of w->p from scores to exp(score - max), zero where masked; its sum; log-sum-exp. */
static float softmax_row(float *p, span block, span row, float cap, float *sum) {
    float *x = p + (row.begin - block.begin);
    const int64_t n = row.end - row.begin;
    if (cap > 0) soft_cap(x, cap, n);
    const float m = row_max(x, n);
    *sum = exponentials(x, m, n);
    memset(p, 0, (size_t)(row.begin - block.begin) * sizeof *p);
    memset(x + n, 0, (size_t)(block.end - row.end) * sizeof *p);
    return m + logf(*sum);
}

void spi_attn_forward(spi_mat o, float *lse, spi_mat q, int64_t past, const spi_attn_keys *keys,
                      const spi_attn *attn, float *work) {
    const int64_t d = attn->head_dim;
    const workspace w = workspace_of(work, keys->ld, d);
    for (int64_t r = 0; r < q.rows; r += SPI_ATTN_ROWS) {
        const int64_t rows = q.rows - r < SPI_ATTN_ROWS ? q.rows - r : SPI_ATTN_ROWS;
        const span seen = visible_block(attn, past + r, rows);
        spi_block_load(w.q, q, r, rows, attn->scale);
        scores(&w, keys, seen, rows, d);
        for (int64_t i = 0; i < rows; i++) {
            const float l =
                softmax_row(w.p + i * keys->ld, seen, visible(attn, past + r + i), attn->softcap, &w.sum[i]);
            if (lse) lse[r + i] = l;
        }
        memset(w.o, 0, (size_t)(rows * d) * sizeof *w.o);
        spi_block_product(w.o, d, spi_block_of(w.p, keys->ld), keys->v + seen.begin * d, d, rows, d,
                          seen.end - seen.begin);
        for (int64_t i = 0; i < rows; i++) spi_block_scale(w.o + i * d, 1.0f / w.sum[i], d);
        spi_block_store(o, r, rows, w.o);
    }
}

/* ------------------------------------------------------------------ backward */

SPI_CLONES static float dot(const float *a, const float *b, int64_t n) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* p = exp(cap(s) - lse); dp becomes ds = p (dp - mean) cap'(s). */
SPI_CLONES static void probabilities(float *restrict p, float *restrict dp, float lse, float mean, float cap,
                                     int64_t n) {
    if (cap > 0) {
        for (int64_t i = 0; i < n; i++) {
            const float t = spi_tanhf(p[i] / cap);
            p[i] = spi_expf(cap * t - lse);
            dp[i] = p[i] * (dp[i] - mean) * (1.0f - t * t);
        }
    } else {
        for (int64_t i = 0; i < n; i++) {
            p[i] = spi_expf(p[i] - lse);
            dp[i] = p[i] * (dp[i] - mean);
        }
    }
}

static void clear_masked(float *x, span block, span row) {
    memset(x, 0, (size_t)(row.begin - block.begin) * sizeof *x);
    memset(x + (row.end - block.begin), 0, (size_t)(block.end - row.end) * sizeof *x);
}

/* w->p and w->dp of one block: probabilities and the gradient of the scores. */
static void score_gradients(const workspace *w, const spi_attn_keys *keys, const spi_attn *attn,
                            const float *lse, span seen, int64_t first, int64_t rows) {
    const int64_t d = attn->head_dim, n = seen.end - seen.begin;
    scores(w, keys, seen, rows, d);
    for (int64_t i = 0; i < rows; i++) memset(w->dp + i * keys->ld, 0, (size_t)n * sizeof *w->dp);
    spi_block_product(w->dp, keys->ld, spi_block_of(w->d_o, d), keys->v_t + seen.begin, keys->ld, rows, n, d);
    for (int64_t i = 0; i < rows; i++) {
        const span row = visible(attn, first + i);
        float *p = w->p + i * keys->ld, *dp = w->dp + i * keys->ld;
        const int64_t at = row.begin - seen.begin;
        probabilities(p + at, dp + at, lse[i], dot(w->d_o + i * d, w->o + i * d, d), attn->softcap,
                      row.end - row.begin);
        clear_masked(p, seen, row);
        clear_masked(dp, seen, row);
    }
}

void spi_attn_backward(spi_mat dq, spi_mat d_o, spi_mat o, const float *lse, spi_mat q,
                       const spi_attn_keys *keys, const spi_attn *attn, float *work) {
    const int64_t d = attn->head_dim;
    const workspace w = workspace_of(work, keys->ld, d);
    for (int64_t r = 0; r < q.rows; r += SPI_ATTN_ROWS) {
        const int64_t rows = q.rows - r < SPI_ATTN_ROWS ? q.rows - r : SPI_ATTN_ROWS;
        const span seen = visible_block(attn, r, rows);
        const int64_t n = seen.end - seen.begin, at = seen.begin * d;
        spi_block_load(w.q, q, r, rows, attn->scale);
        spi_block_load(w.o, o, r, rows, 1.0f);
        spi_block_load(w.d_o, d_o, r, rows, 1.0f);
        score_gradients(&w, keys, attn, lse + r, seen, r, rows);
        spi_block_product(keys->dv + at, d, spi_block_transposed(w.p, keys->ld), w.d_o, d, n, d, rows);
        spi_block_product(keys->dk + at, d, spi_block_transposed(w.dp, keys->ld), w.q, d, n, d, rows);
        memset(w.dq, 0, (size_t)(rows * d) * sizeof *w.dq);
        spi_block_product(w.dq, d, spi_block_of(w.dp, keys->ld), keys->k + at, d, rows, d, n);
        spi_block_scale(w.dq, attn->scale, rows * d);
        spi_block_store(dq, r, rows, w.dq);
    }
}
