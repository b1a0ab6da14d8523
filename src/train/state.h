/*
 * A resumable checkpoint: what the trained model consists of (for people and other programs), and beside it
 *   optimizer.safetensors   param.KEY, exp_avg.KEY, exp_avg_sq.KEY of every parameter that trains, f32
 *   trainer_state.json      spi_progress, and the options and data that the run was begun with
 * A checkpoint directory appears under its name only when it is complete.
 */
#ifndef SPI_TRAIN_STATE_H
#define SPI_TRAIN_STATE_H

#include "train/optimizer.h"
#include "train/progress.h"

typedef struct spi_state {
    spi_optimizer *optimizer;
    const sp_train_options *options;
    const sp_dataset *data;
    spi_progress *progress;
    int64_t total_steps;
    double epoch; /* for readers */
} spi_state;

sp_status spi_state_save(const spi_state *state, const char *dir);
/*
 * Reads a checkpoint back into the model, the optimizer and *progress. SP_ERR_MISMATCH where the options or the
 * data differ from those of the run: the message names option, expected and found.
 */
sp_status spi_state_load(const spi_state *state, const char *dir);
/* The parameters alone: to go back to the best ones. */
sp_status spi_state_load_params(const spi_state *state, const char *dir);

#endif
