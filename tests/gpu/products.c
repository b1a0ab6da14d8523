/* Products, int8 weights, and conversions between dtypes. */
#include <math.h>

#include "harness.h"

typedef struct product {
    int64_t t, n, k;
    weight_kind kind;
    bool bias, residual, in_place, f32_out, accumulate, turned, dbias;
} product;

static const int64_t sizes[][2] = {{1, 1}, {7, 16}, {129, 64}, {64, 129}, {256, 512}, {1000, 33}, {96, 1536}};
#define SIZES (sizeof sizes / sizeof *sizes)

static const char *kind_name(weight_kind kind) {
    return kind == WEIGHT ? "" : kind == WEIGHT_I8 ? " int8" : " transposed";
}

/* ------------------------------------------------------------------ linear */

static void linear(run *r, const void *params) {
    const product *p = params;
    const sp_dtype out = p->f32_out ? SP_F32 : r->dtype;
    const spi_mat x = in_mat(r, p->t, p->k, 1);
    const spi_weight w = in_weight(r, p->kind, p->n, p->k);
    const float *bias = p->bias ? in_vector(r, p->n, -1, 1) : NULL;
    spi_mat residual = {0}, y;
    if (p->in_place) residual = y = inout_mat(r, "y", p->t, p->n, 4);
    else {
        if (p->residual) residual = in_mat(r, p->t, p->n, 4);
        y = out_mat_of(r, "y", out, p->t, p->n);
    }
    r->dev->op->linear(r->dev, y, x, &w, bias, residual.data ? &residual : NULL);
}

static void linear_case(checks *c, sp_dtype dtype, view v, product p) {
    compare(c, dtype, v, linear, &p, "T=%d N=%d K=%d%s%s%s%s%s", (int)p.t, (int)p.n, (int)p.k,
            kind_name(p.kind), p.bias ? " bias" : "", p.residual ? " residual" : "",
            p.in_place ? " in place" : "", p.f32_out ? " f32 out" : "");
}

static void check_linear(checks *c) {
    for (int d = 0; d < 2; d++)
        for (size_t s = 0; s < SIZES; s++)
            for (int t = 0; t < TOKEN_COUNTS; t++)
                for (int kind = 0; kind < WEIGHT_KINDS; kind++) {
                    const view v = (view)((s + (size_t)t) % VIEWS);
                    const product p = {
                        .t = token_counts[t], .n = sizes[s][0], .k = sizes[s][1], .kind = (weight_kind)kind};
                    product q = p;
                    linear_case(c, dtypes[d], v, p);
                    q.bias = q.residual = true;
                    linear_case(c, dtypes[d], v, q);
                    q.residual = false;
                    q.in_place = true;
                    q.bias = t % 2;
                    linear_case(c, dtypes[d], v, q);
                    q = p;
                    q.f32_out = true;
                    q.bias = t % 2;
                    if (d) linear_case(c, dtypes[d], v, q);
                }
    /* Few rows of long products, as in decoding. */
    for (int d = 0; d < 2; d++)
        for (int64_t t = 1; t <= 9; t++)
            for (int kind = 0; kind < WEIGHT_KINDS; kind++) {
                linear_case(
                    c, dtypes[d], VIEW_PLAIN,
                    (product){.t = t, .n = 1024, .k = 3072, .kind = (weight_kind)kind, .in_place = true});
                linear_case(
                    c, dtypes[d], VIEW_PLAIN,
                    (product){.t = t, .n = 5003, .k = 1024, .kind = (weight_kind)kind, .f32_out = true});
                linear_case(c, dtypes[d], VIEW_ODD,
                            (product){.t = t, .n = 517, .k = 1003, .bias = true, .kind = (weight_kind)kind});
            }
}

static void linear_dx(run *r, const void *params) {
    const product *p = params;
    const spi_mat dy = in_mat(r, p->t, p->n, 1);
    const spi_weight w = in_weight(r, p->kind, p->n, p->k);
    const spi_mat dx = p->accumulate ? inout_mat(r, "dx", p->t, p->k, 4) : out_mat(r, "dx", p->t, p->k);
    r->dev->op->linear_dx(r->dev, dx, dy, &w, p->accumulate);
}

static void check_linear_dx(checks *c) {
    for (int d = 0; d < 2; d++)
        for (size_t s = 0; s < SIZES; s++)
            for (int t = 0; t < TOKEN_COUNTS; t++)
                for (int kind = 0; kind < WEIGHT_KINDS; kind++)
                    for (int add = 0; add < 2; add++) {
                        const product p = {.t = token_counts[t],
                                           .n = sizes[s][0],
                                           .k = sizes[s][1],
                                           .kind = (weight_kind)kind,
                                           .accumulate = add};
                        compare(c, dtypes[d], (view)((s + (size_t)t) % VIEWS), linear_dx, &p,
                                "T=%d N=%d K=%d%s%s", (int)p.t, (int)p.n, (int)p.k, kind_name(p.kind),
                                add ? " accumulate" : "");
                    }
}

static void linear_dw(run *r, const void *params) {
    const product *p = params;
    const spi_mat dy = in_mat(r, p->t, p->n, 1), x = in_mat(r, p->t, p->k, 1);
    /* Relative to the size of what is added up, for numbers in [-1, 1] and a start in [-4, 4]: sums of few
     * outputs may cancel. */
    float *dw = inout_vector(r, "dw", p->n * p->k, -4, 4);
    relative_to(r, sqrt((double)(p->n * p->k) * ((double)p->t / 9 + 16.0 / 3)));
    float *dbias = p->dbias ? inout_vector(r, "dbias", p->n, -4, 4) : NULL;
    if (dbias) relative_to(r, sqrt((double)p->n * ((double)p->t / 3 + 16.0 / 3)));
    r->dev->op->linear_dw(r->dev, dw, dbias, dy, x, p->turned);
}

static void check_linear_dw(checks *c) {
    for (int d = 0; d < 2; d++)
        for (size_t s = 0; s < SIZES; s++)
            for (int t = 0; t < TOKEN_COUNTS; t++)
                for (int turned = 0; turned < 2; turned++)
                    for (int dbias = 0; dbias < 2; dbias++) {
                        const product p = {.t = token_counts[t],
                                           .n = sizes[s][0],
                                           .k = sizes[s][1],
                                           .turned = turned,
                                           .dbias = dbias};
                        compare(c, dtypes[d], (view)((s + (size_t)t) % VIEWS), linear_dw, &p,
                                "T=%d N=%d K=%d%s%s", (int)p.t, (int)p.n, (int)p.k, turned ? " transposed" : "",
                                dbias ? " dbias" : "");
                    }
}

/* ------------------------------------------------------------------ quantize */

typedef struct quantizing {
    int64_t n, k;
    sp_dtype dtype;
    bool turned, zeros;
} quantizing;

static void quantize(run *r, const void *params) {
    const quantizing *p = params;
    /* Contiguous, but at any address. */
    const int64_t rows = p->turned ? p->k : p->n, cols = p->turned ? p->n : p->k;
    const view asked = r->view;
    r->view = VIEW_PLAIN;
    spi_mat m;
    if (asked == VIEW_ODD) { /* a row of one element before it */
        m = in_mat_of(r, p->dtype, 1, rows * cols + 1, 1);
        m.data = (char *)m.data + spi_dtype_size(m.dtype);
    } else {
        m = in_mat_of(r, p->dtype, 1, rows * cols, 1);
    }
    if (p->zeros && m.data) r->dev->op->zero(r->dev, m.data, (size_t)cols * spi_dtype_size(m.dtype));
    m = spi_mat_of(m.data, m.dtype, rows, cols);
    if (p->zeros) { /* the check of inputs does not know of the zeros */
        r->buffers[r->count - 1].output = true;
        r->buffers[r->count - 1].name = NULL;
    }
    float *scale = out_vector(r, "scale", p->n);
    bound(r, 1e-7, 1e-7);
    /* The same scales and quotients, exactly rounded: the same integers. */
    int8_t *q = out_array(r, "q", SP_I8, p->n * p->k);
    bound_absolute(r, 0.5, 0.5);
    r->dev->op->quantize(r->dev, scale, q, &(spi_weight){.m = m, .transposed = p->turned});
    r->view = asked;
}

static void check_quantize(checks *c) {
    static const sp_dtype types[] = {SP_F32, SP_BF16, SP_F16};
    for (int d = 0; d < 3; d++)
        for (size_t s = 0; s < SIZES; s++)
            for (int turned = 0; turned < 2; turned++)
                for (int odd = 0; odd < 2; odd++) {
                    const quantizing p = {sizes[s][0], sizes[s][1], types[d], turned, s % 2 && !turned};
                    compare(c, SP_F32, odd ? VIEW_ODD : VIEW_PLAIN, quantize, &p, "N=%d K=%d %s%s%s", (int)p.n,
                            (int)p.k, sp_dtype_name(p.dtype), turned ? " transposed" : "",
                            p.zeros ? " a row of zeros" : "");
                }
}

/* ------------------------------------------------------------------ convert */

typedef struct converting {
    int64_t rows, cols;
    sp_dtype to, from;
} converting;

static void convert(run *r, const void *params) {
    const converting *p = params;
    r->exact = true;
    const spi_mat from = in_mat_of(r, p->from, p->rows, p->cols, 100);
    const spi_mat to = out_mat_of(r, "to", p->to, p->rows, p->cols);
    bound(r, 1e-12, 1e-12);
    r->dev->op->convert(r->dev, to, from);
}

static void check_convert(checks *c) {
    static const sp_dtype types[] = {SP_F32, SP_BF16, SP_F16};
    static const int64_t cols[] = {1, 5, 64, 1023, 4096};
    for (int to = 0; to < 3; to++)
        for (int from = 0; from < 3; from++)
            for (int t = 0; t < TOKEN_COUNTS; t++)
                for (size_t k = 0; k < sizeof cols / sizeof *cols; k++) {
                    const converting p = {token_counts[t], cols[k], types[to], types[from]};
                    compare(c, SP_F32, (view)(((size_t)t + k) % VIEWS), convert, &p, "T=%d n=%d %s from %s",
                            (int)p.rows, (int)p.cols, sp_dtype_name(p.to), sp_dtype_name(p.from));
                }
}

const check product_checks[] = {{"convert", check_convert},     {"linear", check_linear},
                                {"linear_dx", check_linear_dx}, {"linear_dw", check_linear_dw},
                                {"quantize", check_quantize},   {0}};
