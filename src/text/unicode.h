/* Unicode normalization forms (UAX #15) of a text, by utf8proc. */
#ifndef SPI_TEXT_UNICODE_H
#define SPI_TEXT_UNICODE_H

#include "base/mem.h"

typedef enum spi_form { SPI_NFC = 0, SPI_NFD, SPI_NFKC, SPI_NFKD } spi_form;

/* Appends well-formed `text` in the given form. */
sp_status spi_unicode_normalize(sp_context *ctx, spi_form form, const char *text, size_t length, spi_buf *out);

#endif
