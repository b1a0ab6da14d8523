/*
 * Update, in both forms, against a double-precision reference; its gradients against finite differences of the
 * reference, dropout included.
 */
#include "shadow_check.h"

/* A parameter that a form lacks has size 0 and is NULL. */
enum { W0, W3, V0, V2, NORM_WEIGHT, NORM_BIAS, B0, B3, C0, C2, PARAMS };

typedef struct updating {
    int64_t t, d;
    spi_update up;
    spi_mat h, s, s_out;
    float *z; /* [T, 2g] */
    float *param[PARAMS];
    int64_t size[PARAMS];
    double *h_ref, *s_ref, *ref[PARAMS];
    double *z_ref, *out_ref; /* [T, 2g], [T, d] */
    double *weight;          /* [T, d]: the objective is sum(weight * s_out) */
} updating;

static updating updating_of(const shape *s, int form) {
    const int64_t d = s->d, g = s->inner, norm = form == PEFT ? 0 : d, bias = form == PEFT;
    updating x = {.t = s->tokens,
                  .d = d,
                  .size = {g * d, d * g, g * d, d * g, norm, norm, bias * g, bias * d, bias * g, bias * d}};
    for (int i = 0; i < PARAMS; i++) {
        if (x.size[i] > 0) x.param[i] = random_vector(x.size[i], 10 + (uint64_t)i);
        for (int64_t j = 0; j < x.size[i]; j++)
            if (i == NORM_WEIGHT) x.param[i][j] = 1.0f + 0.5f * x.param[i][j];
            else if (i == W0 || i == V0) x.param[i][j] *= 0.4f;
        x.ref[i] = doubles_of(x.param[i], x.size[i]);
    }
    x.up = (spi_update){.g = g,
                        .eps = 1e-5f,
                        .act = form == PEFT ? SPI_ACT_GELU_ERF : SPI_ACT_SILU,
                        .norm_weight = x.param[NORM_WEIGHT],
                        .norm_bias = x.param[NORM_BIAS],
                        .w0 = x.param[W0],
                        .w3 = x.param[W3],
                        .v0 = x.param[V0],
                        .v2 = x.param[V2],
                        .b0 = x.param[B0],
                        .b3 = x.param[B3],
                        .c0 = x.param[C0],
                        .c2 = x.param[C2],
                        .dropout = {s->dropout, 78, 6}};
    x.h = random_mat(s->dtype, x.t, d, 2, 1);
    x.s = random_mat(s->dtype, x.t, d, 0, 2);
    x.s_out = random_mat(s->dtype, x.t, d, 5, 3);
    x.z = random_vector(x.t * 2 * g, 4);
    poison(x.s_out);
    poison(spi_mat_of(x.z, SP_F32, x.t, 2 * g));
    x.h_ref = values(x.h);
    x.s_ref = values(x.s);
    x.z_ref = zeros(x.t * 2 * g);
    x.out_ref = zeros(x.t * d);
    return x;
}

static void updating_free(updating *x) {
    double *all[] = {x->h_ref, x->s_ref, x->z_ref, x->out_ref, x->weight};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    for (int i = 0; i < PARAMS; i++) {
        free(x->param[i]);
        free(x->ref[i]);
    }
    free(x->h.data);
    free(x->s.data);
    free(x->s_out.data);
    free(x->z);
}

static double sigmoid(double v) {
    return 1.0 / (1.0 + exp(-v));
}

/* u [d] = LayerNorm(h) */
static void ref_norm(const updating *x, const double *h, double *u) {
    double mean = 0.0, var = 0.0;
    for (int64_t i = 0; i < x->d; i++) mean += h[i] / (double)x->d;
    for (int64_t i = 0; i < x->d; i++) var += (h[i] - mean) * (h[i] - mean) / (double)x->d;
    for (int64_t i = 0; i < x->d; i++)
        u[i] = (h[i] - mean) / sqrt(var + (double)x->up.eps) * x->ref[NORM_WEIGHT][i] + x->ref[NORM_BIAS][i];
}

/* PEFT's ShadowLayer has torch.nn.GELU between its linear layers, shadow_peft torch.nn.SiLU. */
static double activation(const updating *x, double z) {
    return x->up.act == SPI_ACT_GELU_ERF ? 0.5 * z * (1.0 + erf(z / sqrt(2.0))) : z * sigmoid(z);
}

/* Element i of W x + bias; W has n columns. */
static double affine(const double *w, const double *bias, int64_t i, const double *x, int64_t n, bool biased) {
    double sum = biased ? bias[i] : 0.0;
    for (int64_t j = 0; j < n; j++) sum += w[i * n + j] * x[j];
    return sum;
}

static void updating_row(const updating *x, int64_t t, double *u, double *a) {
    const int64_t d = x->d, g = x->up.g;
    const bool biased = x->size[B0] > 0;
    double *z = x->z_ref + t * 2 * g;
    if (x->size[NORM_WEIGHT] > 0) ref_norm(x, x->h_ref + t * d, u);
    else memcpy(u, x->h_ref + t * d, (size_t)d * sizeof *u);
    for (int64_t j = 0; j < g; j++) {
        z[j] = affine(x->ref[W0], x->ref[B0], j, u, d, biased);
        z[g + j] = affine(x->ref[V0], x->ref[C0], j, u, d, biased);
        a[j] = activation(x, z[j]) * mask(&x->up.dropout, t * g + j);
        a[g + j] = activation(x, z[g + j]);
    }
    for (int64_t i = 0; i < d; i++) {
        const double to = affine(x->ref[W3], x->ref[B3], i, a, g, biased);
        const double q = sigmoid(affine(x->ref[V2], x->ref[C2], i, a + g, g, biased));
        x->out_ref[t * d + i] = (1.0 - q) * x->s_ref[t * d + i] + q * to;
    }
}

static double updating_objective(const void *problem) {
    const updating *x = problem;
    double sum = 0.0, *u = zeros(x->d), *a = zeros(2 * x->up.g);
    for (int64_t t = 0; t < x->t; t++) updating_row(x, t, u, a);
    for (int64_t i = 0; x->weight && i < x->t * x->d; i++) sum += x->weight[i] * x->out_ref[i];
    free(u);
    free(a);
    return sum;
}

static void check_update(spi_device *dev, const shape *at, int form) {
    updating x = updating_of(at, form);
    dev->op->update(dev, x.s_out, x.z, x.h, x.s, &x.up);
    check_device(dev);
    updating_objective(&x);
    print_message("update, %s: %s\n", form_name[form], at->name);
    check_vector("z", x.z, x.z_ref, x.t * 2 * x.up.g, 2e-6, 1e-5);
    check_mat("s_out", x.s_out, x.out_ref, rounding(at->dtype), NULL, 1e-5);
    dev->op->update(dev, x.s, NULL, x.h, x.s, &x.up);
    check_device(dev);
    assert_true(same(x.s, x.s_out)); /* in place, z not wanted */
    updating_free(&x);
}

static void test_update(void **state) {
    for (int form = 0; form < FORMS; form++)
        for (size_t i = 0; i < SHAPES; i++) check_update(*state, &shapes[i], form);
}

typedef struct updating_grads {
    spi_mat dh, ds;
    float *param[PARAMS];
    double *dh_before, *before[PARAMS];
} updating_grads;

static updating_grads updating_backward(spi_device *dev, updating *x) {
    updating_grads g = {.dh = random_mat(x->h.dtype, x->t, x->d, 1, 20),
                        .ds = random_mat(x->h.dtype, x->t, x->d, 3, 21)};
    x->weight = values(g.ds);
    g.dh_before = values(g.dh);
    for (int i = 0; i < PARAMS; i++) {
        if (x->size[i] > 0) g.param[i] = random_vector(x->size[i], 22 + (uint64_t)i);
        g.before[i] = doubles_of(g.param[i], x->size[i]);
    }
    const spi_update_grads grads = {.norm_weight = g.param[NORM_WEIGHT],
                                    .norm_bias = g.param[NORM_BIAS],
                                    .w0 = g.param[W0],
                                    .w3 = g.param[W3],
                                    .v0 = g.param[V0],
                                    .v2 = g.param[V2],
                                    .b0 = g.param[B0],
                                    .b3 = g.param[B3],
                                    .c0 = g.param[C0],
                                    .c2 = g.param[C2]};
    dev->op->update(dev, x->s_out, x->z, x->h, x->s, &x->up);
    dev->op->update_backward(dev, g.dh, g.ds, &grads, x->h, x->s, x->z, &x->up);
    check_device(dev);
    return g;
}

static void updating_grads_free(updating_grads *g) {
    free(g->dh.data);
    free(g->ds.data);
    free(g->dh_before);
    for (int i = 0; i < PARAMS; i++) {
        free(g->param[i]);
        free(g->before[i]);
    }
}

static const char *const param_name[PARAMS] = {"dw0",       "dw3", "dv0", "dv2", "norm weight",
                                               "norm bias", "db0", "db3", "dc0", "dc2"};

static void check_differences(spi_device *dev, const shape *at, int form) {
    updating x = updating_of(at, form);
    updating_grads g = updating_backward(dev, &x);
    const int64_t n = x.t * x.d;
    double *dh = slopes(updating_objective, &x, x.h_ref, n);
    double *ds = slopes(updating_objective, &x, x.s_ref, n);
    for (int64_t j = 0; j < n; j++) dh[j] += g.dh_before[j];
    print_message("update differences, %s: %s\n", form_name[form], at->name);
    check_mat("dh", g.dh, dh, SLOPE_RELATIVE, NULL, 4e-6);
    check_mat("ds", g.ds, ds, SLOPE_RELATIVE, NULL, 1e-6);
    for (int j = 0; j < PARAMS; j++) {
        double *slope = slopes(updating_objective, &x, x.ref[j], x.size[j]);
        subtract(g.param[j], g.before[j], x.size[j]);
        check_vector(param_name[j], g.param[j], slope, x.size[j], SLOPE_RELATIVE, 1e-5);
        free(slope);
    }
    free(dh);
    free(ds);
    updating_grads_free(&g);
    updating_free(&x);
}

static void test_update_differences(void **state) {
    for (int form = 0; form < FORMS; form++)
        for (size_t i = 0; i < SMALL_SHAPES; i++) check_differences(*state, &small_shapes[i], form);
}

/*
 * Larger shapes and bf16: every gradient along a random direction, against the difference of the reference's
 * objective along it. What bf16 rounds away in dh and ds is bounded by their size.
 */
static double along(const double *direction, const double *gradient, int64_t n) {
    double sum = 0.0;
    for (int64_t i = 0; i < n; i++) sum += direction[i] * gradient[i];
    return sum;
}

static void check_along(const char *what, updating *x, double *at, const double *gradient, int64_t n,
                        double relative) {
    float *random = random_vector(n, 40);
    double *direction = doubles_of(random, n), *old = zeros(n), size = 0.0;
    memcpy(old, at, (size_t)n * sizeof *at);
    for (int64_t i = 0; i < n; i++) size += fabs(direction[i] * gradient[i]);
    for (int64_t i = 0; i < n; i++) at[i] = old[i] + STEP * direction[i];
    const double up = updating_objective(x);
    for (int64_t i = 0; i < n; i++) at[i] = old[i] - STEP * direction[i];
    const double slope = (up - updating_objective(x)) / (2 * STEP);
    memcpy(at, old, (size_t)n * sizeof *at);
    const double found = along(direction, gradient, n);
    if (!(fabs(found - slope) <= relative * size))
        fail_msg("%s: along a direction expected %.9g, found %.9g, sizes add up to %.3g", what, slope, found,
                 size);
    free(random);
    free(direction);
    free(old);
}

static void check_backward(spi_device *dev, const shape *at, int form) {
    updating x = updating_of(at, form);
    updating_grads g = updating_backward(dev, &x);
    const double rough = 1e-5 + rounding(at->dtype);
    double *dh = values(g.dh), *ds = values(g.ds);
    print_message("update backward, %s: %s\n", form_name[form], at->name);
    check_gaps("dh", g.dh);
    check_gaps("ds", g.ds);
    for (int64_t j = 0; j < x.t * x.d; j++) dh[j] -= g.dh_before[j];
    check_along("dh", &x, x.h_ref, dh, x.t * x.d, rough * 10);
    check_along("ds", &x, x.s_ref, ds, x.t * x.d, rough);
    for (int j = 0; j < PARAMS; j++) {
        if (x.size[j] == 0) continue;
        subtract(g.param[j], g.before[j], x.size[j]);
        double *gradient = doubles_of(g.param[j], x.size[j]);
        check_along(param_name[j], &x, x.ref[j], gradient, x.size[j], 1e-5);
        free(gradient);
    }
    free(dh);
    free(ds);
    updating_grads_free(&g);
    updating_free(&x);
}

static void test_update_backward(void **state) {
    for (int form = 0; form < FORMS; form++)
        for (size_t i = 0; i < SHAPES; i++) check_backward(*state, &shapes[i], form);
}

/* Frozen parameters: the states' gradients are the same without theirs. */
static void test_frozen(void **state) {
    spi_device *dev = *state;
    for (int form = 0; form < FORMS; form++) {
        updating x = updating_of(&shapes[3], form);
        updating_grads g = updating_backward(dev, &x);
        spi_mat dh = random_mat(SP_F32, x.t, x.d, 1, 20), ds = random_mat(SP_F32, x.t, x.d, 3, 21);
        const spi_update_grads none = {0};
        dev->op->update_backward(dev, dh, ds, &none, x.h, x.s, x.z, &x.up);
        check_device(dev);
        assert_true(same(dh, g.dh) && same(ds, g.ds));
        free(dh.data);
        free(ds.data);
        updating_grads_free(&g);
        updating_free(&x);
    }
}

/* The same bits again after another batch. */
static void test_same_bits(void **state) {
    for (int form = 0; form < FORMS; form++)
        for (size_t i = 5; i < SHAPES; i += 2) {
            updating x[] = {updating_of(&shapes[i], form), updating_of(&shapes[4], form),
                            updating_of(&shapes[i], form)};
            updating_grads g[3];
            for (int j = 0; j < 3; j++) g[j] = updating_backward(*state, &x[j]);
            assert_true(same(g[0].dh, g[2].dh) && same(g[0].ds, g[2].ds) && same(x[0].s_out, x[2].s_out));
            for (int j = 0; j < PARAMS; j++)
                for (int64_t n = 0; n < x[0].size[j]; n++)
                    assert_memory_equal(&g[0].param[j][n], &g[2].param[j][n], sizeof(float));
            for (int j = 0; j < 3; j++) {
                updating_grads_free(&g[j]);
                updating_free(&x[j]);
            }
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_update),          cmocka_unit_test(test_update_differences),
        cmocka_unit_test(test_update_backward), cmocka_unit_test(test_frozen),
        cmocka_unit_test(test_same_bits),
    };
    return cmocka_run_group_tests(tests, setup_device, teardown_device);
}
