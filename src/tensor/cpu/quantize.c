/* Weights of 8 bits with a scale for each output: making them, and making numbers of them again. */
#include <math.h>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/row.h"
#include "tensor/cpu/split.h"

/* Elements at a time, as f32. */
#define PIECE ((int64_t)256)

/* ------------------------------------------------------------------ quantising */

SPI_CLONES static float largest(const float *x, int64_t n) {
    float most = 0.0f;
#pragma omp simd reduction(max : most)
    for (int64_t i = 0; i < n; i++) most = fabsf(x[i]) > most ? fabsf(x[i]) : most;
    return most;
}

/* Adding and taking away 1.5 * 2^23 rounds to nearest, ties to even, without a call. */
SPI_CLONES static void round_all(int8_t *restrict q, const float *restrict x, float scale, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const float scaled = x[i] / scale;
        const float inside = scaled > 127.0f ? 127.0f : scaled > -127.0f ? scaled : -127.0f;
        q[i] = (int8_t)(int32_t)((inside + 0x1.8p23f) - 0x1.8p23f);
    }
}

static float scale_of(float most) {
    const float scale = most / 127.0f;
    return scale > 0 && isfinite(scale) ? scale : 1.0f;
}

/* Element (r, c) of a matrix of any floats. */
static const void *at(spi_mat m, int64_t r, int64_t c) {
    return (const char *)m.data + (size_t)(r * m.ld + c) * spi_dtype_size(m.dtype);
}

static void quantize_row(float *scale, int8_t *q, spi_mat m, int64_t row) {
    float part[PIECE], most = 0.0f;
    for (int64_t c = 0; c < m.cols; c += PIECE) {
        const int64_t n = m.cols - c < PIECE ? m.cols - c : PIECE;
        spi_to_f32(part, at(m, row, c), m.dtype, n);
        const float here = largest(part, n);
        most = here > most ? here : most;
    }
    *scale = scale_of(most);
    for (int64_t c = 0; c < m.cols; c += PIECE) {
        const int64_t n = m.cols - c < PIECE ? m.cols - c : PIECE;
        spi_to_f32(part, at(m, row, c), m.dtype, n);
        round_all(q + c, part, *scale, n);
    }
}

/* Columns [first, first + n) of m [K, N], at most PIECE, into rows of q [N, K]. */
static void quantize_columns(float *scale, int8_t *q, spi_mat m, int64_t first, int64_t n) {
    float part[PIECE], most[PIECE] = {0};
    int8_t rounded;
    for (int64_t k = 0; k < m.rows; k++) {
        spi_to_f32(part, at(m, k, first), m.dtype, n);
        for (int64_t i = 0; i < n; i++) most[i] = fabsf(part[i]) > most[i] ? fabsf(part[i]) : most[i];
    }
    for (int64_t i = 0; i < n; i++) scale[first + i] = scale_of(most[i]);
    for (int64_t k = 0; k < m.rows; k++) {
        spi_to_f32(part, at(m, k, first), m.dtype, n);
        for (int64_t i = 0; i < n; i++) {
            round_all(&rounded, part + i, scale[first + i], 1);
            q[(first + i) * m.rows + k] = rounded;
        }
    }
}

void spi_cpu_quantize(spi_device *dev, float *scale, int8_t *q, const spi_weight *w) {
    const spi_mat m = w->m;
    if (spi_idle(dev)) return;
#pragma omp parallel num_threads(spi_threads_for(spi_cpu_of(dev)->threads, m.rows *m.cols))
    {
        const spi_range r = spi_my_split(spi_weight_out(w), 1);
        if (w->transposed)
            for (int64_t n = r.begin; n < r.end; n += PIECE)
                quantize_columns(scale, q, m, n, r.end - n < PIECE ? r.end - n : PIECE);
        else
            for (int64_t n = r.begin; n < r.end; n++) quantize_row(scale + n, q + n * m.cols, m, n);
    }
}

/* ------------------------------------------------------------------ numbers again */

SPI_CLONES static void row_f32(float *restrict to, const int8_t *restrict q, float scale, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = scale * (float)q[i];
}

SPI_CLONES static void row_bf16(uint16_t *restrict to, const int8_t *restrict q, float scale, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = spi_f32_to_bf16(scale * (float)q[i]);
}

void spi_cpu_dequantize_row(float *to, const spi_weight *w, int64_t row) {
    row_f32(to, at(w->m, row, 0), w->scale[row], w->m.cols);
}

void spi_cpu_dequantize(int threads, spi_mat to, const spi_weight *w, int64_t first) {
#pragma omp parallel for schedule(static) num_threads(spi_threads_for(threads, to.rows *to.cols))
    for (int64_t r = 0; r < to.rows; r++) {
        const int64_t n = first + r;
        if (to.dtype == SP_F32) row_f32(spi_mat_at(to, r, 0), at(w->m, n, 0), w->scale[n], to.cols);
        else row_bf16(spi_mat_at(to, r, 0), at(w->m, n, 0), w->scale[n], to.cols);
    }
}
