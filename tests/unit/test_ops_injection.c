/*
 * Injection, in both forms, against a double-precision reference; its gradients against the reference's and
 * against finite differences, dropout included.
 */
#include "shadow_check.h"
#include "tensor/cpu/drop.h"

typedef struct injection {
    int64_t t, d;
    spi_inject in;
    spi_mat h, s, h_out;
    float *p;
    double *h_ref, *s_ref, *down_ref, *up_ref; /* [T, d], [T, d], [d, k], [k, d] */
    double *out_ref, *p_ref;                   /* [T, d], [T, k] */
    double *weight;                            /* [T, d]: the objective is sum(weight * h_out) */
} injection;

static injection injection_of(const shape *s, int form) {
    injection x = {.t = s->tokens, .d = s->d, .h = random_mat(s->dtype, s->tokens, s->d, 3, 1)};
    const int64_t size = s->d * s->inner;
    float *down = random_vector(size, 3), *up = random_vector(size, 4);
    for (int64_t i = 0; i < size; i++) down[i] *= 0.3f;
    x.in = (spi_inject){.k = s->inner,
                        .alpha = 0.7f,
                        .down = down,
                        .up = up,
                        .dropout = {s->dropout, 77, 5},
                        .drop_delta = form == PEFT};
    x.s = random_mat(s->dtype, s->tokens, s->d, 1, 2);
    x.h_out = random_mat(s->dtype, s->tokens, s->d, 2, 5);
    x.p = random_vector(s->tokens * s->inner, 6);
    poison(x.h_out);
    poison(spi_mat_of(x.p, SP_F32, s->tokens, s->inner));
    x.h_ref = values(x.h);
    x.s_ref = values(x.s);
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

/* What the form's dropout makes of element (t, i) of delta and of element (t, j) of p. */
static double delta_mask(const injection *x, int64_t t, int64_t i) {
    return x->in.drop_delta ? mask(&x->in.dropout, t * x->d + i) : 1.0;
}

static double p_mask(const injection *x, int64_t t, int64_t j) {
    return x->in.drop_delta ? 1.0 : mask(&x->in.dropout, t * x->in.k + j);
}

static void injection_row(const injection *x, int64_t t) {
    const int64_t d = x->d, k = x->in.k;
    const double *h = x->h_ref + t * d, *s = x->s_ref + t * d;
    double *p = x->p_ref + t * k, *out = x->out_ref + t * d;
    memset(p, 0, (size_t)k * sizeof *p);
    for (int64_t i = 0; i < d; i++) {
        const double delta = (h[i] - s[i]) * delta_mask(x, t, i);
        for (int64_t j = 0; j < k; j++) p[j] += delta * x->down_ref[i * k + j];
    }
    for (int64_t j = 0; j < k; j++) p[j] *= p_mask(x, t, j);
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

static void check_inject(spi_device *dev, const shape *at, int form) {
    injection x = injection_of(at, form);
    dev->op->inject(dev, x.h_out, x.p, x.h, x.s, &x.in);
    check_device(dev);
    for (int64_t t = 0; t < x.t; t++) injection_row(&x, t);
    print_message("inject, %s: %s\n", form_name[form], at->name);
    check_vector("p", x.p, x.p_ref, x.t * x.in.k, 2e-6, 4e-6);
    check_mat("h_out", x.h_out, x.out_ref, rounding(at->dtype), NULL, 4e-6);
    dev->op->inject(dev, x.h, x.p, x.h, x.s, &x.in);
    check_device(dev);
    assert_true(same(x.h, x.h_out)); /* in place */
    injection_free(&x);
}

static void test_inject(void **state) {
    for (int form = 0; form < FORMS; form++)
        for (size_t i = 0; i < SHAPES; i++) check_inject(*state, &shapes[i], form);
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
    x->weight = values(g.dh);
    g.ds_before = values(g.ds);
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

static void check_differences(spi_device *dev, const shape *at, int form) {
    injection x = injection_of(at, form);
    injection_grads g = injection_backward(dev, &x);
    const int64_t n = x.t * x.d, size = x.d * x.in.k;
    double *dh = slopes(injection_objective, &x, x.h_ref, n);
    double *ds = slopes(injection_objective, &x, x.s_ref, n);
    double *ddown = slopes(injection_objective, &x, x.down_ref, size);
    double *dup = slopes(injection_objective, &x, x.up_ref, size);
    for (int64_t j = 0; j < n; j++) ds[j] += g.ds_before[j];
    subtract(g.ddown, g.ddown_before, size);
    subtract(g.dup, g.dup_before, size);
    print_message("inject differences, %s: %s\n", form_name[form], at->name);
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

static void test_inject_differences(void **state) {
    for (int form = 0; form < FORMS; form++)
        for (size_t i = 0; i < SMALL_SHAPES; i++) check_differences(*state, &small_shapes[i], form);
}

/* Double-precision gradients from h_out and p as they were rounded. */
typedef struct injection_wanted {
    double *dh, *ds, *ddown, *dup;
} injection_wanted;

static void want_injection_row(const injection *x, const injection_wanted *w, int64_t t) {
    const int64_t d = x->d, k = x->in.k;
    const double alpha = (double)x->in.alpha, *dout = x->weight + t * d;
    const float *p = x->p + t * k;
    double *dp = zeros(k);
    for (int64_t j = 0; j < k; j++)
        for (int64_t c = 0; c < d; c++) dp[j] += alpha * dout[c] * x->up_ref[j * d + c] * p_mask(x, t, j);
    for (int64_t i = 0; i < d; i++) {
        const double kept = delta_mask(x, t, i);
        double delta = get(x->h_out, t, i) - x->s_ref[t * d + i];
        for (int64_t j = 0; j < k; j++) delta -= alpha * (double)p[j] * x->up_ref[j * d + i];
        for (int64_t j = 0; j < k; j++) {
            const double back = dp[j] * x->down_ref[i * k + j] * kept;
            w->dh[t * d + i] += back;
            w->ds[t * d + i] -= back;
            w->ddown[i * k + j] += delta * kept * dp[j];
            w->dup[j * d + i] += alpha * (double)p[j] * dout[i];
        }
    }
    free(dp);
}

static void check_backward(spi_device *dev, const shape *at, int form) {
    injection x = injection_of(at, form);
    injection_grads g = injection_backward(dev, &x);
    const double relative = rounding(at->dtype), sums = 3e-6 * (double)(x.t + x.d);
    const injection_wanted w = {zeros(x.t * x.d), g.ds_before, g.ddown_before, g.dup_before};
    memcpy(w.dh, x.weight, (size_t)(x.t * x.d) * sizeof *w.dh);
    for (int64_t t = 0; t < x.t; t++) want_injection_row(&x, &w, t);
    print_message("inject backward, %s: %s\n", form_name[form], at->name);
    check_mat("dh", g.dh, w.dh, relative, NULL, 1e-5);
    check_mat("ds", g.ds, w.ds, relative, NULL, 1e-5);
    check_vector("ddown", g.ddown, w.ddown, x.d * x.in.k, 1e-6, sums);
    check_vector("dup", g.dup, w.dup, x.d * x.in.k, 1e-6, sums);
    free(w.dh);
    injection_grads_free(&g);
    injection_free(&x);
}

static void test_inject_backward(void **state) {
    for (int form = 0; form < FORMS; form++)
        for (size_t i = 0; i < SHAPES; i++) check_backward(*state, &shapes[i], form);
}

/* Frozen parameters: the states' gradients are the same without theirs. */
static void test_frozen(void **state) {
    spi_device *dev = *state;
    for (int form = 0; form < FORMS; form++) {
        injection x = injection_of(&shapes[3], form);
        injection_grads g = injection_backward(dev, &x);
        spi_mat dh = random_mat(SP_F32, x.t, x.d, 1, 7), ds = random_mat(SP_F32, x.t, x.d, 4, 8);
        dev->op->inject_backward(dev, dh, ds, NULL, NULL, x.h_out, x.s, x.p, &x.in);
        check_device(dev);
        assert_true(same(dh, g.dh) && same(ds, g.ds));
        free(dh.data);
        free(ds.data);
        injection_grads_free(&g);
        injection_free(&x);
    }
}

/* The same bits again after another batch. */
static void test_same_bits(void **state) {
    for (int form = 0; form < FORMS; form++)
        for (size_t i = 5; i < SHAPES; i += 2) {
            injection x[] = {injection_of(&shapes[i], form), injection_of(&shapes[3], form),
                             injection_of(&shapes[i], form)};
            injection_grads g[3];
            for (int j = 0; j < 3; j++) g[j] = injection_backward(*state, &x[j]);
            assert_true(same(g[0].dh, g[2].dh) && same(g[0].ds, g[2].ds) && same(x[0].h_out, x[2].h_out));
            const size_t bytes = (size_t)(x[0].d * x[0].in.k) * sizeof(float);
            assert_memory_equal(g[0].ddown, g[2].ddown, bytes);
            assert_memory_equal(g[0].dup, g[2].dup, bytes);
            for (int j = 0; j < 3; j++) {
                injection_grads_free(&g[j]);
                injection_free(&x[j]);
            }
        }
}

/* Masks of rows of any length, at any place: the counter may pass 32 bits on the way. */
static void test_mask(void **state) {
    (void)state;
    const struct {
        int64_t first, rows, n;
    } cases[] = {{0, 1, 1},
                 {0, 3, 64},
                 {1, 2, 63},
                 {3, 5, 67},
                 {7, 1, 200},
                 {0x1FFFFFFFFll, 4, 2},
                 {0xFFFFFFll, 2, 1021}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const spi_dropout drop = {0.4f, 0x123456789abcdefull, 0xfedcba987654321ull};
        const int64_t count = cases[c].rows * cases[c].n;
        float *x = random_vector(count, 1), *old = random_vector(count, 1);
        spi_drop_rows(x, cases[c].first, cases[c].rows, cases[c].n, &drop);
        for (int64_t i = 0; i < count; i++)
            assert_float_equal(x[i], (double)old[i] * mask(&drop, cases[c].first * cases[c].n + i), 1e-6);
        free(x);
        free(old);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_inject),          cmocka_unit_test(test_inject_differences),
        cmocka_unit_test(test_inject_backward), cmocka_unit_test(test_frozen),
        cmocka_unit_test(test_same_bits),       cmocka_unit_test(test_mask),
    };
    return cmocka_run_group_tests(tests, setup_device, teardown_device);
}
