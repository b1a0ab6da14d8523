#include "text/byte_level.h"

#include "text/utf8.h"

/*
 * The 68 bytes without a printable character are numbered from U+0100 in their order: 0x00-0x20, 0x7F-0xA0,
 * 0xAD.
 */
int32_t spi_byte_to_char(unsigned char byte) {
    if (byte <= 0x20) return 0x100 + byte;
    if (byte >= 0x7F && byte <= 0xA0) return 0x121 + (byte - 0x7F);
    if (byte == 0xAD) return 0x143;
    return byte;
}

int spi_char_to_byte(int32_t c) {
    if (c >= 0x100 && c <= 0x120) return c - 0x100;
    if (c >= 0x121 && c <= 0x142) return c - 0x121 + 0x7F;
    if (c == 0x143) return 0xAD;
    if (c <= 0x20 || (c >= 0x7F && c <= 0xA0) || c == 0xAD || c > 0xFF) return -1;
    return c;
}

void spi_bytes_to_chars(spi_buf *out, const char *text, size_t length) {
    for (size_t i = 0; i < length; i++) spi_utf8_append(out, spi_byte_to_char((unsigned char)text[i]));
}

void spi_chars_to_bytes(spi_buf *out, const char *text, size_t length) {
    const size_t start = out->length;
    for (size_t i = 0, size; i < length; i += size) {
        const int byte = spi_char_to_byte(spi_utf8_get(text + i, &size));
        if (byte < 0) {
            if (!out->failed) out->length = start;
            spi_buf_append(out, text, length);
            return;
        }
        spi_buf_putc(out, (char)byte);
    }
}
