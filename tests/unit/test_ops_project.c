/* Products that share their input, with the norm before and the activation behind, against double precision. */
#include "check.h"

#include <stdio.h>

#define T_MOST 12
#define K_MOST 80
#define N_MOST 70

/* What is asked for: a norm (0: none, 1: RMS, 2: RMS with an offset, 3: LayerNorm), widths of the products. */
typedef struct project_case {
    sp_dtype dtype;
    int64_t t, k, n[3];
    int count, norm;
    bool transposed, bias, quantised;
} project_case;

typedef struct project_data {
    spi_mat x, room;
    spi_norm norm;
    float *norm_weight, *norm_bias, *bias[3], *scale[3];
    spi_weight w[3];
    spi_projection list[3];
    double *want[3], *slack[3]; /* of the products: their values, and what the f32 sums may be off */
} project_data;

static void norm_rows(double *n, const project_data *d, const project_case *c) {
    for (int64_t t = 0; t < c->t; t++, n += c->k) {
        double mean = 0, square = 0;
        for (int64_t i = 0; i < c->k; i++) n[i] = get(d->x, t, i);
        if (!c->norm) continue;
        for (int64_t i = 0; i < c->k && c->norm == 3; i++) mean += n[i] / (double)c->k;
        for (int64_t i = 0; i < c->k; i++) square += (n[i] - mean) * (n[i] - mean) / (double)c->k;
        for (int64_t i = 0; i < c->k; i++)
            n[i] = (n[i] - mean) / sqrt(square + (double)d->norm.eps) *
                       ((double)d->norm.offset + (double)d->norm_weight[i]) +
                   (d->norm.bias ? (double)d->norm.bias[i] : 0.0);
    }
}

static double weight_at(const project_data *d, int i, int64_t n, int64_t k) {
    if (d->scale[i]) return (double)d->scale[i][n] * ((const int8_t *)d->w[i].m.data)[n * d->w[i].m.ld + k];
    return d->w[i].transposed ? get(d->w[i].m, k, n) : get(d->w[i].m, n, k);
}

/* A normed row is rounded to its dtype before the products, and int8 weights where there are many rows. */
static void multiply(project_data *d, const project_case *c) {
    double *n = zeros(c->t * c->k);
    const double rounding = (c->norm ? unit_roundoff(c->dtype) + 8 * F32_ROUND : 0) +
                            (c->quantised ? unit_roundoff(c->dtype) : 0) + 16 * F32_ROUND;
    norm_rows(n, d, c);
    for (int i = 0; i < c->count; i++) {
        d->want[i] = zeros(c->t * c->n[i]);
        d->slack[i] = zeros(c->t * c->n[i]);
        for (int64_t at = 0; at < c->t * c->n[i]; at++) {
            const int64_t t = at / c->n[i], j = at % c->n[i];
            double sum = d->bias[i] ? (double)d->bias[i][j] : 0, size = fabs(sum);
            for (int64_t k = 0; k < c->k; k++) {
                const double v = n[t * c->k + k] * weight_at(d, i, j, k);
                sum += v;
                size += fabs(v);
            }
            d->want[i][at] = sum;
            d->slack[i][at] = rounding * size;
        }
    }
    free(n);
}

static spi_weight random_weight(const project_case *c, int i, float **scale) {
    spi_weight w = {.transposed = c->transposed};
    if (!c->quantised) {
        w.m = random_mat(c->dtype, c->transposed ? c->k : c->n[i], c->transposed ? c->n[i] : c->k, 0,
                         20 + (uint64_t)i);
        return w;
    }
    w.m = spi_mat_of(malloc((size_t)(c->n[i] * c->k)), SP_I8, c->n[i], c->k);
    assert_non_null(w.m.data);
    for (int64_t j = 0; j < c->n[i] * c->k; j++)
        ((int8_t *)w.m.data)[j] = (int8_t)(254 * spi_uniform(5, (uint64_t)i, (uint64_t)j) - 127);
    w.scale = *scale = random_vector(c->n[i], 30 + (uint64_t)i);
    for (int64_t j = 0; j < c->n[i]; j++) (*scale)[j] = 0.004f + 0.002f * (*scale)[j];
    return w;
}

static void make(project_data *d, const project_case *c, int64_t gap) {
    *d = (project_data){.x = random_mat(c->dtype, c->t, c->k, gap, 1),
                        .norm_weight = random_vector(c->k, 2),
                        .norm_bias = random_vector(c->k, 3)};
    if (c->norm) d->room = random_mat(c->dtype, c->t, c->k, 0, 4);
    d->norm = (spi_norm){.kind = c->norm == 3 ? SPI_NORM_LAYER : SPI_NORM_RMS,
                         .eps = 1e-5f,
                         .offset = c->norm == 2 ? 1.0f : 0.0f,
                         .groups = 1,
                         .weight = d->norm_weight,
                         .bias = c->norm == 3 && c->bias ? d->norm_bias : NULL};
    for (int i = 0; i < c->count; i++) {
        d->w[i] = random_weight(c, i, &d->scale[i]);
        d->bias[i] = c->bias && i != 1 ? random_vector(c->n[i], 10 + (uint64_t)i) : NULL;
        d->list[i] = (spi_projection){random_mat(c->dtype, c->t, c->n[i], gap, 15), &d->w[i], d->bias[i]};
    }
    multiply(d, c);
}

static void drop(project_data *d, int count) {
    free(d->x.data);
    free(d->room.data);
    free(d->norm_weight);
    free(d->norm_bias);
    for (int i = 0; i < count; i++) {
        free(d->w[i].m.data);
        free(d->scale[i]);
        free(d->bias[i]);
        free(d->list[i].y.data);
        free(d->want[i]);
        free(d->slack[i]);
    }
}

static void check_products(const char *what, const project_data *d, const project_case *c) {
    char name[120];
    for (int i = 0; i < c->count; i++) {
        snprintf(name, sizeof name, "%s, product %d, t %lld k %lld norm %d%s%s", what, i, (long long)c->t,
                 (long long)c->k, c->norm, c->transposed ? " transposed" : "", c->quantised ? " int8" : "");
        check_mat(name, d->list[i].y, d->want[i], unit_roundoff(c->dtype), d->slack[i], 0.0);
    }
}

/* ------------------------------------------------------------------ cases */

static const int64_t tokens[] = {1, 2, 5, 8, 9, T_MOST};
static const int64_t sizes[][4] = {{1, 1, 2, 3}, {33, 7, 5, 20}, {64, N_MOST, 32, 32}, {K_MOST, 17, 40, 1}};

/* Number i of all cases that differ in what the table of sizes does not say. */
static project_case case_of(int i) {
    const int64_t *size = sizes[i / 6 % 4];
    const int kind = i / 24 % 3;
    return (project_case){.dtype = i & 1 ? SP_BF16 : SP_F32,
                          .t = tokens[i % 6],
                          .k = size[0],
                          .n = {size[1], size[2], size[3]},
                          .count = 3,
                          .norm = i / 72 % 4,
                          .transposed = kind == 1,
                          .quantised = kind == 2,
                          .bias = (i / 3 + i / 24) & 1};
}
#define CASES (6 * 4 * 3 * 4)

static void test_project(void **state) {
    spi_device *dev = *state;
    for (int i = 0; i < 2 * CASES; i++) {
        project_case c = case_of(i % CASES);
        project_data d;
        if (i >= CASES) c.dtype = c.dtype == SP_F32 ? SP_BF16 : SP_F32;
        c.count = 1 + i % 3;
        make(&d, &c, i % 2 * 3);
        dev->op->project(dev, d.list, c.count, d.x, c.norm ? &d.norm : NULL, d.room);
        check_device(dev);
        check_products("project", &d, &c);
        drop(&d, c.count);
    }
}

static double activation(spi_activation act, double x) {
    switch (act) {
    case SPI_ACT_SILU: return x / (1.0 + exp(-x));
    case SPI_ACT_GELU_TANH: return 0.5 * x * (1.0 + tanh(sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
    case SPI_ACT_GELU_ERF: return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
    case SPI_ACT_RELU: return x > 0.0 ? x : 0.0;
    }
    return NAN;
}

/* A product and how far it may be off as it was rounded; nothing is one exactly. */
static void product_at(const project_data *d, const project_case *c, int i, int64_t t, int64_t j, double *value,
                       double *off) {
    const int64_t at = t * c->n[i] + j;
    *value = d->want[i][at];
    *off = d->slack[i][at] + unit_roundoff(c->dtype) * fabs(*value);
}

/* Two products, both in one, or a gate alone. No activation is steeper than 1.2. */
static void gated_once(spi_device *dev, project_case c, int form, spi_activation act, bool keep, int64_t gap) {
    const int64_t f = c.n[0];
    project_data d;
    c.n[1] = f;
    c.count = form == 0 ? 2 : 1;
    if (form == 1) c.n[0] = 2 * f;
    make(&d, &c, gap);
    const spi_mat y = random_mat(c.dtype, c.t, f, gap, 40);
    double *want = zeros(c.t * f), *slack = zeros(c.t * f);
    for (int64_t i = 0; i < c.t * f; i++) {
        double gate, gate_off, up = 1, up_off = 0;
        product_at(&d, &c, 0, i / f, i % f, &gate, &gate_off);
        if (form == 0) product_at(&d, &c, 1, i / f, i % f, &up, &up_off);
        if (form == 1) product_at(&d, &c, 0, i / f, f + i % f, &up, &up_off);
        want[i] = activation(act, gate) * up;
        slack[i] =
            (1.2 * gate_off + 16 * F32_ROUND) * (fabs(up) + up_off) + fabs(activation(act, gate)) * up_off;
    }
    dev->op->project_gated(dev, y, d.list, c.count, d.x, c.norm ? &d.norm : NULL, d.room, act, keep);
    check_device(dev);
    check_mat("project_gated", y, want, unit_roundoff(c.dtype) + 8 * F32_ROUND, slack, 0.0);
    if (keep) check_products("project_gated", &d, &c);
    free(want);
    free(slack);
    free(y.data);
    drop(&d, c.count);
}

static void test_project_gated(void **state) {
    for (int i = 0; i < 2 * CASES; i++) {
        project_case c = case_of(i % CASES);
        if (i >= CASES) c.dtype = c.dtype == SP_F32 ? SP_BF16 : SP_F32;
        gated_once(*state, c, i % 3, (spi_activation)(i / 3 % 4), i / 5 & 1, i % 2 * 3);
    }
}

/* x stays, and after a failure so does everything. */
static void test_manners(void **state) {
    spi_device *dev = *state;
    const project_case c = {.dtype = SP_BF16, .t = 3, .k = 40, .n = {16, 16}, .count = 2, .norm = 1};
    project_data d;
    make(&d, &c, 2);
    const spi_mat before = copy_mat(d.x), y = random_mat(c.dtype, c.t, 16, 0, 9);
    dev->op->project_gated(dev, y, d.list, 2, d.x, &d.norm, d.room, SPI_ACT_SILU, true);
    for (int64_t i = 0; i < c.t * c.k; i++)
        assert_true(get(d.x, i / c.k, i % c.k) == get(before, i / c.k, i % c.k));
    memset(y.data, 0, (size_t)(c.t * 16) * 2);
    dev->status = SP_ERR_MEMORY;
    dev->op->project_gated(dev, y, d.list, 2, d.x, &d.norm, d.room, SPI_ACT_SILU, true);
    dev->op->project(dev, &(spi_projection){y, &d.w[0], NULL}, 1, d.x, NULL, (spi_mat){0});
    dev->status = SP_OK;
    for (int64_t i = 0; i < c.t * 16; i++) assert_true(get(y, i / 16, i % 16) == 0.0);
    d.x.rows = d.room.rows = d.list[0].y.rows = d.list[1].y.rows = 0;
    dev->op->project(dev, d.list, 2, d.x, &d.norm, d.room);
    check_device(dev);
    free(before.data);
    free(y.data);
    drop(&d, 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_project, setup_device, teardown_device),
        cmocka_unit_test_setup_teardown(test_project_gated, setup_device, teardown_device),
        cmocka_unit_test_setup_teardown(test_manners, setup_device, teardown_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
