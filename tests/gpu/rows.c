/* Operations on rows: memory, embedding, gather, scatter, sums, norms, gated MLPs. */
#include <stdlib.h>
#include <string.h>

#include "harness.h"

static const int64_t columns[] = {1, 5, 64, 333, 1024, 4097};
#define COLUMNS (sizeof columns / sizeof *columns)

typedef struct shape {
    int64_t t, n;
    const int32_t *ids;
    bool positions, int8, flag, in_place;
    float a;
} shape;

/* For both dtypes, all numbers of tokens, and some columns with a view each. */
static void over_shapes(checks *c, body_fn *body, shape p, const char *what) {
    for (int d = 0; d < 2; d++)
        for (int t = 0; t < TOKEN_COUNTS; t++)
            for (size_t k = 0; k < COLUMNS; k++) {
                p.t = token_counts[t];
                p.n = columns[k];
                compare(c, dtypes[d], (view)(((size_t)t + k) % VIEWS), body, &p, "T=%d n=%d%s", (int)p.t,
                        (int)p.n, what);
            }
}

/* ------------------------------------------------------------------ memory */

/* copy and zero of any number of bytes at any address. */
static void memory(run *r, const void *params) {
    const shape *p = params;
    const char *from = in_array(r, SP_I8, p->ids, p->n + 3);
    char *to = inout_array(r, "to", SP_I8, p->ids, 2 * p->n + 9);
    r->dev->op->copy(r->dev, to + 1, from + 3, (size_t)p->n);
    r->dev->op->zero(r->dev, to + p->n + 5, (size_t)p->n);
}

static void check_memory(checks *c) {
    static int32_t bytes[4096];
    uint64_t state = 3;
    for (size_t i = 0; i < sizeof bytes / sizeof *bytes; i++) bytes[i] = (int32_t)random_bits(&state);
    for (size_t k = 0; k < COLUMNS; k++)
        compare(c, SP_F32, VIEW_PLAIN, memory, &(shape){.n = columns[k], .ids = bytes}, "%d bytes",
                (int)columns[k]);
    size_t unused = 0, total = 0;
    c->test->op->memory(c->test, &unused, &total);
    if (unused > total) complain(c, "memory: %zu bytes free of %zu", unused, total);
}

/* ------------------------------------------------------------------ embedding, gather, scatter, add */

#define WORDS 97

/* Some words again and again, some never. */
static int32_t *random_ids(int64_t t) {
    uint64_t state = (uint64_t)t;
    int32_t *ids = malloc((size_t)(t + 1) * sizeof *ids);
    for (int64_t i = 0; ids && i < t; i++)
        ids[i] = i % 3 == 0 ? 11 : i % 3 == 1 ? WORDS - 1 : random_below(&state, WORDS);
    return ids;
}

static void embedding(run *r, const void *params) {
    const shape *p = params;
    const view asked = r->view;
    r->view = VIEW_PLAIN;
    const spi_weight table = in_weight(r, p->int8 ? WEIGHT_I8 : WEIGHT, WORDS, p->n);
    const spi_mat places = in_mat(r, WORDS, p->n, 1);
    r->view = asked;
    int32_t *ids = random_ids(p->t);
    const int32_t *on_device = in_ints(r, ids, p->t), *positions = in_ints(r, ids, p->t);
    const spi_mat y = out_mat(r, "y", p->t, p->n);
    r->dev->op->embedding(r->dev, y, &table, on_device, p->a, p->positions ? &places : NULL,
                          p->positions ? positions : NULL);
    free(ids);
}

static void check_embedding(checks *c) {
    over_shapes(c, embedding, (shape){.a = 1}, "");
    over_shapes(c, embedding, (shape){.a = 32, .positions = true}, " scale positions");
    over_shapes(c, embedding, (shape){.a = 0.5f, .int8 = true}, " int8");
}

static void embedding_backward(run *r, const void *params) {
    const shape *p = params;
    int32_t *ids = random_ids(p->t);
    const int32_t *on_device = in_ints(r, ids, p->t);
    const spi_mat dy = in_mat(r, p->t, p->n, 1);
    float *dtable = inout_vector(r, "dtable", WORDS * p->n, -1, 1);
    r->dev->op->embedding_backward(r->dev, dtable, dy, on_device, 1.5f);
    free(ids);
}

static void check_embedding_backward(checks *c) {
    over_shapes(c, embedding_backward, (shape){0}, " repeated ids");
}

/* The same row is read more than once. */
static void gather(run *r, const void *params) {
    const shape *p = params;
    int32_t *index = random_ids(p->t);
    const spi_mat x = in_mat(r, WORDS, p->n, 1);
    const int32_t *on_device = in_ints(r, index, p->t);
    const spi_mat y = out_mat(r, "y", p->t, p->n);
    r->dev->op->gather_rows(r->dev, y, x, on_device);
    free(index);
}

static void check_gather(checks *c) {
    over_shapes(c, gather, (shape){0}, "");
}

/* Every other row of twice as many, from the last to the first. */
static void scatter(run *r, const void *params) {
    const shape *p = params;
    int32_t *index = malloc((size_t)(p->t + 1) * sizeof *index);
    for (int64_t i = 0; index && i < p->t; i++) index[i] = (int32_t)(2 * (p->t - 1 - i) + 1);
    const spi_mat x = in_mat(r, p->t, p->n, 1);
    const int32_t *on_device = in_ints(r, index, p->t);
    const spi_mat y = inout_mat(r, "y", 2 * p->t, p->n, 1);
    r->dev->op->scatter_rows(r->dev, y, x, on_device);
    free(index);
}

static void check_scatter(checks *c) {
    over_shapes(c, scatter, (shape){0}, "");
}

static void add(run *r, const void *params) {
    const shape *p = params;
    const spi_mat x = in_mat(r, p->t, p->n, 1), y = inout_mat(r, "y", p->t, p->n, 1);
    r->dev->op->add(r->dev, y, x, p->a);
}

static void check_add(checks *c) {
    over_shapes(c, add, (shape){.a = 1}, "");
    over_shapes(c, add, (shape){.a = -0.37f}, " a=-0.37");
}

/* ------------------------------------------------------------------ norms */

typedef struct norming {
    int64_t t, groups, each;
    spi_norm_kind kind;
    float offset;
    bool bias, in_place, accumulate, weights;
} norming;

static const int64_t norm_shapes[][2] = {{1, 5}, {1, 64}, {1, 1024}, {1, 4096}, {1, 4099}, {3, 37}, {16, 128}};
#define NORM_SHAPES (sizeof norm_shapes / sizeof *norm_shapes)

static spi_norm norm_of(run *r, const norming *p) {
    spi_norm n = {.kind = p->kind, .eps = 1e-6f, .offset = p->offset, .groups = p->groups};
    n.weight = in_vector(r, p->each, p->offset > 0 ? -0.5f : 0.5f, p->offset > 0 ? 0.5f : 1.5f);
    const float *bias = in_vector(r, p->each, -1, 1);
    n.bias = p->bias ? bias : NULL;
    return n;
}

static void norm(run *r, const void *params) {
    const norming *p = params;
    const spi_norm n = norm_of(r, p);
    spi_mat x, y;
    if (p->in_place) x = y = inout_mat(r, "y", p->t, p->groups * p->each, 2);
    else {
        x = in_mat(r, p->t, p->groups * p->each, 2);
        y = out_mat(r, "y", p->t, p->groups * p->each);
    }
    r->dev->op->norm(r->dev, y, x, &n);
}

static void norm_backward(run *r, const void *params) {
    const norming *p = params;
    const int64_t cols = p->groups * p->each;
    const spi_norm n = norm_of(r, p);
    const spi_mat x = in_mat(r, p->t, cols, 2);
    spi_mat dx, dy;
    if (p->in_place) dx = dy = inout_mat(r, "dx", p->t, cols, 1);
    else {
        dy = in_mat(r, p->t, cols, 1);
        dx = p->accumulate ? inout_mat(r, "dx", p->t, cols, 1) : out_mat(r, "dx", p->t, cols);
    }
    float *dweight = p->weights ? inout_vector(r, "dweight", p->each, -1, 1) : NULL;
    float *dbias = p->weights && p->bias ? inout_vector(r, "dbias", p->each, -1, 1) : NULL;
    r->dev->op->norm_backward(r->dev, dx, dy, x, &n, dweight, dbias, p->accumulate);
}

static void over_norms(checks *c, body_fn *body, bool backward) {
    static const char *const kinds[] = {"rms", "layer"};
    for (int d = 0; d < 2; d++)
        for (int t = 0; t < TOKEN_COUNTS; t++)
            for (size_t s = 0; s < NORM_SHAPES; s++)
                for (int kind = 0; kind < 2; kind++)
                    for (int form = 0; form < (backward ? 4 : 2); form++) {
                        norming p = {.t = token_counts[t],
                                     .groups = norm_shapes[s][0],
                                     .each = norm_shapes[s][1],
                                     .kind = kind ? SPI_NORM_LAYER : SPI_NORM_RMS};
                        p.offset = (float)((t + (int)s) % 2);
                        p.bias = kind == 1 && s != 3;
                        p.in_place = form == 1;
                        p.accumulate = form == 2;
                        p.weights = form != 3;
                        compare(c, dtypes[d], (view)(((size_t)t + s) % VIEWS), body, &p,
                                "T=%d %dx%d %s%s%s%s%s", (int)p.t, (int)p.groups, (int)p.each, kinds[kind],
                                p.offset > 0 ? " offset" : "", p.in_place ? " in place" : "",
                                p.accumulate ? " accumulate" : "", backward && !p.weights ? " no dweight" : "");
                    }
}

static void check_norm(checks *c) {
    over_norms(c, norm, false);
}

static void check_norm_backward(checks *c) {
    over_norms(c, norm_backward, true);
}

/* ------------------------------------------------------------------ gated */

typedef struct gating {
    int64_t t, f;
    spi_activation act;
    bool up;
    int form; /* 0: apart; 1: y is gate, dgate is gate and dup is up; 2: dgate is dy; 3: dup is dy */
} gating;

static void gated(run *r, const void *params) {
    const gating *p = params;
    const spi_mat up = p->up ? in_mat(r, p->t, p->f, 2) : (spi_mat){0};
    spi_mat gate, y;
    if (p->form == 1) gate = y = inout_mat(r, "y", p->t, p->f, 3);
    else {
        gate = in_mat(r, p->t, p->f, 3);
        y = out_mat(r, "y", p->t, p->f);
    }
    r->dev->op->gated(r->dev, y, gate, up, p->act);
}

static void gated_backward(run *r, const void *params) {
    const gating *p = params;
    spi_mat dy, gate, up = {0}, dgate, dup = {0};
    if (p->form == 1) {
        dy = in_mat(r, p->t, p->f, 1);
        dgate = gate = inout_mat(r, "dgate", p->t, p->f, 3);
        if (p->up) dup = up = inout_mat(r, "dup", p->t, p->f, 2);
    } else {
        gate = in_mat(r, p->t, p->f, 3);
        if (p->up) up = in_mat(r, p->t, p->f, 2);
        dy = p->form ? inout_mat(r, "dy", p->t, p->f, 1) : in_mat(r, p->t, p->f, 1);
        dgate = p->form == 2 ? dy : out_mat(r, "dgate", p->t, p->f);
        if (p->up) dup = p->form == 3 ? dy : out_mat(r, "dup", p->t, p->f);
    }
    r->dev->op->gated_backward(r->dev, dgate, dup, dy, gate, up, p->act);
}

static void over_gates(checks *c, body_fn *body, int forms) {
    static const char *const acts[] = {"silu", "gelu tanh", "gelu erf", "relu"};
    static const int64_t widths[] = {1, 37, 512, 3072};
    for (int d = 0; d < 2; d++)
        for (int t = 0; t < TOKEN_COUNTS; t++)
            for (int k = 0; k < 4; k++)
                for (int act = 0; act < 4; act++)
                    for (int form = 0; form < forms; form++) {
                        const gating p = {token_counts[t], widths[k], (spi_activation)act, (k + act) % 3 != 2,
                                          form};
                        if (form == 3 && !p.up) continue;
                        compare(c, dtypes[d], (view)((t + k) % VIEWS), body, &p, "T=%d f=%d %s%s%s", (int)p.t,
                                (int)p.f, acts[act], p.up ? "" : " no up",
                                form == 1   ? " in place"
                                : form == 2 ? " dgate in dy"
                                : form      ? " dup in dy"
                                            : "");
                    }
}

static void check_gated(checks *c) {
    over_gates(c, gated, 2);
}

static void check_gated_backward(checks *c) {
    over_gates(c, gated_backward, 4);
}

const check row_checks[] = {{"memory", check_memory},
                            {"embedding", check_embedding},
                            {"embedding_backward", check_embedding_backward},
                            {"gather_rows", check_gather},
                            {"scatter_rows", check_scatter},
                            {"add", check_add},
                            {"norm", check_norm},
                            {"norm_backward", check_norm_backward},
                            {"gated", check_gated},
                            {"gated_backward", check_gated_backward},
                            {0}};
