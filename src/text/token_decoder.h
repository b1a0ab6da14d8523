/*
 * tokenizers.decoders: ByteLevel, ByteFallback, Replace, Fuse, Strip, Metaspace and Sequence: from the texts of
 * tokens back to one text.
 */
#ifndef SPI_TEXT_TOKEN_DECODER_H
#define SPI_TEXT_TOKEN_DECODER_H

#include "text/component.h"

typedef struct spi_token_decoder spi_token_decoder;

/* Tokens end to end: token i is text[ends[i - 1], ends[i]). Start with {0}. */
typedef struct spi_token_list {
    spi_buf text;
    size_t *ends; /* [count] */
    size_t count, capacity;
} spi_token_list;

/* Ends the token whose text was appended to `text`; on failure `text.failed` is set. */
void spi_token_list_close(spi_token_list *list);
void spi_token_list_free(spi_token_list *list);

/* The file's "decoder"; *out is NULL where it has none: tokens are then joined by spaces. */
sp_status spi_token_decoder_create(sp_context *ctx, const char *file, const json_t *object,
                                   spi_token_decoder **out);
void spi_token_decoder_free(spi_token_decoder *d);

/* Appends the text that the tokens stand for. `tokens` is used up: its content is undefined afterwards. */
sp_status spi_token_decoder_run(sp_context *ctx, const spi_token_decoder *d, spi_token_list *tokens,
                                spi_buf *out);

#endif
