/* The head with its cross-entropy against a double-precision reference: chunks, ties, caps, biases, gradients.
 */
#include "check.h"

typedef struct head_case {
    const char *name;
    sp_dtype dtype;
    int64_t n, d, vocab;
    float softcap;
    bool bias, transposed;
} head_case;

static const head_case cases[] = {
    {"one row", SP_F32, 1, 16, 33, 0, false, false},
    {"odd", SP_F32, 37, 19, 1001, 0, false, false},
    {"bias", SP_F32, 21, 24, 257, 0, true, false},
    {"soft cap", SP_F32, 30, 24, 511, 1.5f, false, false},
    {"soft cap, bias, transposed", SP_F32, 30, 24, 511, 2, true, true},
    {"two classes", SP_F32, 9, 32, 2, 0, true, false},
    {"bf16", SP_BF16, 40, 64, 777, 0, false, false},
    {"bf16, soft cap", SP_BF16, 12, 48, 333, 1, true, false},
};

typedef struct operands {
    spi_mat x, dx;
    spi_weight weight;
    float *bias, *dw, *dbias;
    int32_t *labels;
} operands;

static operands operands_of(const head_case *c) {
    operands o = {
        .x = random_mat(c->dtype, c->n, c->d, 3, 1),
        .dx = random_mat(c->dtype, c->n, c->d, 2, 2),
        .weight = {random_mat(c->dtype, c->transposed ? c->d : c->vocab, c->transposed ? c->vocab : c->d, 0, 3),
                   c->transposed, NULL},
        .bias = c->bias ? random_vector(c->vocab, 4) : NULL,
        .dw = random_vector(c->vocab * c->d, 5),
        .dbias = c->bias ? random_vector(c->vocab, 6) : NULL,
        .labels = malloc((size_t)c->n * sizeof(int32_t))};
    assert_non_null(o.labels);
    for (int64_t i = 0; i < c->n; i++) o.labels[i] = (int32_t)(i * 7919 % c->vocab);
    o.labels[0] = (int32_t)c->vocab - 1;
    return o;
}

static void operands_free(operands *o) {
    free(o->x.data);
    free(o->dx.data);
    free(o->weight.m.data);
    free(o->bias);
    free(o->dw);
    free(o->dbias);
    free(o->labels);
}

static spi_head_loss loss_of(const head_case *c, const operands *o, float scale, double *acc) {
    return (spi_head_loss){.x = o->x,
                           .dx = o->dx,
                           .weight = &o->weight,
                           .bias = o->bias,
                           .labels = o->labels,
                           .softcap = c->softcap,
                           .grad_scale = scale,
                           .dw = o->dw,
                           .dbias = o->dbias,
                           .acc = acc};
}

/* ------------------------------------------------------------------ the reference */

typedef struct wanted {
    double loss, correct;
    double *dx, *dw, *dbias;   /* dw in the weight's layout, on top of what was there */
    double *dx_size, *dw_size; /* sums of magnitudes, for rounding */
} wanted;

static double weight_at(const operands *o, int64_t v, int64_t j) {
    return o->weight.transposed ? get(o->weight.m, j, v) : get(o->weight.m, v, j);
}

/* logits [V] of row i, and d logit / d (x W + b) */
static void ref_logits(const head_case *c, const operands *o, int64_t i, double *logits, double *slopes) {
    for (int64_t v = 0; v < c->vocab; v++) {
        double sum = o->bias ? (double)o->bias[v] : 0.0;
        for (int64_t j = 0; j < c->d; j++) sum += get(o->x, i, j) * weight_at(o, v, j);
        slopes[v] = 1.0;
        if (c->softcap > 0) {
            const double t = tanh(sum / (double)c->softcap);
            sum = (double)c->softcap * t;
            slopes[v] = 1.0 - t * t;
        }
        logits[v] = sum;
    }
}

/* g [V] = d loss / d (x W + b) of row i; its loss and whether it is right are added. */
static void ref_row(const head_case *c, const operands *o, int64_t i, double scale, double *g, wanted *w) {
    double *slopes = zeros(c->vocab), most = -INFINITY, sum = 0.0;
    int64_t best = 0;
    ref_logits(c, o, i, g, slopes);
    for (int64_t v = 0; v < c->vocab; v++)
        if (g[v] > most) {
            most = g[v];
            best = v;
        }
    for (int64_t v = 0; v < c->vocab; v++) sum += exp(g[v] - most);
    const double lse = most + log(sum);
    w->loss += lse - g[o->labels[i]];
    w->correct += best == o->labels[i];
    for (int64_t v = 0; v < c->vocab; v++)
        g[v] = scale * slopes[v] * (exp(g[v] - lse) - (v == o->labels[i] ? 1.0 : 0.0));
    free(slopes);
}

static wanted want(const head_case *c, const operands *o, double scale) {
    wanted w = {0,
                0,
                zeros(c->n * c->d),
                zeros(c->vocab * c->d),
                zeros(c->vocab),
                zeros(c->n * c->d),
                zeros(c->vocab * c->d)};
    double *g = zeros(c->vocab);
    for (int64_t i = 0; i < c->vocab * c->d; i++) w.dw[i] = (double)o->dw[i];
    for (int64_t v = 0; o->dbias && v < c->vocab; v++) w.dbias[v] = (double)o->dbias[v];
    for (int64_t i = 0; i < c->n; i++) {
        ref_row(c, o, i, scale, g, &w);
        for (int64_t v = 0; v < c->vocab; v++) {
            w.dbias[v] += g[v];
            for (int64_t j = 0; j < c->d; j++) {
                const int64_t at = c->transposed ? j * c->vocab + v : v * c->d + j;
                w.dx[i * c->d + j] += g[v] * weight_at(o, v, j);
                w.dx_size[i * c->d + j] += fabs(g[v] * weight_at(o, v, j));
                w.dw[at] += g[v] * get(o->x, i, j);
                w.dw_size[at] += fabs(g[v] * get(o->x, i, j));
            }
        }
    }
    free(g);
    return w;
}

static void wanted_free(wanted *w) {
    free(w->dx);
    free(w->dw);
    free(w->dbias);
    free(w->dx_size);
    free(w->dw_size);
}

/* ------------------------------------------------------------------ tests */

/* In bf16 the gradient of the logits is rounded before it is multiplied on. */
static void check_case(spi_device *dev, const head_case *c) {
    const float scale = 0.37f;
    operands o = operands_of(c);
    double acc[2] = {3.0, 5.0}; /* added to */
    wanted w = want(c, &o, (double)scale);
    const spi_head_loss loss = loss_of(c, &o, scale, acc);
    dev->op->head_loss(dev, &loss);
    check_device(dev);
    print_message("%s\n", c->name);
    const double logit_error = 1e-6 * (double)c->d, each = c->dtype == SP_F32 ? 1e-5 : 1.01 * BF16_ROUND;
    assert_float_equal(acc[0] - 3.0, w.loss, (double)c->n * logit_error);
    assert_float_equal(acc[1] - 5.0, w.correct, 0.0);
    for (int64_t i = 0; i < c->n * c->d; i++) w.dx_size[i] = w.dx_size[i] * each + 1e-6;
    for (int64_t i = 0; i < c->vocab * c->d; i++) w.dw_size[i] = w.dw_size[i] * each + 1e-6;
    check_mat("dx", o.dx, w.dx, c->dtype == SP_F32 ? 1e-5 : 1.01 * BF16_ROUND, w.dx_size, 0);
    check_mat("dw", spi_mat_of(o.dw, SP_F32, c->vocab, c->d), w.dw, 1e-6, w.dw_size, 0);
    if (o.dbias) check_vector("dbias", o.dbias, w.dbias, c->vocab, 1e-6, (double)c->n * 0.37 * each);
    wanted_free(&w);
    operands_free(&o);
}

static void test_head(void **state) {
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) check_case(*state, &cases[i]);
}

/* Vocabularies so wide that the rows take several chunks of logits. */
static void test_chunks(void **state) {
    const head_case wide[] = {{"chunks", SP_F32, 131, 3, 150001, 0, false, false},
                              {"chunks, bf16", SP_BF16, 131, 3, 150001, 0, true, false}};
    for (size_t i = 0; i < sizeof wide / sizeof *wide; i++) check_case(*state, &wide[i]);
}

/* Without dx only the loss is computed, the same one, and nothing else is touched. */
static void test_loss_only(void **state) {
    spi_device *dev = *state;
    const head_case *c = &cases[3];
    operands o = operands_of(c);
    double both[2] = {0}, alone[2] = {0};
    spi_head_loss loss = loss_of(c, &o, 1.0f, both);
    dev->op->head_loss(dev, &loss);
    float *dw = random_vector(c->vocab * c->d, 5);
    memcpy(o.dw, dw, (size_t)(c->vocab * c->d) * sizeof *dw);
    loss.dx.data = NULL;
    loss.acc = alone;
    dev->op->head_loss(dev, &loss);
    check_device(dev);
    assert_memory_equal(both, alone, sizeof both);
    assert_memory_equal(dw, o.dw, (size_t)(c->vocab * c->d) * sizeof *dw);
    free(dw);
    operands_free(&o);
}

/* A frozen head: dx alone, and no rows at all. */
static void test_frozen(void **state) {
    spi_device *dev = *state;
    const head_case *c = &cases[1];
    operands o = operands_of(c);
    double acc[2] = {0}, again[2] = {0};
    spi_head_loss loss = loss_of(c, &o, 0.5f, acc);
    dev->op->head_loss(dev, &loss);
    spi_mat dx = copy_mat(o.dx);
    loss.dw = NULL;
    loss.acc = again;
    dev->op->head_loss(dev, &loss);
    assert_memory_equal(dx.data, o.dx.data, (size_t)(dx.rows * dx.ld) * 4);
    assert_memory_equal(acc, again, sizeof acc);
    loss.x = spi_mat_rows(loss.x, 0, 0);
    loss.dx = spi_mat_rows(loss.dx, 0, 0);
    dev->op->head_loss(dev, &loss);
    check_device(dev);
    assert_memory_equal(acc, again, sizeof acc);
    free(dx.data);
    operands_free(&o);
}

/* Of equal logits the first is the argmax, as torch.argmax has it. */
static void test_ties(void **state) {
    spi_device *dev = *state;
    float x[4] = {0}, dx[4], weight[5] = {1, 2, 3, 4, 5};
    const spi_weight w = {spi_mat_of(weight, SP_F32, 5, 1), false, NULL};
    const int32_t labels[4] = {0, 1, 4, 0};
    double acc[2] = {0};
    const spi_head_loss loss = {.x = spi_mat_of(x, SP_F32, 4, 1),
                                .dx = spi_mat_of(dx, SP_F32, 4, 1),
                                .weight = &w,
                                .labels = labels,
                                .grad_scale = 1.0f,
                                .acc = acc};
    dev->op->head_loss(dev, &loss);
    check_device(dev);
    assert_float_equal(acc[0], 4 * log(5.0), 1e-6);
    assert_float_equal(acc[1], 2.0, 0.0);
}

/* Logits far apart: nothing overflows, and a label without probability costs its distance. */
static void test_extremes(void **state) {
    spi_device *dev = *state;
    float x[2] = {1, -1}, dx[2], weight[3] = {0, 20000, -1000};
    const spi_weight w = {spi_mat_of(weight, SP_F32, 3, 1), false, NULL};
    const int32_t labels[2] = {0, 1};
    double acc[2] = {0};
    const spi_head_loss loss = {.x = spi_mat_of(x, SP_F32, 2, 1),
                                .dx = spi_mat_of(dx, SP_F32, 2, 1),
                                .weight = &w,
                                .labels = labels,
                                .grad_scale = 1.0f,
                                .acc = acc};
    dev->op->head_loss(dev, &loss);
    check_device(dev);
    assert_float_equal(acc[0], 20000.0 + 21000.0, 1e-3);
    assert_float_equal(acc[1], 0.0, 0.0);
    assert_float_equal((double)dx[0], 20000.0, 1e-2);
    assert_float_equal((double)dx[1], -21000.0, 1e-2);
}

/* NaN reaches the loss: training notices it there. */
static void test_nan(void **state) {
    spi_device *dev = *state;
    const head_case *c = &cases[1];
    operands o = operands_of(c);
    double acc[2] = {0};
    set(o.x, 3, 0, NAN);
    const spi_head_loss loss = loss_of(c, &o, 1.0f, acc);
    dev->op->head_loss(dev, &loss);
    check_device(dev);
    assert_true(isnan(acc[0]));
    operands_free(&o);
}

/* The same bits again after another batch. */
static void test_same_bits(void **state) {
    spi_device *dev = *state;
    for (size_t i = 5; i < 7; i++) {
        operands o = operands_of(&cases[i]), other = operands_of(&cases[1]);
        double acc[2] = {0}, again[2] = {0}, ignored[2] = {0};
        spi_head_loss loss = loss_of(&cases[i], &o, 1.0f, acc);
        const spi_head_loss between = loss_of(&cases[1], &other, 1.0f, ignored);
        const size_t dw_bytes = (size_t)(cases[i].vocab * cases[i].d) * sizeof(float);
        dev->op->head_loss(dev, &loss);
        spi_mat dx = copy_mat(o.dx), dw = copy_mat(spi_mat_of(o.dw, SP_F32, cases[i].vocab, cases[i].d));
        dev->op->head_loss(dev, &between);
        free(o.dw);
        o.dw = random_vector(cases[i].vocab * cases[i].d, 5);
        loss.dw = o.dw;
        loss.acc = again;
        dev->op->head_loss(dev, &loss);
        check_device(dev);
        assert_memory_equal(acc, again, sizeof acc);
        assert_memory_equal(dx.data, o.dx.data, (size_t)(dx.rows * dx.ld) * spi_dtype_size(dx.dtype));
        assert_memory_equal(dw.data, o.dw, dw_bytes);
        free(dx.data);
        free(dw.data);
        operands_free(&o);
        operands_free(&other);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_head),   cmocka_unit_test(test_chunks),    cmocka_unit_test(test_loss_only),
        cmocka_unit_test(test_frozen), cmocka_unit_test(test_ties),      cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_nan),    cmocka_unit_test(test_same_bits),
    };
    return cmocka_run_group_tests(tests, setup_device, teardown_device);
}
