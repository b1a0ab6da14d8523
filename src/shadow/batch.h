/* A batch on its way to the device: packed tokens, their positions, and which rows predict which labels. */
#ifndef SPI_SHADOW_BATCH_H
#define SPI_SHADOW_BATCH_H

#include "shadow/model.h"

/* Host arrays, owned. Row label_row[j] predicts token, or class, label_id[j]. */
typedef struct spi_batch {
    int64_t tokens;
    int32_t count, max_length, max_position; /* sequences, longest of them, 1 + largest position */
    int32_t *ids, *positions;                /* [tokens] */
    int32_t *start;                          /* [count + 1] */
    int64_t labels;
    int32_t *label_row, *label_id; /* [labels] */
    int64_t token_capacity, seq_capacity, label_capacity;
} spi_batch;

/* Start with {0}. Clears without giving memory back. */
void spi_batch_clear(spi_batch *b);
void spi_batch_free(spi_batch *b);

/*
 * Adds a sequence. labels[t] (NULL: none) is the label of token t, -100 to ignore it; it counts for row t - 1.
 * positions NULL: 0, 1, 2, ...
 */
sp_status spi_batch_add(sp_context *ctx, spi_batch *b, const int32_t *ids, const int32_t *labels,
                        const int32_t *positions, int64_t length);

/* The same for classification: `label` (below 0: none) counts for the last row. */
sp_status spi_batch_add_labelled(sp_context *ctx, spi_batch *b, const int32_t *ids, const int32_t *positions,
                                 int64_t length, int32_t label);

/* Adds example `index` of a dataset: a token counts as a label where it is learnt, or the example's own label.
 */
sp_status spi_batch_add_example(sp_context *ctx, spi_batch *b, const sp_dataset *data, int64_t index);

/* Fails unless every id is below the model's vocabulary, and every label below its outputs. */
sp_status spi_batch_check(const sp_model *model, const spi_batch *b);

#endif
