/*
 * Products of the CPU backend against sums in double precision. Run a second time with oneDNN held to AVX2,
 * where bf16 takes another way.
 */
#include "check.h"

#include <stdio.h>

typedef struct shape {
    int64_t m, n, k;
} shape;

/* Both sides of every limit: rows of the matrix-vector kernel, its groups of rows, tails of vectors. */
static const shape shapes[] = {{1, 1, 1},   {1, 5, 3},    {1, 37, 53},   {2, 64, 48},   {3, 19, 257},
                               {4, 66, 40}, {5, 33, 64},  {8, 130, 96},  {9, 31, 17},   {17, 33, 129},
                               {63, 48, 9}, {70, 96, 65}, {130, 40, 71}, {33, 600, 20}, {1, 700, 300}};
#define SHAPES (sizeof shapes / sizeof *shapes)

typedef struct types {
    sp_dtype in, out;
} types;

static const types all_types[] = {{SP_F32, SP_F32}, {SP_BF16, SP_BF16}, {SP_BF16, SP_F32}};
#define TYPES (sizeof all_types / sizeof *all_types)

/*
 * want and size [m, n]: sums and sums of absolute values of a [i, p] b [p, j]. An error of f32 sums of k
 * products is some roundings of `size`; 16 holds for any order in blocks at these lengths.
 */
static void multiply(double *want, double *size, shape s, spi_mat a, bool a_transposed, spi_mat b,
                     bool b_transposed) {
    double *x = values(a), *y = values(b);
    for (int64_t i = 0; i < s.m; i++)
        for (int64_t j = 0; j < s.n; j++)
            for (int64_t p = 0; p < s.k; p++) {
                const double v = (a_transposed ? x[p * s.m + i] : x[i * s.k + p]) *
                                 (b_transposed ? y[j * s.k + p] : y[p * s.n + j]);
                want[i * s.n + j] += v;
                size[i * s.n + j] += fabs(v);
            }
    free(x);
    free(y);
}

static void add_row_vector(double *want, double *size, shape s, const float *v) {
    for (int64_t i = 0; i < s.m * s.n; i++) {
        want[i] += v[i % s.n];
        size[i] += fabs((double)v[i % s.n]);
    }
}

static void add_matrix(double *want, double *size, spi_mat m) {
    for (int64_t i = 0; i < m.rows * m.cols; i++) {
        want[i] += get(m, i / m.cols, i % m.cols);
        size[i] += fabs(get(m, i / m.cols, i % m.cols));
    }
}

static void check_product(const char *what, shape s, spi_mat got, const double *want, double *size) {
    char name[160];
    snprintf(name, sizeof name, "%s, m %lld n %lld k %lld, %s", what, (long long)s.m, (long long)s.n,
             (long long)s.k, sp_dtype_name(got.dtype));
    for (int64_t i = 0; i < s.m * s.n; i++) size[i] *= 16 * F32_ROUND;
    check_mat(name, got, want, unit_roundoff(got.dtype), size, 0.0);
}

/* ------------------------------------------------------------------ linear */

enum residual { NO_RESIDUAL, OTHER, ITSELF, NARROWER, RESIDUALS };

typedef struct linear_case {
    shape s;
    types t;
    bool transposed, bias;
    enum residual residual;
    int64_t gap;
} linear_case;

static void linear_once(spi_device *dev, linear_case c) {
    const shape s = c.s;
    const spi_mat x = random_mat(c.t.in, s.m, s.k, c.gap, 1);
    const spi_weight w = {random_mat(c.t.in, c.transposed ? s.k : s.n, c.transposed ? s.n : s.k, 0, 2),
                          c.transposed, NULL};
    const spi_mat y = random_mat(c.t.out, s.m, s.n, c.gap * 3, 3);
    const sp_dtype r_dtype = c.residual == NARROWER ? SP_BF16 : c.t.out;
    const spi_mat r = c.residual == ITSELF ? y : random_mat(r_dtype, s.m, s.n, c.gap * 2, 4);
    float *bias = random_vector(s.n, 5);
    double *want = zeros(s.m * s.n), *size = zeros(s.m * s.n);
    multiply(want, size, s, x, false, w.m, !c.transposed);
    if (c.bias) add_row_vector(want, size, s, bias);
    if (c.residual != NO_RESIDUAL) add_matrix(want, size, r);
    dev->op->linear(dev, y, x, &w, c.bias ? bias : NULL, c.residual != NO_RESIDUAL ? &r : NULL);
    check_device(dev);
    char what[80];
    snprintf(what, sizeof what, "linear%s%s residual %d gap %lld", c.transposed ? " transposed" : "",
             c.bias ? " bias" : "", (int)c.residual, (long long)c.gap);
    check_product(what, s, y, want, size);
    free(x.data);
    free(w.m.data);
    if (r.data != y.data) free(r.data);
    free(y.data);
    free(bias);
    free(want);
    free(size);
}

static void test_linear(void **state) {
    spi_device *dev = *state;
    for (size_t i = 0; i < SHAPES; i++)
        for (size_t t = 0; t < TYPES; t++)
            for (int variant = 0; variant < 4 * RESIDUALS; variant++)
                linear_once(dev, (linear_case){.s = shapes[i],
                                               .t = all_types[t],
                                               .transposed = variant & 1,
                                               .bias = variant & 2,
                                               .residual = (enum residual)(variant / 4),
                                               .gap = (int64_t)(i + (size_t)variant) % 3 * 8});
}

/* ------------------------------------------------------------------ gradients */

static void linear_dx_once(spi_device *dev, shape s, types t, bool transposed, bool accumulate, int64_t gap) {
    const spi_mat dy = random_mat(t.in, s.m, s.n, gap, 1);
    const spi_weight w = {random_mat(t.in, transposed ? s.k : s.n, transposed ? s.n : s.k, 0, 2), transposed,
                          NULL};
    const spi_mat dx = random_mat(t.out, s.m, s.k, gap * 2, 3);
    const shape product = {s.m, s.k, s.n};
    double *want = zeros(s.m * s.k), *size = zeros(s.m * s.k);
    multiply(want, size, product, dy, false, w.m, transposed);
    if (accumulate) add_matrix(want, size, dx);
    dev->op->linear_dx(dev, dx, dy, &w, accumulate);
    check_device(dev);
    check_product(accumulate ? "linear_dx +=" : "linear_dx", product, dx, want, size);
    free(dy.data);
    free(w.m.data);
    free(dx.data);
    free(want);
    free(size);
}

static void test_linear_dx(void **state) {
    spi_device *dev = *state;
    for (size_t i = 0; i < SHAPES; i++)
        for (size_t t = 0; t < TYPES; t++)
            for (int variant = 0; variant < 4; variant++)
                linear_dx_once(dev, shapes[i], all_types[t], variant & 1, variant & 2,
                               (int64_t)(i + (size_t)variant) % 3 * 8);
}

/* dW and dbias add to what is there. */
static void linear_dw_once(spi_device *dev, shape s, sp_dtype dtype, bool transposed, bool bias, int64_t gap) {
    const spi_mat dy = random_mat(dtype, s.m, s.n, gap, 1), x = random_mat(dtype, s.m, s.k, gap * 2, 2);
    const spi_mat dw = random_mat(SP_F32, transposed ? s.k : s.n, transposed ? s.n : s.k, 0, 3);
    const spi_mat dbias = random_mat(SP_F32, 1, s.n, 0, 4);
    const shape product = {dw.rows, dw.cols, s.m}, sums = {1, s.n, s.m};
    double *want = zeros(s.n * s.k), *size = zeros(s.n * s.k);
    double *want_bias = zeros(s.n), *size_bias = zeros(s.n);
    add_matrix(want, size, dw);
    add_matrix(want_bias, size_bias, dbias);
    multiply(want, size, product, transposed ? x : dy, true, transposed ? dy : x, false);
    for (int64_t i = 0; i < s.m; i++) add_matrix(want_bias, size_bias, spi_mat_rows(dy, i, 1));
    dev->op->linear_dw(dev, dw.data, bias ? dbias.data : NULL, dy, x, transposed);
    check_device(dev);
    check_product("linear_dw", product, dw, want, size);
    if (bias) check_product("dbias", sums, dbias, want_bias, size_bias);
    free(dy.data);
    free(x.data);
    free(dw.data);
    free(dbias.data);
    free(want);
    free(size);
    free(want_bias);
    free(size_bias);
}

static void test_linear_dw(void **state) {
    spi_device *dev = *state;
    for (size_t i = 0; i < SHAPES; i++)
        for (int variant = 0; variant < 8; variant++)
            linear_dw_once(dev, shapes[i], variant & 1 ? SP_BF16 : SP_F32, variant & 2, variant & 4,
                           (int64_t)(i + (size_t)variant) % 3 * 8);
}

/* ------------------------------------------------------------------ manners */

/* Rows come in any number during training; each count is right, whatever was computed before. */
static void test_many_row_counts(void **state) {
    spi_device *dev = *state;
    for (int64_t m = 1; m <= 40; m++) {
        const shape s = {m * 7 % 41 + 1, 24, 32};
        linear_once(dev, (linear_case){.s = s, .t = all_types[m % 3], .residual = ITSELF, .bias = true});
        linear_dw_once(dev, s, m % 2 ? SP_BF16 : SP_F32, false, true, 0);
    }
}

/* Results so large that they are computed in pieces of rows. */
static void test_large_results(void **state) {
    spi_device *dev = *state;
    const linear_case c = {
        .s = {1100, 2048, 3}, .t = {SP_BF16, SP_BF16}, .bias = true, .residual = OTHER, .gap = 8};
    linear_once(dev, c);
    linear_dx_once(dev, (shape){300, 2, 9000}, c.t, false, true, 8);
}

static void test_no_rows(void **state) {
    spi_device *dev = *state;
    spi_mat x = random_mat(SP_BF16, 1, 8, 0, 1), y = random_mat(SP_BF16, 1, 4, 0, 2);
    const spi_weight w = {random_mat(SP_BF16, 4, 8, 0, 3), false, NULL};
    float dw[32] = {1.0f}, dbias[4] = {1.0f};
    x.rows = y.rows = 0;
    dev->op->linear(dev, y, x, &w, NULL, NULL);
    dev->op->linear_dx(dev, x, y, &w, true);
    dev->op->linear_dw(dev, dw, dbias, y, x, false);
    check_device(dev);
    assert_float_equal(dw[0], 1.0f, 0.0f);
    assert_float_equal(dbias[0], 1.0f, 0.0f);
    free(x.data);
    free(y.data);
    free(w.m.data);
}

/* The same bits every time, and after a failure nothing at all. */
static void test_same_bits_then_nothing(void **state) {
    spi_device *dev = *state;
    const int64_t m = 50, n = 300, k = 200;
    for (size_t t = 0; t < TYPES; t++) {
        const spi_mat x = random_mat(all_types[t].in, m, k, 0, 1);
        const spi_weight w = {random_mat(all_types[t].in, n, k, 0, 2), false, NULL};
        const spi_mat first = random_mat(all_types[t].out, m, n, 0, 3);
        const spi_mat again = random_mat(all_types[t].out, m, n, 0, 4);
        const size_t bytes = (size_t)(m * n) * spi_dtype_size(first.dtype);
        dev->op->linear(dev, first, x, &w, NULL, NULL);
        dev->op->linear(dev, again, x, &w, NULL, NULL);
        assert_memory_equal(first.data, again.data, bytes);
        memset(again.data, 0, bytes);
        dev->status = SP_ERR_MEMORY;
        dev->op->linear(dev, again, x, &w, NULL, NULL);
        dev->op->linear_dx(dev, x, again, &w, false);
        dev->op->linear_dw(dev, first.data, NULL, again, x, false);
        dev->status = SP_OK;
        for (size_t i = 0; i < bytes; i++) assert_int_equal(((const char *)again.data)[i], 0);
        free(x.data);
        free(w.m.data);
        free(first.data);
        free(again.data);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_linear, setup_device, teardown_device),
        cmocka_unit_test_setup_teardown(test_linear_dx, setup_device, teardown_device),
        cmocka_unit_test_setup_teardown(test_linear_dw, setup_device, teardown_device),
        cmocka_unit_test_setup_teardown(test_many_row_counts, setup_device, teardown_device),
        cmocka_unit_test_setup_teardown(test_large_results, setup_device, teardown_device),
        cmocka_unit_test_setup_teardown(test_no_rows, setup_device, teardown_device),
        cmocka_unit_test_setup_teardown(test_same_bits_then_nothing, setup_device, teardown_device),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
