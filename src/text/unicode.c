#include "text/unicode.h"

#include <stdlib.h>
#include <utf8proc.h>

#include "text/utf8.h"

static const utf8proc_option_t decompose_options[] = {
    [SPI_NFC] = UTF8PROC_DECOMPOSE,
    [SPI_NFD] = UTF8PROC_DECOMPOSE,
    [SPI_NFKC] = UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
    [SPI_NFKD] = UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT,
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

/* A character with its combining class and its place, which sort as one number. */
static uint64_t sort_key(int32_t c, size_t place) {
    return (uint64_t)utf8proc_get_property(c)->combining_class << 56 | (uint64_t)place << 24 | (uint64_t)c;
}

static int compare_keys(const void *a, const void *b) {
    const uint64_t x = *(const uint64_t *)a;
    const uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* A run of characters with combining classes, in the order of these. */
static bool sort_run(int32_t *run, size_t count) {
    if (count < 2) return true;
    uint64_t *keys = malloc(count * sizeof *keys);
    if (!keys) return false;
    for (size_t i = 0; i < count; i++) keys[i] = sort_key(run[i], i);
    qsort(keys, count, sizeof *keys, compare_keys);
    for (size_t i = 0; i < count; i++) run[i] = (int32_t)(keys[i] & 0xFFFFFF);
    free(keys);
    return true;
}

/* Canonical ordering. utf8proc's own takes quadratic time over a long run of marks. */
static bool order_marks(int32_t *chars, size_t count) {
    for (size_t i = 0; i < count;) {
        if (utf8proc_get_property(chars[i])->combining_class == 0) {
            i++;
            continue;
        }
        const size_t start = i;
        bool sorted = true;
        for (int last = 0; i < count && utf8proc_get_property(chars[i])->combining_class != 0; i++) {
            const int class = utf8proc_get_property(chars[i])->combining_class;
            sorted &= class >= last;
            last = class;
        }
        if (!sorted && !sort_run(chars + start, i - start)) return false;
    }
    return true;
}

/* Room for n characters; a decomposition is never longer than this. */
#define LONGEST_DECOMPOSITION 18

static size_t decompose(spi_form form, const char *text, size_t length, int32_t *out) {
    size_t count = 0;
    int boundary = 0;
    for (size_t i = 0, size; i < length; i += size) {
        const int32_t c = spi_utf8_get(text + i, &size);
        const utf8proc_ssize_t n =
            utf8proc_decompose_char(c, out + count, LONGEST_DECOMPOSITION, decompose_options[form], &boundary);
        if (n > 0) count += (size_t)n;
    }
    return count;
}

static sp_status append_form(sp_context *ctx, spi_form form, const char *text, size_t length, spi_buf *out) {
    size_t characters = 0;
    for (size_t i = 0, size; i < length; i += size, characters++) spi_utf8_get(text + i, &size);
    int32_t *chars = malloc((characters + 1) * LONGEST_DECOMPOSITION * sizeof *chars);
    size_t count = chars ? decompose(form, text, length, chars) : 0;
    const bool ok = chars && order_marks(chars, count);
    if (ok && (form == SPI_NFC || form == SPI_NFKC)) {
        const utf8proc_ssize_t n =
            utf8proc_normalize_utf32(chars, (utf8proc_ssize_t)count, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        if (n >= 0) count = (size_t)n;
    }
    for (size_t i = 0; ok && i < count; i++) spi_utf8_append(out, chars[i]);
    free(chars);
    return ok ? SP_OK : spi_fail_memory(ctx, characters * LONGEST_DECOMPOSITION * sizeof *chars, "a text");
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
