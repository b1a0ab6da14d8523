#include "text/unicode.h"

#include <stdlib.h>
#include <utf8proc.h>

#include "text/utf8.h"

static const int options[] = {
    [SPI_NFC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE,
    [SPI_NFD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE,
    [SPI_NFKC] = UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT,
    [SPI_NFKD] = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
};

/*
 * A character that is its own form in all four and never joins what stands before it, so that text may be cut
 * before it. Only marks and Hangul jamo join backwards.
 */
static bool is_inert(int32_t c) {
    if (c < 0x80) return true;
    if (c >= 0x1100 && c <= 0x11FF) return false; /* jamo */
    if (c >= 0xAC00 && c <= 0xD7A3) return false; /* Hangul syllables come apart by rule, not by table */
    return utf8proc_get_property(c)->decomp_seqindex == UINT16_MAX && !spi_is_mark(c);
}

/* NFC leaves these alone as well: nothing below U+0300 composes with what stands before it. */
static bool is_inert_in_nfc(int32_t c) {
    return c < 0x300 || (c >= 0xAC00 && c <= 0xD7A3) || is_inert(c);
}

static sp_status append_form(sp_context *ctx, spi_form form, const char *text, size_t length, spi_buf *out) {
    utf8proc_uint8_t *result = NULL;
    const utf8proc_ssize_t n =
        utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)length, &result, options[form]);
    if (n < 0) return spi_fail(ctx, SP_ERR_MEMORY, "cannot normalize a text: %s", utf8proc_errmsg(n));
    spi_buf_append(out, (const char *)result, (size_t)n);
    free(result);
    return SP_OK;
}

/*
 * Only runs of characters that can change go through utf8proc, each with the inert character before it, which a
 * mark may compose with.
 */
sp_status spi_unicode_normalize(sp_context *ctx, spi_form form, const char *text, size_t length, spi_buf *out) {
    bool (*inert)(int32_t) = form == SPI_NFC ? is_inert_in_nfc : is_inert;
    size_t copied = 0; /* up to here `out` is complete */
    size_t last = 0;   /* where the last inert character began */
    for (size_t i = 0, size; i < length;) {
        if (inert(spi_utf8_get(text + i, &size))) {
            last = i;
            i += size;
            continue;
        }
        spi_buf_append(out, text + copied, last - copied);
        while (i < length && !inert(spi_utf8_get(text + i, &size))) i += size;
        SPI_TRY(append_form(ctx, form, text + last, i - last, out));
        copied = last = i;
    }
    spi_buf_append(out, text + copied, length - copied);
    return SP_OK;
}
