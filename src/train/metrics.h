/*
 * metrics.jsonl: one JSON object a line, for each logging step and each evaluation. It holds nothing that
 * depends on time, so that a resumed run writes the very lines of an uninterrupted one.
 */
#ifndef SPI_TRAIN_METRICS_H
#define SPI_TRAIN_METRICS_H

#include "base/json.h"

/* Starts the file: empties it, or keeps the lines up to `step` when resuming from there. */
sp_status spi_metrics_start(sp_context *ctx, const char *path, int64_t step);
/* Appends one line; takes the object over. NULL stands for one that could not be made: out of memory. */
sp_status spi_metrics_append(sp_context *ctx, const char *path, json_t *line);
/* Waits until the lines are on the disk: before a checkpoint whose resumption counts on them. */
sp_status spi_metrics_flush(sp_context *ctx, const char *path);

#endif
