/* From Oniguruma's Ruby syntax, which tokenizers' patterns are written in, to PCRE2's. */
#ifndef SPI_TEXT_REGEX_DIALECT_H
#define SPI_TEXT_REGEX_DIALECT_H

#include "base/mem.h"

/*
 * Appends the expression as PCRE2 understands it: \s, \w, \h and scripts are spelled out, since the two mean
 * different characters by them; all else stands. False where it nests or intersects character classes, which
 * PCRE2 cannot do.
 */
bool spi_regex_translate(spi_buf *out, const char *regex, size_t length);

#endif
