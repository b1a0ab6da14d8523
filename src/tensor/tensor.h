/*
 * What the layers above see of memory on a device: matrices, weights, packed sequences.
 */
#ifndef SPI_TENSOR_TENSOR_H
#define SPI_TENSOR_TENSOR_H

#include "base/dtype.h"
#include "base/mem.h"

/*
 * A row-major matrix in device memory, not owned: element (r, c) is data[r * ld + c]. A view of some columns
 * of a wider matrix keeps its ld. Activations are F32 or BF16.
 */
typedef struct spi_mat {
    void *data;
    sp_dtype dtype;
    int64_t rows, cols, ld;
} spi_mat;

static inline spi_mat spi_mat_of(void *data, sp_dtype dtype, int64_t rows, int64_t cols) {
    return (spi_mat){data, dtype, rows, cols, cols};
}

/* Columns [first, first + cols) of m. */
spi_mat spi_mat_columns(spi_mat m, int64_t first, int64_t cols);
/* Rows [first, first + rows) of m. */
spi_mat spi_mat_rows(spi_mat m, int64_t first, int64_t rows);

/*
 * The matrix of a linear layer, [out, in] as torch.nn.Linear stores it, or [in, out] when `transposed`
 * (GPT-2's Conv1D). F32 or BF16, contiguous; or quantised, I8 with a scale for each output:
 * W[n, k] = scale[n] * m[n, k], never transposed.
 */
typedef struct spi_weight {
    spi_mat m;
    bool transposed;
    const float *scale; /* I8: [out], device; else NULL */
} spi_weight;

static inline int64_t spi_weight_out(const spi_weight *w) {
    return w->transposed ? w->m.cols : w->m.rows;
}
static inline int64_t spi_weight_in(const spi_weight *w) {
    return w->transposed ? w->m.rows : w->m.cols;
}

/*
 * Sequences of a batch, packed end to end in one matrix of T rows: sequence i owns rows
 * [start[i], start[i+1]). Nothing is padded. `host_start` holds the same numbers in host memory.
 */
typedef struct spi_seqs {
    int32_t count;
    int32_t max_length;
    const int32_t *start; /* [count + 1], device */
    const int32_t *host_start;
} spi_seqs;

#endif
