/* UTF-8: decoding, encoding, repair of broken text, and the classes of characters that tokenizers split at. */
#ifndef SPI_TEXT_UTF8_H
#define SPI_TEXT_UTF8_H

#include "base/mem.h"

/* Length of the longest prefix of `text` that is well-formed UTF-8. */
size_t spi_utf8_valid(const char *text, size_t length);

/* Appends `text` with U+FFFD for each maximal invalid part, as Python's errors="replace" does. */
void spi_utf8_repair(spi_buf *out, const char *text, size_t length);

/* The character at `text`, which must be well-formed; *size becomes its 1 to 4 bytes. */
static inline int32_t spi_utf8_get(const char *text, size_t *size) {
    const unsigned char *p = (const unsigned char *)text;
    if (p[0] < 0x80) {
        *size = 1;
        return p[0];
    }
    if (p[0] < 0xE0) {
        *size = 2;
        return (p[0] & 0x1F) << 6 | (p[1] & 0x3F);
    }
    if (p[0] < 0xF0) {
        *size = 3;
        return (p[0] & 0x0F) << 12 | (p[1] & 0x3F) << 6 | (p[2] & 0x3F);
    }
    *size = 4;
    return (p[0] & 0x07) << 18 | (p[1] & 0x3F) << 12 | (p[2] & 0x3F) << 6 | (p[3] & 0x3F);
}

/* Where the last character of text[0, length) begins; length must be above 0. */
static inline size_t spi_utf8_last(const char *text, size_t length) {
    do length--;
    while (length > 0 && ((unsigned char)text[length] & 0xC0) == 0x80);
    return length;
}

/* Writes the 1 to 4 bytes of `c`, a Unicode scalar value, and returns how many. */
size_t spi_utf8_put(char *to, int32_t c);

/* Appends a character. */
void spi_utf8_append(spi_buf *out, int32_t c);

/* Unicode's White_Space. */
bool spi_is_space(int32_t c);
/* \w of UTS #18: letters, marks, decimal and letter numbers, connectors, joiners. */
bool spi_is_word(int32_t c);
/* General categories Nd, Nl and No. */
bool spi_is_numeric(int32_t c);
/* General categories P*, and ASCII's symbols. */
bool spi_is_punctuation(int32_t c);
/* General categories M*. */
bool spi_is_mark(int32_t c);

/* Bytes of white space at the start of text, and where white space at its end begins. */
size_t spi_space_prefix(const char *text, size_t length);
size_t spi_space_suffix(const char *text, size_t length);

#endif
