/*
 * Norms and rotation of queries and keys on the CPU, against double precision: forward passes against their
 * formulas, backward passes against finite differences of those formulas.
 */
#include "norm_reference.h"

#define POSITIONS 50
#define MOST_COLUMNS 3072

typedef enum norms { NONE, OF_HEADS, OF_ROWS, LAYERS_OF_HEADS, NORM_FORMS } norms;

typedef struct qk_case {
    int64_t rows;
    int32_t heads, kv_heads, head_dim, rotary_dim;
    norms norms;
    bool last, alias, weights;
    float offset;
    sp_dtype dtype;
} qk_case;

/* A case with its numbers; vectors are owned. */
typedef struct subject {
    spi_qk qk;
    float *cos, *sin, *weights, *biases;
    int32_t *positions;
    int64_t cols;
} subject;

static spi_norm norm_of(const qk_case *c, int32_t heads, const float *weight, const float *bias) {
    return (spi_norm){.kind = c->norms == LAYERS_OF_HEADS ? SPI_NORM_LAYER : SPI_NORM_RMS,
                      .eps = 1e-3f,
                      .offset = c->offset,
                      .groups = c->norms == OF_ROWS ? 1 : heads,
                      .weight = weight,
                      .bias = c->norms == LAYERS_OF_HEADS ? bias : NULL};
}

static subject subject_of(const qk_case *c) {
    const int64_t half = c->rotary_dim / 2;
    subject s = {.cols = (int64_t)(c->heads + c->kv_heads) * c->head_dim};
    s.cos = random_vector(POSITIONS * half, 1);
    s.sin = random_vector(POSITIONS * half, 2);
    s.weights = random_vector(s.cols, 3);
    s.biases = random_vector(s.cols, 4);
    s.positions = malloc((size_t)c->rows * sizeof *s.positions);
    assert_non_null(s.positions);
    for (int64_t t = 0; t < c->rows; t++) s.positions[t] = (int32_t)(t * 7 % POSITIONS);
    s.qk = (spi_qk){.heads = c->heads,
                    .kv_heads = c->kv_heads,
                    .head_dim = c->head_dim,
                    .rotary_dim = c->rotary_dim,
                    .cos = s.cos,
                    .sin = s.sin,
                    .positions = s.positions,
                    .norms = c->norms != NONE,
                    .norm_last = c->last};
    const int64_t q = (int64_t)c->heads * c->head_dim;
    if (s.qk.norms) {
        s.qk.q_norm = norm_of(c, c->heads, s.weights, s.biases);
        s.qk.k_norm = norm_of(c, c->kv_heads, s.weights + q, s.biases + q);
    }
    return s;
}

static void free_subject(subject *s) {
    free(s->cos);
    free(s->sin);
    free(s->weights);
    free(s->biases);
    free(s->positions);
}

/* ------------------------------------------------------------------ one row, in double precision */

typedef void stage_fn(double *y, const double *x, const spi_qk *qk, int64_t t);

static void norm_stage(double *y, const double *x, const spi_qk *qk, int64_t t) {
    (void)t;
    const int64_t q = (int64_t)qk->heads * qk->head_dim, k = (int64_t)qk->kv_heads * qk->head_dim;
    const int64_t q_each = q / qk->q_norm.groups, k_each = k / qk->k_norm.groups;
    for (int64_t g = 0; g < qk->q_norm.groups; g++)
        norm_reference(y + g * q_each, x + g * q_each, &qk->q_norm, q_each);
    for (int64_t g = 0; g < qk->k_norm.groups; g++)
        norm_reference(y + q + g * k_each, x + q + g * k_each, &qk->k_norm, k_each);
}

static void rotation_stage(double *y, const double *x, const spi_qk *qk, int64_t t) {
    const int64_t half = qk->rotary_dim / 2, all = qk->heads + qk->kv_heads;
    memmove(y, x, (size_t)(all * qk->head_dim) * sizeof *y);
    for (int64_t i = 0; i < all * half; i++) {
        const int64_t a = i / half * qk->head_dim + i % half, b = a + half;
        const double c = qk->cos[qk->positions[t] * half + i % half];
        const double s = qk->sin[qk->positions[t] * half + i % half], first = x[a], second = x[b];
        y[a] = first * c - second * s;
        y[b] = second * c + first * s;
    }
}

/* dx = the gradient of sum dy stage(x), by finite differences. */
static void gradient(double *dx, stage_fn *stage, const double *x, const double *dy, const spi_qk *qk,
                     int64_t t, int64_t cols) {
    double at[MOST_COLUMNS], y[MOST_COLUMNS];
    const double h = 1e-5;
    memcpy(at, x, (size_t)cols * sizeof *at);
    for (int64_t i = 0; i < cols; i++) {
        double sum = 0.0;
        for (int side = -1; side <= 1; side += 2) {
            at[i] = x[i] + side * h;
            stage(y, at, qk, t);
            for (int64_t j = 0; j < cols; j++) sum += side * dy[j] * y[j];
        }
        at[i] = x[i];
        dx[i] = sum / (2.0 * h);
    }
}

/* dweights [queries' then keys'] += the gradient of sum dy norm(x), which is linear in the weights. */
static void weight_gradient(double *dweights, const double *x, const double *dy, const spi_qk *qk) {
    const int64_t q = (int64_t)qk->heads * qk->head_dim, all = q + (int64_t)qk->kv_heads * qk->head_dim;
    float ones[MOST_COLUMNS];
    double xhat[MOST_COLUMNS];
    spi_qk plain = *qk;
    for (int64_t i = 0; i < all; i++) ones[i] = 1.0f;
    plain.q_norm.offset = plain.k_norm.offset = 0.0f;
    plain.q_norm.weight = plain.k_norm.weight = ones;
    plain.q_norm.bias = plain.k_norm.bias = NULL;
    norm_stage(xhat, x, &plain, 0);
    const int64_t q_each = q / qk->q_norm.groups, k_each = (all - q) / qk->k_norm.groups;
    for (int64_t i = 0; i < all; i++)
        dweights[i < q ? i % q_each : q_each + (i - q) % k_each] += dy[i] * xhat[i];
}

/* ------------------------------------------------------------------ forward */

/*
 * The relative error of a norm in f32: a sum of n squares, one after the other, is rounded n times by half a
 * place of it or less, of random sign; half of that is left in the root.
 */
static double norm_rounding(const subject *s) {
    if (!s->qk.norms) return 0.0;
    return (4.0 + 0.5 * sqrt((double)(s->qk.heads * s->qk.head_dim / s->qk.q_norm.groups))) * F32_ROUND;
}

/* What relative errors of `unit` of y's elements come to in their rotation. */
static void rounding_between(double *absolute, const double *y, const subject *s, double unit, int64_t t) {
    const int64_t half = s->qk.rotary_dim / 2;
    for (int64_t i = 0; i < s->cols; i++) absolute[i] = fabs(y[i]);
    for (int64_t i = 0; i < (s->qk.heads + s->qk.kv_heads) * half; i++) {
        const int64_t a = i / half * s->qk.head_dim + i % half, b = a + half;
        const int64_t angle = s->qk.positions[t] * half + i % half;
        const double c = fabs((double)s->qk.cos[angle]), sine = fabs((double)s->qk.sin[angle]);
        absolute[a] = fabs(y[a]) * c + fabs(y[b]) * sine;
        absolute[b] = fabs(y[b]) * c + fabs(y[a]) * sine;
    }
    for (int64_t i = 0; i < s->cols; i++) absolute[i] = unit * absolute[i] + 8 * F32_ROUND;
}

static void forward_once(spi_device *dev, const qk_case *c) {
    subject s = subject_of(c);
    const double unit = unit_roundoff(c->dtype);
    const spi_mat x = random_mat(c->dtype, c->rows, s.cols, 8, 5);
    const spi_mat y = c->alias ? x : random_mat(c->dtype, c->rows, s.cols, 3, 6);
    double *in = values(x), *want = zeros(c->rows * s.cols), *absolute = zeros(c->rows * s.cols);
    double *rotated = zeros(c->rows * s.cols);
    dev->op->qk(dev, y, x, &s.qk);
    check_device(dev);
    for (int64_t t = 0; t < c->rows; t++) rotation_stage(rotated + t * s.cols, in + t * s.cols, &s.qk, t);
    if (c->last && !c->alias) {
        check_mat("rotated", x, rotated, unit, NULL, 4 * F32_ROUND);
        free(rotated);
        rotated = values(x);
    }
    for (int64_t t = 0; t < c->rows; t++) {
        const int64_t at = t * s.cols;
        double normed[MOST_COLUMNS];
        if (c->norms == NONE) {
            memcpy(want + at, rotated + at, (size_t)s.cols * sizeof *want);
        } else if (c->last) {
            norm_stage(want + at, rotated + at, &s.qk, t);
        } else {
            norm_stage(normed, in + at, &s.qk, t);
            rotation_stage(want + at, normed, &s.qk, t);
            rounding_between(absolute + at, normed, &s, unit + norm_rounding(&s), t);
            continue;
        }
        /* In place, the rotated x that the norm read is not there to be seen. */
        for (int64_t i = at; i < at + s.cols; i++)
            absolute[i] = 8 * F32_ROUND + (c->norms && c->alias ? 8 * unit : 0.0);
    }
    check_mat("qk", y, want, unit + norm_rounding(&s), absolute, 0.0);
    double *const lists[] = {in, want, absolute, rotated};
    for (int i = 0; i < 4; i++) free(lists[i]);
    if (!c->alias) free(y.data);
    free(x.data);
    free_subject(&s);
}

/* ------------------------------------------------------------------ backward */

static void backward_once(spi_device *dev, const qk_case *c) {
    subject s = subject_of(c);
    const int64_t q = (int64_t)c->heads * c->head_dim;
    const int64_t q_each = c->norms ? q / s.qk.q_norm.groups : 1;
    const int64_t k_each = c->norms ? (s.cols - q) / s.qk.k_norm.groups : 1;
    const spi_mat x = random_mat(c->dtype, c->rows, s.cols, 8, 5);
    const spi_mat dy = random_mat(c->dtype, c->rows, s.cols, 3, 6), first = copy_mat(dy);
    const spi_mat dx = c->alias ? dy : random_mat(c->dtype, c->rows, s.cols, 2, 7);
    const spi_mat again = c->alias ? first : copy_mat(dx);
    const spi_mat dweights = random_mat(SP_F32, 1, q_each + k_each, 0, 8), dweights2 = copy_mat(dweights);
    double *in = values(x), *g = values(dy), *want = zeros(c->rows * s.cols), *want_weights = values(dweights);
    double largest = 0.0;
    for (int64_t t = 0; t < c->rows; t++) {
        const double *row = in + t * s.cols, *d = g + t * s.cols;
        double *to = want + t * s.cols, between[MOST_COLUMNS];
        if (c->norms == NONE) {
            gradient(to, rotation_stage, row, d, &s.qk, t, s.cols);
        } else if (c->last) {
            gradient(between, norm_stage, row, d, &s.qk, t, s.cols);
            gradient(to, rotation_stage, row, between, &s.qk, t, s.cols);
            weight_gradient(want_weights, row, d, &s.qk);
        } else {
            gradient(between, rotation_stage, row, d, &s.qk, t, s.cols);
            gradient(to, norm_stage, row, between, &s.qk, t, s.cols);
            weight_gradient(want_weights, row, between, &s.qk);
        }
        for (int64_t i = 0; i < s.cols; i++) largest = fmax(largest, fabs(to[i]));
    }
    float *dq = c->weights ? dweights.data : NULL, *dq2 = c->weights ? dweights2.data : NULL;
    dev->op->qk_backward(dev, dx, dy, x, &s.qk, dq, dq ? dq + q_each : NULL);
    dev->op->qk_backward(dev, again, first, x, &s.qk, dq2, dq2 ? dq2 + q_each : NULL);
    check_device(dev);
    const double unit = unit_roundoff(c->dtype), between = c->norms && c->dtype == SP_BF16 ? unit : 0.0;
    check_mat("qk_backward", dx, want, unit, NULL, 64 * F32_ROUND + between * largest);
    assert_memory_equal(dx.data, again.data, (size_t)(c->rows * dx.ld) * spi_dtype_size(c->dtype));
    assert_memory_equal(dweights.data, dweights2.data, (size_t)(q_each + k_each) * sizeof(float));
    if (c->weights && c->norms) {
        const double terms = sqrt((double)(c->rows * s.cols) / (double)(q_each + k_each) + 16);
        check_mat("dweights", dweights, want_weights, 0.0, NULL, (8 * F32_ROUND + between) * terms);
    }
    double *const lists[] = {in, g, want, want_weights};
    for (int i = 0; i < 4; i++) free(lists[i]);
    void *const mats[] = {x.data,
                          dy.data,
                          first.data,
                          dweights.data,
                          dweights2.data,
                          c->alias ? NULL : dx.data,
                          c->alias ? NULL : again.data};
    for (int i = 0; i < 7; i++) free(mats[i]);
    free_subject(&s);
}

/* ------------------------------------------------------------------ cases */

static void over_cases(spi_device *dev, void (*once)(spi_device *, const qk_case *), bool large) {
    static const qk_case shapes[] = {
        {.rows = 11, .heads = 3, .kv_heads = 1, .head_dim = 16, .rotary_dim = 16},
        {.rows = 5, .heads = 2, .kv_heads = 2, .head_dim = 24, .rotary_dim = 10},
        {.rows = 1, .heads = 4, .kv_heads = 2, .head_dim = 20, .rotary_dim = 0},
        {.rows = 40, .heads = 3, .kv_heads = 2, .head_dim = 36, .rotary_dim = 36},
        {.rows = 60, .heads = 16, .kv_heads = 8, .head_dim = 128, .rotary_dim = 128}};
    for (int i = 0; i < (large ? 5 : 4); i++)
        for (int form = 0; form < NORM_FORMS; form++)
            for (int flags = 0; flags < 8; flags++) {
                qk_case c = shapes[i];
                if (i == 4 && flags > 3) continue;
                c.norms = (norms)form;
                c.dtype = flags & 1 ? SP_BF16 : SP_F32;
                c.last = flags & 2;
                c.alias = flags & 4;
                c.weights = (flags & 4) == (form == OF_HEADS ? 0 : 4);
                c.offset = i % 2 ? 1.0f : 0.0f;
                once(dev, &c);
            }
}

static void test_qk(void **state) {
    over_cases(*state, forward_once, true);
}

static void test_qk_backward(void **state) {
    over_cases(*state, backward_once, false);
}

static void test_no_rows(void **state) {
    spi_device *dev = *state;
    const qk_case c = {.rows = 0, .heads = 2, .kv_heads = 1, .head_dim = 8, .rotary_dim = 8, .norms = OF_HEADS};
    subject s = subject_of(&c);
    const spi_mat x = random_mat(SP_F32, 0, s.cols, 0, 1);
    float dweights[16] = {0};
    dev->op->qk(dev, x, x, &s.qk);
    dev->op->qk_backward(dev, x, x, x, &s.qk, dweights, dweights + 8);
    check_device(dev);
    for (int i = 0; i < 16; i++) assert_true(dweights[i] == 0.0f);
    free(x.data);
    free_subject(&s);
}

#define ON_DEVICE(test) cmocka_unit_test_setup_teardown(test, setup_device, teardown_device)

int main(void) {
    const struct CMUnitTest tests[] = {
        ON_DEVICE(test_qk),
        ON_DEVICE(test_qk_backward),
        ON_DEVICE(test_no_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
