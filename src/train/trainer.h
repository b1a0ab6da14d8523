/* A training run in memory: what sp_train and its parts share. */
#ifndef SPI_TRAIN_TRAINER_H
#define SPI_TRAIN_TRAINER_H

#include "shadow/adapted.h"
#include "train/sampler.h"
#include "train/state.h"

typedef struct spi_trainer {
    sp_model *model;
    sp_context *ctx;
    const sp_dataset *train, *eval; /* eval may be NULL */
    sp_train_options options;
    spi_distill distill; /* from the options */
    sp_train_fn callback;
    void *user;

    spi_optimizer *optimizer;
    spi_sampler *sampler;
    spi_progress progress;
    json_t *fingerprint;
    int64_t first_step, total_steps, warmup_steps;
    bool ends_epoch;  /* the last step did */
    spi_batch *micro; /* [gradient_accumulation_steps] */
    spi_batch eval_batch;

    char *metrics;      /* path */
    spi_arena names;    /* of paths */
    int64_t saved_step; /* of the newest checkpoint, -1: none */
    int64_t tokens;
    double started;
    bool stop, abort; /* asked for by the callback */
    sp_train_event event;
} spi_trainer;

/* One optimizer step: loss of the step into t->event. SP_ERR_DIVERGED before anything is changed. */
sp_status spi_trainer_step(spi_trainer *t);

/*
 * How micro-batch `i` of the step is run, for a mean over `labels` labels; and a batch of an evaluation, whose
 * weights only say which losses are wanted.
 */
spi_run spi_trainer_run(const spi_trainer *t, int64_t i, int64_t labels);
spi_run spi_trainer_eval_run(const spi_trainer *t);

/* Losses over the evaluation data into t->event; best_* of the progress; *better: than all before. */
sp_status spi_trainer_evaluate(spi_trainer *t, bool *better);

/*
 * Sums of losses over the first `most` examples of `data`, without dropout, and how many of them: labels, or
 * tokens where the model learns from a teacher. Uses the model, the evaluation's batch and the options.
 */
sp_status spi_trainer_sum_losses(spi_trainer *t, const sp_dataset *data, int64_t most, spi_loss_sums *sums,
                                 int64_t *counted);

/* The failure of a step where `what` is no number, with the checkpoint that is left. */
sp_status spi_trainer_diverged(spi_trainer *t, int64_t step, const char *what, double value);

#endif
