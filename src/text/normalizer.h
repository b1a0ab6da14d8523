/*
 * tokenizers.normalizers: NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip, StripAccents, ByteLevel and
 * Sequence, applied to each piece of text between added tokens.
 */
#ifndef SPI_TEXT_NORMALIZER_H
#define SPI_TEXT_NORMALIZER_H

#include "text/component.h"

typedef struct spi_normalizer spi_normalizer;

/* The file's "normalizer"; *out is NULL where it has none, which the calls below allow. */
sp_status spi_normalizer_create(sp_context *ctx, const char *file, const json_t *object, spi_normalizer **out);
void spi_normalizer_free(spi_normalizer *n);

/*
 * Normalizes well-formed text. *text and *length come back as the result, which lives until the next call or is
 * the input itself. *cut becomes true where characters before the first one that is left were removed.
 */
sp_status spi_normalize(sp_context *ctx, spi_normalizer *n, const char **text, size_t *length, bool *cut);

#endif
