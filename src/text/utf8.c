#include "text/utf8.h"

#include <string.h>
#include <utf8proc.h>

static bool is_continuation(unsigned char c) {
    return (c & 0xC0) == 0x80;
}

/*
 * Bytes of the well-formed character at p (n > 0 bytes are left), or 0 with *bad set to the length of the
 * maximal invalid part: the longest prefix of a well-formed character, or one byte. (Unicode, table 3-7.)
 */
static size_t character_length(const unsigned char *p, size_t n, size_t *bad) {
    const unsigned char c = p[0];
    if (c < 0x80) return 1;
    *bad = 1;
    if (c < 0xC2 || c > 0xF4 || n < 2) return 0;
    unsigned char low = 0x80;
    unsigned char high = 0xBF;
    if (c == 0xE0) low = 0xA0;
    if (c == 0xED) high = 0x9F;
    if (c == 0xF0) low = 0x90;
    if (c == 0xF4) high = 0x8F;
    if (p[1] < low || p[1] > high) return 0;
    const size_t length = c < 0xE0 ? 2 : c < 0xF0 ? 3 : 4;
    for (size_t i = 2; i < length; i++) {
        *bad = i;
        if (i >= n || !is_continuation(p[i])) return 0;
    }
    return length;
}

size_t spi_utf8_valid(const char *text, size_t length) {
    const unsigned char *p = (const unsigned char *)text;
    size_t i = 0;
    while (i < length) {
        uint64_t eight;
        if (length - i >= sizeof eight) {
            memcpy(&eight, p + i, sizeof eight);
            if (!(eight & UINT64_C(0x8080808080808080))) {
                i += sizeof eight;
                continue;
            }
        }
        size_t bad;
        const size_t n = character_length(p + i, length - i, &bad);
        if (!n) break;
        i += n;
    }
    return i;
}

void spi_utf8_repair(spi_buf *out, const char *text, size_t length) {
    while (length > 0) {
        const size_t good = spi_utf8_valid(text, length);
        spi_buf_append(out, text, good);
        text += good;
        length -= good;
        if (!length) break;
        size_t bad = 1;
        character_length((const unsigned char *)text, length, &bad);
        spi_buf_puts(out, "\xEF\xBF\xBD");
        text += bad;
        length -= bad;
    }
}

size_t spi_utf8_put(char *to, int32_t c) {
    return (size_t)utf8proc_encode_char(c, (utf8proc_uint8_t *)to);
}

void spi_utf8_append(spi_buf *out, int32_t c) {
    char bytes[4];
    spi_buf_append(out, bytes, spi_utf8_put(bytes, c));
}

bool spi_is_space(int32_t c) {
    if (c < 0x80) return c == ' ' || (c >= '\t' && c <= '\r');
    return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
           c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/* Symbols that are Alphabetic by Other_Alphabetic: circled, squared and negative letters. */
static bool is_enclosed_letter(int32_t c) {
    return (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) || (c >= 0x1F150 && c <= 0x1F169) ||
           (c >= 0x1F170 && c <= 0x1F189);
}

bool spi_is_word(int32_t c) {
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC: return true;
    default: return c == 0x200C || c == 0x200D || is_enclosed_letter(c);
    }
}

bool spi_is_numeric(int32_t c) {
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO: return true;
    default: return false;
    }
}

bool spi_is_punctuation(int32_t c) {
    if (c < 0x80)
        return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') ||
               (c >= '{' && c <= '~');
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO: return true;
    default: return false;
    }
}

bool spi_is_mark(int32_t c) {
    const utf8proc_category_t category = utf8proc_category(c);
    return category == UTF8PROC_CATEGORY_MN || category == UTF8PROC_CATEGORY_MC ||
           category == UTF8PROC_CATEGORY_ME;
}

size_t spi_space_prefix(const char *text, size_t length) {
    size_t at = 0;
    while (at < length) {
        size_t size;
        if (!spi_is_space(spi_utf8_get(text + at, &size))) break;
        at += size;
    }
    return at;
}

size_t spi_space_suffix(const char *text, size_t length) {
    while (length > 0) {
        size_t size;
        const size_t last = spi_utf8_last(text, length);
        if (!spi_is_space(spi_utf8_get(text + last, &size))) break;
        length = last;
    }
    return length;
}
