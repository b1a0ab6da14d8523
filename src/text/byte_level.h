/* GPT-2's alphabet: every byte as a printable character, so that vocabularies are text. */
#ifndef SPI_TEXT_BYTE_LEVEL_H
#define SPI_TEXT_BYTE_LEVEL_H

#include "base/mem.h"

/* The character that stands for a byte: itself where it is printable Latin-1, else one from U+0100 on. */
int32_t spi_byte_to_char(unsigned char byte);
/* The byte that a character stands for, or -1. */
int spi_char_to_byte(int32_t c);

/* Appends every byte of `text` as its character. */
void spi_bytes_to_chars(spi_buf *out, const char *text, size_t length);
/* Appends the bytes that well-formed `text` stands for; the text itself where a character stands for none. */
void spi_chars_to_bytes(spi_buf *out, const char *text, size_t length);

#endif
