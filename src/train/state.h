/*
 * A resumable checkpoint: what the trained model consists of (for people and other programs), and beside it
 *   optimizer.safetensors   param.KEY of every trainable parameter, exp_avg.KEY and exp_avg_sq.KEY of those
 * that gradients reach, f32 trainer_state.json      spi_progress, and the fingerprint of the run A checkpoint
 * directory appears under its name only when it is complete.
 */
#ifndef SPI_TRAIN_STATE_H
#define SPI_TRAIN_STATE_H

#include "base/json.h"
#include "train/optimizer.h"
#include "train/progress.h"

#define SPI_STATE_FILE "trainer_state.json"

typedef struct spi_state {
    spi_optimizer *optimizer;
    spi_progress *progress;
    const json_t *fingerprint;
    int64_t total_steps; /* this and the next are for readers of the file */
    double epoch;
} spi_state;

sp_status spi_state_save(const spi_state *state, const char *dir);
/*
 * Reads a checkpoint back into the model, the optimizer and *progress. SP_ERR_MISMATCH where the run's
 * fingerprint was another, or the tensors are not this model's; nothing is changed then.
 */
sp_status spi_state_load(const spi_state *state, const char *dir);
/* The parameters alone: to go back to the best ones. */
sp_status spi_state_load_params(const spi_state *state, const char *dir);

#endif
