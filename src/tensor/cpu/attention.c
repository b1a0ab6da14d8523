/* Attention over packed sequences, forward beside backward. One task is one key head of one sequence. */
#include <string.h>

#include "tensor/cpu/attention_core.h"
#include "tensor/cpu/block.h"
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/split.h"

static int64_t padded(int64_t n) {
    return (n + 15) / 16 * 16;
}

/* Floats of a task: keys, values, their transposes and gradients, and the core's own. */
static int64_t task_floats(int64_t total, int64_t head_dim, bool backward) {
    return (backward ? 4 : 2) * total * head_dim + (backward ? 2 : 1) * head_dim * padded(total) +
           spi_attn_work(total, head_dim) + 64;
}

/* f32 copies of rows [first, first + total) of the head's columns; returns the memory behind them. */
static float *load_keys(float *work, spi_mat k, spi_mat v, int64_t first, int64_t total, bool backward,
                        spi_attn_keys *out) {
    const int64_t d = k.cols, n = total * d, ld = padded(total);
    *out = (spi_attn_keys){.total = total, .ld = ld, .k = work, .v = work + n, .k_t = work + 2 * n};
    spi_block_load(out->k, k, first, total, 1.0f);
    spi_block_load(out->v, v, first, total, 1.0f);
    spi_block_transpose(out->k_t, ld, out->k, d, total, d);
    work = out->k_t + d * ld;
    if (!backward) return work;
    out->v_t = work;
    out->dk = out->v_t + d * ld;
    out->dv = out->dk + n;
    spi_block_transpose(out->v_t, ld, out->v, d, total, d);
    memset(out->dk, 0, (size_t)(2 * n) * sizeof(float));
    return out->dv + n;
}

/* The columns of a head, the rows of a sequence. */
static spi_mat part(spi_mat m, int64_t head, int64_t head_dim, int64_t first, int64_t rows) {
    return spi_mat_rows(spi_mat_columns(m, head * head_dim, head_dim), first, rows);
}

void spi_cpu_attention(spi_device *dev, spi_mat o, float *lse, spi_mat q, spi_mat k, spi_mat v,
                       const spi_seqs *seqs, const spi_attn *attn) {
    spi_cpu *cpu = spi_cpu_of(dev);
    if (dev->status != SP_OK) return;
    const int64_t d = attn->head_dim, group = attn->heads / attn->kv_heads, tokens = q.rows;
    const int64_t floats = padded(task_floats(seqs->max_length, d, false));
    float *all = spi_cpu_scratch(cpu, (size_t)(cpu->threads * floats) * sizeof *all);
    if (!all) return;
#pragma omp parallel for schedule(static, 1) collapse(2) num_threads(cpu->threads)
    for (int32_t i = 0; i < seqs->count; i++)
        for (int32_t kv = 0; kv < attn->kv_heads; kv++) {
            const int64_t first = seqs->host_start[i], rows = seqs->host_start[i + 1] - first;
            spi_attn_keys keys;
            float *work = load_keys(all + omp_get_thread_num() * floats, part(k, kv, d, 0, k.rows),
                                    part(v, kv, d, 0, v.rows), first, rows, false, &keys);
            for (int64_t head = kv * group; head < (kv + 1) * group; head++)
                spi_attn_forward(part(o, head, d, first, rows), lse ? lse + head * tokens + first : NULL,
                                 part(q, head, d, first, rows), 0, &keys, attn, work);
        }
}

void spi_cpu_attention_backward(spi_device *dev, spi_mat dq, spi_mat dk, spi_mat dv, spi_mat d_o, spi_mat o,
                                const float *lse, spi_mat q, spi_mat k, spi_mat v, const spi_seqs *seqs,
                                const spi_attn *attn) {
    spi_cpu *cpu = spi_cpu_of(dev);
    if (dev->status != SP_OK) return;
    const int64_t d = attn->head_dim, group = attn->heads / attn->kv_heads, tokens = q.rows;
    const int64_t floats = padded(task_floats(seqs->max_length, d, true));
    float *all = spi_cpu_scratch(cpu, (size_t)(cpu->threads * floats) * sizeof *all);
    if (!all) return;
#pragma omp parallel for schedule(static, 1) collapse(2) num_threads(cpu->threads)
    for (int32_t i = 0; i < seqs->count; i++)
        for (int32_t kv = 0; kv < attn->kv_heads; kv++) {
            const int64_t first = seqs->host_start[i], rows = seqs->host_start[i + 1] - first;
            spi_attn_keys keys;
            float *work = load_keys(all + omp_get_thread_num() * floats, part(k, kv, d, 0, k.rows),
                                    part(v, kv, d, 0, v.rows), first, rows, true, &keys);
            for (int64_t head = kv * group; head < (kv + 1) * group; head++)
                spi_attn_backward(part(dq, head, d, first, rows), part(d_o, head, d, first, rows),
                                  part(o, head, d, first, rows), lse + head * tokens + first,
                                  part(q, head, d, first, rows), &keys, attn, work);
            spi_block_store(part(dk, kv, d, 0, dk.rows), first, rows, keys.dk);
            spi_block_store(part(dv, kv, d, 0, dv.rows), first, rows, keys.dv);
        }
}
