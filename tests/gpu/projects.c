/* Products that share their input, with the norm before them and the activation behind them. */
#include "harness.h"

/* Widths of up to three products of k columns; a norm of kind - 1, or none. */
typedef struct projecting {
    int64_t t, k, n[3];
    int count, norm;
    weight_kind kind;
    spi_activation act;
    bool bias, offset, keep;
} projecting;

static const char *const norm_names[] = {"no norm", "rms", "layer"};
static const char *const kind_names[] = {"", " transposed", " int8"};

/* Small weights: sums are about 1, where activations bend. */
static const spi_norm *norm_of(run *r, const projecting *p, spi_norm *norm) {
    const float offset = p->offset ? 1.0f : 0.0f;
    if (!p->norm) return NULL;
    *norm = (spi_norm){.kind = p->norm == 1 ? SPI_NORM_RMS : SPI_NORM_LAYER,
                       .eps = 1e-6f,
                       .offset = offset,
                       .groups = 1,
                       .weight = in_vector(r, p->k, 0.02f - offset, 0.15f - offset)};
    if (p->norm == 2 && p->bias) norm->bias = in_vector(r, p->k, -0.1f, 0.1f);
    return norm;
}

static spi_mat room_of(run *r, const projecting *p) {
    return p->norm ? work_mat(r, held(r, r->dtype), p->t, p->k) : (spi_mat){0};
}

static void inputs(run *r, const projecting *p, spi_weight *weights, spi_projection *list) {
    for (int i = 0; i < p->count; i++) {
        weights[i] = in_weight(r, p->kind, p->n[i], p->k);
        list[i].w = &weights[i];
        list[i].bias = p->bias && i != 1 ? in_vector(r, p->n[i], -1, 1) : NULL;
    }
}

static void project(run *r, const void *params) {
    static const char *const names[] = {"q", "k", "v"};
    const projecting *p = params;
    spi_weight weights[3];
    spi_projection list[3];
    spi_norm norm;
    const spi_mat x = in_mat(r, p->t, p->k, p->norm ? 2 : 0.1f);
    const spi_norm *n = norm_of(r, p, &norm);
    inputs(r, p, weights, list);
    for (int i = 0; i < p->count; i++) list[i].y = out_mat(r, names[i], p->t, p->n[i]);
    r->dev->op->project(r->dev, list, p->count, x, n, room_of(r, p));
}

/* n[0] is the width of the result: `count` is 2 for gate and up, 1 for both in one or, with n[1] = 0, for a
 * gate alone. */
static void project_gated(run *r, const void *params) {
    projecting p = *(const projecting *)params;
    const int64_t f = p.n[0];
    spi_weight weights[3];
    spi_projection list[3];
    spi_norm norm;
    const spi_mat x = in_mat(r, p.t, p.k, p.norm ? 2 : 0.1f);
    const spi_norm *n = norm_of(r, &p, &norm);
    if (p.count == 1 && p.n[1]) p.n[0] += p.n[1];
    inputs(r, &p, weights, list);
    for (int i = 0; i < p.count; i++)
        list[i].y =
            p.keep ? out_mat(r, i ? "up" : "gate", p.t, p.n[i]) : work_mat(r, held(r, r->dtype), p.t, p.n[i]);
    const spi_mat y = out_mat(r, "y", p.t, f);
    r->dev->op->project_gated(r->dev, y, list, p.count, x, n, room_of(r, &p), p.act, p.keep);
}

/* ------------------------------------------------------------------ cases */

static const int64_t rows[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 33};
#define ROWS (sizeof rows / sizeof *rows)

/* Both sides of every choice: columns fit for vectors of each dtype, warps that share a row, rows too long for
 * a norm in every block, a row that its threads go over more than once. */
static const int64_t sizes[][4] = {
    /* k, n */
    {1024, 256, 128, 128}, {64, 50, 7, 3},     {33, 10, 20, 30},   {1003, 17, 9, 65},
    {4096, 33, 29, 22},    {48, 100, 11, 17},  {8, 21, 11, 31},    {4, 29, 12, 12},
    {2048, 40, 28, 28},    {1100, 32, 28, 27}, {8192, 45, 33, 32}, {8208, 45, 33, 32},
};
#define SIZES (sizeof sizes / sizeof *sizes)

/* One case of turn `turn`: how many products and which norm go round with it. */
static projecting case_of(const int64_t *size, int64_t t, int kind, int turn, bool gated) {
    projecting p = {.t = t,
                    .k = size[0],
                    .n = {size[1], size[2], size[3]},
                    .count = turn / 3 % 3 + 1,
                    .norm = turn % 3,
                    .kind = (weight_kind)kind,
                    .act = (spi_activation)(turn % 4),
                    .bias = turn / 2 % 2,
                    .offset = turn % 2,
                    .keep = turn / 4 % 2};
    if (gated) { /* a gate alone, both in one, two */
        p.n[1] = p.count > 1 ? p.n[0] : 0;
        p.count = p.count == 3 ? 2 : 1;
    }
    return p;
}

static void over_cases(checks *c, body_fn *body, bool gated) {
    for (int d = 0; d < 2; d++)
        for (size_t s = 0; s < SIZES; s++)
            for (size_t t = 0; t < ROWS; t++)
                for (int kind = 0; kind < WEIGHT_KINDS; kind++)
                    for (int i = 0; i < 3; i++) {
                        const int turn = 4 * i + (int)(s + 3 * t) + kind;
                        const projecting p = case_of(sizes[s], rows[t], kind, turn, gated);
                        const view v = s % 3 ? (view)(turn / 2 % VIEWS) : VIEW_PLAIN;
                        compare(c, dtypes[d], v, body, &p, "T=%d K=%d N=%d+%d x%d %s%s%s%s act %d%s", (int)p.t,
                                (int)p.k, (int)p.n[0], (int)p.n[1], p.count, norm_names[p.norm],
                                p.offset ? " offset" : "", kind_names[kind], p.bias ? " bias" : "", (int)p.act,
                                p.keep ? " kept" : "");
                    }
}

static void check_project(checks *c) {
    over_cases(c, project, false);
}

static void check_project_gated(checks *c) {
    over_cases(c, project_gated, true);
}

const check project_checks[] = {{"project", check_project}, {"project_gated", check_project_gated}, {0}};
