/* Attention over packed sequences, its gradient, and step by step over a cache. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "harness.h"

#define MOST_SEQS 8

typedef struct attending {
    const char *name;
    int32_t heads, kv_heads, head_dim, window;
    float softcap, spread; /* q is uniform in [-spread, spread) */
    int32_t count, lengths[MOST_SEQS];
    const float *o, *lse; /* of the backward pass: what the reference's forward pass gave */
    bool together;        /* q, k, v are columns of one matrix, as after one product */
} attending;

static const attending shapes[] = {
    {"no rows", 2, 1, 64, 0, 0, 1, 1, {0}, NULL, NULL, false},
    {"one row", 2, 1, 16, 0, 0, 1, 1, {1}, NULL, NULL, false},
    {"heads of 128", 4, 2, 128, 0, 0, 3, 4, {64, 65, 1, 200}, NULL, NULL, false},
    {"heads of 128 together", 4, 2, 128, 0, 0, 3, 3, {128, 127, 129}, NULL, NULL, true},
    {"Qwen3", 16, 8, 128, 0, 0, 3, 2, {333, 512}, NULL, NULL, true},
    {"heads of 64", 4, 4, 64, 0, 0, 3, 6, {47, 1, 48, 49, 2, 131}, NULL, NULL, true},
    {"heads of 64, one group", 8, 1, 64, 0, 0, 3, 2, {333, 64}, NULL, NULL, false},
    {"a thousand", 2, 1, 128, 0, 0, 3, 1, {1000}, NULL, NULL, false},
    {"heads of 256", 2, 1, 256, 0, 0, 3, 2, {70, 150}, NULL, NULL, false},
    {"heads of 96", 3, 1, 96, 0, 0, 3, 2, {70, 97}, NULL, NULL, false},
    {"heads of 80", 4, 2, 80, 0, 0, 3, 2, {33, 120}, NULL, NULL, true},
    {"odd heads", 3, 3, 37, 0, 0, 3, 2, {70, 33}, NULL, NULL, false},
    {"tiny heads", 4, 1, 8, 0, 0, 3, 2, {9, 55}, NULL, NULL, false},
    {"window", 4, 2, 64, 17, 0, 3, 3, {100, 16, 17}, NULL, NULL, false},
    {"window of 128", 4, 2, 128, 128, 0, 3, 2, {400, 129}, NULL, NULL, true},
    {"window of one", 2, 1, 32, 1, 0, 3, 2, {3, 60}, NULL, NULL, false},
    {"soft cap", 4, 2, 128, 0, 20, 5, 2, {65, 150}, NULL, NULL, false},
    {"window, soft cap", 4, 2, 256, 50, 30, 5, 2, {120, 7}, NULL, NULL, false},
    {"window, small soft cap", 6, 2, 128, 140, 3, 5, 2, {300, 129}, NULL, NULL, false},
    {"large scores", 2, 1, 64, 0, 0, 40, 1, {130}, NULL, NULL, false},
    {"empty sequences", 2, 1, 64, 0, 0, 3, 5, {0, 40, 0, 1, 0}, NULL, NULL, false},
};
#define SHAPES (sizeof shapes / sizeof *shapes)

static int64_t tokens_of(const attending *p) {
    int64_t tokens = 0;
    for (int32_t i = 0; i < p->count; i++) tokens += p->lengths[i];
    return tokens;
}

static spi_attn attn_of(const attending *p) {
    /* The usual scale; scores are of the size of `spread`. */
    float root = 1;
    while (root * root < (float)p->head_dim) root += 0.25f;
    return (spi_attn){p->heads, p->kv_heads, p->head_dim, 1 / root, p->window, p->softcap};
}

typedef struct sequences {
    spi_seqs seqs;
    int32_t start[MOST_SEQS + 1];
} sequences;

static void pack(run *r, const attending *p, sequences *s) {
    int32_t longest = 0;
    s->start[0] = 0;
    for (int32_t i = 0; i < p->count; i++) {
        s->start[i + 1] = s->start[i] + p->lengths[i];
        if (p->lengths[i] > longest) longest = p->lengths[i];
    }
    s->seqs = (spi_seqs){p->count, longest, in_ints(r, s->start, p->count + 1), s->start};
}

typedef struct inputs {
    spi_mat q, k, v;
} inputs;

static inputs inputs_of(run *r, const attending *p) {
    const int64_t t = tokens_of(p), wide = (int64_t)p->heads * p->head_dim;
    const int64_t kv = (int64_t)p->kv_heads * p->head_dim;
    inputs in;
    if (!p->together) {
        in.q = in_mat(r, t, wide, p->spread);
        in.k = in_mat(r, t, kv, 1);
        in.v = in_mat(r, t, kv, 1);
        return in;
    }
    const spi_mat all = in_mat(r, t, wide + 2 * kv, 1.5f);
    in.q = spi_mat_columns(all, 0, wide);
    in.k = spi_mat_columns(all, wide, kv);
    in.v = spi_mat_columns(all, wide + kv, kv);
    return in;
}

/* ------------------------------------------------------------------ whole sequences */

static void attention(run *r, const void *params) {
    const attending *p = params;
    const spi_attn attn = attn_of(p);
    sequences s;
    const inputs in = inputs_of(r, p);
    const spi_mat o = out_mat(r, "o", in.q.rows, in.q.cols);
    float *lse = out_vector(r, "lse", p->heads * in.q.rows);
    pack(r, p, &s);
    r->dev->op->attention(r->dev, o, lse, in.q, in.k, in.v, &s.seqs, &attn);
}

static void attention_alone(run *r, const void *params) {
    const attending *p = params;
    const spi_attn attn = attn_of(p);
    sequences s;
    const inputs in = inputs_of(r, p);
    const spi_mat o = out_mat(r, "o", in.q.rows, in.q.cols);
    pack(r, p, &s);
    r->dev->op->attention(r->dev, o, NULL, in.q, in.k, in.v, &s.seqs, &attn);
}

static void check_attention(checks *c) {
    for (int d = 0; d < 2; d++)
        for (size_t s = 0; s < SHAPES; s++)
            for (int v = 0; v < VIEWS; v++) {
                compare(c, dtypes[d], (view)v, attention, &shapes[s], "%s", shapes[s].name);
                compare(c, dtypes[d], (view)v, attention_alone, &shapes[s], "%s, no lse", shapes[s].name);
            }
}

/* Whether no row sees another's key. */
static bool sees_itself_alone(const attending *p) {
    bool alone = true;
    for (int32_t i = 0; i < p->count; i++) alone = alone && p->lengths[i] <= 1;
    return alone || p->window == 1;
}

/*
 * Of a row that sees one key, dq and dk are 0: with p = 1, dp and the sum of p dp that is taken from it are the
 * same number, d_o . v, up to the rounding of their sums. What is left is that rounding, on either device,
 * times scale k or scale q: it is measured by the size of the terms, scale ||d_o . v|| ||k||, of numbers
 * uniform in [-1, 1), of mean square 1/3.
 */
static void relative_to_terms(run *r, const attending *p, float scale, int64_t elements, double spread) {
    if (!sees_itself_alone(p) || elements == 0) return;
    const double product = sqrt((double)p->head_dim) / 3, other = spread / sqrt(3.0);
    relative_to(r, (double)scale * product * other * sqrt((double)elements));
}

/*
 * Both devices are given the o and lse of the reference's forward pass. In f32, dq and dk are sums of
 * p (dp - sum p dp), whose terms cancel: ten times the bound of sums. In bf16 also p and ds are rounded.
 */
static void attention_backward(run *r, const void *params) {
    const attending *p = params;
    const spi_attn attn = attn_of(p);
    sequences s;
    const inputs in = inputs_of(r, p);
    const int64_t t = in.q.rows;
    const spi_mat o = in_values(r, p->o, t, in.q.cols), d_o = in_mat(r, t, in.q.cols, 1);
    const float *lse = in_array(r, SP_F32, p->lse, p->heads * t);
    spi_mat dq, dk, dv;
    if (p->together) {
        const spi_mat all = out_mat(r, "dqkv", t, in.q.cols + 2 * in.k.cols);
        bound(r, 1e-4, 1.5e-2);
        dq = spi_mat_columns(all, 0, in.q.cols);
        dk = spi_mat_columns(all, in.q.cols, in.k.cols);
        dv = spi_mat_columns(all, in.q.cols + in.k.cols, in.k.cols);
    } else {
        dq = out_mat(r, "dq", t, in.q.cols);
        bound(r, 1e-4, 1.5e-2);
        relative_to_terms(r, p, attn.scale, t * in.q.cols, 1);
        dk = out_mat(r, "dk", t, in.k.cols);
        bound(r, 1e-4, 1.5e-2);
        /* A sum over the heads of a group: as many terms as dq has. */
        relative_to_terms(r, p, attn.scale, t * in.q.cols, (double)p->spread);
        dv = out_mat(r, "dv", t, in.k.cols);
    }
    pack(r, p, &s);
    r->dev->op->attention_backward(r->dev, dq, dk, dv, d_o, o, lse, in.q, in.k, in.v, &s.seqs, &attn);
}

static void check_attention_backward(checks *c) {
    for (int d = 0; d < 2; d++)
        for (size_t s = 0; s < SHAPES; s++)
            for (int v = 0; v < VIEWS; v++) {
                attending p = shapes[s];
                const int64_t t = tokens_of(&p);
                float *o = calloc((size_t)(t * p.heads * p.head_dim + 1), sizeof *o);
                float *lse = calloc((size_t)(t * p.heads + 1), sizeof *lse);
                on_reference(c, dtypes[d], attention, &p, (float *[]){o, lse}, 2);
                p.o = o;
                p.lse = lse;
                compare(c, dtypes[d], (view)v, attention_backward, &p, "%s", p.name);
                free(o);
                free(lse);
            }
}

/* ------------------------------------------------------------------ over a cache */

/* Rows [from, from + count) of a sequence to or from rows of a step. */
static void move_rows(run *r, spi_mat to, int64_t at, spi_mat from, int64_t first, int64_t count) {
    for (int64_t i = 0; i < count; i++)
        r->dev->op->copy(r->dev, spi_mat_rows(to, at + i, 1).data, spi_mat_rows(from, first + i, 1).data,
                         (size_t)to.cols * spi_dtype_size(to.dtype));
}

typedef struct stepping {
    attending a;
    int32_t first; /* tokens of the first call, of each sequence as far as it has them; then `each` a call */
    int32_t each;
} stepping;

/* One call for all sequences that have tokens left; the slots are in another order than the sequences. */
static bool step(run *r, const stepping *p, const inputs *in, spi_mat o, const spi_kv *kv, int32_t done[],
                 bool begin) {
    const attending *a = &p->a;
    const spi_attn attn = attn_of(a);
    int32_t start[MOST_SEQS + 1] = {0}, slot[MOST_SEQS], past[MOST_SEQS], whole[MOST_SEQS], base = 0;
    spi_cached_seqs s = {0};
    for (int32_t i = 0; i < a->count; base += a->lengths[i++]) {
        const int32_t left = a->lengths[i] - done[i], most = begin ? p->first : p->each;
        const int32_t fresh = left < most ? left : most;
        if (fresh == 0) continue;
        start[s.count + 1] = start[s.count] + fresh;
        slot[s.count] = a->count - 1 - i;
        past[s.count] = done[i];
        whole[s.count] = base + done[i];
        if (fresh > s.max_new) s.max_new = fresh;
        if (done[i] + fresh > s.max_total) s.max_total = done[i] + fresh;
        s.count++;
        done[i] += fresh;
    }
    if (s.count == 0) return false;
    const int64_t t = start[s.count];
    const spi_mat q = work_mat(r, in->q.dtype, t, in->q.cols), k = work_mat(r, in->q.dtype, t, in->k.cols);
    const spi_mat v = work_mat(r, in->q.dtype, t, in->k.cols), out = work_mat(r, in->q.dtype, t, in->q.cols);
    for (int32_t i = 0; i < s.count; i++) {
        move_rows(r, q, start[i], in->q, whole[i], start[i + 1] - start[i]);
        move_rows(r, k, start[i], in->k, whole[i], start[i + 1] - start[i]);
        move_rows(r, v, start[i], in->v, whole[i], start[i + 1] - start[i]);
    }
    s.start = in_ints(r, start, s.count + 1);
    s.slot = in_ints(r, slot, s.count);
    s.past = in_ints(r, past, s.count);
    s.host_start = start;
    s.host_slot = slot;
    s.host_past = past;
    r->dev->op->attention_cached(r->dev, out, q, k, v, kv, &s, &attn);
    for (int32_t i = 0; i < s.count; i++) move_rows(r, o, whole[i], out, start[i], start[i + 1] - start[i]);
    r->dev->op->sync(r->dev); /* the lists above are read on the device */
    return true;
}

/* The reference attends to whole sequences at once. */
static void attention_cached(run *r, const void *params) {
    const stepping *p = params;
    const attending *a = &p->a;
    const inputs in = inputs_of(r, a);
    const spi_mat o = out_mat(r, "o", in.q.rows, in.q.cols);
    if (r->reference) {
        const spi_attn attn = attn_of(a);
        sequences s;
        pack(r, a, &s);
        r->dev->op->attention(r->dev, o, NULL, in.q, in.k, in.v, &s.seqs, &attn);
        return;
    }
    int32_t done[MOST_SEQS] = {0}, longest = 0;
    for (int32_t i = 0; i < a->count; i++)
        if (a->lengths[i] > longest) longest = a->lengths[i];
    spi_kv kv = {.dtype = in.q.dtype, .slots = a->count + 1, .capacity = longest + 3};
    const int64_t all = kv.slots * kv.capacity * a->kv_heads * a->head_dim;
    kv.k = work_array(r, kv.dtype, all);
    kv.v = work_array(r, kv.dtype, all);
    for (bool begin = true; step(r, p, &in, o, &kv, done, begin); begin = false) continue;
}

static const stepping steppings[] = {
    {{"one token at a time", 4, 2, 64, 0, 0, 3, 1, {40}, NULL, NULL, false}, 1, 1},
    {{"Qwen3, a prompt, then tokens", 16, 8, 128, 0, 0, 3, 1, {300}, NULL, NULL, true}, 280, 1},
    {{"Qwen3-8B, some sequences", 32, 8, 128, 0, 0, 3, 3, {70, 85, 33}, NULL, NULL, true}, 60, 1},
    {{"a long past", 4, 2, 128, 0, 0, 3, 1, {2050}, NULL, NULL, false}, 2040, 1},
    {{"prompts in pieces", 4, 2, 128, 0, 0, 3, 2, {150, 210}, NULL, NULL, false}, 64, 33},
    {{"some tokens a call", 8, 2, 64, 0, 0, 3, 2, {60, 77}, NULL, NULL, false}, 32, 5},
    {{"one group", 8, 1, 64, 0, 0, 3, 2, {30, 50}, NULL, NULL, false}, 24, 1},
    {{"heads of 256", 8, 4, 256, 0, 0, 3, 1, {90}, NULL, NULL, false}, 75, 1},
    {{"heads of 80", 4, 4, 80, 0, 0, 3, 2, {33, 20}, NULL, NULL, false}, 12, 1},
    {{"odd heads", 3, 3, 37, 0, 0, 3, 2, {20, 33}, NULL, NULL, false}, 10, 1},
    {{"window", 4, 2, 64, 17, 0, 3, 2, {60, 35}, NULL, NULL, false}, 30, 1},
    {{"a window that begins in the past", 4, 2, 128, 100, 0, 3, 1, {400}, NULL, NULL, false}, 350, 9},
    {{"soft cap", 4, 2, 128, 0, 20, 5, 2, {65, 50}, NULL, NULL, false}, 45, 1},
    {{"window, soft cap", 8, 4, 256, 20, 30, 5, 1, {64}, NULL, NULL, false}, 50, 1},
    {{"large scores", 2, 1, 64, 0, 0, 40, 1, {60}, NULL, NULL, false}, 40, 1},
};

static void check_attention_cached(checks *c) {
    for (int d = 0; d < 2; d++)
        for (size_t s = 0; s < sizeof steppings / sizeof *steppings; s++)
            for (int v = 0; v < VIEWS; v++)
                compare(c, dtypes[d], (view)v, attention_cached, &steppings[s], "%s", steppings[s].a.name);
}

const check attention_checks[] = {{"attention", check_attention},
                                  {"attention_backward", check_attention_backward},
                                  {"attention_cached", check_attention_cached},
                                  {0}};
