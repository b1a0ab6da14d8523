/*
 * Every thread reads its part of W once and from front to back: memory is fastest in one long stream, which the
 * processor sees coming by itself. So with one row of x, W's rows are computed on one by one. With more there
 * is enough to compute for registers to matter: they are used best by several rows of W at a time, and such a
 * block is computed on while the next one is prefetched in the order in which it lies in memory.
 */
#include "tensor/cpu/gemv.h"

#include "tensor/cpu/gemv_wide.h"
#include "tensor/cpu/row.h"
#include "tensor/cpu/split.h"

typedef uint32_t wide_bits __attribute__((vector_size(WIDTH * 4), aligned(2), may_alias));

#define PIECE SPI_GEMV_PIECE

INLINE float load_one(const void *from, int64_t at, bool bf16) {
    return bf16 ? spi_bf16_to_f32(((const uint16_t *)from)[at]) : ((const float *)from)[at];
}

/* ------------------------------------------------------------------ W [N, K]: dot products */

/* sum[m] += w . x[m] over STEP columns, rows of x being k apart. */
#define STEP (2 * WIDTH)

INLINE void step(wide *restrict sum, const void *restrict w, const float *restrict x, int64_t k, int x_rows,
                 bool bf16) {
    wide first, second;
    if (bf16) {
        const wide_bits pairs = *(const wide_bits *)w;
        *(wide_bits *)&first = pairs << 16;
        *(wide_bits *)&second = pairs & 0xffff0000u;
    } else {
        first = *(const wide *)w;
        second = *((const wide *)w + 1);
    }
    for (int m = 0; m < x_rows; m++)
        sum[m] += first * *(const wide *)(x + m * k) + second * *(const wide *)(x + m * k + WIDTH);
}

/* sums[m * PIECE + j] = w[j] . x[m], for w_rows rows of W and x_rows of x. How many of either there are changes
 * no sum. */
INLINE void block(float *restrict sums, const char *restrict w, const float *restrict x, int64_t k, int w_rows,
                  int x_rows, bool bf16) {
    const int64_t size = bf16 ? 2 : 4, row = k * size;
    const char *next = w + w_rows * row;
    wide sum[W_ROWS][X_ROWS];
    for (int j = 0; j < w_rows; j++)
        for (int m = 0; m < x_rows; m++) sum[j][m] = (wide){0};
    int64_t p = 0;
    for (; p + STEP <= k; p += STEP) {
        for (int j = 0; j < w_rows; j++) step(sum[j], w + j * row + p * size, x + p, k, x_rows, bf16);
        if (w_rows > 1)
            for (int64_t i = 0; i < w_rows * STEP * size; i += 64)
                __builtin_prefetch(next + p * w_rows * size + i);
    }
    for (int m = 0; m < x_rows; m++)
        for (int j = 0; j < w_rows; j++) {
            float total = sum_of(&sum[j][m]);
            for (int64_t q = p; q < k; q++) total += load_one(w + j * row, q, bf16) * x[m * k + q];
            sums[m * PIECE + j] = total;
        }
}

INLINE void block_rows(float *restrict sums, const char *restrict w, const float *restrict x, int64_t k,
                       int w_rows, int64_t x_rows, bool bf16) {
    int64_t m = 0;
    for (; m + X_ROWS <= x_rows; m += X_ROWS) block(sums + m * PIECE, w, x + m * k, k, w_rows, X_ROWS, bf16);
    switch (x_rows - m) {
    case 3: block(sums + m * PIECE, w, x + m * k, k, w_rows, 3, bf16); break;
    case 2: block(sums + m * PIECE, w, x + m * k, k, w_rows, 2, bf16); break;
    case 1: block(sums + m * PIECE, w, x + m * k, k, w_rows, 1, bf16); break;
    default: break;
    }
}

/* sums[m * PIECE + j] for all rows of w, at most PIECE. */
INLINE void dots_piece(float *restrict sums, spi_mat w, const float *restrict x, int64_t rows, bool bf16) {
    int64_t j = 0;
    for (; rows > 1 && j + W_ROWS <= w.rows; j += W_ROWS)
        block_rows(sums + j, spi_mat_at(w, j, 0), x, w.cols, W_ROWS, rows, bf16);
    for (; j < w.rows; j++) block_rows(sums + j, spi_mat_at(w, j, 0), x, w.cols, 1, rows, bf16);
}

SPI_CLONES static void dots_bf16(float *sums, spi_mat w, const float *x, int64_t rows) {
    dots_piece(sums, w, x, rows, true);
}

SPI_CLONES static void dots_f32(float *sums, spi_mat w, const float *x, int64_t rows) {
    dots_piece(sums, w, x, rows, false);
}

void spi_cpu_gemv_finish(spi_mat y, int64_t m, int64_t n, int64_t count, float *sums, const float *bias,
                         const spi_mat *residual) {
    float old[PIECE];
    if (bias)
        for (int64_t j = 0; j < count; j++) sums[j] += bias[n + j];
    if (residual) {
        spi_row_load(old, spi_mat_at(*residual, m, n), residual->dtype, count);
        for (int64_t j = 0; j < count; j++) sums[j] += old[j];
    }
    spi_row_store(spi_mat_at(y, m, n), sums, y.dtype, count);
}

static void by_rows(int threads, spi_mat y, const float *x, spi_mat w, const float *bias,
                    const spi_mat *residual) {
#pragma omp parallel num_threads(spi_threads_for(threads, w.rows *w.cols))
    {
        const spi_range r = spi_my_split(w.rows, W_ROWS);
        float sums[SPI_GEMV_ROWS * PIECE];
        for (int64_t n = r.begin; n < r.end; n += PIECE) {
            const spi_mat part = spi_mat_rows(w, n, r.end - n < PIECE ? r.end - n : PIECE);
            if (w.dtype == SP_BF16) dots_bf16(sums, part, x, y.rows);
            else dots_f32(sums, part, x, y.rows);
            for (int64_t m = 0; m < y.rows; m++)
                spi_cpu_gemv_finish(y, m, n, part.rows, sums + m * PIECE, bias, residual);
        }
    }
}

/* ------------------------------------------------------------------ W [K, N]: sums of rows */

/* to[m] += x[m][p] w for every row m of x, K elements apart; w is row p of W. */
SPI_CLONES static void add_row(float *restrict to, const void *restrict w, sp_dtype dtype,
                               const float *restrict x, int64_t rows, int64_t k, int64_t n) {
    for (int64_t m = 0; m < rows; m++) {
        const float v = x[m * k];
        float *restrict sums = to + m * n;
        if (dtype == SP_BF16) {
            const uint16_t *b = w;
            for (int64_t i = 0; i < n; i++) sums[i] += v * spi_bf16_to_f32(b[i]);
        } else {
            const float *f = w;
            for (int64_t i = 0; i < n; i++) sums[i] += v * f[i];
        }
    }
}

SPI_CLONES static void add(float *restrict to, const float *restrict from, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] += from[i];
}

/* Each of the parts sums some rows of W into its own [rows, N] of `partial`; they are added up in order. */
static void by_columns(int threads, spi_mat y, const float *x, spi_mat w, const float *bias,
                       const spi_mat *residual, float *partial) {
    const int parts = spi_threads_for(threads, w.rows * w.cols);
    const int64_t n = w.cols, size = y.rows * n;
#pragma omp parallel for schedule(static) num_threads(parts)
    for (int i = 0; i < parts; i++) {
        const spi_range r = spi_split(w.rows, 1, i, parts);
        memset(partial + i * size, 0, (size_t)size * sizeof *partial);
        for (int64_t p = r.begin; p < r.end; p++)
            add_row(partial + i * size, spi_mat_at(w, p, 0), w.dtype, x + p, y.rows, w.rows, n);
    }
    for (int i = 1; i < parts; i++) add(partial, partial + i * size, size);
    for (int64_t m = 0; m < y.rows; m++)
        for (int64_t j = 0; j < n; j += PIECE)
            spi_cpu_gemv_finish(y, m, j, n - j < PIECE ? n - j : PIECE, partial + m * n + j, bias, residual);
}

/* ------------------------------------------------------------------ the operation */

int64_t spi_cpu_gemv_floats(int threads, const spi_weight *w, int64_t rows) {
    return rows * (spi_weight_in(w) + (w->transposed ? threads * spi_weight_out(w) : 0));
}

/*
 * A bf16 is the upper half of its f32: of two neighbours read as one word, a shift gives the first and a mask
 * the second. So `step` sees the even columns of W and then the odd ones, and x has to be in that order.
 */
SPI_CLONES static void deal(float *x, int64_t k) {
    float even[WIDTH], odd[WIDTH];
    for (int64_t p = 0; p + STEP <= k; p += STEP) {
        for (int i = 0; i < WIDTH; i++) {
            even[i] = x[p + 2 * i];
            odd[i] = x[p + 2 * i + 1];
        }
        memcpy(x + p, even, sizeof even);
        memcpy(x + p + WIDTH, odd, sizeof odd);
    }
}

void spi_cpu_gemv(int threads, spi_mat y, spi_mat x, const spi_weight *w, const float *bias,
                  const spi_mat *residual, float *work) {
    const int64_t k = x.cols;
    if (w->scale) {
        spi_cpu_gemv_int8(threads, y, x, w, bias, residual, work);
        return;
    }
    for (int64_t m = 0; m < x.rows; m++) {
        spi_row_load(work + m * k, spi_mat_at(x, m, 0), x.dtype, k);
        if (!w->transposed && w->m.dtype == SP_BF16) deal(work + m * k, k);
    }
    if (w->transposed) by_columns(threads, y, work, w->m, bias, residual, work + x.rows * k);
    else by_rows(threads, y, work, w->m, bias, residual);
}
