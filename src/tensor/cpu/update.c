/*
 * ShadowUpdateModel and ShadowLayer.shadow_update, forward beside backward: one pass over the hidden state, in
 * blocks of rows.
 */
#include <math.h>
#include <string.h>

#include "tensor/cpu/block.h"
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/drop.h"
#include "tensor/cpu/split.h"
#include "tensor/cpu/vecmath.h"

#define ROWS ((int64_t)48)

/* ------------------------------------------------------------------ rows */

/* u = LayerNorm(h) in place; mean and 1 / sqrt(var + eps). */
SPI_CLONES static void layer_norm(float *restrict h, const float *restrict weight, const float *restrict bias,
                                  float eps, int64_t d, float *mean, float *inverse) {
    float sum = 0.0f, squares = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < d; i++) sum += h[i];
    const float m = sum / (float)d;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < d; i++) squares += (h[i] - m) * (h[i] - m);
    const float r = 1.0f / sqrtf(squares / (float)d + eps);
    for (int64_t i = 0; i < d; i++) h[i] = (h[i] - m) * r * weight[i] + bias[i];
    *mean = m;
    *inverse = r;
}

/* du becomes dh; dweight, dbias += */
SPI_CLONES static void layer_norm_backward(float *restrict du, const float *restrict h,
                                           const float *restrict weight, float mean, float inverse,
                                           float *restrict dweight, float *restrict dbias, int64_t d) {
    float along = 0.0f, sum = 0.0f;
    for (int64_t i = 0; i < d; i++) {
        dweight[i] += du[i] * (h[i] - mean) * inverse;
        dbias[i] += du[i];
    }
#pragma omp simd reduction(+ : along, sum)
    for (int64_t i = 0; i < d; i++) {
        along += du[i] * weight[i] * (h[i] - mean) * inverse;
        sum += du[i] * weight[i];
    }
    along /= (float)d;
    sum /= (float)d;
    for (int64_t i = 0; i < d; i++)
        du[i] = inverse * (du[i] * weight[i] - (h[i] - mean) * inverse * along - sum);
}

SPI_CLONES static void silu(float *restrict y, const float *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = spi_silu(x[i]);
}

/* dy becomes dx of silu at x. */
SPI_CLONES static void silu_backward(float *restrict dy, const float *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) dy[i] *= spi_silu_grad(x[i]);
}

SPI_CLONES static void gelu(float *restrict y, const float *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = spi_gelu(x[i]);
}

SPI_CLONES static void gelu_backward(float *restrict dy, const float *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) dy[i] *= spi_gelu_grad(x[i]);
}

static void activate(spi_activation act, float *y, const float *x, int64_t n) {
    if (act == SPI_ACT_GELU_ERF) gelu(y, x, n);
    else silu(y, x, n);
}

static void activate_backward(spi_activation act, float *dy, const float *x, int64_t n) {
    if (act == SPI_ACT_GELU_ERF) gelu_backward(dy, x, n);
    else silu_backward(dy, x, n);
}

/* s += sigmoid(v) (t - s) */
SPI_CLONES static void mix(float *restrict s, const float *restrict t, const float *restrict v, int64_t n) {
    for (int64_t i = 0; i < n; i++) s[i] += spi_sigmoid(v[i]) * (t[i] - s[i]);
}

/* From ds_out: ds = ds_out (1 - q); t becomes dt = ds_out q; v becomes ds_out (t - s) q (1 - q). */
SPI_CLONES static void mix_backward(float *restrict ds, float *restrict t, float *restrict v,
                                    const float *restrict s, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const float q = spi_sigmoid(v[i]), g = ds[i];
        v[i] = g * (t[i] - s[i]) * q * (1.0f - q);
        t[i] = g * q;
        ds[i] = g * (1.0f - q);
    }
}

/* Rows of n elements, ld apart, before a product is added: the bias, or zeros where there is none. */
static void begin_rows(float *rows, int64_t ld, const float *bias, int64_t count, int64_t n) {
    for (int64_t i = 0; i < count; i++)
        if (bias) memcpy(rows + i * ld, bias, (size_t)n * sizeof *rows);
        else memset(rows + i * ld, 0, (size_t)n * sizeof *rows);
}

/* sums [n] += each row of x [rows, n], in order */
static void add_rows(float *sums, const float *x, int64_t rows, int64_t n) {
    for (int64_t i = 0; i < rows; i++) spi_block_add(sums, x + i * n, 1.0f, n);
}

/* ------------------------------------------------------------------ weights */

/* Transposed copies that all threads share: W0 and V0 side by side, W3 and V2. */
typedef struct transposed {
    float *w0v0;    /* [d, 2g] */
    float *w3, *v2; /* [g, d] */
} transposed;

static transposed transposed_of(float *all, int64_t d, int64_t g) {
    return (transposed){all, all + 2 * d * g, all + 3 * d * g};
}

static void transpose_weights(const transposed *w, const spi_update *up, int64_t d) {
    spi_block_transpose(w->w0v0, 2 * up->g, up->w0, d, up->g, d);
    spi_block_transpose(w->w0v0 + up->g, 2 * up->g, up->v0, d, up->g, d);
    spi_block_transpose(w->w3, d, up->w3, up->g, d, up->g);
    spi_block_transpose(w->v2, d, up->v2, up->g, d, up->g);
}

/* One thread's blocks of rows. */
typedef struct block {
    float *u, *t, *v, *s, *x;     /* [ROWS, d] */
    float *z;                     /* [ROWS, 2g] */
    float *a, *b, *da, *db;       /* [ROWS, g] */
    float *mean, *inverse;        /* [ROWS] */
    float *dw0, *dw3, *dv0, *dv2; /* [g, d], [d, g], [g, d], [d, g]: this thread's share */
    float *dweight, *dbias;       /* [d] */
    float *db0, *db3, *dc0, *dc2; /* [g], [d], [g], [d] */
} block;

/* Floats from dw0 on. */
static int64_t share_floats(int64_t d, int64_t g) {
    return 4 * d * g + 4 * d + 2 * g;
}

static int64_t block_floats(int64_t d, int64_t g, bool backward) {
    return ROWS * (5 * d + 6 * g + 2) + (backward ? share_floats(d, g) : 0);
}

static block block_of(float *own, int64_t d, int64_t g) {
    block b = {.u = own};
    b.t = b.u + ROWS * d;
    b.v = b.t + ROWS * d;
    b.s = b.v + ROWS * d;
    b.x = b.s + ROWS * d;
    b.z = b.x + ROWS * d;
    b.a = b.z + ROWS * 2 * g;
    b.b = b.a + ROWS * g;
    b.da = b.b + ROWS * g;
    b.db = b.da + ROWS * g;
    b.mean = b.db + ROWS * g;
    b.inverse = b.mean + ROWS;
    b.dw0 = b.inverse + ROWS;
    b.dw3 = b.dw0 + d * g;
    b.dv0 = b.dw3 + d * g;
    b.dv2 = b.dv0 + d * g;
    b.dweight = b.dv2 + d * g;
    b.dbias = b.dweight + d;
    b.db0 = b.dbias + d;
    b.db3 = b.db0 + g;
    b.dc0 = b.db3 + d;
    b.dc2 = b.dc0 + g;
    return b;
}

/* ------------------------------------------------------------------ forward */

/* z += [W0 u, V0 u] of one row: for few rows dot products beat transposing the weights. */
SPI_CLONES static void project_row(float *restrict z, const float *restrict u, const spi_update *up,
                                   int64_t d) {
    for (int64_t j = 0; j < up->g; j++) {
        const float *w = up->w0 + j * d, *v = up->v0 + j * d;
        float zw = 0.0f, zv = 0.0f;
#pragma omp simd reduction(+ : zw, zv)
        for (int64_t i = 0; i < d; i++) {
            zw += w[i] * u[i];
            zv += v[i] * u[i];
        }
        z[j] += zw;
        z[up->g + j] += zv;
    }
}

/* t += W3 a, v += V2 b of one row. */
SPI_CLONES static void expand_row(float *restrict t, float *restrict v, const float *restrict a,
                                  const float *restrict b, const spi_update *up, int64_t d) {
    for (int64_t i = 0; i < d; i++) {
        const float *w3 = up->w3 + i * up->g, *v2 = up->v2 + i * up->g;
        float st = 0.0f, sv = 0.0f;
        for (int64_t j = 0; j < up->g; j++) {
            st += w3[j] * a[j];
            sv += v2[j] * b[j];
        }
        t[i] += st;
        v[i] += sv;
    }
}

/* b->u = LayerNorm(b->u), where there is a norm. */
static void normalize(const block *b, const spi_update *up, int64_t rows, int64_t d) {
    if (!up->norm_weight) return;
    for (int64_t i = 0; i < rows; i++)
        layer_norm(b->u + i * d, up->norm_weight, up->norm_bias, up->eps, d, &b->mean[i], &b->inverse[i]);
}

/* b->z = [W0 u + b0, V0 u + c0] from b->u. w NULL: row by row. */
static void project(const block *b, const spi_update *up, const transposed *w, int64_t rows, int64_t d) {
    const int64_t g = up->g;
    begin_rows(b->z, 2 * g, up->b0, rows, g);
    begin_rows(b->z + g, 2 * g, up->c0, rows, g);
    if (w) spi_block_product(b->z, 2 * g, spi_block_of(b->u, d), w->w0v0, 2 * g, rows, 2 * g, d);
    for (int64_t i = 0; !w && i < rows; i++) project_row(b->z + i * 2 * g, b->u + i * d, up, d);
}

/* b->t = W3 dropout(act(z0)) + b3, b->v = V2 act(z1) + c2, from b->z; b->a and b->b on the way. */
static void expand(const block *b, const spi_update *up, const transposed *w, int64_t first, int64_t rows,
                   int64_t d) {
    const int64_t g = up->g;
    for (int64_t i = 0; i < rows; i++) {
        activate(up->act, b->a + i * g, b->z + i * 2 * g, g);
        activate(up->act, b->b + i * g, b->z + i * 2 * g + g, g);
    }
    spi_drop_rows(b->a, first, rows, g, &up->dropout);
    begin_rows(b->t, d, up->b3, rows, d);
    begin_rows(b->v, d, up->c2, rows, d);
    if (w) {
        spi_block_product(b->t, d, spi_block_of(b->a, g), w->w3, d, rows, d, g);
        spi_block_product(b->v, d, spi_block_of(b->b, g), w->v2, d, rows, d, g);
    }
    for (int64_t i = 0; !w && i < rows; i++)
        expand_row(b->t + i * d, b->v + i * d, b->a + i * g, b->b + i * g, up, d);
}

static void forward_block(spi_mat s_out, float *z, spi_mat h, spi_mat s, const spi_update *up,
                          const transposed *w, const block *b, int64_t first, int64_t rows) {
    const int64_t d = h.cols, g = up->g;
    spi_block_load(b->u, h, first, rows, 1.0f);
    normalize(b, up, rows, d);
    project(b, up, w, rows, d);
    if (z) memcpy(z + first * 2 * g, b->z, (size_t)(rows * 2 * g) * sizeof *z);
    expand(b, up, w, first, rows, d);
    spi_block_load(b->s, s, first, rows, 1.0f);
    mix(b->s, b->t, b->v, rows * d);
    spi_block_store(s_out, first, rows, b->s);
}

/* Rows from which on transposing the weights pays. */
#define MANY_ROWS 16

void spi_cpu_update(spi_device *dev, spi_mat s_out, float *z, spi_mat h, spi_mat s, const spi_update *update) {
    spi_cpu *cpu = spi_cpu_of(dev);
    if (dev->status != SP_OK) return;
    const int64_t d = h.cols, g = update->g, floats = block_floats(d, g, false);
    float *all = spi_cpu_scratch(cpu, (size_t)(4 * d * g + cpu->threads * floats) * sizeof *all);
    if (!all) return;
    const transposed w = transposed_of(all, d, g);
    const bool many = h.rows >= MANY_ROWS;
    if (many) transpose_weights(&w, update, d);
#pragma omp parallel num_threads(spi_threads_for(cpu->threads, h.rows *d *g))
    {
        const spi_range r = spi_my_split(h.rows, many ? 6 : 1);
        const block b = block_of(all + 4 * d * g + omp_get_thread_num() * floats, d, g);
        for (int64_t t = r.begin; t < r.end; t += ROWS)
            forward_block(s_out, z, h, s, update, many ? &w : NULL, &b, t, r.end - t < ROWS ? r.end - t : ROWS);
    }
}

/* ------------------------------------------------------------------ backward */

/* The biases' shares, from what reaches the two ends of each MLP. */
static void backward_biases(const spi_update *up, const block *b, int64_t rows, int64_t d) {
    if (!up->b0) return;
    add_rows(b->db0, b->da, rows, up->g);
    add_rows(b->db3, b->t, rows, d);
    add_rows(b->dc0, b->db, rows, up->g);
    add_rows(b->dc2, b->v, rows, d);
}

/* Everything from ds_out down to b->da, b->db = dL/dz0, dL/dz1; stores ds. */
static void backward_state(spi_mat ds, spi_mat s, const float *z, const spi_update *up, const transposed *w,
                           const block *b, int64_t first, int64_t rows) {
    const int64_t d = ds.cols, g = up->g;
    memcpy(b->z, z + first * 2 * g, (size_t)(rows * 2 * g) * sizeof *z);
    expand(b, up, w, first, rows, d);
    spi_block_load(b->s, s, first, rows, 1.0f);
    spi_block_load(b->x, ds, first, rows, 1.0f);
    mix_backward(b->x, b->t, b->v, b->s, rows * d);
    spi_block_store(ds, first, rows, b->x);

    spi_block_product(b->dw3, g, spi_block_transposed(b->t, d), b->a, g, d, g, rows);
    spi_block_product(b->dv2, g, spi_block_transposed(b->v, d), b->b, g, d, g, rows);
    memset(b->da, 0, (size_t)(rows * g) * sizeof(float));
    memset(b->db, 0, (size_t)(rows * g) * sizeof(float));
    spi_block_product(b->da, g, spi_block_of(b->t, d), up->w3, g, rows, g, d);
    spi_block_product(b->db, g, spi_block_of(b->v, d), up->v2, g, rows, g, d);
    spi_drop_rows(b->da, first, rows, g, &up->dropout);
    for (int64_t i = 0; i < rows; i++) {
        activate_backward(up->act, b->da + i * g, b->z + i * 2 * g, g);
        activate_backward(up->act, b->db + i * g, b->z + i * 2 * g + g, g);
    }
    backward_biases(up, b, rows, d);
}

/* From there to dh. */
static void backward_input(spi_mat dh, spi_mat h, const spi_update *up, const block *b, int64_t first,
                           int64_t rows) {
    const int64_t d = dh.cols, g = up->g;
    spi_block_load(b->u, h, first, rows, 1.0f);
    normalize(b, up, rows, d);
    spi_block_product(b->dw0, d, spi_block_transposed(b->da, g), b->u, d, g, d, rows);
    spi_block_product(b->dv0, d, spi_block_transposed(b->db, g), b->u, d, g, d, rows);
    memset(b->t, 0, (size_t)(rows * d) * sizeof(float));
    spi_block_product(b->t, d, spi_block_of(b->da, g), up->w0, d, rows, d, g);
    spi_block_product(b->t, d, spi_block_of(b->db, g), up->v0, d, rows, d, g);
    if (up->norm_weight) spi_block_load(b->x, h, first, rows, 1.0f);
    for (int64_t i = 0; up->norm_weight && i < rows; i++)
        layer_norm_backward(b->t + i * d, b->x + i * d, up->norm_weight, b->mean[i], b->inverse[i], b->dweight,
                            b->dbias, d);
    spi_block_load(b->v, dh, first, rows, 1.0f);
    spi_block_add(b->v, b->t, 1.0f, rows * d);
    spi_block_store(dh, first, rows, b->v);
}

static void add_wanted(float *to, const float *from, int64_t n) {
    if (to) spi_block_add(to, from, 1.0f, n);
}

static void add_grads(const spi_update_grads *to, const block *b, int64_t d, int64_t g) {
    add_wanted(to->w0, b->dw0, d * g);
    add_wanted(to->w3, b->dw3, d * g);
    add_wanted(to->v0, b->dv0, d * g);
    add_wanted(to->v2, b->dv2, d * g);
    add_wanted(to->norm_weight, b->dweight, d);
    add_wanted(to->norm_bias, b->dbias, d);
    add_wanted(to->b0, b->db0, g);
    add_wanted(to->b3, b->db3, d);
    add_wanted(to->c0, b->dc0, g);
    add_wanted(to->c2, b->dc2, d);
}

void spi_cpu_update_backward(spi_device *dev, spi_mat dh, spi_mat ds, const spi_update_grads *grads, spi_mat h,
                             spi_mat s, const float *z, const spi_update *update) {
    spi_cpu *cpu = spi_cpu_of(dev);
    if (dev->status != SP_OK) return;
    const int64_t d = h.cols, g = update->g, floats = block_floats(d, g, true), shared = 4 * d * g;
    const int threads = spi_threads_for(cpu->threads, h.rows * d * g);
    float *all = spi_cpu_scratch(cpu, (size_t)(shared + threads * floats) * sizeof *all);
    if (!all) return;
    const transposed w = transposed_of(all, d, g);
    transpose_weights(&w, update, d);
    int used = threads;
#pragma omp parallel num_threads(threads)
    {
        const block b = block_of(all + shared + omp_get_thread_num() * floats, d, g);
        const spi_range r = spi_my_split(h.rows, 6);
#pragma omp single
        used = omp_get_num_threads();
        memset(b.dw0, 0, (size_t)share_floats(d, g) * sizeof(float));
        for (int64_t t = r.begin; t < r.end; t += ROWS) {
            const int64_t rows = r.end - t < ROWS ? r.end - t : ROWS;
            backward_state(ds, s, z, update, &w, &b, t, rows);
            backward_input(dh, h, update, &b, t, rows);
        }
    }
    for (int i = 0; i < used; i++) {
        const block b = block_of(all + shared + i * floats, d, g);
        add_grads(grads, &b, d, g);
    }
}
