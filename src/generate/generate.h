/* Generation from the inside: sequences of ids, continued together. */
#ifndef SPI_GENERATE_GENERATE_H
#define SPI_GENERATE_GENERATE_H

#include "generate/sequence.h"
#include "shadow/model.h"

/*
 * Continues every started sequence (of at least one id) until it is done or the stream says stop. Of `options`,
 * read and checked, what says when a sequence ends is not looked at: that is `ending`. `stats` may be NULL.
 */
sp_status spi_generate_run(sp_model *model, const sp_generate_options *options, const spi_ending *ending,
                           spi_sequence *sequences, size_t count, sp_stream_fn stream, void *user,
                           sp_generation_stats *stats);

/*
 * EOS ids where the caller gives none: the model's (generation_config.json, else config.json) and the
 * tokenizer's, for an adapter may have been trained to end with that one. *ids is allocated.
 */
sp_status spi_eos_ids(const sp_model *model, const sp_tokenizer *tok, int32_t **ids, size_t *count);

#endif
