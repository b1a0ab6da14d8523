/*
 * Which examples make up which step. The plan of an epoch depends on the options, the dataset and the epoch's
 * number alone, so that a resumed run goes on where the interrupted one was.
 */
#ifndef SPI_TRAIN_SAMPLER_H
#define SPI_TRAIN_SAMPLER_H

#include "shadow/batch.h"

/*
 * A row is one example, or with packing as many as fit max_seq_length; a micro-batch is
 * per_device_train_batch_size rows, the last of an epoch what is left; a step is gradient_accumulation_steps
 * micro-batches, the last of an epoch what is left.
 */
typedef struct spi_sampler {
    sp_context *ctx;
    const sp_dataset *data;
    sp_train_options options;
    int64_t examples;
    int64_t epoch;   /* whose plan follows; -1: none yet */
    int64_t *order;  /* [examples] */
    int64_t *starts; /* [rows + 1]: row r holds order[starts[r] .. starts[r+1]) */
    int64_t *lengths;
    int64_t rows;
} spi_sampler;

sp_status spi_sampler_new(sp_context *ctx, const sp_dataset *data, const sp_train_options *options,
                          spi_sampler **out);
void spi_sampler_free(spi_sampler *s);

/* Optimizer steps of an epoch; plans it. */
int64_t spi_sampler_steps(spi_sampler *s, int64_t epoch);
/* Optimizer steps of the whole training: max_steps, or those of num_train_epochs. */
int64_t spi_sampler_total(spi_sampler *s);

/* Where global step `step` (from 0) lies. */
typedef struct spi_position {
    int64_t epoch, step_in_epoch, steps_in_epoch;
} spi_position;
spi_position spi_sampler_find(spi_sampler *s, int64_t step);

/* Micro-batches of a step, and micro-batch `index` of it into `batch` (cleared first). */
int64_t spi_sampler_micro_count(spi_sampler *s, const spi_position *at);
sp_status spi_sampler_fill(spi_sampler *s, const spi_position *at, int64_t index, spi_batch *batch);

/* Adds example `index` of a dataset to a batch: a token counts as label where it is learnt. */
sp_status spi_batch_add_example(sp_context *ctx, const sp_dataset *data, int64_t index, spi_batch *batch);

#endif
