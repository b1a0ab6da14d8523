/*
 * The output directory of a run: checkpoint-STEP directories, complete ones by that name, and by
 * checkpoint-STEP.partial those being written or removed, which an interruption may leave behind.
 */
#ifndef SPI_TRAIN_RUN_DIR_H
#define SPI_TRAIN_RUN_DIR_H

#include "base/file.h"

/* DIR/checkpoint-STEP in `arena`; NULL when out of memory. */
char *spi_run_dir_checkpoint(spi_arena *arena, const char *dir, int64_t step);
/* The name it has until it is complete. */
char *spi_run_dir_partial(spi_arena *arena, const char *checkpoint);

/* Makes the directory and fails unless files can be written there. */
sp_status spi_run_dir_prepare(sp_context *ctx, const char *dir);

/* The largest step with a checkpoint, -1 if there is none. */
sp_status spi_run_dir_newest(sp_context *ctx, const char *dir, int64_t *step);

/*
 * Removes the oldest checkpoints beyond `limit` (0: no limit), but never the newest nor `keep` (-1: no such),
 * as well as everything partial.
 */
sp_status spi_run_dir_rotate(sp_context *ctx, const char *dir, int32_t limit, int64_t keep);

#endif
