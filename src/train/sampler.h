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
 * micro-batches, the last of an epoch what is left. Every example is seen once an epoch.
 */
typedef struct spi_sampler {
    sp_context *ctx;
    const sp_dataset *data;
    sp_train_options options;
    int64_t examples;
    int64_t *lengths; /* [examples] */
    int64_t epoch;    /* whose plan follows; -1: none yet */
    int64_t before;   /* steps of the epochs before it */
    int64_t *order;   /* [examples] */
    int64_t *starts;  /* [rows + 1]: row r holds order[starts[r] .. starts[r+1]) */
    int64_t rows;
} spi_sampler;

/* `data` must outlive the sampler. */
sp_status spi_sampler_new(sp_context *ctx, const sp_dataset *data, const sp_train_options *options,
                          spi_sampler **out);
void spi_sampler_free(spi_sampler *s);

/*
 * Optimizer steps of the whole training: max_steps, or those of num_train_epochs as transformers.Trainer counts
 * them. With packing an epoch has the steps that its own order packs into.
 */
int64_t spi_sampler_total(spi_sampler *s);

/* What a step is made of. */
typedef struct spi_step_plan {
    int64_t first, count; /* micro-batches [first, first + count) of the epoch */
    double epoch;         /* passed when the step is done: transformers.TrainerState.epoch */
    bool ends_epoch;
} spi_step_plan;

/* The plan of global step `step` (from 0). Steps are quickly found in ascending order. */
spi_step_plan spi_sampler_step(spi_sampler *s, int64_t step);

/* Micro-batch `micro` of the epoch of the step last planned, into `batch` (cleared first). */
sp_status spi_sampler_fill(const spi_sampler *s, int64_t micro, spi_batch *batch);

#endif
