/*
 * Quantised weights: making them, against roundings in double precision; what operations make of them, against
 * sums in double precision over scale * q. Run a second time with oneDNN held to AVX2.
 */
#include "check.h"

#include <stdio.h>

/* A random quantised weight [n, k]; scales of several magnitudes. Free with weight_free. */
static spi_weight random_int8(int64_t n, int64_t k, uint64_t stream) {
    int8_t *q = malloc((size_t)(n * k));
    float *scale = random_vector(n, stream);
    assert_non_null(q);
    for (int64_t i = 0; i < n * k; i++)
        q[i] = (int8_t)((int)(255.0f * spi_uniform(12, stream, (uint64_t)i)) - 127);
    for (int64_t i = 0; i < n; i++) scale[i] = ldexpf(1.0f + fabsf(scale[i]), (int)(i % 7) - 12);
    return (spi_weight){.m = spi_mat_of(q, SP_I8, n, k), .scale = scale};
}

static void weight_free(spi_weight *w) {
    free(w->m.data);
    free((float *)(uintptr_t)w->scale);
}

static double weight_at(const spi_weight *w, int64_t n, int64_t k) {
    return (double)w->scale[n] * ((const int8_t *)w->m.data)[n * w->m.cols + k];
}

/* ------------------------------------------------------------------ quantising */

static void check_quantized(spi_mat m, bool transposed, const float *scale, const int8_t *q) {
    const int64_t rows = transposed ? m.cols : m.rows, cols = transposed ? m.rows : m.cols;
    for (int64_t n = 0; n < rows; n++) {
        double most = 0.0;
        for (int64_t k = 0; k < cols; k++) most = fmax(most, fabs(transposed ? get(m, k, n) : get(m, n, k)));
        const float want = most > 0 ? (float)most / 127.0f : 1.0f;
        if (scale[n] != want) fail_msg("scale %lld: expected %g, found %g", (long long)n, want, scale[n]);
        for (int64_t k = 0; k < cols; k++) {
            const float w = (float)(transposed ? get(m, k, n) : get(m, n, k));
            const int nearest = (int)nearbyintf(w / want);
            if (q[n * cols + k] != nearest)
                fail_msg("(%lld, %lld): %g by %g: expected %d, found %d", (long long)n, (long long)k, w, want,
                         nearest, q[n * cols + k]);
            assert_true(fabs((double)w - (double)want * nearest) <= 0.5001 * (double)want);
        }
    }
}

static void quantize_once(spi_device *dev, sp_dtype dtype, int64_t rows, int64_t cols, bool transposed) {
    const spi_mat m = random_mat(dtype, rows, cols, 0, 3);
    const int64_t n = transposed ? cols : rows;
    float *scale = random_vector(n, 4);
    int8_t *q = malloc((size_t)(rows * cols));
    assert_non_null(q);
    /* One output is 0 throughout, one tiny. */
    for (int64_t k = 0; k < (transposed ? rows : cols); k++) {
        set(m, transposed ? k : 0, transposed ? 0 : k, 0.0);
        if (n > 1) set(m, transposed ? k : n - 1, transposed ? n - 1 : k, ldexp(1.0, -14 - (int)(k % 5)));
    }
    dev->op->quantize(dev, scale, q, &(spi_weight){.m = m, .transposed = transposed});
    check_device(dev);
    check_quantized(m, transposed, scale, q);
    free(m.data);
    free(scale);
    free(q);
}

static void test_quantize(void **state) {
    static const sp_dtype dtypes[] = {SP_F32, SP_BF16, SP_F16};
    for (size_t t = 0; t < 3; t++)
        for (int transposed = 0; transposed < 2; transposed++) {
            quantize_once(*state, dtypes[t], 1, 1, transposed);
            quantize_once(*state, dtypes[t], 5, 37, transposed);
            quantize_once(*state, dtypes[t], 300, 257, transposed);
        }
}

/* In a file a tensor may begin anywhere. */
static void test_quantize_unaligned(void **state) {
    spi_device *dev = *state;
    const spi_mat m = random_mat(SP_F32, 9, 70, 0, 5);
    char *moved = malloc(9 * 70 * sizeof(float) + 1);
    float scale[9];
    int8_t q[9 * 70];
    assert_non_null(moved);
    memcpy(moved + 1, m.data, 9 * 70 * sizeof(float));
    dev->op->quantize(dev, scale, q, &(spi_weight){.m = spi_mat_of(moved + 1, SP_F32, 9, 70)});
    check_device(dev);
    check_quantized(m, false, scale, q);
    free(moved);
    free(m.data);
}

/* ------------------------------------------------------------------ products */

typedef struct shape {
    int64_t m, n, k;
} shape;

/* Both sides of every limit: rows of the matrix-vector kernel and its groups, tails of vectors, one piece and
 * several, sums of dx in several parts. */
static const shape shapes[] = {{1, 1, 1},      {1, 5, 3},      {1, 37, 53},      {2, 64, 48},   {3, 19, 257},
                               {4, 66, 40},    {5, 33, 64},    {6, 70, 33},      {7, 3, 31},    {8, 130, 96},
                               {9, 31, 17},    {17, 33, 129},  {70, 96, 65},     {130, 40, 71}, {1, 700, 300},
                               {9, 9000, 500}, {3, 1500, 801}, {260, 200, 17000}};
#define SHAPES (sizeof shapes / sizeof *shapes)

typedef struct types {
    sp_dtype in, out;
} types;

static const types all_types[] = {{SP_F32, SP_F32}, {SP_BF16, SP_BF16}, {SP_BF16, SP_F32}};

/* As in test_ops_products.c; of many rows in bf16 the weights are rounded too. */
static double slack(sp_dtype in, bool few) {
    return 16 * F32_ROUND + (in == SP_BF16 && !few ? BF16_ROUND : 0.0);
}

static void check_product(const char *what, shape s, types t, spi_mat got, const double *want, double *size,
                          double slack_of) {
    char name[160];
    snprintf(name, sizeof name, "%s, m %lld n %lld k %lld, %s to %s", what, (long long)s.m, (long long)s.n,
             (long long)s.k, sp_dtype_name(t.in), sp_dtype_name(t.out));
    for (int64_t i = 0; i < got.rows * got.cols; i++) size[i] *= slack_of;
    check_mat(name, got, want, unit_roundoff(got.dtype), size, 0.0);
}

static void linear_once(spi_device *dev, shape s, types t, bool with_bias, bool with_residual) {
    const spi_mat x = random_mat(t.in, s.m, s.k, 3, 1), y = random_mat(t.out, s.m, s.n, 5, 2);
    const spi_mat residual = random_mat(t.out, s.m, s.n, 2, 3);
    spi_weight w = random_int8(s.n, s.k, 4);
    float *bias = random_vector(s.n, 5);
    double *want = zeros(s.m * s.n), *size = zeros(s.m * s.n), *rows = values(x);
    for (int64_t i = 0; i < s.m * s.n; i++) {
        const int64_t n = i % s.n;
        for (int64_t k = 0; k < s.k; k++) {
            const double v = rows[i / s.n * s.k + k] * weight_at(&w, n, k);
            want[i] += v;
            size[i] += fabs(v);
        }
        const double b = with_bias ? (double)bias[n] : 0.0, r = with_residual ? get(residual, i / s.n, n) : 0.0;
        want[i] += b + r;
        size[i] += fabs(b) + fabs(r);
    }
    dev->op->linear(dev, y, x, &w, with_bias ? bias : NULL, with_residual ? &residual : NULL);
    check_device(dev);
    check_product("linear", s, t, y, want, size, slack(t.in, s.m <= 8));
    free(x.data);
    free(y.data);
    free(residual.data);
    weight_free(&w);
    free(bias);
    free(want);
    free(size);
    free(rows);
}

static void test_linear(void **state) {
    for (size_t i = 0; i < SHAPES; i++)
        for (size_t t = 0; t < 3; t++) {
            const bool long_one = shapes[i].m * shapes[i].n * shapes[i].k > 50000000;
            if (long_one && t != 1) continue;
            linear_once(*state, shapes[i], all_types[t], true, true);
            if (!long_one) linear_once(*state, shapes[i], all_types[t], i % 2, false);
        }
}

/* Twice, for the same bits. */
static void test_same_bits(void **state) {
    spi_device *dev = *state;
    for (int64_t m = 1; m <= 8; m += 7) {
        const spi_mat x = random_mat(SP_BF16, m, 600, 0, 1);
        const spi_mat y = random_mat(SP_F32, m, 333, 0, 2), again = random_mat(SP_F32, m, 333, 0, 3);
        spi_weight w = random_int8(333, 600, 4);
        dev->op->linear(dev, y, x, &w, NULL, NULL);
        dev->op->linear(dev, again, x, &w, NULL, NULL);
        check_device(dev);
        assert_memory_equal(y.data, again.data, (size_t)(m * 333) * sizeof(float));
        free(x.data);
        free(y.data);
        free(again.data);
        weight_free(&w);
    }
}

static void dx_once(spi_device *dev, shape s, types t, bool accumulate) {
    const spi_mat dy = random_mat(t.in, s.m, s.n, 3, 1), dx = random_mat(t.out, s.m, s.k, 5, 2);
    spi_weight w = random_int8(s.n, s.k, 4);
    double *want = zeros(s.m * s.k), *size = zeros(s.m * s.k), *rows = values(dy);
    for (int64_t i = 0; accumulate && i < s.m * s.k; i++) {
        want[i] = get(dx, i / s.k, i % s.k);
        size[i] = fabs(want[i]);
    }
    for (int64_t i = 0; i < s.m; i++)
        for (int64_t n = 0; n < s.n; n++)
            for (int64_t k = 0; k < s.k; k++) {
                const double v = rows[i * s.n + n] * weight_at(&w, n, k);
                want[i * s.k + k] += v;
                size[i * s.k + k] += fabs(v);
            }
    dev->op->linear_dx(dev, dx, dy, &w, accumulate);
    check_device(dev);
    check_product(accumulate ? "linear_dx +=" : "linear_dx", s, t, dx, want, size, slack(t.in, false));
    free(dy.data);
    free(dx.data);
    weight_free(&w);
    free(want);
    free(size);
    free(rows);
}

static void test_linear_dx(void **state) {
    for (size_t i = 0; i < SHAPES; i++)
        for (size_t t = 0; t < 2; t++) {
            const bool long_one = shapes[i].m * shapes[i].n * shapes[i].k > 50000000;
            if (long_one && t != 1) continue;
            dx_once(*state, shapes[i], all_types[t], true);
            if (!long_one) dx_once(*state, shapes[i], all_types[t], false);
        }
}

/* ------------------------------------------------------------------ embedding and head */

static void embedding_once(spi_device *dev, sp_dtype dtype, float scale, bool with_positions) {
    const int32_t ids[] = {3, 0, 16, 3, 9}, positions[] = {0, 1, 2, 0, 7};
    spi_weight table = random_int8(17, 83, 1);
    const spi_mat places = random_mat(dtype, 8, 83, 0, 2), y = random_mat(dtype, 5, 83, 6, 3);
    double *want = zeros(5 * 83);
    for (int64_t i = 0; i < 5 * 83; i++)
        want[i] = (double)scale * weight_at(&table, ids[i / 83], i % 83) +
                  (with_positions ? get(places, positions[i / 83], i % 83) : 0.0);
    dev->op->embedding(dev, y, &table, ids, scale, with_positions ? &places : NULL, positions);
    check_device(dev);
    check_mat("embedding", y, want, unit_roundoff(dtype), NULL, 8 * F32_ROUND);
    weight_free(&table);
    free(places.data);
    free(y.data);
    free(want);
}

static void test_embedding(void **state) {
    static const sp_dtype dtypes[] = {SP_F32, SP_BF16};
    for (size_t t = 0; t < 2; t++) {
        embedding_once(*state, dtypes[t], 1.0f, false);
        embedding_once(*state, dtypes[t], 5.5f, true);
    }
}

/*
 * Cross-entropy of row i of logits x W^T in double precision, and its gradient g [V]. *error is the most that
 * it, and the logarithm of any probability, can be off by where each logit is off by `slack_of` of its terms'
 * sizes.
 */
static double row_loss(const spi_weight *w, spi_mat x, int64_t i, int32_t label, double *g, double slack_of,
                       double *error) {
    double sum = 0.0, most = -INFINITY, largest = 0.0;
    for (int64_t v = 0; v < w->m.rows; v++) {
        double size = 0.0;
        g[v] = 0.0;
        for (int64_t k = 0; k < x.cols; k++) {
            const double term = get(x, i, k) * weight_at(w, v, k);
            g[v] += term;
            size += fabs(term);
        }
        most = fmax(most, g[v]);
        largest = fmax(largest, size);
    }
    for (int64_t v = 0; v < w->m.rows; v++) sum += exp(g[v] - most);
    const double loss = most + log(sum) - g[label];
    for (int64_t v = 0; v < w->m.rows; v++) g[v] = exp(g[v] - most) / sum - (v == label);
    *error = 2.0 * slack_of * largest;
    return loss;
}

/* The loss of every row and its gradient, of one piece of the head or several. */
static void head_once(spi_device *dev, sp_dtype dtype, int64_t rows, int64_t vocab, int64_t d) {
    const spi_mat x = random_mat(dtype, rows, d, 3, 1), dx = random_mat(dtype, rows, d, 2, 2);
    spi_weight w = random_int8(vocab, d, 3);
    int32_t *labels = malloc((size_t)rows * sizeof *labels);
    double acc[2] = {0}, loss = 0.0, losses = 0.0, error;
    double *g = zeros(vocab), *want = zeros(rows * d), *size = zeros(rows * d);
    const double slack_of = slack(dtype, rows <= 8), of_sums = 16 * F32_ROUND;
    /* Weights and the gradient of the logits are rounded to bf16 on the way back. */
    const double of_terms = of_sums + (dtype == SP_BF16 ? 2 * BF16_ROUND : 0.0);
    assert_non_null(labels);
    for (int64_t i = 0; i < rows; i++) {
        labels[i] = (int32_t)(i * 7919 % vocab);
        loss += row_loss(&w, x, i, labels[i], g, slack_of, &error);
        losses += error;
        for (int64_t v = 0; v < vocab; v++) {
            const double p = g[v] + (v == labels[i]);
            for (int64_t k = 0; k < d; k++) {
                const double term = 0.5 * weight_at(&w, v, k);
                want[i * d + k] += g[v] * term;
                size[i * d + k] += fabs(g[v] * term) * of_terms + fabs(p * term) * (error + of_sums);
            }
        }
    }
    dev->op->head_loss(
        dev,
        &(spi_head_loss){.x = x, .dx = dx, .weight = &w, .labels = labels, .grad_scale = 0.5f, .acc = acc});
    check_device(dev);
    if (fabs(acc[0] - loss) > losses + 1e-6 * loss) fail_msg("loss: expected %.9g, found %.9g", loss, acc[0]);
    check_mat("head", dx, want, unit_roundoff(dtype), size, 0.0);
    free(x.data);
    free(dx.data);
    weight_free(&w);
    free(labels);
    free(g);
    free(want);
    free(size);
}

static void test_head(void **state) {
    head_once(*state, SP_F32, 3, 777, 24);
    head_once(*state, SP_F32, 12, 33000, 130);
    head_once(*state, SP_BF16, 3, 777, 24);
    head_once(*state, SP_BF16, 12, 33000, 130);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantize),  cmocka_unit_test(test_quantize_unaligned),
        cmocka_unit_test(test_linear),    cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_linear_dx), cmocka_unit_test(test_embedding),
        cmocka_unit_test(test_head),
    };
    return cmocka_run_group_tests(tests, setup_device, teardown_device);
}
