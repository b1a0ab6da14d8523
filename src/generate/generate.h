/* Generation from the inside: sequences of ids, continued together. */
#ifndef SPI_GENERATE_GENERATE_H
#define SPI_GENERATE_GENERATE_H

#include "generate/sequence.h"
#include "shadow/adapted.h"
#include "shadow/step.h"

/*
 * Continues every started sequence until it is done or the stream says stop. Options are read and checked.
 * `stats` (or NULL) gets tokens and seconds.
 */
sp_status spi_generate_run(sp_model *model, const sp_generate_options *options, const spi_ending *ending,
                           spi_sequence *sequences, size_t count, sp_stream_fn stream, void *user,
                           sp_generation_stats *stats);

#endif
