/* One sequence that is being generated: its ids, its text, and why it ended. */
#ifndef SPI_GENERATE_SEQUENCE_H
#define SPI_GENERATE_SEQUENCE_H

#include "base/mem.h"

/*
 * The text grows with every id and is never decoded as a whole again: only the ids from `anchor` on are,
 * because what a token says depends on the one before it (leading spaces) and on the ones to come (bytes of a
 * character). Bytes before `settled` come from the ids before `read`.
 */
typedef struct spi_sequence {
    int32_t *ids; /* prompt, then new ones */
    size_t count, capacity, prompt_count;
    spi_buf text; /* of the new ids */
    size_t anchor, read, settled;
    size_t streamed; /* bytes of the text that are final and were handed out */
    bool done;
    sp_finish finish;
} spi_sequence;

sp_status spi_sequence_start(sp_context *ctx, spi_sequence *seq, const int32_t *ids, size_t count);
void spi_sequence_free(spi_sequence *seq);

/* What ends sequences. */
typedef struct spi_ending {
    const sp_tokenizer *tok; /* NULL: ids only, no text and no stop strings */
    const int32_t *eos;      /* [eos_count] */
    size_t eos_count;
    const char *const *stop; /* NULL-ended, or NULL */
    const int32_t *stop_ids; /* [stop_id_count] stop strings that are special tokens: no text shows them */
    size_t stop_id_count;
    int32_t max_new_tokens;
    bool skip_special_tokens;
} spi_ending;

/*
 * Adds a new id, brings the text up to date and sees whether the sequence is done. *fresh [*fresh_length] is
 * the text that became final: whole characters of which no stop string is or may become a part. All pieces
 * together are seq->text once the sequence is done. *fresh lives until the next call.
 */
sp_status spi_sequence_add(sp_context *ctx, spi_sequence *seq, int32_t id, const spi_ending *ending,
                           const char **fresh, size_t *fresh_length);

/* Ends the text where it was handed out so far. */
void spi_sequence_cut(spi_sequence *seq);

#endif
