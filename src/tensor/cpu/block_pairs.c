#include "tensor/cpu/block_pairs.h"

#include <oneapi/dnnl/dnnl.h>
#include <string.h>
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define PAIRS_NATIVE 1
#endif

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/row.h"

#define ROWS 6
#define WIDTH 16 /* words of a register */

#ifdef PAIRS_NATIVE
#define NATIVE __attribute__((target("avx512f,avx512vl,avx512bf16")))

static inline __attribute__((always_inline)) NATIVE void native(float *restrict c, int64_t ldc, spi_pairs a,
                                                                const spi_pair *restrict b, int64_t ldb,
                                                                int64_t pairs, int lanes, bool add) {
    __m512 sum[ROWS][4];
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < lanes; j++)
            sum[i][j] = add ? _mm512_loadu_ps(c + i * ldc + j * WIDTH) : _mm512_setzero_ps();
    for (int64_t p = 0; p < pairs; p++) {
        __m512i w[4];
        for (int j = 0; j < lanes; j++) w[j] = _mm512_loadu_si512(b + p * ldb + j * WIDTH);
        for (int i = 0; i < ROWS; i++) {
            const __m512i v = _mm512_set1_epi32((int)a.data[i * a.row + p * a.col]);
            for (int j = 0; j < lanes; j++)
                sum[i][j] = _mm512_dpbf16_ps(sum[i][j], (__m512bh)v, (__m512bh)w[j]);
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < lanes; j++) _mm512_storeu_ps(c + i * ldc + j * WIDTH, sum[i][j]);
}

NATIVE static void tile_native(float *c, int64_t ldc, spi_pairs a, const spi_pair *b, int64_t ldb,
                               int64_t pairs, int lanes, bool add) {
    switch (lanes) {
    case 1: native(c, ldc, a, b, ldb, pairs, 1, add); break;
    case 2: native(c, ldc, a, b, ldb, pairs, 2, add); break;
    case 3: native(c, ldc, a, b, ldb, pairs, 3, add); break;
    default: native(c, ldc, a, b, ldb, pairs, 4, add);
    }
}
#endif

spi_pairs_tile *spi_pairs_native(void) {
#ifdef PAIRS_NATIVE
    const unsigned need = dnnl_cpu_isa_avx512_core_bf16;
    if (__builtin_cpu_supports("avx512bf16") && ((unsigned)dnnl_get_effective_cpu_isa() & need) == need)
        return tile_native;
#endif
    return NULL;
}

/* ------------------------------------------------------------------ laying out */

/* A square of up to 16 rows: to [words, 64] = from [16, words] transposed; rows of NULL are zeros. */
SPI_CLONES static void turn(spi_pair *restrict to, const char *const *from, int64_t words) {
    for (int64_t w = 0; w < words; w++)
        for (int64_t r = 0; r < WIDTH; r++) {
            spi_pair word = 0;
            if (from[r]) memcpy(&word, from[r] + w * 4, sizeof word);
            to[w * SPI_PAIRS_COLS + r] = word;
        }
}

void spi_pairs_transposed(spi_pair *to, spi_mat from, int64_t first, int64_t rows) {
    const int64_t words = from.cols / 2;
    for (int64_t r = 0; r < rows; r += SPI_PAIRS_COLS, to += words * SPI_PAIRS_COLS)
        for (int64_t s = 0; s < SPI_PAIRS_COLS; s += WIDTH) {
            const char *lines[WIDTH];
            for (int64_t i = 0; i < WIDTH; i++)
                lines[i] = r + s + i < rows ? spi_mat_at(from, first + r + s + i, 0) : NULL;
            turn(to + s, lines, words);
        }
}

SPI_CLONES static void join(spi_pair *restrict to, const uint16_t *restrict low, const uint16_t *restrict high,
                            int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = (spi_pair)low[i] | (spi_pair)high[i] << 16;
}

SPI_CLONES static void join_zero(spi_pair *restrict to, const uint16_t *restrict low, int64_t n) {
    for (int64_t i = 0; i < n; i++) to[i] = low[i];
}

void spi_pairs_rows(spi_pair *to, int64_t pairs, spi_mat from, int64_t first, int64_t rows) {
    for (int64_t c = 0; c < from.cols; c += SPI_PAIRS_COLS) {
        const int64_t n = from.cols - c < SPI_PAIRS_COLS ? from.cols - c : SPI_PAIRS_COLS;
        for (int64_t r = 0; r < rows; r += 2, to += n) {
            const uint16_t *low = spi_mat_at(from, first + r, c);
            if (r + 1 < rows) join(to, low, spi_mat_at(from, first + r + 1, c), n);
            else join_zero(to, low, n);
        }
        const int64_t left = pairs - (rows + 1) / 2;
        memset(to, 0, (size_t)(left * n) * sizeof *to);
        to += left * n;
    }
}
