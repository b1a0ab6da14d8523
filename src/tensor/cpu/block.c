#include "tensor/cpu/block.h"

#include <string.h>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/row.h"

#define INLINE static inline __attribute__((always_inline))

/* Rows of C whose sums stay in registers, two of them each. */
#define ROWS 6
/* Rows of B that a padded copy holds. */
#define TAIL_DEPTH 64

#define WIDTH 4
#include "tensor/cpu/block_tile.h"

/* Written out for each width, not SPI_CLONES: a vector that is wider than the registers lives in memory. */
#if defined(__x86_64__) && defined(__GNUC__)
#define WIDTH 8
#include "tensor/cpu/block_tile.h"

__attribute__((noinline, target("avx2,fma"))) static void
product_avx2(float *c, int64_t ldc, spi_block a, const float *b, int64_t ldb, int64_t m, int64_t n, int64_t k) {
    product8(c, ldc, a, b, ldb, m, n, k);
}

#ifndef SPI_NO_V4
#define WIDTH 16
#include "tensor/cpu/block_tile.h"

__attribute__((noinline, target("avx512f,avx512vl,avx2,fma"))) static void
product_avx512(float *c, int64_t ldc, spi_block a, const float *b, int64_t ldb, int64_t m, int64_t n,
               int64_t k) {
    product16(c, ldc, a, b, ldb, m, n, k);
}
#endif
#endif

void spi_block_product(float *c, int64_t ldc, spi_block a, const float *b, int64_t ldb, int64_t m, int64_t n,
                       int64_t k) {
#if defined(__x86_64__) && defined(__GNUC__)
#ifndef SPI_NO_V4
    if (__builtin_cpu_supports("avx512vl")) {
        product_avx512(c, ldc, a, b, ldb, m, n, k);
        return;
    }
#endif
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
        product_avx2(c, ldc, a, b, ldb, m, n, k);
        return;
    }
#endif
    product4(c, ldc, a, b, ldb, m, n, k);
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
