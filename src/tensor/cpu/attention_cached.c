/*
 * Attention over a cache. A slot's keys lie as [kv_heads, capacity, head_dim], so that one head's keys are one
 * run of memory; values likewise.
 */
#include <math.h>
#include <string.h>

#include "tensor/cpu/attention_core.h"
#include "tensor/cpu/block.h"
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/row.h"
#include "tensor/cpu/split.h"
#include "tensor/cpu/vecmath.h"

/* New rows of a sequence from which on copies of keys and values pay. */
#define MANY_ROWS 8

static int64_t padded(int64_t n) {
    return (n + 15) / 16 * 16;
}

/* One head's part of a slot, [capacity, head_dim]. */
static spi_mat head_of(void *cache, const spi_kv *kv, const spi_attn *attn, int64_t slot, int64_t head) {
    const int64_t per_head = kv->capacity * attn->head_dim;
    const spi_mat all = spi_mat_of(cache, kv->dtype, kv->slots * attn->kv_heads * kv->capacity, attn->head_dim);
    return spi_mat_rows(all, (slot * attn->kv_heads + head) * (per_head / attn->head_dim), kv->capacity);
}

static spi_mat part(spi_mat m, int64_t head, int64_t head_dim, int64_t first, int64_t rows) {
    return spi_mat_rows(spi_mat_columns(m, head * head_dim, head_dim), first, rows);
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

/* ------------------------------------------------------------------ many new rows */

static int64_t many_floats(int64_t total, int64_t head_dim) {
    return 2 * total * head_dim + head_dim * padded(total) + spi_attn_work(total, head_dim);
}

static float *widen(float *work, spi_mat k, spi_mat v, int64_t total, spi_attn_keys *out) {
    const int64_t d = k.cols, n = total * d, ld = padded(total);
    *out = (spi_attn_keys){.total = total, .ld = ld, .k = work, .v = work + n, .k_t = work + 2 * n};
    spi_block_load(out->k, k, 0, total, 1.0f);
    spi_block_load(out->v, v, 0, total, 1.0f);
    spi_block_transpose(out->k_t, ld, out->k, d, total, d);
    return out->k_t + d * ld;
}

/* ------------------------------------------------------------------ one key head of one sequence */

static void attend(spi_mat o, spi_mat q, spi_mat k, spi_mat v, const spi_kv *kv, const spi_cached_seqs *seqs,
                   const spi_attn *attn, int32_t i, int32_t kv_head, float *work) {
    const int64_t d = attn->head_dim, group = attn->heads / attn->kv_heads;
    const int64_t first = seqs->host_start[i], rows = seqs->host_start[i + 1] - first;
    const int64_t past = seqs->host_past[i], slot = seqs->host_slot[i];
    const spi_mat keys = head_of(kv->k, kv, attn, slot, kv_head),
                  values = head_of(kv->v, kv, attn, slot, kv_head);
    store(keys, past, part(k, kv_head, d, first, rows));
    store(values, past, part(v, kv_head, d, first, rows));
    spi_attn_keys wide = {0};
    if (rows >= MANY_ROWS) work = widen(work, keys, values, past + rows, &wide);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        const spi_mat out = part(o, head, d, first, rows), query = part(q, head, d, first, rows);
        if (rows >= MANY_ROWS) {
            spi_attn_forward(out, NULL, query, past, &wide, attn, work);
            continue;
        }
        for (int64_t r = 0; r < rows; r++) attend_row(out, query, r, past + r, keys, values, attn, work);
    }
}

void spi_cpu_attention_cached(spi_device *dev, spi_mat o, spi_mat q, spi_mat k, spi_mat v, const spi_kv *kv,
                              const spi_cached_seqs *seqs, const spi_attn *attn) {
    spi_cpu *cpu = spi_cpu_of(dev);
    if (dev->status != SP_OK) return;
    const int64_t d = attn->head_dim, total = seqs->max_total;
    const int64_t floats = padded((seqs->max_new >= MANY_ROWS ? many_floats(total, d) : total + 2 * d) + 64);
    const int64_t tasks = (int64_t)seqs->count * attn->kv_heads;
    float *all = spi_cpu_scratch(cpu, (size_t)(cpu->threads * floats) * sizeof *all);
    if (!all) return;
    const int threads = spi_threads_for(cpu->threads, q.rows * total * attn->heads * d);
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (int64_t task = 0; task < tasks; task++)
        attend(o, q, k, v, kv, seqs, attn, (int32_t)(task / attn->kv_heads), (int32_t)(task % attn->kv_heads),
               all + omp_get_thread_num() * floats);
}
