/* The distance of a student's logits from a teacher's against a double-precision reference: chunks,
 * temperatures, caps, ties, gradients. */
#include "check.h"

typedef struct distill_case {
    const char *name;
    sp_dtype dtype;
    int64_t n, student, teacher, vocab; /* rows, widths, logits */
    float kl, mse, temperature, cap;
    bool transposed;
} distill_case;

static const distill_case cases[] = {
    {"one row", SP_F32, 1, 16, 8, 33, 1, 0, 1, 0, false},
    {"divergence", SP_F32, 37, 19, 11, 1001, 1, 0, 1, 0, false},
    {"temperature", SP_F32, 21, 24, 16, 257, 0.7f, 0, 3, 0, false},
    {"cold", SP_F32, 21, 24, 16, 257, 1, 0, 0.25f, 0, false},
    {"square gap", SP_F32, 30, 24, 30, 511, 0, 1, 1, 0, false},
    {"both", SP_F32, 30, 24, 12, 511, 0.5f, 2, 1.5f, 0, true},
    {"cap", SP_F32, 30, 24, 12, 5003, 0.5f, 0.3f, 2, 1.5f, false},
    {"two logits", SP_F32, 9, 32, 8, 2, 1, 1, 1, 0, false},
    {"bf16", SP_BF16, 40, 64, 32, 777, 1, 0, 2, 0, false},
    {"bf16, both, cap", SP_BF16, 12, 48, 16, 333, 1, 0.5f, 1, 1, false},
    {"bf16, square gap", SP_BF16, 7, 33, 17, 5, 0, 1, 1, 0, false},
};

typedef struct operands {
    spi_mat x, dx, teacher_x;
    spi_weight weight, teacher;
} operands;

static operands operands_of(const distill_case *c) {
    const int64_t d = c->student, v = c->vocab;
    return (operands){.x = random_mat(c->dtype, c->n, d, 3, 1),
                      .dx = random_mat(c->dtype, c->n, d, 2, 2),
                      .teacher_x = random_mat(c->dtype, c->n, c->teacher, 1, 3),
                      .weight = {random_mat(c->dtype, c->transposed ? d : v, c->transposed ? v : d, 0, 4),
                                 c->transposed, NULL},
                      .teacher = {random_mat(c->dtype, v, c->teacher, 0, 5), false, NULL}};
}

static void operands_free(operands *o) {
    free(o->x.data);
    free(o->dx.data);
    free(o->teacher_x.data);
    free(o->weight.m.data);
    free(o->teacher.m.data);
}

static spi_distill_loss loss_of(const distill_case *c, const operands *o, float scale, double *acc) {
    return (spi_distill_loss){.x = o->x,
                              .dx = o->dx,
                              .teacher_x = o->teacher_x,
                              .weight = &o->weight,
                              .teacher = &o->teacher,
                              .teacher_softcap = c->cap,
                              .kl = c->kl,
                              .mse = c->mse,
                              .temperature = c->temperature,
                              .grad_scale = scale,
                              .acc = acc};
}

/* ------------------------------------------------------------------ the reference */

static double weight_at(const spi_weight *w, int64_t v, int64_t j) {
    return w->transposed ? get(w->m, j, v) : get(w->m, v, j);
}

static int64_t logits_of(const spi_weight *w, int64_t vocab, const double *x, int64_t d, double cap,
                         double *logits) {
    int64_t best = 0;
    for (int64_t v = 0; v < vocab; v++) {
        logits[v] = 0;
        for (int64_t j = 0; j < d; j++) logits[v] += x[j] * weight_at(w, v, j);
        if (cap > 0) logits[v] = cap * tanh(logits[v] / cap);
        if (logits[v] > logits[best]) best = v;
    }
    return best;
}

/* log softmax(x / T) */
static void log_softmax(const double *x, int64_t n, double temperature, double *out) {
    double most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, x[i] / temperature);
    for (int64_t i = 0; i < n; i++) sum += exp(x[i] / temperature - most);
    for (int64_t i = 0; i < n; i++) out[i] = x[i] / temperature - most - log(sum);
}

/* The loss of a row whose student reads x [d]; *agrees. */
static double ref_loss(const distill_case *c, const operands *o, int64_t row, const double *x, bool *agrees) {
    const int64_t n = c->vocab;
    double *s = zeros(n), *t = zeros(n), *q = zeros(n), *p = zeros(n), *y = zeros(c->teacher), kl = 0, gap = 0;
    const double temperature = (double)c->temperature;
    for (int64_t j = 0; j < c->teacher; j++) y[j] = get(o->teacher_x, row, j);
    const int64_t own = logits_of(&o->weight, n, x, c->student, 0, s);
    *agrees = own == logits_of(&o->teacher, n, y, c->teacher, (double)c->cap, t);
    log_softmax(s, n, temperature, q);
    log_softmax(t, n, temperature, p);
    for (int64_t i = 0; i < n; i++) {
        kl += exp(p[i]) * (p[i] - q[i]);
        gap += (s[i] - t[i]) * (s[i] - t[i]);
    }
    free(s);
    free(t);
    free(q);
    free(p);
    free(y);
    return (double)c->kl * temperature * temperature * kl + (double)c->mse * gap / (double)n;
}

/* dx [d] by its formula, and the sum of its terms' magnitudes. */
static void ref_gradient(const distill_case *c, const operands *o, int64_t row, double scale, double *dx,
                         double *size) {
    const int64_t n = c->vocab;
    double *s = zeros(n), *t = zeros(n), *q = zeros(n), *p = zeros(n);
    double *x = zeros(c->student), *y = zeros(c->teacher);
    for (int64_t j = 0; j < c->student; j++) x[j] = get(o->x, row, j);
    for (int64_t j = 0; j < c->teacher; j++) y[j] = get(o->teacher_x, row, j);
    logits_of(&o->weight, n, x, c->student, 0, s);
    logits_of(&o->teacher, n, y, c->teacher, (double)c->cap, t);
    log_softmax(s, n, (double)c->temperature, q);
    log_softmax(t, n, (double)c->temperature, p);
    for (int64_t v = 0; v < n; v++) {
        const double g = scale * ((double)c->kl * (double)c->temperature * (exp(q[v]) - exp(p[v])) +
                                  2 * (double)c->mse / (double)n * (s[v] - t[v]));
        for (int64_t j = 0; j < c->student; j++) {
            dx[j] += g * weight_at(&o->weight, v, j);
            size[j] += fabs(g * weight_at(&o->weight, v, j));
        }
    }
    free(s);
    free(t);
    free(q);
    free(p);
    free(x);
    free(y);
}

/* ------------------------------------------------------------------ tests */

/* Rows of the reference are slow where the vocabulary is wide: every `step`th row's gradient is compared. */
static void check_case(spi_device *dev, const distill_case *c, int64_t step) {
    const double scale = 0.37, each = c->dtype == SP_F32 ? 1e-5 : 1.01 * BF16_ROUND;
    operands o = operands_of(c);
    double acc[2] = {3.0, 5.0}, loss = 0, agree = 0; /* added to */
    double *x = zeros(c->student), *dx = zeros(c->student), *size = zeros(c->student);
    const spi_distill_loss l = loss_of(c, &o, (float)scale, acc);
    dev->op->distill_loss(dev, &l);
    check_device(dev);
    print_message("%s\n", c->name);
    for (int64_t i = 0; i < c->n; i++) {
        bool agrees;
        for (int64_t j = 0; j < c->student; j++) x[j] = get(o.x, i, j);
        loss += ref_loss(c, &o, i, x, &agrees);
        agree += agrees;
        if (i % step) continue;
        memset(dx, 0, (size_t)c->student * sizeof *dx);
        memset(size, 0, (size_t)c->student * sizeof *size);
        ref_gradient(c, &o, i, scale, dx, size);
        for (int64_t j = 0; j < c->student; j++) size[j] = size[j] * each + 1e-7;
        check_mat("dx", spi_mat_rows(o.dx, i, 1), dx, each, size, 0);
    }
    check_gaps("dx", o.dx);
    assert_float_equal(acc[0] - 3.0, loss, 2e-6 * (fabs(loss) + (double)c->n));
    assert_float_equal(acc[1] - 5.0, agree, 0.0);
    free(x);
    free(dx);
    free(size);
    operands_free(&o);
}

static void test_distill(void **state) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_case(*state, &cases[i], 1);
}

/* Vocabularies so wide that the rows take several chunks. */
static void test_chunks(void **state) {
    const distill_case wide[] = {{"chunks", SP_F32, 55, 3, 2, 300001, 1, 0.5f, 1, 0, false},
                                 {"chunks, bf16", SP_BF16, 29, 3, 2, 300001, 1, 0, 1, 2, false}};
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) check_case(*state, &wide[i], 13);
}

/* dx is the slope of the very loss that is reported. */
static void test_differences(void **state) {
    spi_device *dev = *state;
    for (size_t i = 2; i < 7; i++) {
        const distill_case *c = &cases[i];
        operands o = operands_of(c);
        double acc[2] = {0}, *x = zeros(c->student);
        const spi_distill_loss l = loss_of(c, &o, 1.0f, acc);
        dev->op->distill_loss(dev, &l);
        check_device(dev);
        for (int64_t j = 0; j < c->student; j++) x[j] = get(o.x, 4, j);
        for (int64_t j = 0; j < c->student; j++) {
            const double at = x[j], step = 1e-5;
            bool agrees;
            x[j] = at + step;
            const double up = ref_loss(c, &o, 4, x, &agrees);
            x[j] = at - step;
            const double slope = (up - ref_loss(c, &o, 4, x, &agrees)) / (2 * step);
            x[j] = at;
            assert_float_equal(get(o.dx, 4, j), slope, 2e-5 * fabs(slope) + 1e-5);
        }
        free(x);
        operands_free(&o);
    }
}

/* Without dx only the loss is computed, the same one; and no rows at all. */
static void test_loss_only(void **state) {
    spi_device *dev = *state;
    operands o = operands_of(&cases[5]);
    double both[2] = {0}, alone[2] = {0};
    spi_distill_loss l = loss_of(&cases[5], &o, 1.0f, both);
    dev->op->distill_loss(dev, &l);
    l.dx.data = NULL;
    l.acc = alone;
    dev->op->distill_loss(dev, &l);
    assert_memory_equal(both, alone, sizeof both);
    l.x = spi_mat_rows(l.x, 0, 0);
    l.teacher_x = spi_mat_rows(l.teacher_x, 0, 0);
    dev->op->distill_loss(dev, &l);
    check_device(dev);
    assert_memory_equal(both, alone, sizeof both);
    operands_free(&o);
}

/* A model is at no distance from itself, and nothing pulls beyond the rounding of its probabilities. */
static void test_itself(void **state) {
    spi_device *dev = *state;
    const distill_case c = {"itself", SP_F32, 20, 24, 24, 4100, 1, 1, 2, 0, false};
    operands o = operands_of(&c);
    double acc[2] = {0};
    spi_distill_loss l = loss_of(&c, &o, 1.0f, acc);
    l.teacher_x = l.x;
    l.teacher = l.weight;
    dev->op->distill_loss(dev, &l);
    check_device(dev);
    assert_float_equal(acc[0], 0.0, 1e-12);
    assert_float_equal(acc[1], 20.0, 0.0);
    for (int64_t i = 0; i < c.n * c.student; i++)
        assert_float_equal(get(o.dx, i / c.student, i % c.student), 0.0, 1e-8);
    operands_free(&o);
}

/* Of equal logits the first is the argmax. Rows: all of the student's equal, then its first two against the
 * last. */
static void test_ties(void **state) {
    spi_device *dev = *state;
    float x[3] = {0, 1, 1}, y[3] = {1, 1, -1}, dx[3], own[4] = {7, 7, 2, 1}, other[4] = {5, 5, 5, 1};
    const spi_weight w = {spi_mat_of(own, SP_F32, 4, 1), false, NULL},
                     t = {spi_mat_of(other, SP_F32, 4, 1), false, NULL};
    double acc[2] = {0};
    const spi_distill_loss l = {.x = spi_mat_of(x, SP_F32, 3, 1),
                                .dx = spi_mat_of(dx, SP_F32, 3, 1),
                                .teacher_x = spi_mat_of(y, SP_F32, 3, 1),
                                .weight = &w,
                                .teacher = &t,
                                .mse = 1,
                                .temperature = 1,
                                .grad_scale = 1,
                                .acc = acc};
    dev->op->distill_loss(dev, &l);
    check_device(dev);
    assert_float_equal(acc[1], 2.0, 0.0);
    /* (3 * 25 + 1 + 4 + 4 + 9 + 0 + 144 + 144 + 49 + 4) / 4 */
    assert_float_equal(acc[0], 108.5, 1e-4);
}

/* Logits far apart: nothing overflows. */
static void test_extremes(void **state) {
    spi_device *dev = *state;
    float x[1] = {1}, y[1] = {1}, dx[1], own[3] = {0, 20000, -1000}, other[3] = {3000, 0, 0};
    const spi_weight w = {spi_mat_of(own, SP_F32, 3, 1), false, NULL},
                     t = {spi_mat_of(other, SP_F32, 3, 1), false, NULL};
    double acc[2] = {0};
    const spi_distill_loss l = {.x = spi_mat_of(x, SP_F32, 1, 1),
                                .dx = spi_mat_of(dx, SP_F32, 1, 1),
                                .teacher_x = spi_mat_of(y, SP_F32, 1, 1),
                                .weight = &w,
                                .teacher = &t,
                                .kl = 1,
                                .temperature = 1,
                                .grad_scale = 1,
                                .acc = acc};
    dev->op->distill_loss(dev, &l);
    check_device(dev);
    assert_float_equal(acc[0], 20000.0, 1e-3);
    assert_float_equal(acc[1], 0.0, 0.0);
    assert_float_equal((double)dx[0], 20000.0, 1e-2);
}

/* NaN reaches the loss: training notices it there. */
static void test_nan(void **state) {
    spi_device *dev = *state;
    for (size_t i = 3; i < 6; i++) {
        operands o = operands_of(&cases[i]);
        double acc[2] = {0};
        set(o.x, 3, 0, NAN);
        const spi_distill_loss l = loss_of(&cases[i], &o, 1.0f, acc);
        dev->op->distill_loss(dev, &l);
        check_device(dev);
        assert_true(isnan(acc[0]));
        operands_free(&o);
    }
}

/* The same bits again after another batch. */
static void test_same_bits(void **state) {
    spi_device *dev = *state;
    for (size_t i = 6; i < 10; i++) {
        operands o = operands_of(&cases[i]), other = operands_of(&cases[1]);
        double acc[2] = {0}, again[2] = {0}, ignored[2] = {0};
        spi_distill_loss l = loss_of(&cases[i], &o, 1.0f, acc);
        const spi_distill_loss between = loss_of(&cases[1], &other, 1.0f, ignored);
        dev->op->distill_loss(dev, &l);
        spi_mat dx = copy_mat(o.dx);
        dev->op->distill_loss(dev, &between);
        l.acc = again;
        dev->op->distill_loss(dev, &l);
        check_device(dev);
        assert_memory_equal(acc, again, sizeof acc);
        assert_memory_equal(dx.data, o.dx.data, (size_t)(dx.rows * dx.ld) * spi_dtype_size(dx.dtype));
        free(dx.data);
        operands_free(&o);
        operands_free(&other);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_distill),   cmocka_unit_test(test_chunks), cmocka_unit_test(test_differences),
        cmocka_unit_test(test_loss_only), cmocka_unit_test(test_itself), cmocka_unit_test(test_ties),
        cmocka_unit_test(test_extremes),  cmocka_unit_test(test_nan),    cmocka_unit_test(test_same_bits),
    };
    return cmocka_run_group_tests(tests, setup_device, teardown_device);
}
