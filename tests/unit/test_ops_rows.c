/*
 * Operations of the CPU backend on rows, against double precision: forward passes against their formulas,
 * backward passes against finite differences of those formulas, AdamW against PyTorch.
 */
#include "check.h"

#include <stdio.h>

#include "adamw_steps.h"
#include "norm_reference.h"

static const sp_dtype float_types[] = {SP_F32, SP_BF16};

/* ------------------------------------------------------------------ moving rows */

static void test_convert(void **state) {
    spi_device *dev = *state;
    const sp_dtype types[] = {SP_F32, SP_BF16, SP_F16};
    for (int i = 0; i < 9; i++) {
        const spi_mat from = random_mat(types[i / 3], 7, 301, 5, 1),
                      to = random_mat(types[i % 3], 7, 301, 3, 2);
        const spi_mat wide = random_mat(types[i % 3], 300, 300, 1, 3),
                      narrow = random_mat(types[i / 3], 300, 300, 0, 4);
        dev->op->convert(dev, to, from);
        dev->op->convert(dev, wide, narrow);
        for (int j = 0; j < 2; j++) {
            const spi_mat got = j ? wide : to;
            double *want = values(j ? narrow : from);
            for (int64_t k = 0; k < got.rows * got.cols; k++) { /* rounded once, to the nearest */
                float f = (float)want[k];
                uint16_t half[2];
                spi_from_f32(half, &f, got.dtype == SP_F32 ? SP_BF16 : got.dtype, 1);
                if (got.dtype != SP_F32) spi_to_f32(&f, half, got.dtype, 1);
                want[k] = f;
            }
            check_mat("convert", got, want, 0.0, NULL, 0.0);
            free(want);
        }
        free(from.data);
        free(to.data);
        free(wide.data);
        free(narrow.data);
    }
    check_device(dev);
}

static void test_gather_scatter(void **state) {
    spi_device *dev = *state;
    const int32_t repeated[] = {4, 0, 4, 2}, distinct[] = {5, 0, 3};
    for (size_t t = 0; t < 2; t++) {
        const spi_mat x = random_mat(float_types[t], 6, 33, 2, 1), y = random_mat(float_types[t], 4, 33, 1, 2);
        const spi_mat few = random_mat(float_types[t], 3, 33, 0, 3),
                      all = random_mat(float_types[t], 6, 33, 4, 4);
        double *want = values(x), *rows = zeros(4 * 33), *new_rows = values(few), *scattered = values(all);
        for (int64_t i = 0; i < 4; i++) memcpy(rows + i * 33, want + repeated[i] * 33, 33 * sizeof *want);
        for (int64_t i = 0; i < 3; i++)
            memcpy(scattered + distinct[i] * 33, new_rows + i * 33, 33 * sizeof *want);
        dev->op->gather_rows(dev, y, x, repeated);
        dev->op->scatter_rows(dev, all, few, distinct);
        check_mat("gather", y, rows, 0.0, NULL, 0.0);
        check_mat("scatter", all, scattered, 0.0, NULL, 0.0);
        double *const lists[] = {want, rows, new_rows, scattered};
        for (int i = 0; i < 4; i++) free(lists[i]);
        free(x.data);
        free(y.data);
        free(few.data);
        free(all.data);
    }
    check_device(dev);
}

static void test_add(void **state) {
    spi_device *dev = *state;
    for (int i = 0; i < 4; i++) {
        const spi_mat y = random_mat(float_types[i / 2], 130, 261, 3, 1),
                      x = random_mat(float_types[i % 2], 130, 261, 2, 2);
        double *want = values(y), *old = values(x);
        for (int64_t k = 0; k < 130 * 261; k++) want[k] -= 0.375 * old[k];
        dev->op->add(dev, y, x, -0.375f);
        check_mat("add", y, want, unit_roundoff(y.dtype), NULL, 2 * F32_ROUND);
        free(want);
        free(old);
        free(y.data);
        free(x.data);
    }
    check_device(dev);
}

/* ------------------------------------------------------------------ embedding */

static void embedding_once(spi_device *dev, sp_dtype dtype, float scale, bool with_positions) {
    const int32_t ids[] = {3, 0, 16, 3, 9}, positions[] = {0, 1, 2, 0, 7};
    const spi_mat table = random_mat(dtype, 17, 83, 0, 1), places = random_mat(dtype, 8, 83, 0, 2);
    const spi_mat y = random_mat(dtype, 5, 83, 6, 3);
    double *rows = values(table), *offsets = values(places), *want = zeros(5 * 83);
    for (int64_t i = 0; i < 5 * 83; i++)
        want[i] = (double)scale * rows[ids[i / 83] * 83 + i % 83] +
                  (with_positions ? offsets[positions[i / 83] * 83 + i % 83] : 0.0);
    dev->op->embedding(dev, y, &(spi_weight){.m = table}, ids, scale, with_positions ? &places : NULL,
                       positions);
    check_device(dev);
    check_mat("embedding", y, want, unit_roundoff(dtype), NULL, 8 * F32_ROUND);
    free(rows);
    free(offsets);
    free(want);
    free(table.data);
    free(places.data);
    free(y.data);
}

static void test_embedding(void **state) {
    for (size_t t = 0; t < 2; t++) {
        embedding_once(*state, float_types[t], 1.0f, false);
        embedding_once(*state, float_types[t], 1.0f, true);
        embedding_once(*state, float_types[t], 5.5f, false);
        embedding_once(*state, float_types[t], 5.5f, true);
    }
}

/* Many rows of few ids, so that each row of the table is a long sum; twice, for the same bits. */
static void test_embedding_backward(void **state) {
    spi_device *dev = *state;
    enum { T = 700, V = 9, D = 70 };
    int32_t ids[T];
    for (int i = 0; i < T; i++) ids[i] = i * 5 % (V - 1); /* the last row of the table stays */
    for (size_t t = 0; t < 2; t++) {
        const spi_mat dy = random_mat(float_types[t], T, D, 2, 1);
        const spi_mat table = random_mat(SP_F32, V, D, 0, 2), again = copy_mat(table);
        double *want = values(table), *rows = values(dy);
        for (int64_t i = 0; i < T * D; i++) want[ids[i / D] * D + i % D] += 0.75 * rows[i];
        dev->op->embedding_backward(dev, table.data, dy, ids, 0.75f);
        dev->op->embedding_backward(dev, again.data, dy, ids, 0.75f);
        check_mat("embedding_backward", table, want, 0.0, NULL, 100 * F32_ROUND);
        assert_memory_equal(table.data, again.data, V * D * sizeof(float));
        free(want);
        free(rows);
        free(dy.data);
        free(table.data);
        free(again.data);
    }
    check_device(dev);
}

/* ------------------------------------------------------------------ norms */

typedef struct norm_case {
    spi_norm norm;
    int64_t rows, n; /* n: length of a segment */
    sp_dtype dtype;
    bool alias, accumulate;
} norm_case;

/* sum of dy norm(x) over one segment: what the backward pass is the gradient of. */
static double norm_objective(const double *x, const double *dy, const spi_norm *norm, int64_t n) {
    double *y = zeros(n), sum = 0.0;
    norm_reference(y, x, norm, n);
    for (int64_t i = 0; i < n; i++) sum += dy[i] * y[i];
    free(y);
    return sum;
}

static void norm_forward_once(spi_device *dev, norm_case c) {
    const int64_t cols = c.norm.groups * c.n;
    const spi_mat x = random_mat(c.dtype, c.rows, cols, 7, 1);
    const spi_mat y = c.alias ? x : random_mat(c.dtype, c.rows, cols, 3, 2);
    double *in = values(x), *want = zeros(c.rows * cols);
    for (int64_t s = 0; s < c.rows * c.norm.groups; s++)
        norm_reference(want + s * c.n, in + s * c.n, &c.norm, c.n);
    dev->op->norm(dev, y, x, &c.norm);
    check_device(dev);
    check_mat("norm", y, want, unit_roundoff(c.dtype) + 4 * F32_ROUND, NULL, 8 * F32_ROUND);
    free(in);
    free(want);
    if (!c.alias) free(y.data);
    free(x.data);
}

/* dweight and dbias by their definition: the objective is linear in both. */
static void norm_parameters(double *dweight, double *dbias, const double *x, const double *dy, spi_norm norm,
                            int64_t segments, int64_t n) {
    double *xhat = zeros(n);
    float *one = malloc((size_t)n * sizeof *one);
    for (int64_t i = 0; i < n; i++) one[i] = 1.0f;
    norm.offset = 0.0f;
    norm.weight = one;
    norm.bias = NULL;
    for (int64_t s = 0; s < segments; s++) {
        norm_reference(xhat, x + s * n, &norm, n);
        for (int64_t i = 0; i < n; i++) {
            dweight[i] += dy[s * n + i] * xhat[i];
            dbias[i] += dy[s * n + i];
        }
    }
    free(xhat);
    free(one);
}

static void norm_backward_once(spi_device *dev, norm_case c) {
    const int64_t cols = c.norm.groups * c.n, segments = c.rows * c.norm.groups;
    const spi_mat x = random_mat(c.dtype, c.rows, cols, 7, 1), dy = random_mat(c.dtype, c.rows, cols, 2, 2);
    const spi_mat dx = c.alias ? dy : random_mat(c.dtype, c.rows, cols, 3, 3);
    const spi_mat dweight = random_mat(SP_F32, 1, c.n, 0, 4), dbias = random_mat(SP_F32, 1, c.n, 0, 5);
    double *in = values(x), *g = values(dy), *old = values(dx);
    double *want = zeros(c.rows * cols), *want_weight = values(dweight), *want_bias = values(dbias);
    for (int64_t i = 0; i < c.rows * cols; i++) {
        const double h = 1e-5, here = in[i];
        const int64_t s = i / c.n * c.n;
        in[i] = here + h;
        const double above = norm_objective(in + s, g + s, &c.norm, c.n);
        in[i] = here - h;
        const double below = norm_objective(in + s, g + s, &c.norm, c.n);
        in[i] = here;
        want[i] = (above - below) / (2.0 * h) + (c.accumulate ? old[i] : 0.0);
    }
    norm_parameters(want_weight, want_bias, in, g, c.norm, segments, c.n);
    const bool bias = c.norm.kind == SPI_NORM_LAYER;
    dev->op->norm_backward(dev, dx, dy, x, &c.norm, dweight.data, bias ? dbias.data : NULL, c.accumulate);
    check_device(dev);
    check_mat("norm_backward", dx, want, unit_roundoff(c.dtype), NULL, 64 * F32_ROUND);
    const double floor = 8 * F32_ROUND * sqrt((double)segments + 16);
    check_mat("dweight", dweight, want_weight, 0.0, NULL, floor);
    if (bias) check_mat("dbias", dbias, want_bias, 0.0, NULL, floor);
    double *const lists[] = {in, g, old, want, want_weight, want_bias};
    for (int i = 0; i < 6; i++) free(lists[i]);
    void *const mats[] = {x.data, dy.data, dweight.data, dbias.data, c.alias ? NULL : dx.data};
    for (int i = 0; i < 5; i++) free(mats[i]);
}

static void norms(spi_device *dev, void (*once)(spi_device *, norm_case)) {
    const int64_t sizes[][3] = {
        {1, 1, 33}, {5, 1, 64}, {3, 4, 16}, {70, 2, 24}, {40, 1, 300}}; /* rows, groups, n */
    float *weight = random_vector(300, 21), *bias = random_vector(300, 22);
    for (int i = 0; i < 5 * 16; i++) {
        const int64_t *size = sizes[i / 16];
        const spi_norm_kind kind = i & 1 ? SPI_NORM_LAYER : SPI_NORM_RMS;
        const spi_norm norm = {.kind = kind,
                               .eps = 1e-3f,
                               .offset = i & 2 ? 1.0f : 0.0f,
                               .groups = size[1],
                               .weight = weight,
                               .bias = kind == SPI_NORM_LAYER && i & 4 ? bias : NULL};
        once(dev, (norm_case){.norm = norm,
                              .rows = size[0],
                              .n = size[2],
                              .dtype = float_types[i / 8 % 2],
                              .alias = i & 4,
                              .accumulate = i & 2});
    }
    free(weight);
    free(bias);
}

static void test_norm(void **state) {
    norms(*state, norm_forward_once);
}

static void test_norm_backward(void **state) {
    norms(*state, norm_backward_once);
}

/* Without gradients of parameters; large values, whose mean is far from zero. */
static void test_norm_edges(void **state) {
    spi_device *dev = *state;
    float weight[64];
    for (int i = 0; i < 64; i++) weight[i] = 1.0f;
    const spi_norm norm = {.kind = SPI_NORM_LAYER, .eps = 1e-5f, .groups = 1, .weight = weight};
    const spi_mat x = random_mat(SP_F32, 4, 64, 0, 1), y = random_mat(SP_F32, 4, 64, 0, 2);
    for (int64_t i = 0; i < 4 * 64; i++) set(x, 0, i, 1000.0 + get(x, 0, i));
    double *in = values(x), *want = zeros(4 * 64);
    for (int64_t t = 0; t < 4; t++) norm_reference(want + t * 64, in + t * 64, &norm, 64);
    dev->op->norm(dev, y, x, &norm);
    /* The mean has an error of half a place of 1000, 2^-15; x has a deviation of 0.6. */
    check_mat("norm far from zero", y, want, 0.0, NULL, 0x1p-14);
    dev->op->norm_backward(dev, x, y, x, &norm, NULL, NULL, false);
    check_device(dev);
    free(in);
    free(want);
    free(x.data);
    free(y.data);
}

/* ------------------------------------------------------------------ gated */

static double activation(spi_activation act, double x) {
    switch (act) {
    case SPI_ACT_SILU: return x / (1.0 + exp(-x));
    case SPI_ACT_GELU_TANH: return 0.5 * x * (1.0 + tanh(sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x)));
    case SPI_ACT_GELU_ERF: return 0.5 * x * (1.0 + erf(x / sqrt(2.0)));
    case SPI_ACT_RELU: return x > 0.0 ? x : 0.0;
    }
    return NAN;
}

static double slope(spi_activation act, double x) {
    const double h = 1e-5;
    return (activation(act, x + h) - activation(act, x - h)) / (2.0 * h);
}

/* Uniform in [-6, 6). */
static spi_mat wide_mat(sp_dtype dtype, int64_t rows, int64_t cols, int64_t gap, uint64_t stream) {
    const spi_mat m = random_mat(dtype, rows, cols, gap, stream);
    for (int64_t i = 0; i < rows * cols; i++) set(m, i / cols, i % cols, 6.0 * get(m, i / cols, i % cols));
    return m;
}

static void gated_once(spi_device *dev, spi_activation act, sp_dtype dtype, bool with_up, bool alias) {
    const int64_t rows = 20, cols = 531;
    const spi_mat gate = wide_mat(dtype, rows, cols, 5, 1), up = random_mat(dtype, rows, cols, 2, 2);
    const spi_mat y = alias ? gate : random_mat(dtype, rows, cols, 0, 3);
    double *g = values(gate), *u = values(up), *want = zeros(rows * cols);
    for (int64_t i = 0; i < rows * cols; i++) want[i] = activation(act, g[i]) * (with_up ? u[i] : 1.0);
    dev->op->gated(dev, y, gate, with_up ? up : (spi_mat){0}, act);
    check_device(dev);
    check_mat("gated", y, want, unit_roundoff(dtype) + 8 * F32_ROUND, NULL, 8 * F32_ROUND);
    free(g);
    free(u);
    free(want);
    if (!alias) free(y.data);
    free(gate.data);
    free(up.data);
}

static void gated_backward_once(spi_device *dev, spi_activation act, sp_dtype dtype, bool with_up, bool alias) {
    const int64_t rows = 20, cols = 531;
    const spi_mat gate = wide_mat(dtype, rows, cols, 5, 1), up = random_mat(dtype, rows, cols, 2, 2);
    const spi_mat dy = random_mat(dtype, rows, cols, 1, 3);
    const spi_mat dgate = alias ? gate : random_mat(dtype, rows, cols, 0, 4);
    const spi_mat dup = alias ? up : random_mat(dtype, rows, cols, 0, 5);
    double *g = values(gate), *u = values(up), *d = values(dy);
    double *want = zeros(rows * cols), *want_up = zeros(rows * cols);
    for (int64_t i = 0; i < rows * cols; i++) {
        want[i] = d[i] * slope(act, g[i]) * (with_up ? u[i] : 1.0);
        want_up[i] = d[i] * activation(act, g[i]);
    }
    dev->op->gated_backward(dev, dgate, with_up ? dup : (spi_mat){0}, dy, gate, with_up ? up : (spi_mat){0},
                            act);
    check_device(dev);
    /* 1 - tanh^2 is rounded and then multiplied by up to 14, at x = -6. */
    check_mat("dgate", dgate, want, unit_roundoff(dtype) + 8 * F32_ROUND, NULL, 32 * F32_ROUND);
    if (with_up) check_mat("dup", dup, want_up, unit_roundoff(dtype) + 8 * F32_ROUND, NULL, 8 * F32_ROUND);
    double *const lists[] = {g, u, d, want, want_up};
    for (int i = 0; i < 5; i++) free(lists[i]);
    void *const mats[] = {gate.data, up.data, dy.data, alias ? NULL : dgate.data, alias ? NULL : dup.data};
    for (int i = 0; i < 5; i++) free(mats[i]);
}

static void test_gated(void **state) {
    for (int i = 0; i < 32; i++) {
        const spi_activation act = (spi_activation)(i / 8);
        gated_once(*state, act, float_types[i & 1], i & 2, i & 4);
        gated_backward_once(*state, act, float_types[i & 1], i & 2, i & 4);
    }
}

/* ------------------------------------------------------------------ optimizer */

/* The sum is exact to double, and its bits do not depend on the number of threads. */
static void test_sum_squares(void **state) {
    spi_device *dev = *state;
    const int64_t n = 100003;
    float *x = random_vector(n, 1);
    const spi_span spans[] = {{x, 40000}, {x, 0}, {x + 40000, 3}, {x + 40003, n - 40003}};
    double want = 0.25, got = 0.25, alone = 0.25;
    for (int64_t i = 0; i < n; i++) want += (double)x[i] * (double)x[i];
    dev->op->sum_squares(dev, &got, spans, 4);
    assert_true(fabs(got - want) < 1e-12 * want);
    spi_device *single = NULL;
    sp_context *ctx = sp_context_new();
    sp_context_set_threads(ctx, 1);
    assert_int_equal(spi_device_open(ctx, "cpu", &single), SP_OK);
    single->op->sum_squares(single, &alone, spans, 4);
    assert_memory_equal(&alone, &got, sizeof got);
    single->op->sum_squares(single, &alone, spans + 1, 1);
    single->op->sum_squares(single, &alone, NULL, 0);
    assert_memory_equal(&alone, &got, sizeof got);
    spi_device_close(single);
    sp_context_free(ctx);
    free(x);
    check_device(dev);
}

static void check_floats(const char *what, const float *got, const float *expected, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if (!(fabsf(got[i] - expected[i]) <= 4e-7f * fabsf(expected[i])))
            fail_msg("%s[%lld]: expected %.9g, found %.9g", what, (long long)i, (double)expected[i],
                     (double)got[i]);
}

#define COUNT ((int64_t)(sizeof adamw_start / sizeof *adamw_start))

static void test_adamw(void **state) {
    spi_device *dev = *state;
    const float *grads[] = {adamw_grad1, adamw_grad2, adamw_grad3};
    const float *params[] = {adamw_param1, adamw_param2, adamw_param3};
    const float rates[] = {1e-2f, 5e-3f, 2.5e-3f};
    float param[COUNT], grad[COUNT], m[COUNT] = {0}, v[COUNT] = {0}, m2[COUNT] = {0}, v2[COUNT] = {0},
                                     twin[COUNT];
    uint16_t copy[COUNT];
    memcpy(param, adamw_start, sizeof param);
    memcpy(twin, adamw_start, sizeof twin);
    for (int step = 0; step < 3; step++) {
        memcpy(grad, grads[step], sizeof grad);
        const spi_adamw_item items[] = {
            {.n = COUNT, .param = param, .grad = grad, .m = m, .v = v, .lr = rates[step], .weight_decay = 0.1f},
            {.n = COUNT,
             .param = twin,
             .grad = grad,
             .m = m2,
             .v = v2,
             .copy = copy,
             .lr = rates[step],
             .weight_decay = 0.1f}};
        const spi_adamw adamw = {
            .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .step = step + 1, .grad_scale = 0.5f};
        dev->op->adamw(dev, items, 2, &adamw);
        check_device(dev);
        check_floats("param", param, params[step], COUNT);
    }
    check_floats("m", m, adamw_m3, COUNT);
    check_floats("v", v, adamw_v3, COUNT);
    assert_memory_equal(param, twin, sizeof param);
    for (int64_t i = 0; i < COUNT; i++) {
        uint16_t half;
        spi_from_f32(&half, &param[i], SP_BF16, 1);
        assert_int_equal(copy[i], half);
    }
}

/* Enough elements for every thread. */
static void test_adamw_long(void **state) {
    spi_device *dev = *state;
    const int64_t n = 100003;
    float *p = random_vector(n, 1), *g = random_vector(n, 2), *m = random_vector(n, 3),
          *v = random_vector(n, 4);
    double *want = zeros(n);
    for (int64_t i = 0; i < n; i++) {
        v[i] = fabsf(v[i]);
        const double new_m = 0.8 * m[i] + 0.2 * g[i], new_v = 0.95 * v[i] + 0.05 * g[i] * g[i];
        const double root = sqrt(new_v) / sqrt(1.0 - pow(0.95, 4.0));
        want[i] = p[i] - 0.1 / (1.0 - pow(0.8, 4.0)) * new_m / (root + 1e-6);
    }
    const spi_adamw_item item = {.n = n, .param = p, .grad = g, .m = m, .v = v, .lr = 0.1f};
    const spi_adamw adamw = {.beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6, .step = 4, .grad_scale = 1.0f};
    dev->op->adamw(dev, &item, 1, &adamw);
    check_vector("param", p, want, n, 4 * F32_ROUND, 8 * F32_ROUND);
    free(p);
    free(g);
    free(m);
    free(v);
    free(want);
}

#define ON_DEVICE(test) cmocka_unit_test_setup_teardown(test, setup_device, teardown_device)

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_DEVICE(test_convert),
        ON_DEVICE(test_gather_scatter),
        ON_DEVICE(test_add),
        ON_DEVICE(test_embedding),
        ON_DEVICE(test_embedding_backward),
        ON_DEVICE(test_norm),
        ON_DEVICE(test_norm_backward),
        ON_DEVICE(test_norm_edges),
        ON_DEVICE(test_gated),
        ON_DEVICE(test_sum_squares),
        ON_DEVICE(test_adamw),
        ON_DEVICE(test_adamw_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
