/* The output directory of a run: its checkpoints by number. */
#ifndef SPI_TRAIN_RUN_DIR_H
#define SPI_TRAIN_RUN_DIR_H

#include "base/file.h"

/* DIR/checkpoint-STEP in `arena`. */
char *spi_run_dir_checkpoint(spi_arena *arena, const char *dir, int64_t step);

/* Makes the directory and fails unless files can be written there. */
sp_status spi_run_dir_prepare(sp_context *ctx, const char *dir);

/* The largest step with a complete checkpoint, -1 if there is none. */
sp_status spi_run_dir_newest(sp_context *ctx, const char *dir, int64_t *step);

/*
 * Removes the oldest checkpoints beyond `limit` (0: none), but never `keep` (-1: no such), as well as
 * directories that an interruption left half-written.
 */
sp_status spi_run_dir_rotate(sp_context *ctx, const char *dir, int32_t limit, int64_t keep);

/* Removes every checkpoint: a run that begins anew. */
sp_status spi_run_dir_clear(sp_context *ctx, const char *dir);

#endif
