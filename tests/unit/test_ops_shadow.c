/*
 * Injection and update against double-precision references; their gradients against finite differences of
 * those references, dropout included.
 */
#include "check.h"

typedef struct shape {
    const char *name;
    sp_dtype dtype;
    int64_t tokens, d, inner; /* inner: k of an injection, g of an update */
    float dropout;
} shape;

static const shape shapes[] = {
    {"one row", SP_F32, 1, 32, 16, 0},         {"few rows", SP_F32, 5, 37, 10, 0},
    {"dropout", SP_F32, 29, 48, 10, 0.2f},     {"odd", SP_F32, 53, 41, 7, 0.5f},
    {"wide inner", SP_F32, 17, 24, 40, 0.1f},  {"blocks", SP_F32, 211, 64, 16, 0.3f},
    {"inner of one", SP_F32, 20, 16, 1, 0.2f}, {"bf16", SP_BF16, 130, 96, 16, 0.2f},
    {"bf16, one row", SP_BF16, 1, 64, 10, 0},  {"bf16, few rows", SP_BF16, 7, 33, 3, 0.4f},
};
#define SHAPES (sizeof shapes / sizeof *shapes)

static double rounding(sp_dtype dtype) {
    return dtype == SP_F32 ? 0.0 : 1.01 * BF16_ROUND;
}

static double *doubles(spi_mat m) {
    double *x = zeros(m.rows * m.cols);
    for (int64_t i = 0; i < m.rows * m.cols; i++) x[i] = get(m, i / m.cols, i % m.cols);
    return x;
}

static double *doubles_of(const float *x, int64_t n) {
    return doubles(spi_mat_of((void *)x, SP_F32, 1, n));
}

/* x [n] -= its old values, so that what was added remains. */
static void subtract(float *x, const double *old, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = (float)((double)x[i] - old[i]);
}

static double mask(const spi_dropout *drop, int64_t index) {
    if (drop->p <= 0) return 1.0;
    return spi_uniform(drop->seed, drop->stream, (uint64_t)index) >= drop->p ? 1.0 / (1.0 - (double)drop->p)
                                                                             : 0.0;
}

static bool same(spi_mat a, spi_mat b) {
    for (int64_t r = 0; r < a.rows; r++)
        for (int64_t c = 0; c < a.cols; c++)
            if (get(a, r, c) != get(b, r, c)) return false;
    return true;
}

/* One step of a finite difference, and how far slopes may be off: rounding of f32 and of the difference. */
#define STEP 1e-5
#define SLOPE_RELATIVE 2e-5

/* d objective / dx [n] by central differences. */
typedef double (*objective)(const void *problem);

static double *slopes(objective of, const void *problem, double *x, int64_t n) {
    double *slope = zeros(n);
    for (int64_t i = 0; i < n; i++) {
        const double old = x[i];
        x[i] = old + STEP;
        const double up = of(problem);
        x[i] = old - STEP;
        slope[i] = (up - of(problem)) / (2 * STEP);
        x[i] = old;
    }
    return slope;
}

/* ------------------------------------------------------------------ injection */

typedef struct injection {
    int64_t t, d;
    spi_inject in;
    spi_mat h, s, h_out;
    float *p;
    double *h_ref, *s_ref, *down_ref, *up_ref; /* [T, d], [T, d], [d, k], [k, d] */
    double *out_ref, *p_ref;                   /* [T, d], [T, k] */
    double *weight;                            /* [T, d]: the objective is sum(weight * h_out) */
} injection;

static injection injection_of(const shape *s) {
    injection x = {.t = s->tokens, .d = s->d, .h = random_mat(s->dtype, s->tokens, s->d, 3, 1)};
    const int64_t size = s->d * s->inner;
    float *down = random_vector(size, 3), *up = random_vector(size, 4);
    for (int64_t i = 0; i < size; i++) down[i] *= 0.3f;
    x.in = (spi_inject){.k = s->inner, .alpha = 0.7f, .down = down, .up = up, .dropout = {s->dropout, 77, 5}};
    x.s = random_mat(s->dtype, s->tokens, s->d, 1, 2);
    x.h_out = random_mat(s->dtype, s->tokens, s->d, 2, 5);
    x.p = random_vector(s->tokens * s->inner, 6);
    x.h_ref = doubles(x.h);
    x.s_ref = doubles(x.s);
    x.down_ref = doubles_of(down, size);
    x.up_ref = doubles_of(up, size);
    x.out_ref = zeros(x.t * x.d);
    x.p_ref = zeros(x.t * s->inner);
    return x;
}

static void injection_free(injection *x) {
    double *all[] = {x->h_ref, x->s_ref, x->down_ref, x->up_ref, x->out_ref, x->p_ref, x->weight};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
    free((void *)x->in.down);
    free((void *)x->in.up);
    free(x->h.data);
    free(x->s.data);
    free(x->h_out.data);
    free(x->p);
}

static void injection_row(const injection *x, int64_t t) {
    const int64_t d = x->d, k = x->in.k;
    const double *h = x->h_ref + t * d, *s = x->s_ref + t * d;
    double *p = x->p_ref + t * k, *out = x->out_ref + t * d;
    memset(p, 0, (size_t)k * sizeof *p);
    for (int64_t i = 0; i < d; i++)
        for (int64_t j = 0; j < k; j++) p[j] += (h[i] - s[i]) * x->down_ref[i * k + j];
    for (int64_t j = 0; j < k; j++) p[j] *= mask(&x->in.dropout, t * k + j);
    for (int64_t i = 0; i < d; i++) {
        out[i] = h[i];
        for (int64_t j = 0; j < k; j++) out[i] += (double)x->in.alpha * p[j] * x->up_ref[j * d + i];
    }
}

static double injection_objective(const void *problem) {
    const injection *x = problem;
    double sum = 0.0;
    for (int64_t t = 0; t < x->t; t++) injection_row(x, t);
    for (int64_t i = 0; i < x->t * x->d; i++) sum += x->weight[i] * x->out_ref[i];
    return sum;
}

static void test_inject(void **state) {
    spi_device *dev = *state;
    for (size_t i = 0; i < SHAPES; i++) {
        injection x = injection_of(&shapes[i]);
        dev->op->inject(dev, x.h_out, x.p, x.h, x.s, &x.in);
        check_device(dev);
        for (int64_t t = 0; t < x.t; t++) injection_row(&x, t);
        print_message("inject: %s\n", shapes[i].name);
        check_vector("p", x.p, x.p_ref, x.t * x.in.k, 2e-6, 4e-6);
        check_mat("h_out", x.h_out, x.out_ref, rounding(shapes[i].dtype), NULL, 4e-6);
        dev->op->inject(dev, x.h, x.p, x.h, x.s, &x.in);
        check_device(dev);
        assert_true(same(x.h, x.h_out)); /* in place */
        injection_free(&x);
    }
}

/* The operation's gradients of sum(weight * h_out). */
typedef struct injection_grads {
    spi_mat dh, ds;
    float *ddown, *dup;
    double *ds_before, *ddown_before, *dup_before; /* what was there, for "+=" */
} injection_grads;

static injection_grads injection_backward(spi_device *dev, injection *x) {
    const int64_t size = x->d * x->in.k;
    injection_grads g = {.dh = random_mat(x->h.dtype, x->t, x->d, 1, 7),
                         .ds = random_mat(x->h.dtype, x->t, x->d, 4, 8),
                         .ddown = random_vector(size, 9),
                         .dup = random_vector(size, 10)};
    x->weight = doubles(g.dh);
    g.ds_before = doubles(g.ds);
    g.ddown_before = doubles_of(g.ddown, size);
    g.dup_before = doubles_of(g.dup, size);
    dev->op->inject(dev, x->h_out, x->p, x->h, x->s, &x->in);
    dev->op->inject_backward(dev, g.dh, g.ds, g.ddown, g.dup, x->h_out, x->s, x->p, &x->in);
    check_device(dev);
    return g;
}

static void injection_grads_free(injection_grads *g) {
    free(g->dh.data);
    free(g->ds.data);
    free(g->ddown);
    free(g->dup);
    free(g->ds_before);
    free(g->ddown_before);
    free(g->dup_before);
}

static void test_inject_differences(void **state) {
    const shape small[] = {
        {"plain", SP_F32, 3, 9, 4, 0}, {"dropout", SP_F32, 11, 7, 5, 0.3f}, {"blocks", SP_F32, 60, 5, 2, 0.4f}};
    for (size_t i = 0; i < sizeof small / sizeof *small; i++) {
        injection x = injection_of(&small[i]);
        injection_grads g = injection_backward(*state, &x);
        const int64_t n = x.t * x.d, size = x.d * x.in.k;
        double *dh = slopes(injection_objective, &x, x.h_ref, n);
        double *ds = slopes(injection_objective, &x, x.s_ref, n);
        double *ddown = slopes(injection_objective, &x, x.down_ref, size);
        double *dup = slopes(injection_objective, &x, x.up_ref, size);
        for (int64_t j = 0; j < n; j++) ds[j] += g.ds_before[j];
        subtract(g.ddown, g.ddown_before, size);
        subtract(g.dup, g.dup_before, size);
        check_mat("dh", g.dh, dh, SLOPE_RELATIVE, NULL, 1e-6);
        check_mat("ds", g.ds, ds, SLOPE_RELATIVE, NULL, 1e-6);
        check_vector("ddown", g.ddown, ddown, size, SLOPE_RELATIVE, 1e-5);
        check_vector("dup", g.dup, dup, size, SLOPE_RELATIVE, 1e-5);
        free(dh);
        free(ds);
        free(ddown);
        free(dup);
        injection_grads_free(&g);
        injection_free(&x);
    }
}

/* Double-precision gradients from h_out and p as they were rounded. */
typedef struct injection_wanted {
    double *dh, *ds, *ddown, *dup;
} injection_wanted;

static void want_injection_row(const injection *x, const injection_wanted *w, int64_t t) {
    const int64_t d = x->d, k = x->in.k;
    const double alpha = (double)x->in.alpha;
    double *dp = zeros(k);
    for (int64_t i = 0; i < d; i++) {
        double delta = get(x->h_out, t, i) - x->s_ref[t * d + i];
        for (int64_t j = 0; j < k; j++) delta -= alpha * (double)x->p[t * k + j] * x->up_ref[j * d + i];
        for (int64_t j = 0; j < k; j++) {
            double back = 0.0;
            if (i == 0)
                for (int64_t c = 0; c < d; c++)
                    dp[j] +=
                        alpha * x->weight[t * d + c] * x->up_ref[j * d + c] * mask(&x->in.dropout, t * k + j);
            back = dp[j] * x->down_ref[i * k + j];
            w->dh[t * d + i] += back;
            w->ds[t * d + i] -= back;
            w->ddown[i * k + j] += delta * dp[j];
            w->dup[j * d + i] += alpha * (double)x->p[t * k + j] * x->weight[t * d + i];
        }
    }
    free(dp);
}

static void test_inject_backward(void **state) {
    for (size_t i = 0; i < SHAPES; i++) {
        injection x = injection_of(&shapes[i]);
        injection_grads g = injection_backward(*state, &x);
        const double relative = rounding(shapes[i].dtype), sums = 3e-6 * (double)(x.t + x.d);
        injection_wanted w = {doubles(spi_mat_of(NULL, SP_F32, 0, 0)), g.ds_before, g.ddown_before,
                              g.dup_before};
        free(w.dh);
        w.dh = zeros(x.t * x.d);
        memcpy(w.dh, x.weight, (size_t)(x.t * x.d) * sizeof *w.dh);
        for (int64_t t = 0; t < x.t; t++) want_injection_row(&x, &w, t);
        print_message("inject backward: %s\n", shapes[i].name);
        check_mat("dh", g.dh, w.dh, relative, NULL, 1e-5);
        check_mat("ds", g.ds, w.ds, relative, NULL, 1e-5);
        check_vector("ddown", g.ddown, w.ddown, x.d * x.in.k, 1e-6, sums);
        check_vector("dup", g.dup, w.dup, x.d * x.in.k, 1e-6, sums);
        free(w.dh);
        injection_grads_free(&g);
        injection_free(&x);
    }
}

/* ------------------------------------------------------------------ update */

enum { W0, W3, V0, V2, NORM_WEIGHT, NORM_BIAS, PARAMS };

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

static updating updating_of(const shape *s) {
    const int64_t d = s->d, g = s->inner;
    updating x = {.t = s->tokens, .d = d, .size = {g * d, d * g, g * d, d * g, d, d}};
    for (int i = 0; i < PARAMS; i++) {
        x.param[i] = random_vector(x.size[i], (uint64_t)(10 + i));
        x.ref[i] = NULL;
        for (int64_t j = 0; j < x.size[i]; j++)
            if (i == NORM_WEIGHT) x.param[i][j] = 1.0f + 0.5f * x.param[i][j];
            else if (i == W0 || i == V0) x.param[i][j] *= 0.4f;
        x.ref[i] = doubles_of(x.param[i], x.size[i]);
    }
    x.up = (spi_update){.g = g,
                        .eps = 1e-5f,
                        .norm_weight = x.param[NORM_WEIGHT],
                        .norm_bias = x.param[NORM_BIAS],
                        .w0 = x.param[W0],
                        .w3 = x.param[W3],
                        .v0 = x.param[V0],
                        .v2 = x.param[V2],
                        .dropout = {s->dropout, 78, 6}};
    x.h = random_mat(s->dtype, x.t, d, 2, 1);
    x.s = random_mat(s->dtype, x.t, d, 0, 2);
    x.s_out = random_mat(s->dtype, x.t, d, 5, 3);
    x.z = random_vector(x.t * 2 * g, 4);
    x.h_ref = doubles(x.h);
    x.s_ref = doubles(x.s);
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

static void updating_row(const updating *x, int64_t t, double *u, double *a) {
    const int64_t d = x->d, g = x->up.g;
    double *z = x->z_ref + t * 2 * g;
    ref_norm(x, x->h_ref + t * d, u);
    for (int64_t j = 0; j < 2 * g; j++) {
        const double *row = j < g ? x->ref[W0] + j * d : x->ref[V0] + (j - g) * d;
        z[j] = 0.0;
        for (int64_t i = 0; i < d; i++) z[j] += row[i] * u[i];
        a[j] = z[j] * sigmoid(z[j]) * (j < g ? mask(&x->up.dropout, t * g + j) : 1.0);
    }
    for (int64_t i = 0; i < d; i++) {
        double to = 0.0, v = 0.0;
        for (int64_t j = 0; j < g; j++) {
            to += x->ref[W3][i * g + j] * a[j];
            v += x->ref[V2][i * g + j] * a[g + j];
        }
        const double s = x->s_ref[t * d + i];
        x->out_ref[t * d + i] = s + sigmoid(v) * (to - s);
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

static void test_update(void **state) {
    spi_device *dev = *state;
    for (size_t i = 0; i < SHAPES; i++) {
        updating x = updating_of(&shapes[i]);
        dev->op->update(dev, x.s_out, x.z, x.h, x.s, &x.up);
        check_device(dev);
        updating_objective(&x);
        print_message("update: %s\n", shapes[i].name);
        check_vector("z", x.z, x.z_ref, x.t * 2 * x.up.g, 2e-6, 1e-5);
        check_mat("s_out", x.s_out, x.out_ref, rounding(shapes[i].dtype), NULL, 1e-5);
        dev->op->update(dev, x.s, NULL, x.h, x.s, &x.up);
        check_device(dev);
        assert_true(same(x.s, x.s_out)); /* in place, z not wanted */
        updating_free(&x);
    }
}

typedef struct updating_grads {
    spi_mat dh, ds;
    float *param[PARAMS];
    double *dh_before, *before[PARAMS];
} updating_grads;

static updating_grads updating_backward(spi_device *dev, updating *x) {
    updating_grads g = {.dh = random_mat(x->h.dtype, x->t, x->d, 1, 20),
                        .ds = random_mat(x->h.dtype, x->t, x->d, 3, 21)};
    x->weight = doubles(g.ds);
    g.dh_before = doubles(g.dh);
    for (int i = 0; i < PARAMS; i++) {
        g.param[i] = random_vector(x->size[i], (uint64_t)(22 + i));
        g.before[i] = doubles_of(g.param[i], x->size[i]);
    }
    const spi_update_grads grads = {.norm_weight = g.param[NORM_WEIGHT],
                                    .norm_bias = g.param[NORM_BIAS],
                                    .w0 = g.param[W0],
                                    .w3 = g.param[W3],
                                    .v0 = g.param[V0],
                                    .v2 = g.param[V2]};
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

static const char *const param_name[PARAMS] = {"dw0", "dw3", "dv0", "dv2", "norm weight", "norm bias"};

static void test_update_differences(void **state) {
    const shape small[] = {
        {"plain", SP_F32, 3, 9, 4, 0}, {"dropout", SP_F32, 11, 7, 5, 0.3f}, {"blocks", SP_F32, 60, 5, 2, 0.4f}};
    for (size_t i = 0; i < sizeof small / sizeof *small; i++) {
        updating x = updating_of(&small[i]);
        updating_grads g = updating_backward(*state, &x);
        const int64_t n = x.t * x.d;
        double *dh = slopes(updating_objective, &x, x.h_ref, n);
        double *ds = slopes(updating_objective, &x, x.s_ref, n);
        for (int64_t j = 0; j < n; j++) dh[j] += g.dh_before[j];
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

static void test_update_backward(void **state) {
    for (size_t i = 0; i < SHAPES; i++) {
        updating x = updating_of(&shapes[i]);
        updating_grads g = updating_backward(*state, &x);
        const double rough = 1e-5 + rounding(shapes[i].dtype);
        double *dh = doubles(g.dh), *ds = doubles(g.ds);
        print_message("update backward: %s\n", shapes[i].name);
        check_gaps("dh", g.dh);
        check_gaps("ds", g.ds);
        for (int64_t j = 0; j < x.t * x.d; j++) dh[j] -= g.dh_before[j];
        check_along("dh", &x, x.h_ref, dh, x.t * x.d, rough * 10);
        check_along("ds", &x, x.s_ref, ds, x.t * x.d, rough);
        for (int j = 0; j < PARAMS; j++) {
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
}

/* ------------------------------------------------------------------ both */

/* Frozen parameters: the states' gradients are the same without theirs. */
static void test_frozen(void **state) {
    spi_device *dev = *state;
    injection x = injection_of(&shapes[3]);
    injection_grads g = injection_backward(dev, &x);
    spi_mat dh = random_mat(SP_F32, x.t, x.d, 1, 7), ds = random_mat(SP_F32, x.t, x.d, 4, 8);
    dev->op->inject_backward(dev, dh, ds, NULL, NULL, x.h_out, x.s, x.p, &x.in);
    assert_true(same(dh, g.dh) && same(ds, g.ds));
    updating y = updating_of(&shapes[3]);
    updating_grads f = updating_backward(dev, &y);
    spi_mat fh = random_mat(SP_F32, y.t, y.d, 1, 20), fs = random_mat(SP_F32, y.t, y.d, 3, 21);
    const spi_update_grads none = {0};
    dev->op->update_backward(dev, fh, fs, &none, y.h, y.s, y.z, &y.up);
    check_device(dev);
    assert_true(same(fh, f.dh) && same(fs, f.ds));
    free(dh.data);
    free(ds.data);
    free(fh.data);
    free(fs.data);
    injection_grads_free(&g);
    injection_free(&x);
    updating_grads_free(&f);
    updating_free(&y);
}

/* The same bits again after another batch. */
static void test_same_bits(void **state) {
    for (size_t i = 5; i < SHAPES; i += 2) {
        injection x = injection_of(&shapes[i]), x2 = injection_of(&shapes[i]), other = injection_of(&shapes[3]);
        updating y = updating_of(&shapes[i]), y2 = updating_of(&shapes[i]), second = updating_of(&shapes[4]);
        injection_grads g = injection_backward(*state, &x), between = injection_backward(*state, &other);
        updating_grads f = updating_backward(*state, &y), ignored = updating_backward(*state, &second);
        injection_grads g2 = injection_backward(*state, &x2);
        updating_grads f2 = updating_backward(*state, &y2);
        assert_true(same(g.dh, g2.dh) && same(g.ds, g2.ds) && same(x.h_out, x2.h_out));
        assert_true(same(f.dh, f2.dh) && same(f.ds, f2.ds) && same(y.s_out, y2.s_out));
        const size_t bytes = (size_t)(x.d * x.in.k) * sizeof(float);
        assert_memory_equal(g.ddown, g2.ddown, bytes);
        assert_memory_equal(g.dup, g2.dup, bytes);
        for (int j = 0; j < PARAMS; j++)
            assert_memory_equal(f.param[j], f2.param[j], (size_t)y.size[j] * sizeof(float));
        injection_grads *gs[] = {&g, &g2, &between};
        injection *xs[] = {&x, &x2, &other};
        updating_grads *fs[] = {&f, &f2, &ignored};
        updating *ys[] = {&y, &y2, &second};
        for (int j = 0; j < 3; j++) {
            injection_grads_free(gs[j]);
            injection_free(xs[j]);
            updating_grads_free(fs[j]);
            updating_free(ys[j]);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_inject),
        cmocka_unit_test(test_inject_differences),
        cmocka_unit_test(test_inject_backward),
        cmocka_unit_test(test_update),
        cmocka_unit_test(test_update_differences),
        cmocka_unit_test(test_update_backward),
        cmocka_unit_test(test_frozen),
        cmocka_unit_test(test_same_bits),
    };
    return cmocka_run_group_tests(tests, setup_device, teardown_device);
}
