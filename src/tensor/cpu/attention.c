/*
 * Attention over packed sequences, forward beside backward. A task is one key head of one sequence, or a part
 * of it where that would leave threads idle. Tasks differ in size, so threads take the next one when they are
 * done: which thread computes what changes nothing, since every task writes rows or sums of its own.
 */
#include "tensor/cpu/attention_group.h"
#include "tensor/cpu/block.h"
#include "tensor/cpu/cpu.h"

/* One sequence's rows, the columns of `heads` heads from `head` on. */
static spi_mat part(spi_mat m, int64_t head, int64_t heads, int64_t head_dim, spi_range rows) {
    return spi_mat_rows(spi_mat_columns(m, head * head_dim, heads * head_dim), rows.begin,
                        rows.end - rows.begin);
}

/* Everything of one call. */
typedef struct call {
    spi_mat o, q, k, v;
    float *lse;
    const spi_seqs *seqs;
    const spi_attn *attn;
} call;

static spi_range rows_of(const spi_seqs *seqs, int64_t i) {
    return (spi_range){seqs->host_start[i], seqs->host_start[i + 1]};
}

/* Query heads [head, head + count), which share a key head, of sequence i. */
static spi_attn_heads heads_of(const call *c, int64_t i, int64_t head, int64_t count) {
    const int64_t d = c->attn->head_dim, kv = head / (c->attn->heads / c->attn->kv_heads);
    const spi_range rows = rows_of(c->seqs, i);
    return (spi_attn_heads){.o = part(c->o, head, count, d, rows),
                            .q = part(c->q, head, count, d, rows),
                            .k = part(c->k, kv, 1, d, rows),
                            .v = part(c->v, kv, 1, d, rows),
                            .lse = c->lse ? c->lse + head * c->q.rows + rows.begin : NULL,
                            .lse_ld = c->q.rows};
}

void spi_cpu_attention(spi_device *dev, spi_mat o, float *lse, spi_mat q, spi_mat k, spi_mat v,
                       const spi_seqs *seqs, const spi_attn *attn) {
    spi_cpu *cpu = spi_cpu_of(dev);
    if (dev->status != SP_OK) return;
    const call c = {o, q, k, v, lse, seqs, attn};
    const int64_t group = attn->heads / attn->kv_heads, whole = (int64_t)seqs->count * attn->kv_heads;
    const int64_t parts = spi_attn_parts(whole, cpu->threads, seqs->max_length);
    const int64_t floats = spi_attn_forward_floats(seqs->max_length, attn);
    float *all = spi_cpu_scratch(cpu, (size_t)(cpu->threads * floats) * sizeof *all);
    if (!all) return;
#pragma omp parallel for schedule(dynamic, 1) num_threads(cpu->threads)
    for (int64_t task = 0; task < whole * parts; task++) {
        /* The last rows, which see the most, come first. */
        const int64_t index = parts - 1 - task / whole, at = task % whole;
        const spi_attn_heads heads = heads_of(&c, at / attn->kv_heads, at % attn->kv_heads * group, group);
        spi_attn_forward_heads(&heads, spi_attn_part(heads.q.rows, index, parts), attn,
                               all + omp_get_thread_num() * floats);
    }
}

/* ------------------------------------------------------------------ backward */

typedef struct gradients {
    spi_mat dq, dk, dv, d_o;
} gradients;

/* Query heads [head, head + count) of sequence i; dk and dv sums as of spi_attn_backward_heads. */
static void backward(const call *c, const gradients *g, int64_t i, int64_t head, int64_t count, float *dk,
                     float *dv, float *work) {
    const spi_attn_heads heads = heads_of(c, i, head, count);
    const int64_t d = c->attn->head_dim;
    const spi_range rows = rows_of(c->seqs, i);
    spi_attn_backward_heads(part(g->dq, head, count, d, rows), dk, dv, part(g->d_o, head, count, d, rows),
                            &heads, c->attn, work);
}

static void store_sums(const call *c, const gradients *g, int64_t i, int64_t kv, const float *dk,
                       const float *dv) {
    const int64_t d = c->attn->head_dim;
    const spi_range rows = rows_of(c->seqs, i);
    spi_block_store(part(g->dk, kv, 1, d, rows), 0, rows.end - rows.begin, dk);
    spi_block_store(part(g->dv, kv, 1, d, rows), 0, rows.end - rows.begin, dv);
}

/* Floats of dk or of dv of a head of up to `rows` rows. */
static int64_t sums_of(int64_t rows, int64_t head_dim) {
    return (rows + SPI_ATTN_OVERHANG) * head_dim;
}

/* A task is a key head. */
static void backward_groups(spi_cpu *cpu, const call *c, const gradients *g) {
    const spi_attn *attn = c->attn;
    const int64_t group = attn->heads / attn->kv_heads, tasks = (int64_t)c->seqs->count * attn->kv_heads;
    const int64_t sums = sums_of(c->seqs->max_length, attn->head_dim);
    const int64_t floats = spi_attn_backward_floats(c->seqs->max_length, attn) + (2 * sums + 15) / 16 * 16;
    float *all = spi_cpu_scratch(cpu, (size_t)(cpu->threads * floats) * sizeof *all);
    if (!all) return;
#pragma omp parallel for schedule(dynamic, 1) num_threads(cpu->threads)
    for (int64_t task = 0; task < tasks; task++) {
        const int64_t i = task / attn->kv_heads, kv = task % attn->kv_heads;
        float *dk = all + omp_get_thread_num() * floats, *dv = dk + sums;
        backward(c, g, i, kv * group, group, dk, dv, dk + (2 * sums + 15) / 16 * 16);
        store_sums(c, g, i, kv, dk, dv);
    }
}

/* A task is a query head; the sums of a group come together afterwards, in the order of its heads. */
static void backward_heads(spi_cpu *cpu, const call *c, const gradients *g) {
    const spi_attn *attn = c->attn;
    const int64_t group = attn->heads / attn->kv_heads, tasks = (int64_t)c->seqs->count * attn->heads;
    const int64_t sums = sums_of(c->seqs->max_length, attn->head_dim);
    const int64_t floats = spi_attn_backward_floats(c->seqs->max_length, attn);
    float *all = spi_cpu_scratch(cpu, (size_t)(cpu->threads * floats + tasks * 2 * sums) * sizeof *all);
    if (!all) return;
    float *shared = all + cpu->threads * floats;
#pragma omp parallel for schedule(dynamic, 1) num_threads(cpu->threads)
    for (int64_t task = 0; task < tasks; task++) {
        float *dk = shared + task * 2 * sums;
        backward(c, g, task / attn->heads, task % attn->heads, 1, dk, dk + sums,
                 all + omp_get_thread_num() * floats);
    }
#pragma omp parallel for schedule(static, 1) num_threads(cpu->threads)
    for (int64_t task = 0; task < tasks; task += group) {
        const int64_t i = task / attn->heads, rows = rows_of(c->seqs, i).end - rows_of(c->seqs, i).begin;
        float *dk = shared + task * 2 * sums;
        for (int64_t h = 1; h < group; h++) {
            spi_block_add(dk, dk + h * 2 * sums, 1.0f, rows * attn->head_dim);
            spi_block_add(dk + sums, dk + h * 2 * sums + sums, 1.0f, rows * attn->head_dim);
        }
        store_sums(c, g, i, task % attn->heads / group, dk, dk + sums);
    }
}

void spi_cpu_attention_backward(spi_device *dev, spi_mat dq, spi_mat dk, spi_mat dv, spi_mat d_o, spi_mat o,
                                const float *lse, spi_mat q, spi_mat k, spi_mat v, const spi_seqs *seqs,
                                const spi_attn *attn) {
    spi_cpu *cpu = spi_cpu_of(dev);
    if (dev->status != SP_OK) return;
    const call c = {o, q, k, v, (float *)lse, seqs, attn};
    const gradients g = {dq, dk, dv, d_o};
    const int64_t tasks = (int64_t)seqs->count * attn->kv_heads;
    if (attn->heads > attn->kv_heads && spi_attn_parts(tasks, cpu->threads, seqs->max_length) > 1)
        backward_heads(cpu, &c, &g);
    else backward_groups(cpu, &c, &g);
}
