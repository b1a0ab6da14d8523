/* One sequence that is being generated: its ids, its text, and why it ended. */
#ifndef SPI_GENERATE_SEQUENCE_H
#define SPI_GENERATE_SEQUENCE_H

#include "base/mem.h"

typedef struct spi_sequence {
    int32_t *ids; /* prompt, then new ones */
    size_t count, capacity, prompt_count;
    spi_buf text;    /* of the new ids */
    size_t streamed; /* bytes of it that are final and were handed out */
    bool done;
    sp_finish finish;
} spi_sequence;

sp_status spi_sequence_start(sp_context *ctx, spi_sequence *seq, const int32_t *ids, size_t count);
void spi_sequence_free(spi_sequence *seq);

/* What ends sequences. */
typedef struct spi_ending {
    const sp_tokenizer *tok; /* NULL: ids only */
    const int32_t *eos;
    size_t eos_count;
    const char *const *stop; /* NULL-ended, or NULL */
    int32_t max_new_tokens;
    bool skip_special_tokens;
} spi_ending;

/*
 * Adds a new id, brings the text up to date and sees whether the sequence is done. `*fresh` and `*fresh_length`
 * are the text that became final.
 */
sp_status spi_sequence_add(sp_context *ctx, spi_sequence *seq, int32_t id, const spi_ending *ending,
                           const char **fresh, size_t *fresh_length);

#endif
