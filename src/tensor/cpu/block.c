#include "tensor/cpu/block.h"

#include <string.h>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/row.h"

#define INLINE static inline __attribute__((always_inline))

/* As wide as the widest registers; the compiler cuts it where they are narrower. */
#define WIDTH 16
typedef float wide __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));

/* Rows of C whose sums stay in registers, two `wide` each. */
#define ROWS 6

INLINE void tile2(float *restrict c, int64_t ldc, spi_block a, const float *restrict b, int64_t ldb, int64_t k,
                  int rows) {
    wide sum[ROWS][2];
    for (int i = 0; i < rows; i++) {
        sum[i][0] = *(const wide *)(c + i * ldc);
        sum[i][1] = *(const wide *)(c + i * ldc + WIDTH);
    }
    for (int64_t p = 0; p < k; p++) {
        const wide b0 = *(const wide *)(b + p * ldb), b1 = *(const wide *)(b + p * ldb + WIDTH);
        for (int i = 0; i < rows; i++) {
            const float v = a.data[i * a.row + p * a.col];
            sum[i][0] += v * b0;
            sum[i][1] += v * b1;
        }
    }
    for (int i = 0; i < rows; i++) {
        *(wide *)(c + i * ldc) = sum[i][0];
        *(wide *)(c + i * ldc + WIDTH) = sum[i][1];
    }
}

INLINE void tile1(float *restrict c, int64_t ldc, spi_block a, const float *restrict b, int64_t ldb, int64_t k,
                  int rows) {
    wide sum[ROWS];
    for (int i = 0; i < rows; i++) sum[i] = *(const wide *)(c + i * ldc);
    for (int64_t p = 0; p < k; p++) {
        const wide b0 = *(const wide *)(b + p * ldb);
        for (int i = 0; i < rows; i++) sum[i] += a.data[i * a.row + p * a.col] * b0;
    }
    for (int i = 0; i < rows; i++) *(wide *)(c + i * ldc) = sum[i];
}

/* Fewer columns than a register holds: B is padded with zeros, in pieces. */
#define TAIL_DEPTH 64

INLINE void tail_rows(float *restrict c, int64_t ldc, spi_block a, const float *restrict padded, int64_t n,
                      int64_t k, int64_t rows) {
    for (int64_t i = 0; i < rows; i++) {
        float sums[WIDTH] = {0};
        memcpy(sums, c + i * ldc, (size_t)n * sizeof *sums);
        wide sum = *(const wide *)sums;
        for (int64_t p = 0; p < k; p++)
            sum += a.data[i * a.row + p * a.col] * *(const wide *)(padded + p * WIDTH);
        *(wide *)sums = sum;
        memcpy(c + i * ldc, sums, (size_t)n * sizeof *sums);
    }
}

INLINE void tail(float *restrict c, int64_t ldc, spi_block a, const float *restrict b, int64_t ldb, int64_t m,
                 int64_t n, int64_t k) {
    float padded[TAIL_DEPTH * WIDTH];
    for (int64_t p = 0; p < k; p += TAIL_DEPTH) {
        const int64_t depth = k - p < TAIL_DEPTH ? k - p : TAIL_DEPTH;
        memset(padded, 0, sizeof padded);
        for (int64_t q = 0; q < depth; q++)
            memcpy(padded + q * WIDTH, b + (p + q) * ldb, (size_t)n * sizeof *padded);
        tail_rows(c, ldc, (spi_block){a.data + p * a.col, a.row, a.col}, padded, n, depth, m);
    }
}

/* Columns [j, j + 32) or [j, j + 16), all rows. */
INLINE void columns(float *restrict c, int64_t ldc, spi_block a, const float *restrict b, int64_t ldb,
                    int64_t m, int64_t k, bool two) {
    int64_t i = 0;
    for (; i + ROWS <= m; i += ROWS) {
        const spi_block part = {a.data + i * a.row, a.row, a.col};
        if (two) tile2(c + i * ldc, ldc, part, b, ldb, k, ROWS);
        else tile1(c + i * ldc, ldc, part, b, ldb, k, ROWS);
    }
    for (; i < m; i++) {
        const spi_block part = {a.data + i * a.row, a.row, a.col};
        if (two) tile2(c + i * ldc, ldc, part, b, ldb, k, 1);
        else tile1(c + i * ldc, ldc, part, b, ldb, k, 1);
    }
}

SPI_CLONES void spi_block_product(float *c, int64_t ldc, spi_block a, const float *b, int64_t ldb, int64_t m,
                                  int64_t n, int64_t k) {
    int64_t j = 0;
    for (; j + 2 * WIDTH <= n; j += 2 * WIDTH) columns(c + j, ldc, a, b + j, ldb, m, k, true);
    for (; j + WIDTH <= n; j += WIDTH) columns(c + j, ldc, a, b + j, ldb, m, k, false);
    if (j < n) tail(c + j, ldc, a, b + j, ldb, m, n - j, k);
}

/* ------------------------------------------------------------------ moving rows */

SPI_CLONES void spi_block_transpose(float *to, int64_t ld, const float *from, int64_t from_ld, int64_t rows,
                                    int64_t cols) {
    /* Squares that fit the first cache on both sides. */
    for (int64_t r0 = 0; r0 < rows; r0 += 16)
        for (int64_t c0 = 0; c0 < cols; c0 += 16) {
            const int64_t r1 = r0 + 16 < rows ? r0 + 16 : rows, c1 = c0 + 16 < cols ? c0 + 16 : cols;
            for (int64_t c = c0; c < c1; c++)
                for (int64_t r = r0; r < r1; r++) to[c * ld + r] = from[r * from_ld + c];
        }
}

SPI_CLONES static void load_row(float *restrict to, const void *restrict from, sp_dtype dtype, float scale,
                                int64_t n) {
    spi_row_load(to, from, dtype, n);
    if (scale != 1.0f)
        for (int64_t i = 0; i < n; i++) to[i] *= scale;
}

SPI_CLONES static void store_row(void *restrict to, const float *restrict from, sp_dtype dtype, int64_t n) {
    spi_row_store(to, from, dtype, n);
}

void spi_block_load(float *to, spi_mat from, int64_t row, int64_t rows, float scale) {
    for (int64_t r = 0; r < rows; r++)
        load_row(to + r * from.cols, spi_mat_at(from, row + r, 0), from.dtype, scale, from.cols);
}

void spi_block_store(spi_mat to, int64_t row, int64_t rows, const float *from) {
    for (int64_t r = 0; r < rows; r++)
        store_row(spi_mat_at(to, row + r, 0), from + r * to.cols, to.dtype, to.cols);
}

SPI_CLONES void spi_block_scale(float *x, float a, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] *= a;
}

SPI_CLONES void spi_block_add(float *y, const float *x, float a, int64_t n) {
    for (int64_t i = 0; i < n; i++) y[i] += a * x[i];
}
