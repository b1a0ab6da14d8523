#include "text/normalizer.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "text/byte_level.h"
#include "text/unicode.h"
#include "text/utf8.h"

#define KNOWN "NFC, NFD, NFKC, NFKD, Lowercase, Prepend, Replace, Strip, StripAccents, ByteLevel, Sequence"

typedef struct step step;

/* Appends the normalized text to `out`; *cut as in the header. */
typedef sp_status (*step_fn)(sp_context *ctx, const step *s, const char *text, size_t length, spi_buf *out,
                             bool *cut);

struct step {
    step_fn run;
    spi_form form;        /* NFC, ... */
    spi_pattern *pattern; /* Replace */
    char *content;        /* Replace, Prepend */
    size_t length;        /* of `content` */
    bool left, right;     /* Strip */
};

struct spi_normalizer {
    step *steps;
    size_t count, capacity;
    spi_buf buffers[2]; /* a step reads one and writes the other */
};

/* ------------------------------------------------------------------ steps */

static sp_status run_form(sp_context *ctx, const step *s, const char *text, size_t length, spi_buf *out,
                          bool *cut) {
    (void)cut;
    return spi_unicode_normalize(ctx, s->form, text, length, out);
}

/* Rust's char::to_lowercase: one by one, so that no final sigma is seen. Only U+0130 becomes two characters. */
static sp_status run_lowercase(sp_context *ctx, const step *s, const char *text, size_t length, spi_buf *out,
                               bool *cut) {
    (void)ctx, (void)s, (void)cut;
    for (size_t i = 0, size; i < length; i += size) {
        const int32_t c = spi_utf8_get(text + i, &size);
        if (c == 0x130) spi_buf_puts(out, "i\xCC\x87");
        else spi_utf8_append(out, utf8proc_tolower(c));
    }
    return SP_OK;
}

static sp_status run_prepend(sp_context *ctx, const step *s, const char *text, size_t length, spi_buf *out,
                             bool *cut) {
    (void)ctx, (void)cut;
    if (length) spi_buf_append(out, s->content, s->length);
    spi_buf_append(out, text, length);
    return SP_OK;
}

static bool is_one_character(const char *text, size_t length) {
    size_t size = 0;
    if (length) spi_utf8_get(text, &size);
    return length && size == length;
}

static sp_status run_replace(sp_context *ctx, const step *s, const char *text, size_t length, spi_buf *out,
                             bool *cut) {
    spi_matches m = {.pattern = s->pattern, .text = text, .length = length};
    size_t copied = 0;
    while (length) {
        size_t start;
        size_t end;
        bool found;
        SPI_TRY(spi_matches_next(ctx, &m, &start, &end, &found));
        if (!found) break;
        /* What replaces several characters counts as standing where the last of them stood. */
        if (start == 0 && end > 0 && (!s->length || !is_one_character(text, end))) *cut = true;
        spi_buf_append(out, text + copied, start - copied);
        spi_buf_append(out, s->content, s->length);
        copied = end;
    }
    spi_buf_append(out, text + copied, length - copied);
    return SP_OK;
}

static sp_status run_strip(sp_context *ctx, const step *s, const char *text, size_t length, spi_buf *out,
                           bool *cut) {
    (void)ctx;
    const size_t start = s->left ? spi_space_prefix(text, length) : 0;
    const size_t end = s->right && start < length ? spi_space_suffix(text, length) : length;
    *cut |= start > 0;
    spi_buf_append(out, text + start, end - start);
    return SP_OK;
}

static sp_status run_strip_accents(sp_context *ctx, const step *s, const char *text, size_t length,
                                   spi_buf *out, bool *cut) {
    (void)ctx, (void)s;
    for (size_t i = 0, size; i < length; i += size) {
        const bool mark = spi_is_mark(spi_utf8_get(text + i, &size));
        if (mark && i == 0) *cut = true;
        if (!mark) spi_buf_append(out, text + i, size);
    }
    return SP_OK;
}

static sp_status run_byte_level(sp_context *ctx, const step *s, const char *text, size_t length, spi_buf *out,
                                bool *cut) {
    (void)ctx, (void)s, (void)cut;
    spi_bytes_to_chars(out, text, length);
    return SP_OK;
}

/* ------------------------------------------------------------------ reading */

static const struct {
    const char *type;
    step step;
} kinds[] = {
    {"NFC", {.run = run_form, .form = SPI_NFC}},
    {"NFD", {.run = run_form, .form = SPI_NFD}},
    {"NFKC", {.run = run_form, .form = SPI_NFKC}},
    {"NFKD", {.run = run_form, .form = SPI_NFKD}},
    {"Lowercase", {.run = run_lowercase}},
    {"Prepend", {.run = run_prepend}},
    {"Replace", {.run = run_replace}},
    {"Strip", {.run = run_strip}},
    {"StripAccents", {.run = run_strip_accents}},
    {"ByteLevel", {.run = run_byte_level}},
};

static sp_status read_content(const spi_component *c, const char *name, step *s) {
    const char *content;
    SPI_TRY(spi_component_string(c, name, &content, &s->length));
    s->content = malloc(s->length + 1);
    if (!s->content) return spi_fail_memory(c->ctx, s->length, "a normalizer");
    memcpy(s->content, content, s->length + 1);
    return SP_OK;
}

static sp_status read_members(const spi_component *c, step *s) {
    if (s->run == run_prepend) return read_content(c, "prepend", s);
    if (s->run == run_replace) {
        SPI_TRY(read_content(c, "content", s));
        return spi_component_pattern(c, "pattern", &s->pattern);
    }
    if (s->run == run_strip) {
        SPI_TRY(spi_component_bool(c, "strip_left", true, &s->left));
        return spi_component_bool(c, "strip_right", true, &s->right);
    }
    return SP_OK;
}

static sp_status read_step(void *user, const spi_component *c) {
    spi_normalizer *n = user;
    if (strcmp(c->type, "Sequence") == 0) return spi_component_each(c, "normalizers", read_step, n);
    size_t kind = 0;
    while (kind < sizeof kinds / sizeof *kinds && strcmp(kinds[kind].type, c->type) != 0) kind++;
    if (kind == sizeof kinds / sizeof *kinds) return spi_component_unknown(c, KNOWN);
    if (!spi_grow((void **)&n->steps, &n->capacity, n->count, sizeof *n->steps))
        return spi_fail_memory(c->ctx, sizeof *n->steps, "a normalizer");
    n->steps[n->count] = kinds[kind].step;
    return read_members(c, &n->steps[n->count++]);
}

sp_status spi_normalizer_create(sp_context *ctx, const char *file, const json_t *object, spi_normalizer **out) {
    *out = NULL;
    spi_normalizer *n = calloc(1, sizeof *n);
    if (!n) return spi_fail_memory(ctx, sizeof *n, "a normalizer");
    const sp_status status = spi_component_read(ctx, file, object, "normalizer", read_step, n);
    if (status == SP_OK && n->count > 0) *out = n;
    else spi_normalizer_free(n);
    return status;
}

void spi_normalizer_free(spi_normalizer *n) {
    if (!n) return;
    for (size_t i = 0; i < n->count; i++) {
        spi_pattern_free(n->steps[i].pattern);
        free(n->steps[i].content);
    }
    free(n->steps);
    spi_buf_free(&n->buffers[0]);
    spi_buf_free(&n->buffers[1]);
    free(n);
}

sp_status spi_normalize(sp_context *ctx, spi_normalizer *n, const char **text, size_t *length, bool *cut) {
    *cut = false;
    for (size_t i = 0; n && i < n->count; i++) {
        spi_buf *out = &n->buffers[i % 2];
        out->length = 0;
        SPI_TRY(n->steps[i].run(ctx, &n->steps[i], *text, *length, out, cut));
        if (out->failed || (spi_buf_append(out, "", 0), out->failed))
            return spi_fail_memory(ctx, *length, "a normalized text");
        *text = out->data;
        *length = out->length;
    }
    return SP_OK;
}
