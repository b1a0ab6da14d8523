/*
 * Attention over a cache. A slot's keys lie as [kv_heads, capacity, head_dim], so that one head's keys are one
 * run of memory; values likewise.
 */
#include <math.h>
#include <string.h>

#include "tensor/cpu/attention_group.h"
#include "tensor/cpu/block.h"
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/row.h"
#include "tensor/cpu/vecmath.h"

/* New rows of a sequence from which on copies of keys and values pay. */
#define MANY_ROWS 8

/* One head's part of a slot, [capacity, head_dim]. */
static spi_mat head_of(void *cache, const spi_kv *kv, const spi_attn *attn, int64_t slot, int64_t head) {
    const int64_t per_head = kv->capacity * attn->head_dim;
    const spi_mat all = spi_mat_of(cache, kv->dtype, kv->slots * attn->kv_heads * kv->capacity, attn->head_dim);
    return spi_mat_rows(all, (slot * attn->kv_heads + head) * (per_head / attn->head_dim), kv->capacity);
}

/* One sequence's new rows, columns [index * width, (index + 1) * width) in heads. */
static spi_mat part(spi_mat m, int64_t index, int64_t heads, int64_t head_dim, spi_range rows) {
    const int64_t width = heads * head_dim;
    return spi_mat_rows(spi_mat_columns(m, index * width, width), rows.begin, rows.end - rows.begin);
}

static void store(spi_mat cache, int64_t at, spi_mat fresh) {
    float row[512];
    for (int64_t r = 0; r < fresh.rows; r++)
        for (int64_t c = 0; c < fresh.cols; c += 512) {
            const int64_t n = fresh.cols - c < 512 ? fresh.cols - c : 512;
            if (cache.dtype == fresh.dtype) {
                memcpy(spi_mat_at(cache, at + r, c), spi_mat_at(fresh, r, c),
                       (size_t)n * spi_dtype_size(cache.dtype));
                continue;
            }
            spi_row_load(row, spi_mat_at(fresh, r, c), fresh.dtype, n);
            spi_row_store(spi_mat_at(cache, at + r, c), row, cache.dtype, n);
        }
}

/* ------------------------------------------------------------------ a few new rows */

SPI_CLONES static void dots_f32(float *restrict p, const float *restrict k, const float *restrict q, int64_t n,
                                int64_t d) {
    for (int64_t i = 0; i < n; i++) {
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < d; j++) sum += k[i * d + j] * q[j];
        p[i] = sum;
    }
}

SPI_CLONES static void dots_bf16(float *restrict p, const uint16_t *restrict k, const float *restrict q,
                                 int64_t n, int64_t d) {
    for (int64_t i = 0; i < n; i++) {
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t j = 0; j < d; j++) sum += spi_bf16_to_f32(k[i * d + j]) * q[j];
        p[i] = sum;
    }
}

SPI_CLONES static void mix_f32(float *restrict o, const float *restrict v, const float *restrict p, int64_t n,
                               int64_t d) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++) o[j] += p[i] * v[i * d + j];
}

SPI_CLONES static void mix_bf16(float *restrict o, const uint16_t *restrict v, const float *restrict p,
                                int64_t n, int64_t d) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++) o[j] += p[i] * spi_bf16_to_f32(v[i * d + j]);
}

/* x = softmax(cap(x)) */
SPI_CLONES static void softmax(float *x, float cap, int64_t n) {
    float m = -INFINITY, sum = 0.0f;
    if (cap > 0)
        for (int64_t i = 0; i < n; i++) x[i] = cap * spi_tanhf(x[i] / cap);
#pragma omp simd reduction(max : m)
    for (int64_t i = 0; i < n; i++) m = x[i] > m ? x[i] : m;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        x[i] = spi_expf(x[i] - m);
        sum += x[i];
    }
    const float inverse = 1.0f / sum;
    for (int64_t i = 0; i < n; i++) x[i] *= inverse;
}

/* work: total + 2 head_dim floats */
static void attend_row(spi_mat o, spi_mat q, int64_t row, int64_t position, spi_mat k, spi_mat v,
                       const spi_attn *attn, float *work) {
    const int64_t d = attn->head_dim, end = position + 1;
    const int64_t begin = attn->window > 0 && end > attn->window ? end - attn->window : 0, n = end - begin;
    float *query = work, *out = work + d, *p = work + 2 * d;
    spi_block_load(query, q, row, 1, attn->scale);
    memset(out, 0, (size_t)d * sizeof *out);
    if (k.dtype == SP_F32) dots_f32(p, spi_mat_at(k, begin, 0), query, n, d);
    else dots_bf16(p, spi_mat_at(k, begin, 0), query, n, d);
    softmax(p, attn->softcap, n);
    if (v.dtype == SP_F32) mix_f32(out, spi_mat_at(v, begin, 0), p, n, d);
    else mix_bf16(out, spi_mat_at(v, begin, 0), p, n, d);
    spi_block_store(o, row, 1, out);
}

/* ------------------------------------------------------------------ sequences */

/* Everything of one call. */
typedef struct call {
    spi_mat o, q, k, v;
    const spi_kv *kv;
    const spi_cached_seqs *seqs;
    const spi_attn *attn;
} call;

static spi_range rows_of(const call *c, int64_t i) {
    return (spi_range){c->seqs->host_start[i], c->seqs->host_start[i + 1]};
}

/* The query heads of key head `kv_head` of sequence i, over the cache. */
static spi_attn_heads heads_of(const call *c, int64_t i, int64_t kv_head) {
    const int64_t d = c->attn->head_dim, group = c->attn->heads / c->attn->kv_heads;
    const int64_t slot = c->seqs->host_slot[i];
    return (spi_attn_heads){.o = part(c->o, kv_head, group, d, rows_of(c, i)),
                            .q = part(c->q, kv_head, group, d, rows_of(c, i)),
                            .k = head_of(c->kv->k, c->kv, c->attn, slot, kv_head),
                            .v = head_of(c->kv->v, c->kv, c->attn, slot, kv_head),
                            .past = c->seqs->host_past[i]};
}

static void store_new(const call *c, int64_t i, int64_t kv_head) {
    const spi_attn_heads heads = heads_of(c, i, kv_head);
    store(heads.k, heads.past, part(c->k, kv_head, 1, c->attn->head_dim, rows_of(c, i)));
    store(heads.v, heads.past, part(c->v, kv_head, 1, c->attn->head_dim, rows_of(c, i)));
}

static void attend_rows(const call *c, const spi_attn_heads *heads, float *work) {
    const int64_t d = c->attn->head_dim;
    for (int64_t column = 0; column < heads->q.cols; column += d)
        for (int64_t r = 0; r < heads->q.rows; r++)
            attend_row(spi_mat_columns(heads->o, column, d), spi_mat_columns(heads->q, column, d), r,
                       heads->past + r, heads->k, heads->v, c->attn, work);
}

/* A task is one key head of one sequence, which stores and attends. */
static void few_rows(const call *c, int64_t task, float *work) {
    const int64_t i = task / c->attn->kv_heads, kv_head = task % c->attn->kv_heads;
    const spi_attn_heads heads = heads_of(c, i, kv_head);
    store_new(c, i, kv_head);
    attend_rows(c, &heads, work);
}

/* Part `index` of a task whose keys are stored. */
static void many_rows(const call *c, int64_t task, int64_t index, int64_t parts, float *work) {
    const spi_attn_heads heads = heads_of(c, task / c->attn->kv_heads, task % c->attn->kv_heads);
    if (heads.q.rows >= MANY_ROWS)
        spi_attn_forward_heads(&heads, spi_attn_part(heads.q.rows, index, parts), c->attn, work);
    else if (index == 0) attend_rows(c, &heads, work);
}

void spi_cpu_attention_cached(spi_device *dev, spi_mat o, spi_mat q, spi_mat k, spi_mat v, const spi_kv *kv,
                              const spi_cached_seqs *seqs, const spi_attn *attn) {
    spi_cpu *cpu = spi_cpu_of(dev);
    if (dev->status != SP_OK) return;
    const call c = {o, q, k, v, kv, seqs, attn};
    const int64_t d = attn->head_dim, total = seqs->max_total, tasks = (int64_t)seqs->count * attn->kv_heads;
    const bool many = seqs->max_new >= MANY_ROWS;
    const int64_t few_floats = (total + 2 * d + 64 + 15) / 16 * 16;
    const int64_t floats = few_floats + (many ? spi_attn_forward_floats(total, attn) : 0);
    float *all = spi_cpu_scratch(cpu, (size_t)(cpu->threads * floats) * sizeof *all);
    if (!all) return;
    const int threads = spi_threads_for(cpu->threads, q.rows * total * attn->heads * d);
    if (!many) {
#pragma omp parallel for schedule(static, 1) num_threads(threads)
        for (int64_t task = 0; task < tasks; task++) few_rows(&c, task, all + omp_get_thread_num() * floats);
        return;
    }
    const int64_t parts = spi_attn_parts(tasks, threads, seqs->max_new);
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (int64_t task = 0; task < tasks; task++) store_new(&c, task / attn->kv_heads, task % attn->kv_heads);
        /* Each part writes rows of its own: it is the same whichever thread takes it. */
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t task = 0; task < tasks * parts; task++)
        many_rows(&c, task % tasks, parts - 1 - task / tasks, parts, all + omp_get_thread_num() * floats);
}
