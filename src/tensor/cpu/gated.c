/* Activations of the MLP, gated or not, forward beside backward. */
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/row.h"
#include "tensor/cpu/split.h"
#include "tensor/cpu/vecmath.h"

/* Columns handled at once, in f32. */
#define PIECE 256

#define SQRT_2_OVER_PI 0.797884561f
#define GELU_CUBIC 0.044715f

/* ------------------------------------------------------------------ value and derivative */

SPI_CLONES static void silu(float *restrict y, float *restrict dy, const float *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const float s = spi_sigmoid(x[i]);
        y[i] = x[i] * s;
        dy[i] = s * (1.0f + x[i] * (1.0f - s));
    }
}

SPI_CLONES static void gelu_tanh(float *restrict y, float *restrict dy, const float *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const float v = x[i], v2 = v * v;
        const float t = spi_tanhf(SQRT_2_OVER_PI * (v + GELU_CUBIC * v * v2));
        y[i] = 0.5f * v * (1.0f + t);
        dy[i] =
            0.5f * (1.0f + t) + 0.5f * v * (1.0f - t * t) * SQRT_2_OVER_PI * (1.0f + 3.0f * GELU_CUBIC * v2);
    }
}

SPI_CLONES static void gelu_erf(float *restrict y, float *restrict dy, const float *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        y[i] = spi_gelu(x[i]);
        dy[i] = spi_gelu_grad(x[i]);
    }
}

SPI_CLONES static void relu(float *restrict y, float *restrict dy, const float *restrict x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        y[i] = x[i] > 0.0f ? x[i] : 0.0f;
        dy[i] = x[i] > 0.0f ? 1.0f : 0.0f;
    }
}

static void activate(spi_activation act, float *y, float *dy, const float *x, int64_t n) {
    switch (act) {
    case SPI_ACT_SILU: silu(y, dy, x, n); break;
    case SPI_ACT_GELU_TANH: gelu_tanh(y, dy, x, n); break;
    case SPI_ACT_GELU_ERF: gelu_erf(y, dy, x, n); break;
    case SPI_ACT_RELU: relu(y, dy, x, n); break;
    }
}

SPI_CLONES static void multiply(float *restrict y, const float *restrict a, const float *restrict b,
                                int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] = a[i] * b[i];
}

SPI_CLONES static void load(float *restrict to, const void *restrict from, sp_dtype dtype, int64_t n) {
    spi_row_load(to, from, dtype, n);
}

SPI_CLONES static void store(void *restrict to, const float *restrict from, sp_dtype dtype, int64_t n) {
    spi_row_store(to, from, dtype, n);
}

/* ------------------------------------------------------------------ forward */

static void gated_piece(spi_mat y, spi_mat gate, spi_mat up, spi_activation act, int64_t t, int64_t c,
                        int64_t n) {
    float g[PIECE], u[PIECE], a[PIECE], da[PIECE];
    load(g, spi_mat_at(gate, t, c), gate.dtype, n);
    activate(act, a, da, g, n);
    if (up.data) {
        load(u, spi_mat_at(up, t, c), up.dtype, n);
        multiply(g, a, u, n);
    }
    store(spi_mat_at(y, t, c), up.data ? g : a, y.dtype, n);
}

void spi_cpu_gated(spi_device *dev, spi_mat y, spi_mat gate, spi_mat up, spi_activation act) {
    if (spi_idle(dev)) return;
    const int64_t pieces = (y.cols + PIECE - 1) / PIECE;
#pragma omp parallel num_threads(spi_threads_for(spi_cpu_of(dev)->threads, 4 * y.rows * y.cols))
    {
        const spi_range r = spi_my_split(y.rows * pieces, 1);
        for (int64_t i = r.begin; i < r.end; i++) {
            const int64_t c = i % pieces * PIECE;
            gated_piece(y, gate, up, act, i / pieces, c, y.cols - c < PIECE ? y.cols - c : PIECE);
        }
    }
}

/* ------------------------------------------------------------------ backward */

/* dgate = dy up act'(gate), dup = dy act(gate) */
static void backward_piece(spi_mat dgate, spi_mat dup, spi_mat dy, spi_mat gate, spi_mat up, spi_activation act,
                           int64_t t, int64_t c, int64_t n) {
    float g[PIECE], u[PIECE], d[PIECE], a[PIECE], da[PIECE], result[PIECE];
    load(g, spi_mat_at(gate, t, c), gate.dtype, n);
    load(d, spi_mat_at(dy, t, c), dy.dtype, n);
    activate(act, a, da, g, n);
    if (up.data) {
        load(u, spi_mat_at(up, t, c), up.dtype, n);
        multiply(result, d, a, n);
        store(spi_mat_at(dup, t, c), result, dup.dtype, n);
        multiply(g, d, u, n);
        memcpy(d, g, (size_t)n * sizeof *d);
    }
    multiply(result, d, da, n);
    store(spi_mat_at(dgate, t, c), result, dgate.dtype, n);
}

void spi_cpu_gated_backward(spi_device *dev, spi_mat dgate, spi_mat dup, spi_mat dy, spi_mat gate, spi_mat up,
                            spi_activation act) {
    if (spi_idle(dev)) return;
    const int64_t pieces = (dy.cols + PIECE - 1) / PIECE;
#pragma omp parallel num_threads(spi_threads_for(spi_cpu_of(dev)->threads, 4 * dy.rows * dy.cols))
    {
        const spi_range r = spi_my_split(dy.rows * pieces, 1);
        for (int64_t i = r.begin; i < r.end; i++) {
            const int64_t c = i % pieces * PIECE;
            backward_piece(dgate, dup, dy, gate, up, act, i / pieces, c,
                           dy.cols - c < PIECE ? dy.cols - c : PIECE);
        }
    }
}
