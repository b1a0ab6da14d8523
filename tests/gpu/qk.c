/* Norms and rotation of queries and keys. */
#include <stdlib.h>

#include "harness.h"

typedef enum norms { NONE, OF_HEADS, OF_ROWS, LAYERS_OF_HEADS } norms;

static const struct form {
    const char *name;
    norms norms;
    bool last;
} forms[] = {{"no norm", NONE, false},
             {"norms of heads", OF_HEADS, false},
             {"norms of heads last", OF_HEADS, true},
             {"norms of rows", OF_ROWS, false},
             {"norms of rows last", OF_ROWS, true},
             {"layer norms of heads", LAYERS_OF_HEADS, false}};

/* Qwen3, Qwen3-8B, Gemma 3, Phi-2, LLaMA 3.2; tails of vectors that are not rotated, halves of no whole ones.
 */
static const int32_t sizes[][4] = {{16, 8, 128, 128}, {32, 8, 128, 128}, {4, 1, 256, 256}, {3, 3, 80, 32},
                                   {9, 3, 64, 64},    {7, 2, 128, 0},    {1, 1, 40, 16},   {2, 1, 96, 72},
                                   {5, 5, 6, 6},      {2, 1, 8, 8},      {3, 1, 264, 264}};
#define SIZES (sizeof sizes / sizeof *sizes)

typedef struct turning {
    int64_t t;
    int32_t heads, kv_heads, head_dim, rotary_dim;
    const struct form *form;
    bool in_place, weights;
} turning;

static spi_norm norm_of(run *r, const turning *p, int32_t heads, float offset) {
    const bool layers = p->form->norms == LAYERS_OF_HEADS;
    const int64_t groups = p->form->norms == OF_ROWS ? 1 : heads, each = (int64_t)heads * p->head_dim / groups;
    const float *weight = in_vector(r, each, 0.5f - offset, 1.5f - offset), *bias = in_vector(r, each, -1, 1);
    return (spi_norm){
        layers ? SPI_NORM_LAYER : SPI_NORM_RMS, 1e-6f, offset, groups, weight, layers ? bias : NULL};
}

static spi_qk qk_of(run *r, const turning *p) {
    enum { POSITIONS = 2048 };
    const float offset = p->heads % 2 ? 1.0f : 0.0f;
    uint64_t state = 5;
    int32_t *positions = malloc((size_t)(p->t + 1) * sizeof *positions);
    for (int64_t i = 0; positions && i < p->t; i++) positions[i] = random_below(&state, POSITIONS);
    spi_qk qk = {.heads = p->heads,
                 .kv_heads = p->kv_heads,
                 .head_dim = p->head_dim,
                 .rotary_dim = p->rotary_dim,
                 .norms = p->form->norms != NONE,
                 .norm_last = p->form->last};
    qk.cos = in_vector(r, POSITIONS * p->rotary_dim / 2, -1, 1);
    qk.sin = in_vector(r, POSITIONS * p->rotary_dim / 2, -1, 1);
    qk.positions = in_ints(r, positions, p->t);
    qk.q_norm = norm_of(r, p, p->heads, offset);
    qk.k_norm = norm_of(r, p, p->kv_heads, offset);
    free(positions);
    return qk;
}

static void qk(run *r, const void *params) {
    const turning *p = params;
    const int64_t cols = (int64_t)(p->heads + p->kv_heads) * p->head_dim;
    const spi_qk at = qk_of(r, p);
    spi_mat x, y;
    if (p->in_place) x = y = inout_mat(r, "y", p->t, cols, 2);
    else {
        x = p->form->last ? inout_mat(r, "x", p->t, cols, 2) : in_mat(r, p->t, cols, 2);
        y = out_mat(r, "y", p->t, cols);
    }
    r->dev->op->qk(r->dev, y, x, &at);
}

static void qk_backward(run *r, const void *params) {
    const turning *p = params;
    const int64_t cols = (int64_t)(p->heads + p->kv_heads) * p->head_dim;
    const spi_qk at = qk_of(r, p);
    const spi_mat x = in_mat(r, p->t, cols, 2);
    spi_mat dx, dy;
    if (p->in_place) dx = dy = inout_mat(r, "dx", p->t, cols, 1);
    else {
        dy = in_mat(r, p->t, cols, 1);
        dx = out_mat(r, "dx", p->t, cols);
    }
    float *dq = NULL, *dk = NULL;
    if (p->weights && at.norms) {
        dq = inout_vector(r, "dq_weight", (int64_t)p->heads * p->head_dim / at.q_norm.groups, -1, 1);
        dk = inout_vector(r, "dk_weight", (int64_t)p->kv_heads * p->head_dim / at.k_norm.groups, -1, 1);
    }
    r->dev->op->qk_backward(r->dev, dx, dy, x, &at, dq, dk);
}

/* In place or not, with the gradients of weights or not, and the views: as the case's numbers come. */
static void over_cases(checks *c, body_fn *body) {
    for (int d = 0; d < 2; d++)
        for (int t = 0; t < TOKEN_COUNTS; t++)
            for (size_t s = 0; s < SIZES; s++)
                for (size_t f = 0; f < sizeof forms / sizeof *forms; f++) {
                    const size_t number = (size_t)t + s + f;
                    const turning p = {token_counts[t], sizes[s][0], sizes[s][1], sizes[s][2],
                                       sizes[s][3],     &forms[f],   number % 2,  number / 2 % 2};
                    compare(c, dtypes[d], (view)(number % VIEWS), body, &p,
                            "T=%d %d+%d heads of %d, %d, %s%s%s", (int)p.t, p.heads, p.kv_heads, p.head_dim,
                            p.rotary_dim, p.form->name, p.in_place ? " in place" : "",
                            p.weights && body == qk_backward ? " dweights" : "");
                }
}

static void check_qk(checks *c) {
    over_cases(c, qk);
}

static void check_qk_backward(checks *c) {
    over_cases(c, qk_backward);
}

const check qk_checks[] = {{"qk", check_qk}, {"qk_backward", check_qk_backward}, {0}};
