/*
 * Times of operations at the shapes of Qwen3-0.6B and Qwen3-8B, in training and in decoding.
 *
 * Each is queued CALLS times between two waits, over as many sets of arrays, in turn, as together are larger
 * than the GPU's cache, so that none is found there; the shortest of some rounds counts. Beside the time stands
 * the limit: the larger of the bytes that must be moved over 3.0 TB/s and the operations over 790 TFLOP/s (an
 * H100's measured rates; 50 for f32, which no matrix unit takes). Of one row the time is mostly that of
 * queueing a kernel, which a graph spares.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "harness.h"

#define CALLS 24
#define ROUNDS 5
#define MOST_SETS 64
#define CACHE ((size_t)160 << 20)
#define BYTES_A_SECOND 3.0e12
#define MOST_ARRAYS 96

typedef struct set_projection {
    spi_weight w;
    spi_mat y;
} set_projection;

/* What a call of any operation needs. */
typedef struct set {
    spi_mat m[6];
    spi_weight w;
    set_projection project[3];
    float *v[8];
    int32_t *ids;
    double *acc;
    spi_seqs seqs;
    spi_kv kv;
    spi_cached_seqs cached;
    spi_inject inject;
    spi_update update;
    spi_adamw_item items[16];
} set;

typedef struct model_shape {
    const char *name;
    int64_t t, seq, d, f, vocab; /* t rows of sequences of seq tokens */
    int32_t layers, heads, kv_heads, head_dim;
} model_shape;

static const model_shape shapes[] = {
    {"0.6B train", 8192, 512, 1024, 3072, 151936, 28, 16, 8, 128},
    {"8B train", 4096, 512, 4096, 12288, 151936, 36, 32, 8, 128},
    {"0.6B decode", 1, 1024, 1024, 3072, 151936, 28, 16, 8, 128},
    {"8B decode", 1, 1024, 4096, 12288, 151936, 36, 32, 8, 128},
};

/* The operation being timed: its arrays, the least bytes and operations of a call. */
typedef struct timing {
    spi_device *dev;
    const model_shape *shape;
    const char *only;
    sp_dtype dtype;
    set sets[MOST_SETS];
    void *arrays[MOST_SETS * MOST_ARRAYS];
    size_t count, bytes_taken;
    double bytes, flops;
    float *block; /* random numbers to fill arrays with */
    bool failed;
} timing;

#define BLOCK ((int64_t)1 << 22)

/* ------------------------------------------------------------------ arrays */

/* From the same block of random f32 or bf16 numbers, again and again. */
static void *filled(timing *t, sp_dtype dtype, int64_t n) {
    const size_t bytes = (size_t)n * spi_dtype_size(dtype), piece = (size_t)BLOCK * 2;
    char *data = t->dev->op->alloc(t->dev, bytes ? bytes : 1);
    if (!data || t->count == sizeof t->arrays / sizeof *t->arrays) {
        t->failed = true;
        return NULL;
    }
    t->arrays[t->count++] = data;
    t->bytes_taken += bytes;
    /* bf16 numbers are f32 numbers of other values: the block holds both kinds, f32 first. */
    const char *from = (const char *)t->block + (dtype == SP_F32 ? 0 : 4 * BLOCK);
    for (size_t at = 0; at < bytes; at += piece)
        t->dev->op->upload(t->dev, data + at, from, bytes - at < piece ? bytes - at : piece);
    return data;
}

static spi_mat mat(timing *t, int64_t rows, int64_t cols) {
    return spi_mat_of(filled(t, t->dtype, rows * cols), t->dtype, rows, cols);
}

static float *vector(timing *t, int64_t n) {
    return filled(t, SP_F32, n);
}

static int32_t *ints(timing *t, const int32_t *values, int64_t n) {
    int32_t *data = filled(t, SP_F32, n);
    if (data) t->dev->op->upload(t->dev, data, values, (size_t)n * sizeof *data);
    return data;
}

static int32_t *random_ints(timing *t, int64_t n, int64_t below) {
    int32_t *values = malloc((size_t)n * sizeof *values), *data = NULL;
    uint64_t state = t->count;
    for (int64_t i = 0; values && i < n; i++) values[i] = random_below(&state, (int32_t)below);
    if (values) data = ints(t, values, n);
    free(values);
    return data;
}

static spi_weight weight(timing *t, int64_t out, int64_t in, bool int8) {
    spi_weight w = {.m = spi_mat_of(NULL, int8 ? SP_I8 : t->dtype, out, in)};
    w.m.data = filled(t, w.m.dtype, out * in);
    if (int8) w.scale = vector(t, out);
    return w;
}

/* ------------------------------------------------------------------ timing */

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

typedef void make_fn(timing *t, set *s, const void *params);
typedef void call_fn(timing *t, set *s, const void *params);

static void release_all(timing *t) {
    t->dev->op->sync(t->dev);
    for (size_t i = 0; i < t->count; i++) t->dev->op->release(t->dev, t->arrays[i]);
    t->count = 0;
    t->bytes_taken = 0;
}

static double best_of(timing *t, call_fn *call, const void *params, size_t sets) {
    double best = INFINITY;
    size_t next = 0;
    for (; next < sets + 2; next++) call(t, &t->sets[next % sets], params);
    t->dev->op->sync(t->dev);
    for (int round = 0; round < ROUNDS; round++) {
        const double start = now();
        for (int i = 0; i < CALLS; i++) call(t, &t->sets[next++ % sets], params);
        t->dev->op->sync(t->dev);
        best = fmin(best, (now() - start) / CALLS);
    }
    return best;
}

static void time_one(timing *t, const char *name, make_fn *make, call_fn *call, const void *params) {
    size_t sets = 0;
    if (t->failed || (t->only && !strstr(name, t->only))) return;
    do {
        memset(&t->sets[sets], 0, sizeof t->sets[sets]);
        t->bytes = t->flops = 0;
        make(t, &t->sets[sets++], params);
    } while (!t->failed && sets < MOST_SETS && (sets < 2 || t->bytes_taken < CACHE));
    const double seconds = t->failed ? 0 : best_of(t, call, params, sets);
    if (t->failed || spi_device_status(t->dev) != SP_OK) {
        printf("%-12s %-26s failed: %s\n", t->shape->name, name, sp_last_error(t->dev->ctx));
        t->failed = true;
    } else {
        const double rate = t->dtype == SP_BF16 ? 790e12 : 50e12;
        const double limit = fmax(t->bytes / BYTES_A_SECOND, t->flops / rate);
        printf("%-12s %-26s %9.4f ms  limit %9.4f  %5.2fx  %7.0f GB/s  %6.1f TFLOP/s\n", t->shape->name, name,
               1e3 * seconds, 1e3 * limit, seconds / limit, t->bytes / seconds * 1e-9,
               t->flops / seconds * 1e-12);
    }
    fflush(stdout);
    release_all(t);
}

/* ------------------------------------------------------------------ products */

typedef struct product {
    int64_t n, k;
    bool int8, residual, f32_out;
} product;

static void count_product(timing *t, const product *p) {
    const double size = (double)spi_dtype_size(t->dtype), rows = (double)t->shape->t;
    const double n = (double)p->n, k = (double)p->k;
    t->flops = 2 * rows * n * k;
    t->bytes = n * k * (p->int8 ? 1 : size) + rows * k * size + rows * n * (p->f32_out ? 4 : size);
    if (p->residual) t->bytes += rows * n * size;
}

static void make_linear(timing *t, set *s, const void *params) {
    const product *p = params;
    const int64_t rows = t->shape->t;
    count_product(t, p);
    s->w = weight(t, p->n, p->k, p->int8);
    s->m[0] = p->f32_out ? spi_mat_of(vector(t, rows * p->n), SP_F32, rows, p->n) : mat(t, rows, p->n);
    s->m[1] = mat(t, rows, p->k);
    if (p->residual) s->m[2] = mat(t, rows, p->n);
}

static void call_linear(timing *t, set *s, const void *params) {
    (void)params;
    t->dev->op->linear(t->dev, s->m[0], s->m[1], &s->w, NULL, s->m[2].data ? &s->m[2] : NULL);
}

static void call_linear_dx(timing *t, set *s, const void *params) {
    (void)params;
    t->dev->op->linear_dx(t->dev, s->m[1], s->m[0], &s->w, false);
}

static void make_dw(timing *t, set *s, const void *params) {
    const product *p = params;
    make_linear(t, s, p);
    s->v[0] = vector(t, p->n * p->k);
    t->bytes += (double)(p->n * p->k) * (8 - (double)spi_dtype_size(t->dtype)); /* dW f32, read and written */
}

static void call_dw(timing *t, set *s, const void *params) {
    (void)params;
    t->dev->op->linear_dw(t->dev, s->v[0], NULL, s->m[0], s->m[1], false);
}

/* A decoder layer's products of one input, with the norm before them: queries, keys and values; gate and up. */
typedef struct projecting {
    int64_t n[3];
    int count;
    bool int8, gated;
} projecting;

static void make_project(timing *t, set *s, const void *params) {
    const projecting *p = params;
    const int64_t rows = t->shape->t, d = t->shape->d;
    s->m[0] = mat(t, rows, d);
    s->m[1] = mat(t, rows, d); /* room */
    s->v[0] = vector(t, d);
    if (p->gated) s->m[2] = mat(t, rows, p->n[0]);
    for (int i = 0; i < p->count; i++) {
        const product one = {.n = p->n[i], .k = d, .int8 = p->int8};
        const double bytes = t->bytes, flops = t->flops;
        count_product(t, &one);
        t->bytes += bytes;
        t->flops += flops;
        s->project[i] = (set_projection){weight(t, p->n[i], d, p->int8), mat(t, rows, p->n[i])};
    }
}

static void call_project(timing *t, set *s, const void *params) {
    const projecting *p = params;
    const spi_norm norm = {.kind = SPI_NORM_RMS, .eps = 1e-6f, .groups = 1, .weight = s->v[0]};
    spi_projection list[3];
    for (int i = 0; i < p->count; i++) list[i] = (spi_projection){s->project[i].y, &s->project[i].w, NULL};
    if (p->gated)
        t->dev->op->project_gated(t->dev, s->m[2], list, p->count, s->m[0], &norm, s->m[1], SPI_ACT_SILU,
                                  t->shape->t > 1);
    else t->dev->op->project(t->dev, list, p->count, s->m[0], &norm, s->m[1]);
}

static void time_projects(timing *t) {
    const model_shape *m = t->shape;
    const int64_t q = (int64_t)m->heads * m->head_dim, kv = (int64_t)m->kv_heads * m->head_dim;
    projecting attention = {.n = {q, kv, kv}, .count = 3}, mlp = {.n = {m->f, m->f}, .count = 2, .gated = true};
    time_one(t, "project qkv", make_project, call_project, &attention);
    time_one(t, "project_gated", make_project, call_project, &mlp);
    if (m->t > 1) return;
    attention.int8 = mlp.int8 = true;
    time_one(t, "project qkv int8", make_project, call_project, &attention);
    time_one(t, "project_gated int8", make_project, call_project, &mlp);
}

static void time_products(timing *t) {
    const model_shape *m = t->shape;
    const int64_t q = (int64_t)m->heads * m->head_dim, kv = (int64_t)m->kv_heads * m->head_dim;
    const struct {
        const char *name;
        product p;
    } all[] = {{"linear q", {.n = q, .k = m->d}},
               {"linear k", {.n = kv, .k = m->d}},
               {"linear o", {.n = m->d, .k = q, .residual = true}},
               {"linear gate", {.n = m->f, .k = m->d}},
               {"linear down", {.n = m->d, .k = m->f, .residual = true}}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        char name[64];
        time_one(t, all[i].name, make_linear, call_linear, &all[i].p);
        if (m->t > 1) {
            const product p = {.n = all[i].p.n, .k = all[i].p.k};
            snprintf(name, sizeof name, "linear_dx%s", all[i].name + strlen("linear"));
            time_one(t, name, make_linear, call_linear_dx, &p);
            snprintf(name, sizeof name, "linear_dw%s", all[i].name + strlen("linear"));
            time_one(t, name, make_dw, call_dw, &p);
        } else {
            product p = all[i].p;
            p.int8 = true;
            snprintf(name, sizeof name, "%s int8", all[i].name);
            time_one(t, name, make_linear, call_linear, &p);
        }
    }
    if (m->t > 1) return;
    const product head = {.n = m->vocab, .k = m->d, .f32_out = true};
    product small = head;
    small.int8 = true;
    time_one(t, "linear head", make_linear, call_linear, &head);
    time_one(t, "linear head int8", make_linear, call_linear, &small);
}

/* ------------------------------------------------------------------ rows */

/* matrices [T, cols] of which `moved` in all are read or written. */
typedef struct rows {
    int64_t cols, groups;
    int count;
    double moved;
} rows;

static void make_rows(timing *t, set *s, const void *params) {
    const rows *p = params;
    const model_shape *m = t->shape;
    for (int i = 0; i < p->count; i++) s->m[i] = mat(t, m->t, p->cols);
    s->v[0] = vector(t, p->cols);
    s->ids = random_ints(t, m->t, m->t > 1 ? m->seq : 1);
    s->v[1] = vector(t, m->seq * m->head_dim);
    s->v[2] = vector(t, m->seq * m->head_dim);
    t->bytes = p->moved * (double)(m->t * p->cols) * (double)spi_dtype_size(t->dtype);
}

static spi_norm norm_of(const rows *p, const set *s) {
    return (spi_norm){.kind = SPI_NORM_RMS, .eps = 1e-6f, .groups = p->groups, .weight = s->v[0]};
}

static void call_norm(timing *t, set *s, const void *params) {
    const spi_norm n = norm_of(params, s);
    t->dev->op->norm(t->dev, s->m[0], s->m[1], &n);
}

static void call_norm_backward(timing *t, set *s, const void *params) {
    const spi_norm n = norm_of(params, s);
    t->dev->op->norm_backward(t->dev, s->m[0], s->m[1], s->m[2], &n, NULL, NULL, true);
}

static spi_qk qk_of(const model_shape *m, const set *s) {
    spi_qk qk = {.heads = m->heads,
                 .kv_heads = m->kv_heads,
                 .head_dim = m->head_dim,
                 .rotary_dim = m->head_dim,
                 .cos = s->v[1],
                 .sin = s->v[2],
                 .positions = s->ids,
                 .norms = true};
    qk.q_norm = norm_of(&(rows){.groups = m->heads}, s);
    qk.k_norm = norm_of(&(rows){.groups = m->kv_heads}, s);
    return qk;
}

static void call_qk(timing *t, set *s, const void *params) {
    (void)params;
    const spi_qk qk = qk_of(t->shape, s);
    t->dev->op->qk(t->dev, s->m[0], s->m[1], &qk);
}

static void call_qk_backward(timing *t, set *s, const void *params) {
    (void)params;
    const spi_qk qk = qk_of(t->shape, s);
    t->dev->op->qk_backward(t->dev, s->m[0], s->m[0], s->m[1], &qk, NULL, NULL);
}

static void call_gated(timing *t, set *s, const void *params) {
    (void)params;
    t->dev->op->gated(t->dev, s->m[0], s->m[1], s->m[2], SPI_ACT_SILU);
}

static void call_gated_backward(timing *t, set *s, const void *params) {
    (void)params;
    t->dev->op->gated_backward(t->dev, s->m[1], s->m[2], s->m[0], s->m[1], s->m[2], SPI_ACT_SILU);
}

static void call_add(timing *t, set *s, const void *params) {
    (void)params;
    t->dev->op->add(t->dev, s->m[0], s->m[1], 1);
}

static void call_gather(timing *t, set *s, const void *params) {
    (void)params;
    t->dev->op->gather_rows(t->dev, s->m[0], s->m[1], s->ids);
}

static void make_embedding(timing *t, set *s, const void *params) {
    make_rows(t, s, params);
    s->w = weight(t, t->shape->vocab, t->shape->d, false);
    s->ids = random_ints(t, t->shape->t, t->shape->vocab);
}

static void call_embedding(timing *t, set *s, const void *params) {
    (void)params;
    t->dev->op->embedding(t->dev, s->m[0], &s->w, s->ids, 1, NULL, NULL);
}

static void time_rows(timing *t) {
    const model_shape *m = t->shape;
    const int64_t qk = (int64_t)(m->heads + m->kv_heads) * m->head_dim;
    const bool train = m->t > 1;
    time_one(t, "embedding", make_embedding, call_embedding, &(rows){m->d, 1, 1, 2});
    time_one(t, "norm", make_rows, call_norm, &(rows){m->d, 1, 2, 2});
    if (train) time_one(t, "norm_backward", make_rows, call_norm_backward, &(rows){m->d, 1, 3, 4});
    time_one(t, "qk", make_rows, call_qk, &(rows){qk, 1, 2, 2});
    if (train) time_one(t, "qk_backward", make_rows, call_qk_backward, &(rows){qk, 1, 2, 3});
    time_one(t, "gated", make_rows, call_gated, &(rows){m->f, 1, 3, 3});
    if (train) time_one(t, "gated_backward", make_rows, call_gated_backward, &(rows){m->f, 1, 3, 5});
    if (!train) return;
    time_one(t, "add", make_rows, call_add, &(rows){m->d, 1, 2, 3});
    time_one(t, "gather_rows", make_rows, call_gather, &(rows){m->d, 1, 2, 2});
}

/* ------------------------------------------------------------------ attention */

static spi_attn attn_of(const model_shape *m) {
    return (spi_attn){m->heads, m->kv_heads, m->head_dim, 1 / sqrtf((float)m->head_dim), 0, 0};
}

static int32_t host_start[65];

typedef struct attending {
    bool backward;
    int64_t seq; /* tokens of a sequence */
} attending;

static void make_attention(timing *t, set *s, const void *params) {
    const attending *p = params;
    const bool backward = p->backward;
    const model_shape *m = t->shape;
    const int64_t q = (int64_t)m->heads * m->head_dim, kv = (int64_t)m->kv_heads * m->head_dim;
    const int32_t count = (int32_t)(m->t / p->seq);
    for (int32_t i = 0; i <= count; i++) host_start[i] = i * (int32_t)p->seq;
    s->seqs = (spi_seqs){count, (int32_t)p->seq, ints(t, host_start, count + 1), host_start};
    s->m[0] = mat(t, m->t, q);            /* o */
    s->m[1] = mat(t, m->t, q + 2 * kv);   /* q, k, v */
    s->v[0] = vector(t, m->heads * m->t); /* lse */
    if (backward) {
        s->m[2] = mat(t, m->t, q);
        s->m[3] = mat(t, m->t, q + 2 * kv);
        const spi_mat all = s->m[1];
        const spi_attn attn = attn_of(m);
        t->dev->op->attention(t->dev, s->m[0], s->v[0], spi_mat_columns(all, 0, q), spi_mat_columns(all, q, kv),
                              spi_mat_columns(all, q + kv, kv), &s->seqs, &attn);
    }
    const double pairs = (double)(m->t * m->heads) * ((double)p->seq + 1) / 2, dim = (double)m->head_dim;
    t->flops = pairs * dim * (backward ? 10 : 4);
    t->bytes = (double)m->t * (double)(2 * q + 2 * kv) * (double)spi_dtype_size(t->dtype) * (backward ? 2 : 1);
}

static void call_attention(timing *t, set *s, const void *params) {
    const model_shape *m = t->shape;
    const int64_t q = (int64_t)m->heads * m->head_dim, kv = (int64_t)m->kv_heads * m->head_dim;
    const spi_attn attn = attn_of(m);
    const spi_mat all = s->m[1], d = s->m[3];
    const spi_mat qs = spi_mat_columns(all, 0, q), ks = spi_mat_columns(all, q, kv);
    const spi_mat vs = spi_mat_columns(all, q + kv, kv);
    if (((const attending *)params)->backward)
        t->dev->op->attention_backward(t->dev, spi_mat_columns(d, 0, q), spi_mat_columns(d, q, kv),
                                       spi_mat_columns(d, q + kv, kv), s->m[2], s->m[0], s->v[0], qs, ks, vs,
                                       &s->seqs, &attn);
    else t->dev->op->attention(t->dev, s->m[0], s->v[0], qs, ks, vs, &s->seqs, &attn);
}

/* One new token after `past`. */
static void make_cached(timing *t, set *s, const void *params) {
    static int32_t lists[4] = {0, 1, 0, 0};
    const int32_t past = *(const int32_t *)params;
    const model_shape *m = t->shape;
    const int64_t q = (int64_t)m->heads * m->head_dim, kv = (int64_t)m->kv_heads * m->head_dim;
    s->m[0] = mat(t, 1, q);
    s->m[1] = mat(t, 1, q + 2 * kv);
    s->kv = (spi_kv){filled(t, t->dtype, (past + 64) * kv), filled(t, t->dtype, (past + 64) * kv), t->dtype, 1,
                     past + 64};
    lists[3] = past;
    int32_t *on_device = ints(t, lists, 4);
    s->cached =
        (spi_cached_seqs){1, 1, past + 1, on_device, on_device + 2, on_device + 3, lists, lists + 2, lists + 3};
    t->bytes = 2.0 * (past + 1) * (double)kv * (double)spi_dtype_size(t->dtype);
    t->flops = 4.0 * (past + 1) * (double)q;
}

static void call_cached(timing *t, set *s, const void *params) {
    (void)params;
    const model_shape *m = t->shape;
    const int64_t q = (int64_t)m->heads * m->head_dim, kv = (int64_t)m->kv_heads * m->head_dim;
    const spi_attn attn = attn_of(m);
    t->dev->op->attention_cached(t->dev, s->m[0], spi_mat_columns(s->m[1], 0, q),
                                 spi_mat_columns(s->m[1], q, kv), spi_mat_columns(s->m[1], q + kv, kv), &s->kv,
                                 &s->cached, &attn);
}

static void time_attention(timing *t) {
    static const int32_t pasts[] = {128, 1024, 4096};
    if (t->shape->t > 1) {
        const int64_t seq = t->shape->seq, all = t->shape->t;
        time_one(t, "attention", make_attention, call_attention, &(attending){false, seq});
        time_one(t, "attention_backward", make_attention, call_attention, &(attending){true, seq});
        time_one(t, "attention, one sequence", make_attention, call_attention, &(attending){false, all});
        time_one(t, "attention_backward, one", make_attention, call_attention, &(attending){true, all});
        return;
    }
    for (int i = 0; i < 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "attention_cached %d", pasts[i]);
        time_one(t, name, make_cached, call_cached, &pasts[i]);
    }
}

/* ------------------------------------------------------------------ the shadow */

static void make_shadow(timing *t, set *s, const void *params) {
    enum { K = 16, G = 10 };
    const double moved = *(const double *)params;
    const model_shape *m = t->shape;
    const int64_t d = m->d;
    for (int i = 0; i < 4; i++) s->m[i] = mat(t, m->t, d);
    for (int i = 0; i < 8; i++) s->v[i] = vector(t, d * K);
    s->inject = (spi_inject){.k = K, .alpha = 1, .down = s->v[0], .up = s->v[1]};
    s->update = (spi_update){.g = G,
                             .eps = 1e-5f,
                             .act = SPI_ACT_SILU,
                             .norm_weight = s->v[2],
                             .norm_bias = s->v[3],
                             .w0 = s->v[0],
                             .w3 = s->v[1],
                             .v0 = s->v[4],
                             .v2 = s->v[5]};
    s->acc = filled(t, SP_F32, m->t * 2 * K); /* p or z */
    t->bytes = moved * (double)(m->t * d) * (double)spi_dtype_size(t->dtype);
    /* What kernels do outside the matrix units is at most two products of K columns forward, six backward. */
    t->flops = (moved > 3 ? 12 : 4) * (double)(m->t * d * K);
}

static void call_inject(timing *t, set *s, const void *params) {
    (void)params;
    t->dev->op->inject(t->dev, s->m[0], (float *)s->acc, s->m[1], s->m[2], &s->inject);
}

static void call_inject_backward(timing *t, set *s, const void *params) {
    (void)params;
    t->dev->op->inject_backward(t->dev, s->m[0], s->m[1], s->v[6], s->v[7], s->m[2], s->m[3], (float *)s->acc,
                                &s->inject);
}

static void call_update(timing *t, set *s, const void *params) {
    (void)params;
    t->dev->op->update(t->dev, s->m[0], (float *)s->acc, s->m[1], s->m[2], &s->update);
}

static void call_update_backward(timing *t, set *s, const void *params) {
    (void)params;
    const spi_update_grads grads = {.norm_weight = s->v[6],
                                    .norm_bias = s->v[6] + t->shape->d,
                                    .w0 = s->v[6] + 2 * t->shape->d,
                                    .w3 = s->v[7]};
    spi_update_grads all = grads;
    all.v0 = s->v[2] + t->shape->d; /* behind the norm's weight: numbers that nobody reads */
    all.v2 = s->v[3] + t->shape->d;
    t->dev->op->update_backward(t->dev, s->m[0], s->m[1], &all, s->m[2], s->m[3], (float *)s->acc, &s->update);
}

static void time_shadow(timing *t) {
    const double forward = 3, backward = 6;
    time_one(t, "inject", make_shadow, call_inject, &forward);
    time_one(t, "update", make_shadow, call_update, &forward);
    if (t->shape->t == 1) return;
    time_one(t, "inject_backward", make_shadow, call_inject_backward, &backward);
    time_one(t, "update_backward", make_shadow, call_update_backward, &backward);
}

/* ------------------------------------------------------------------ heads and the optimizer */

static void make_head(timing *t, set *s, const void *params) {
    const bool backward = *(const bool *)params;
    const model_shape *m = t->shape;
    s->w = weight(t, m->vocab, m->d, false);
    s->m[0] = mat(t, m->t, m->d);
    s->m[1] = mat(t, m->t, m->d);
    s->ids = random_ints(t, m->t, m->vocab);
    s->acc = filled(t, SP_I64, 2);
    t->flops = (backward ? 4.0 : 2.0) * (double)m->t * (double)m->d * (double)m->vocab;
    t->bytes = (double)(m->vocab * m->d + 2 * m->t * m->d) * (double)spi_dtype_size(t->dtype);
}

static void call_head(timing *t, set *s, const void *params) {
    const spi_head_loss loss = {.x = s->m[0],
                                .dx = *(const bool *)params ? s->m[1] : (spi_mat){0},
                                .weight = &s->w,
                                .labels = s->ids,
                                .grad_scale = 1e-4f,
                                .acc = s->acc};
    t->dev->op->head_loss(t->dev, &loss);
}

/* The tensors of an adapter with a layer of shadow. */
static void make_adamw(timing *t, set *s, const void *params) {
    (void)params;
    const model_shape *m = t->shape;
    const int64_t q = (int64_t)m->heads * m->head_dim, kv = (int64_t)m->kv_heads * m->head_dim;
    const int64_t sizes[] = {q * m->d,    2 * kv * m->d, q * m->d,    m->f * m->d, m->f * m->d,
                             m->f * m->d, m->d * 16,     m->d * 1000, m->d,        m->d};
    double n = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        s->items[i] = (spi_adamw_item){sizes[i],
                                       vector(t, sizes[i]),
                                       vector(t, sizes[i]),
                                       vector(t, sizes[i]),
                                       vector(t, sizes[i]),
                                       filled(t, SP_BF16, sizes[i]),
                                       1e-3f,
                                       0.01f};
        n += (double)sizes[i];
    }
    s->acc = filled(t, SP_I64, 1);
    t->bytes = n * (4 * 4 + 3 * 4 + 2);
}

static void call_adamw(timing *t, set *s, const void *params) {
    (void)params;
    const spi_adamw how = {0.9, 0.999, 1e-8, 10, 1};
    t->dev->op->adamw(t->dev, s->items, 10, &how);
}

static void call_sum_squares(timing *t, set *s, const void *params) {
    (void)params;
    spi_span spans[10];
    t->bytes = 0;
    for (int i = 0; i < 10; i++) {
        spans[i] = (spi_span){s->items[i].grad, s->items[i].n};
        t->bytes += 4.0 * (double)spans[i].n;
    }
    t->dev->op->sum_squares(t->dev, s->acc, spans, 10);
}

static void time_loss(timing *t) {
    if (t->shape->t == 1) return;
    time_one(t, "head_loss", make_head, call_head, &(bool){false});
    time_one(t, "head_loss dx", make_head, call_head, &(bool){true});
    time_one(t, "adamw", make_adamw, call_adamw, NULL);
    time_one(t, "sum_squares", make_adamw, call_sum_squares, NULL);
}

/* ------------------------------------------------------------------ all of them */

static bool fill_block(timing *t) {
    uint64_t state = 1;
    t->block = malloc((size_t)BLOCK * 8);
    for (int64_t i = 0; t->block && i < 2 * BLOCK; i++) t->block[i] = random_float(&state, -1, 1);
    if (!t->block) return false;
    spi_from_f32(t->block + BLOCK, t->block, SP_BF16, BLOCK); /* what follows it is read as int8 alone */
    return true;
}

int time_operations(spi_device *dev, const char *only) {
    timing *t = calloc(1, sizeof *t);
    int failed = 1;
    if (t && fill_block(t)) {
        t->dev = dev;
        t->only = only;
        t->dtype = SP_BF16;
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes && !t->failed; i++) {
            t->shape = &shapes[i];
            time_products(t);
            time_projects(t);
            time_rows(t);
            time_attention(t);
            time_shadow(t);
            time_loss(t);
        }
        failed = t->failed;
    }
    if (t) free(t->block);
    free(t);
    return failed;
}
