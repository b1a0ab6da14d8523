/*
 * Small products of bf16 matrices inside kernels, summed in f32. Two elements that follow each other along the
 * summed dimension are one word, the first in its low half: what the instruction for pairs reads.
 */
#ifndef SPI_TENSOR_CPU_BLOCK_PAIRS_H
#define SPI_TENSOR_CPU_BLOCK_PAIRS_H

#include "tensor/tensor.h"

/* Other code writes halves of it. */
typedef uint32_t spi_pair __attribute__((may_alias));

/* Rows and columns of C that a tile computes; columns come in `SPI_PAIRS_LANE`s. */
#define SPI_PAIRS_ROWS ((int64_t)6)
#define SPI_PAIRS_COLS ((int64_t)64)
#define SPI_PAIRS_LANE ((int64_t)16)

/* A as it lies in memory: pair p of row i at data[i * row + p * col]. */
typedef struct spi_pairs {
    const spi_pair *data;
    int64_t row, col;
} spi_pairs;

/*
 * C [6, 16 lanes] = A B, or += where `add`; 1 to 4 lanes. B holds `pairs` rows of words, ldb apart: element
 * (2p, j) and (2p + 1, j) at b[p * ldb + j].
 */
typedef void spi_pairs_tile(float *c, int64_t ldc, spi_pairs a, const spi_pair *b, int64_t ldb, int64_t pairs,
                            int lanes, bool add);

/* NULL where the CPU has no such instruction. oneDNN's setting ONEDNN_MAX_CPU_ISA holds here too. */
spi_pairs_tile *spi_pairs_native(void);

/*
 * Rows [first, first + rows) of a bf16 matrix of even columns as B of a product with its transpose: panels of
 * 64 rows, [cols / 2, 64] words each, zeros beyond the last row.
 */
void spi_pairs_transposed(spi_pair *to, spi_mat from, int64_t first, int64_t rows);

/*
 * The same rows as B itself: panels of up to 64 columns, [pairs, 64] words each, where the last may be
 * narrower; pairs >= (rows + 1) / 2, zeros beyond the last row. Column c is in the panel that begins at word c
 * / 64 * 64 * pairs.
 */
void spi_pairs_rows(spi_pair *to, int64_t pairs, spi_mat from, int64_t first, int64_t rows);

#endif
