/*
 * tokenizers.pre_tokenizers: Split, ByteLevel, Digits, Punctuation, Whitespace, WhitespaceSplit, Metaspace and
 * Sequence. A text is divided into pieces, which the model then joins tokens in.
 */
#ifndef SPI_TEXT_PRETOKENIZER_H
#define SPI_TEXT_PRETOKENIZER_H

#include "text/component.h"

typedef struct spi_pretokenizer spi_pretokenizer;

/* A piece of text; `origin` where it begins at the very start of what is encoded. */
typedef struct spi_piece {
    const char *text;
    size_t length; /* above 0 */
    bool origin;
} spi_piece;

/* Takes one piece; its text lives during the call. */
typedef sp_status (*spi_piece_fn)(void *user, const spi_piece *piece);

/*
 * The file's "pre_tokenizer"; *out is NULL where it has none, which the calls below allow. With `keep_bytes` a
 * ByteLevel that comes last leaves the bytes as they are: the model knows them.
 */
sp_status spi_pretokenizer_create(sp_context *ctx, const char *file, const json_t *object, bool keep_bytes,
                                  spi_pretokenizer **out);
void spi_pretokenizer_free(spi_pretokenizer *p);

/* Whether the last one is a ByteLevel. */
bool spi_pretokenizer_is_byte_level(const spi_pretokenizer *p);

/* Calls `fn` with the pieces of well-formed text in their order. */
sp_status spi_pretokenize(sp_context *ctx, spi_pretokenizer *p, const spi_piece *text, spi_piece_fn fn,
                          void *user);

#endif
