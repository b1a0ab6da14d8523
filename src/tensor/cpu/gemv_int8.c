/*
 * Products of few rows with quantised weights: as gemv.c, memory is read in one stream, half as much of it.
 * Weights become f32 exactly and meet f32 activations: nothing but the weights is rounded.
 *
 * Four neighbours are read as one word. Shifted and masked into its upper byte, each of them is 2^24 times the
 * weight, which f32 holds exactly; the factor goes into the scale. That is one instruction less for each than
 * widening bytes, and the same code on every CPU. So `step` sees every fourth column, four times, and x has to
 * be in that order.
 */
#include "tensor/cpu/gemv.h"

#include "tensor/cpu/gemv_wide.h"
#include "tensor/cpu/row.h"
#include "tensor/cpu/split.h"

#define STEP (4 * WIDTH)
typedef uint32_t words __attribute__((vector_size(WIDTH * 4), aligned(1), may_alias));
typedef int32_t signed_words __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));

INLINE void weights_of(wide *to, const words *upper) {
    *to = __builtin_convertvector((signed_words)*upper, wide);
}

/* sum[m] += 2^24 w . x[m] over STEP columns, rows of x being k apart. */
INLINE void step(wide *restrict sum, const int8_t *restrict w, const float *restrict x, int64_t k, int x_rows) {
    const words four = *(const words *)w;
    const words upper[4] = {four << 24, (four << 16) & 0xff000000u, (four << 8) & 0xff000000u,
                            four & 0xff000000u};
    wide part[4];
    for (int i = 0; i < 4; i++) weights_of(&part[i], &upper[i]);
    for (int m = 0; m < x_rows; m++)
        for (int i = 0; i < 4; i++) sum[m] += part[i] * *(const wide *)(x + m * k + i * WIDTH);
}

/* sums[m * SPI_GEMV_PIECE + j] = scale[j] w[j] . x[m], for w_rows rows of W and x_rows of x. */
INLINE void block(float *restrict sums, const int8_t *restrict w, const float *restrict scale,
                  const float *restrict x, int64_t k, int w_rows, int x_rows) {
    const int8_t *next = w + w_rows * k;
    wide sum[W_ROWS][X_ROWS];
    for (int j = 0; j < w_rows; j++)
        for (int m = 0; m < x_rows; m++) sum[j][m] = (wide){0};
    int64_t p = 0;
    for (; p + STEP <= k; p += STEP) {
        for (int j = 0; j < w_rows; j++) step(sum[j], w + j * k + p, x + p, k, x_rows);
        for (int i = 0; i < w_rows * STEP; i += 64) __builtin_prefetch(next + p * w_rows + i);
    }
    for (int m = 0; m < x_rows; m++)
        for (int j = 0; j < w_rows; j++) {
            float total = 0x1p-24f * sum_of(&sum[j][m]);
            for (int64_t q = p; q < k; q++) total += (float)w[j * k + q] * x[m * k + q];
            sums[m * SPI_GEMV_PIECE + j] = scale[j] * total;
        }
}

INLINE void block_rows(float *restrict sums, const int8_t *restrict w, const float *restrict scale,
                       const float *restrict x, int64_t k, int w_rows, int64_t x_rows) {
    int64_t m = 0;
    for (; m + X_ROWS <= x_rows; m += X_ROWS)
        block(sums + m * SPI_GEMV_PIECE, w, scale, x + m * k, k, w_rows, X_ROWS);
    switch (x_rows - m) {
    case 3: block(sums + m * SPI_GEMV_PIECE, w, scale, x + m * k, k, w_rows, 3); break;
    case 2: block(sums + m * SPI_GEMV_PIECE, w, scale, x + m * k, k, w_rows, 2); break;
    case 1: block(sums + m * SPI_GEMV_PIECE, w, scale, x + m * k, k, w_rows, 1); break;
    default: break;
    }
}

/* The sums of rows [first, first + count) of W, at most SPI_GEMV_PIECE. */
SPI_CLONES static void dots(float *sums, const spi_weight *w, int64_t first, int64_t count, const float *x,
                            int64_t rows) {
    const int64_t k = w->m.cols;
    const int8_t *q = (const int8_t *)w->m.data + first * w->m.ld;
    int64_t j = 0;
    for (; j + W_ROWS <= count; j += W_ROWS)
        block_rows(sums + j, q + j * k, w->scale + first + j, x, k, W_ROWS, rows);
    for (; j < count; j++) block_rows(sums + j, q + j * k, w->scale + first + j, x, k, 1, rows);
}

/* x in the order in which `step` sees the columns. */
SPI_CLONES static void deal(float *restrict x, int64_t k) {
    float dealt[STEP];
    for (int64_t p = 0; p + STEP <= k; p += STEP) {
        for (int i = 0; i < STEP; i++) dealt[i % 4 * WIDTH + i / 4] = x[p + i];
        memcpy(x + p, dealt, sizeof dealt);
    }
}

void spi_cpu_gemv_int8(int threads, spi_mat y, spi_mat x, const spi_weight *w, const float *bias,
                       const spi_mat *residual, float *work) {
    const int64_t k = x.cols;
    for (int64_t m = 0; m < x.rows; m++) {
        spi_row_load(work + m * k, spi_mat_at(x, m, 0), x.dtype, k);
        deal(work + m * k, k);
    }
#pragma omp parallel num_threads(spi_threads_for(threads, w->m.rows * w->m.cols))
    {
        const spi_range r = spi_my_split(w->m.rows, W_ROWS);
        float sums[SPI_GEMV_ROWS * SPI_GEMV_PIECE];
        for (int64_t n = r.begin; n < r.end; n += SPI_GEMV_PIECE) {
            const int64_t count = r.end - n < SPI_GEMV_PIECE ? r.end - n : SPI_GEMV_PIECE;
            dots(sums, w, n, count, work, y.rows);
            for (int64_t m = 0; m < y.rows; m++)
                spi_cpu_gemv_finish(y, m, n, count, sums + m * SPI_GEMV_PIECE, bias, residual);
        }
    }
}
