/*
 * tokenizers.AddedVocabulary: tokens that are found in the text itself before the model sees it, special tokens
 * among them. Those that are not `normalized` are looked for in the text as it is, the others, in their
 * normalized form, in the normalized text between them; of those that begin at a place the longest wins.
 */
#ifndef SPI_TEXT_ADDED_TOKENS_H
#define SPI_TEXT_ADDED_TOKENS_H

#include "base/json.h"
#include "text/normalizer.h"
#include "text/vocab.h"

typedef struct spi_added_tokens spi_added_tokens;

/*
 * Reads the file's "added_tokens". As in the Python package a token that the model's vocabulary has gets its id
 * there, any other the next free one, whatever the file says; where the two differ a warning is logged.
 */
sp_status spi_added_tokens_create(sp_context *ctx, const char *file, const json_t *object,
                                  const spi_vocab *model, spi_normalizer *normalizer, spi_added_tokens **out);
void spi_added_tokens_free(spi_added_tokens *a);

/* A stretch of text: an added token (id from 0 on), or what lies between them (-1). */
typedef sp_status (*spi_stretch_fn)(void *user, int32_t id, size_t start, size_t end);

/* Calls `fn` with the stretches of well-formed text in their order; `normalized` chooses which tokens count. */
sp_status spi_added_tokens_split(const spi_added_tokens *a, bool normalized, const char *text, size_t length,
                                 spi_stretch_fn fn, void *user);

/* One more than the largest id. */
int32_t spi_added_tokens_end(const spi_added_tokens *a);
/* The id of an added token, as it stands in the file, or -1. */
int32_t spi_added_tokens_find(const spi_added_tokens *a, const char *text, size_t length);
/* The token of an id, as it is decoded: in its normalized form; NULL if the id is not of an added token. */
const char *spi_added_tokens_text(const spi_added_tokens *a, int32_t id, size_t *length);
/* Whether a text is that of a special token. */
bool spi_added_tokens_is_special(const spi_added_tokens *a, const char *text, size_t length);

#endif
