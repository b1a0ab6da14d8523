/* The largest batch that a dataset can give: lengths and counts alone, for planning; ids and labels are all 0.
 */
#ifndef SPI_TRAIN_LARGEST_H
#define SPI_TRAIN_LARGEST_H

#include "shadow/batch.h"

/* Lengths and labels of a dataset's examples, each from the largest on, and their sums. */
typedef struct spi_sizes {
    int64_t count, tokens, labels;
    int64_t *length, *learnt; /* [count] */
} spi_sizes;

/* data NULL: no examples. Free it, also after a failure. */
sp_status spi_sizes_of(sp_context *ctx, const sp_dataset *data, spi_sizes *out);
void spi_sizes_free(spi_sizes *s);

/* Adds the `rows` longest examples, none longer than `longest`, with the labels of those that have the most. */
sp_status spi_fill_rows(const sp_model *model, const spi_sizes *s, int64_t rows, int64_t longest,
                        spi_batch *batch);
/* The same of packed rows of `longest` tokens: full of examples as long as the longest, which for attention is
 * the most. */
sp_status spi_fill_packed(const sp_model *model, const spi_sizes *s, int64_t rows, int64_t longest,
                          spi_batch *batch);

#endif
