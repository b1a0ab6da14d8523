#include "tensor/cpu/attention_pairs.h"

#include <math.h>
#include <string.h>

#include "tensor/cpu/block.h"
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/row.h"
#include "tensor/cpu/vecmath.h"

#define ROWS SPI_ATTN_PAIRS_ROWS
/* Keys at once: whole tiles either way (a multiple of 64 and of 6). */
#define KEYS ((int64_t)384)
/* Of a row of scores: a last tile of fewer than KEYS keys hangs over by up to 5. */
#define LD (KEYS + SPI_PAIRS_LANE)

static int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}
static int64_t max64(int64_t a, int64_t b) {
    return a > b ? a : b;
}

bool spi_attn_pairs_fit(sp_dtype q, sp_dtype kv, const spi_attn *attn) {
    return q == SP_BF16 && kv == SP_BF16 && attn->head_dim % SPI_PAIRS_LANE == 0 && spi_pairs_native();
}

/* ------------------------------------------------------------------ keys and values */

static int64_t transposed_words(int64_t total, int64_t head_dim) {
    return (total + SPI_PAIRS_COLS - 1) / SPI_PAIRS_COLS * SPI_PAIRS_COLS * (head_dim / 2);
}

int64_t spi_attn_packed_words(int64_t total, int64_t head_dim, bool backward) {
    return (backward ? 2 : 1) * transposed_words(total, head_dim) + (total + 1) / 2 * head_dim;
}

spi_attn_packed spi_attn_pack(spi_pair *words, spi_mat k, spi_mat v, int64_t total, bool backward) {
    const int64_t t = transposed_words(total, k.cols), pairs = (total + 1) / 2;
    spi_attn_packed p = {.total = total, .pairs = pairs, .k_t = words};
    spi_pairs_transposed(p.k_t, k, 0, total);
    if (!backward) {
        p.v_n = words + t;
        spi_pairs_rows(p.v_n, pairs, v, 0, total);
        return p;
    }
    p.v_t = words + t;
    p.k_n = words + 2 * t;
    spi_pairs_transposed(p.v_t, v, 0, total);
    spi_pairs_rows(p.k_n, pairs, k, 0, total);
    return p;
}

/* ------------------------------------------------------------------ a block of queries against a block of keys
 */

/* Query rows [row, row + rows), of which the first stands at `position`; keys [key, key + keys). */
typedef struct block {
    const spi_attn *attn;
    spi_pairs_tile *tile;
    int64_t row, rows, position, key, keys;
} block;

/* Offsets in the block of keys, [begin, end), end >= begin. */
typedef struct span {
    int64_t begin, end;
} span;

/* What rows i to i + n - 1 of the block see of its keys, taken together. */
static span seen_by(const block *b, int64_t i, int64_t n) {
    const int64_t first = b->position + i - b->key, window = b->attn->window;
    const int64_t end = max64(0, min64(b->keys, first + n));
    return (span){min64(end, window > 0 ? max64(0, first - window + 1) : 0), end};
}

/* Rows padded to whole tiles. */
static int64_t tiled(int64_t rows) {
    return (rows + SPI_PAIRS_ROWS - 1) / SPI_PAIRS_ROWS * SPI_PAIRS_ROWS;
}

static block block_of(const spi_attn *attn, int64_t row, int64_t end, int64_t past) {
    return (block){.attn = attn,
                   .tile = spi_pairs_native(),
                   .row = row,
                   .rows = min64(ROWS, end - row),
                   .position = past + row};
}

/* The first block of keys that is seen, and the next; false: no more. */
static int64_t first_key(const block *b) {
    const int64_t begin = b->attn->window > 0 ? max64(0, b->position - b->attn->window + 1) : 0;
    return begin / KEYS * KEYS;
}

static bool take_keys(block *b, int64_t key) {
    b->key = key;
    b->keys = min64(KEYS, b->position + b->rows - key);
    return b->keys > 0;
}

/* s [rows, LD] = x y^T, x [rows, head_dim / 2] words, y_t as spi_pairs_transposed; what nobody sees is left. */
static void against_keys(float *s, const block *b, const spi_pair *x, const spi_pair *y_t) {
    const int64_t half = b->attn->head_dim / 2;
    for (int64_t j = 0; j < b->keys; j += SPI_PAIRS_COLS) {
        const spi_pair *panel = y_t + (b->key + j) * half;
        for (int64_t i = 0; i < b->rows; i += SPI_PAIRS_ROWS) {
            const span seen = seen_by(b, i, SPI_PAIRS_ROWS);
            const int64_t n = min64(SPI_PAIRS_COLS, seen.end - j);
            if (n <= 0 || seen.begin >= j + SPI_PAIRS_COLS) continue;
            b->tile(s + i * LD + j, LD, (spi_pairs){x + i * half, half, 1}, panel, SPI_PAIRS_COLS, half,
                    (int)((n + SPI_PAIRS_LANE - 1) / SPI_PAIRS_LANE), false);
        }
    }
}

/* y [rows, head_dim] += p x, p [rows, LD / 2] words, x the block's part of something as spi_pairs_rows. */
static void with_keys(float *y, const block *b, const spi_pair *p, const spi_pair *x, int64_t pairs) {
    const int64_t d = b->attn->head_dim;
    for (int64_t c = 0; c < d; c += SPI_PAIRS_COLS) {
        const int64_t n = min64(SPI_PAIRS_COLS, d - c);
        const spi_pair *panel = x + c * pairs + b->key / 2 * n;
        for (int64_t i = 0; i < b->rows; i += SPI_PAIRS_ROWS) {
            const span seen = seen_by(b, i, SPI_PAIRS_ROWS);
            const int64_t from = seen.begin / 2, to = (seen.end + 1) / 2;
            b->tile(y + i * d + c, d, (spi_pairs){p + i * (LD / 2) + from, LD / 2, 1}, panel + from * n, n,
                    to - from, (int)(n / SPI_PAIRS_LANE), true);
        }
    }
}

/* y [keys, head_dim] += p^T x, p [rows / 2, LD] pairs of rows, x [rows, head_dim] as spi_pairs_rows. */
static void with_queries(float *y, const block *b, const spi_pair *p, const spi_pair *x) {
    const int64_t d = b->attn->head_dim, window = b->attn->window, pairs = (b->rows + 1) / 2;
    for (int64_t c = 0; c < d; c += SPI_PAIRS_COLS) {
        const int64_t n = min64(SPI_PAIRS_COLS, d - c);
        for (int64_t j = 0; j < b->keys; j += SPI_PAIRS_ROWS) {
            const int64_t first = b->key + j - b->position, last = first + SPI_PAIRS_ROWS - 1;
            const int64_t from = max64(0, first) / 2;
            const int64_t to = window > 0 ? min64(pairs, max64(from, (last + window + 1) / 2)) : pairs;
            if (from >= to) continue;
            b->tile(y + j * d + c, d, (spi_pairs){p + from * LD + j, 1, LD}, x + c * pairs + from * n, n,
                    to - from, (int)(n / SPI_PAIRS_LANE), true);
        }
    }
}

/* Rows of a bf16 matrix, and zeros up to whole tiles. */
static void take_rows(spi_pair *to, spi_mat from, const block *b) {
    const int64_t half = from.cols / 2;
    for (int64_t i = 0; i < b->rows; i++)
        memcpy(to + i * half, spi_mat_at(from, b->row + i, 0), (size_t)half * sizeof *to);
    memset(to + b->rows * half, 0, (size_t)((tiled(b->rows) - b->rows) * half) * sizeof *to);
}

/* ------------------------------------------------------------------ rows of scores */

/*
 * e^x for x <= 88 as spi_expf has it, without its care for the ends: below -87, where a probability is nothing
 * beside the largest, it stays at e^-87. NaN stays NaN.
 */
static inline float exp_small(float x) {
    const float c = x < -87.0f ? -87.0f : x;
    const float shifted = c * 1.44269504f + 12582912.0f; /* its last bits are the integer n */
    const float n = shifted - 12582912.0f;
    const float r = (c - n * 0.693145752f) - n * 1.42860677e-6f;
    float p = 1.98756912e-4f;
    p = p * r + 1.39819994e-3f;
    p = p * r + 8.33345205e-3f;
    p = p * r + 4.16657962e-2f;
    p = p * r + 1.66666657e-1f;
    p = p * r + 0.5f;
    p = p * r * r + r + 1.0f;
    uint32_t bits;
    float power;
    memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + 0x3f800000u;
    memcpy(&power, &bits, sizeof power);
    return p * power;
}

/* Nearest even. Values that come from bf16 numbers have no NaN whose bits this would carry away. */
static inline uint32_t rounded(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

/* x *= scale; the largest */
SPI_CLONES static float scaled_max(float *x, float scale, int64_t n) {
    float m = -INFINITY;
#pragma omp simd reduction(max : m)
    for (int64_t i = 0; i < n; i++) {
        x[i] *= scale;
        m = x[i] > m ? x[i] : m;
    }
    return m;
}

/* x = cap(x scale) */
SPI_CLONES static void soft_cap(float *x, float scale, float cap, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = cap * spi_tanhf(x[i] * scale / cap);
}

/* x = exp(x - m); the sum */
SPI_CLONES static float exponentials(float *x, float m, int64_t n) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) {
        x[i] = exp_small(x[i] - m);
        sum += x[i];
    }
    return sum;
}

/* p = exp(cap(s scale) - lse); dp becomes ds = p (dp - mean) cap'(s scale). */
SPI_CLONES static void probabilities(float *restrict p, float *restrict dp, float scale, float lse, float mean,
                                     int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        p[i] = exp_small(p[i] * scale - lse);
        dp[i] = p[i] * (dp[i] - mean);
    }
}

SPI_CLONES static void probabilities_capped(float *restrict p, float *restrict dp, float scale, float lse,
                                            float mean, float cap, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const float t = spi_tanhf(p[i] * scale / cap);
        p[i] = exp_small(cap * t - lse);
        dp[i] = p[i] * (dp[i] - mean) * (1.0f - t * t);
    }
}

/* Two rows as pairs. */
SPI_CLONES static void pair_rows(spi_pair *restrict to, const float *restrict low, const float *restrict high,
                                 int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = rounded(low[i]) | rounded(high[i]) << 16;
}

SPI_CLONES static void round_row(uint16_t *restrict to, const float *restrict from, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = (uint16_t)rounded(from[i]);
}

SPI_CLONES static float dot_bf16(const uint16_t *restrict a, const uint16_t *restrict b, int64_t n) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += spi_bf16_to_f32(a[i]) * spi_bf16_to_f32(b[i]);
    return sum;
}

/* The whole lanes that hold what a row sees; against_keys has computed all of them. */
static span in_lanes(span seen) {
    if (seen.begin == seen.end) return (span){0, 0};
    return (span){seen.begin / SPI_PAIRS_LANE * SPI_PAIRS_LANE,
                  (seen.end + SPI_PAIRS_LANE - 1) / SPI_PAIRS_LANE * SPI_PAIRS_LANE};
}

/* x = value where `all` goes beyond `seen`. */
static void fill(float *x, span all, span seen, float value) {
    for (int64_t j = all.begin; j < seen.begin; j++) x[j] = value;
    for (int64_t j = seen.end; j < all.end; j++) x[j] = value;
}

/* ------------------------------------------------------------------ forward */

typedef struct forward_work {
    float *s;    /* [ROWS, LD] */
    spi_pair *p; /* [ROWS, LD / 2] */
    spi_pair *q; /* [ROWS, head_dim / 2] */
    float *o;    /* [ROWS, head_dim] */
    float *max, *sum;
} forward_work;

static forward_work forward_work_of(float *work, int64_t d) {
    forward_work w = {.s = work};
    w.p = (spi_pair *)(w.s + ROWS * LD);
    w.q = w.p + ROWS * LD / 2;
    w.o = (float *)(w.q + ROWS * d / 2);
    w.max = w.o + ROWS * d;
    w.sum = w.max + ROWS;
    return w;
}

/* Row i of the block: its probabilities up to a factor, and its running maximum and sum. */
static void softmax_row(const forward_work *w, const block *b, int64_t i) {
    const span seen = seen_by(b, i, 1), lanes = in_lanes(seen);
    const int64_t n = lanes.end - lanes.begin, d = b->attn->head_dim;
    const float scale = b->attn->scale, cap = b->attn->softcap;
    uint16_t *p = (uint16_t *)(w->p + i * (LD / 2));
    float *x = w->s + i * LD;
    if (n > 0) {
        if (cap > 0) soft_cap(x + lanes.begin, scale, cap, n);
        fill(x, lanes, seen, -INFINITY);
        const float most = scaled_max(x + lanes.begin, cap > 0 ? 1.0f : scale, n);
        if (most > w->max[i]) {
            const float shrink = expf(w->max[i] - most);
            w->max[i] = most;
            w->sum[i] *= shrink;
            spi_block_scale(w->o + i * d, shrink, d);
        }
        w->sum[i] += exponentials(x + lanes.begin, w->max[i], n);
        round_row(p + lanes.begin, x + lanes.begin, n);
    }
    memset(p, 0, (size_t)seen.begin * sizeof *p);
    memset(p + seen.end, 0, (size_t)(LD - seen.end) * sizeof *p);
}

static void forward_block(const forward_work *w, block *b, const spi_attn_packed *keys) {
    const int64_t all = tiled(b->rows);
    memset(w->o, 0, (size_t)(all * b->attn->head_dim) * sizeof *w->o);
    for (int64_t i = 0; i < all; i++) {
        w->max[i] = -INFINITY;
        w->sum[i] = 0.0f;
    }
    for (int64_t key = first_key(b); take_keys(b, key); key += KEYS) {
        against_keys(w->s, b, w->q, keys->k_t);
        for (int64_t i = 0; i < b->rows; i++) softmax_row(w, b, i);
        memset(w->p + b->rows * (LD / 2), 0, (size_t)((all - b->rows) * (LD / 2)) * sizeof *w->p);
        with_keys(w->o, b, w->p, keys->v_n, keys->pairs);
    }
}

void spi_attn_pairs_forward(spi_mat o, float *lse, spi_mat q, int64_t past, spi_range rows,
                            const spi_attn_packed *keys, const spi_attn *attn, float *work) {
    const int64_t d = attn->head_dim;
    const forward_work w = forward_work_of(work, d);
    for (int64_t r = rows.begin; r < rows.end; r += ROWS) {
        block b = block_of(attn, r, rows.end, past);
        take_rows(w.q, q, &b);
        forward_block(&w, &b, keys);
        for (int64_t i = 0; i < b.rows; i++) {
            if (lse) lse[r + i] = w.max[i] + logf(w.sum[i]);
            spi_block_scale(w.o + i * d, 1.0f / w.sum[i], d);
        }
        spi_block_store(o, r, b.rows, w.o);
    }
}

/* ------------------------------------------------------------------ backward */

typedef struct backward_work {
    float *p, *dp;                /* [ROWS, LD] scores and then probabilities; their gradients */
    spi_pair *p_pairs, *ds_pairs; /* [ROWS / 2, LD] rounded, two rows a word */
    spi_pair *ds;                 /* [ROWS, LD / 2] rounded */
    spi_pair *q, *d_o;            /* [ROWS, head_dim / 2] */
    spi_pair *q_n, *d_o_n;        /* as spi_pairs_rows */
    float *dq;                    /* [ROWS, head_dim] */
    float *mean;                  /* [ROWS] sum of d_o * o */
} backward_work;

static backward_work backward_work_of(float *work, int64_t d) {
    backward_work w = {.p = work, .dp = work + ROWS * LD};
    w.p_pairs = (spi_pair *)(w.dp + ROWS * LD);
    w.ds_pairs = w.p_pairs + ROWS / 2 * LD;
    w.ds = w.ds_pairs + ROWS / 2 * LD;
    w.q = w.ds + ROWS * LD / 2;
    w.d_o = w.q + ROWS * d / 2;
    w.q_n = w.d_o + ROWS * d / 2;
    w.d_o_n = w.q_n + ROWS / 2 * d;
    w.dq = (float *)(w.d_o_n + ROWS / 2 * d);
    w.mean = w.dq + ROWS * d;
    return w;
}

int64_t spi_attn_pairs_work(int64_t head_dim, bool backward) {
    const int64_t scores = ROWS * LD, rows = ROWS * head_dim;
    return backward ? 3 * scores + scores / 2 + 3 * rows + ROWS
                    : scores + scores / 2 + rows + rows / 2 + 2 * ROWS;
}

/* Row i from scores and d_o v^T to probabilities and the gradients of scores, zeros where masked. */
static void gradient_row(const backward_work *w, const block *b, int64_t i, float lse) {
    const span seen = seen_by(b, i, 1), lanes = in_lanes(seen), all = {0, LD};
    const int64_t n = lanes.end - lanes.begin;
    const float scale = b->attn->scale, cap = b->attn->softcap;
    float *p = w->p + i * LD, *dp = w->dp + i * LD;
    if (cap > 0) probabilities_capped(p + lanes.begin, dp + lanes.begin, scale, lse, w->mean[i], cap, n);
    else probabilities(p + lanes.begin, dp + lanes.begin, scale, lse, w->mean[i], n);
    fill(p, all, seen, 0.0f);
    fill(dp, all, seen, 0.0f);
}

static void clear_row(const backward_work *w, int64_t i) {
    memset(w->p + i * LD, 0, (size_t)LD * sizeof *w->p);
    memset(w->dp + i * LD, 0, (size_t)LD * sizeof *w->dp);
}

static void gradient_rows(const backward_work *w, const block *b, const float *lse) {
    const int64_t all = tiled(b->rows);
    const int64_t used = min64(LD, b->keys + SPI_PAIRS_LANE);
    for (int64_t i = 0; i < all; i++) {
        if (i < b->rows) gradient_row(w, b, i, lse[b->row + i]);
        else clear_row(w, i);
        round_row((uint16_t *)(w->ds + i * (LD / 2)), w->dp + i * LD, used);
        if (i % 2 == 0) continue;
        pair_rows(w->p_pairs + i / 2 * LD, w->p + (i - 1) * LD, w->p + i * LD, used);
        pair_rows(w->ds_pairs + i / 2 * LD, w->dp + (i - 1) * LD, w->dp + i * LD, used);
    }
}

static void backward_block(const backward_work *w, block *b, float *dk, float *dv, const float *lse,
                           const spi_attn_packed *keys) {
    const int64_t d = b->attn->head_dim;
    memset(w->dq, 0, (size_t)(tiled(b->rows) * d) * sizeof *w->dq);
    for (int64_t key = first_key(b); take_keys(b, key); key += KEYS) {
        against_keys(w->p, b, w->q, keys->k_t);
        against_keys(w->dp, b, w->d_o, keys->v_t);
        gradient_rows(w, b, lse);
        with_queries(dv + key * d, b, w->p_pairs, w->d_o_n);
        with_queries(dk + key * d, b, w->ds_pairs, w->q_n);
        with_keys(w->dq, b, w->ds, keys->k_n, keys->pairs);
    }
}

void spi_attn_pairs_backward(spi_mat dq, float *dk, float *dv, spi_mat d_o, spi_mat o, const float *lse,
                             spi_mat q, const spi_attn_packed *keys, const spi_attn *attn, float *work) {
    const int64_t d = attn->head_dim;
    const backward_work w = backward_work_of(work, d);
    for (int64_t r = 0; r < q.rows; r += ROWS) {
        block b = block_of(attn, r, q.rows, 0);
        take_rows(w.q, q, &b);
        take_rows(w.d_o, d_o, &b);
        spi_pairs_rows(w.q_n, (b.rows + 1) / 2, q, r, b.rows);
        spi_pairs_rows(w.d_o_n, (b.rows + 1) / 2, d_o, r, b.rows);
        for (int64_t i = 0; i < b.rows; i++)
            w.mean[i] = dot_bf16(spi_mat_at(d_o, r + i, 0), spi_mat_at(o, r + i, 0), d);
        backward_block(&w, &b, dk, dv, lse, keys);
        spi_block_scale(w.dq, attn->scale, b.rows * d);
        spi_block_store(dq, r, b.rows, w.dq);
    }
}
