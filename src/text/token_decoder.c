#include "text/token_decoder.h"

#include <stdlib.h>
#include <string.h>

#include "text/byte_level.h"
#include "text/utf8.h"

#define KNOWN "ByteLevel, ByteFallback, Replace, Fuse, Strip, Metaspace, Sequence"

typedef struct step step;

/* From one list of tokens to the next. */
typedef sp_status (*step_fn)(sp_context *ctx, const step *s, const spi_token_list *in, spi_token_list *out);

struct step {
    step_fn run;
    spi_pattern *pattern; /* Replace */
    char *content;        /* Replace, Strip */
    size_t length;        /* of `content` */
    int64_t start, stop;  /* Strip */
    char replacement[4];  /* Metaspace */
    size_t replacement_length;
    bool drops_first; /* Metaspace: the first token's replacement characters stand for nothing */
};

struct spi_token_decoder {
    step *steps;
    size_t count, capacity;
};

/* ------------------------------------------------------------------ lists */

void spi_token_list_close(spi_token_list *list) {
    if (!spi_grow((void **)&list->ends, &list->capacity, list->count, sizeof *list->ends))
        list->text.failed = true;
    else list->ends[list->count++] = list->text.length;
}

void spi_token_list_free(spi_token_list *list) {
    spi_buf_free(&list->text);
    free(list->ends);
    *list = (spi_token_list){0};
}

static const char *get_token(const spi_token_list *list, size_t index, size_t *length) {
    const size_t start = index ? list->ends[index - 1] : 0;
    *length = list->ends[index] - start;
    return list->text.data ? list->text.data + start : "";
}

/* ------------------------------------------------------------------ steps */

static sp_status run_byte_level(sp_context *ctx, const step *s, const spi_token_list *in, spi_token_list *out) {
    (void)ctx, (void)s;
    spi_buf bytes = {0};
    for (size_t i = 0; i < in->count; i++) {
        size_t length;
        const char *token = get_token(in, i, &length);
        spi_chars_to_bytes(&bytes, token, length);
    }
    spi_utf8_repair(&out->text, bytes.data, bytes.length);
    out->text.failed |= bytes.failed;
    spi_buf_free(&bytes);
    spi_token_list_close(out);
    return SP_OK;
}

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 32;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The byte of "<0xNN>", or -1. */
static int fallback_byte(const char *token, size_t length) {
    if (length != 6 || memcmp(token, "<0x", 3) != 0 || token[5] != '>') return -1;
    const int low = hex_digit(token[4]);
    if (token[3] == '+') return low; /* a sign is part of a number to the Python package's parser */
    const int high = hex_digit(token[3]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

/* Bytes in a row are one token if they are UTF-8, else each a U+FFFD. */
static void close_bytes(const spi_buf *bytes, spi_token_list *out) {
    if (!bytes->length) return;
    if (spi_utf8_valid(bytes->data, bytes->length) == bytes->length) {
        spi_buf_append(&out->text, bytes->data, bytes->length);
        spi_token_list_close(out);
        return;
    }
    for (size_t i = 0; i < bytes->length; i++) {
        spi_buf_puts(&out->text, "\xEF\xBF\xBD");
        spi_token_list_close(out);
    }
}

static sp_status run_byte_fallback(sp_context *ctx, const step *s, const spi_token_list *in,
                                   spi_token_list *out) {
    (void)ctx, (void)s;
    spi_buf bytes = {0};
    for (size_t i = 0; i < in->count; i++) {
        size_t length;
        const char *token = get_token(in, i, &length);
        const int byte = fallback_byte(token, length);
        if (byte >= 0) {
            spi_buf_putc(&bytes, (char)byte);
            continue;
        }
        close_bytes(&bytes, out);
        bytes.length = 0;
        spi_buf_append(&out->text, token, length);
        spi_token_list_close(out);
    }
    close_bytes(&bytes, out);
    out->text.failed |= bytes.failed;
    spi_buf_free(&bytes);
    return SP_OK;
}

static sp_status replace_token(sp_context *ctx, const step *s, const char *token, size_t length, spi_buf *out) {
    spi_matches m = {.pattern = s->pattern, .text = token, .length = length};
    size_t copied = 0;
    while (length) {
        size_t start;
        size_t end;
        bool found;
        SPI_TRY(spi_matches_next(ctx, &m, &start, &end, &found));
        if (!found) break;
        spi_buf_append(out, token + copied, start - copied);
        spi_buf_append(out, s->content, s->length);
        copied = end;
    }
    spi_buf_append(out, token + copied, length - copied);
    return SP_OK;
}

static sp_status run_replace(sp_context *ctx, const step *s, const spi_token_list *in, spi_token_list *out) {
    for (size_t i = 0; i < in->count; i++) {
        size_t length;
        const char *token = get_token(in, i, &length);
        SPI_TRY(replace_token(ctx, s, token, length, &out->text));
        spi_token_list_close(out);
    }
    return SP_OK;
}

static sp_status run_fuse(sp_context *ctx, const step *s, const spi_token_list *in, spi_token_list *out) {
    (void)ctx, (void)s;
    spi_buf_append(&out->text, in->text.data, in->text.length);
    spi_token_list_close(out);
    return SP_OK;
}

/* Takes up to `start` and `stop` of the character off the two ends of each token. */
static sp_status run_strip(sp_context *ctx, const step *s, const spi_token_list *in, spi_token_list *out) {
    (void)ctx;
    for (size_t i = 0; i < in->count; i++) {
        size_t length;
        const char *token = get_token(in, i, &length);
        for (int64_t n = 0; n < s->start && length >= s->length && memcmp(token, s->content, s->length) == 0;
             n++) {
            token += s->length;
            length -= s->length;
        }
        for (int64_t n = 0; n < s->stop && length >= s->length &&
                            memcmp(token + length - s->length, s->content, s->length) == 0;
             n++)
            length -= s->length;
        spi_buf_append(&out->text, token, length);
        spi_token_list_close(out);
    }
    return SP_OK;
}

static sp_status run_metaspace(sp_context *ctx, const step *s, const spi_token_list *in, spi_token_list *out) {
    (void)ctx;
    for (size_t i = 0; i < in->count; i++) {
        size_t length;
        const char *token = get_token(in, i, &length);
        for (size_t at = 0, size; at < length; at += size) {
            spi_utf8_get(token + at, &size);
            const bool space = size == s->replacement_length && memcmp(token + at, s->replacement, size) == 0;
            if (!space) spi_buf_append(&out->text, token + at, size);
            else if (i > 0 || !s->drops_first) spi_buf_putc(&out->text, ' ');
        }
        spi_token_list_close(out);
    }
    return SP_OK;
}

/* ------------------------------------------------------------------ reading */

static sp_status keep_content(const spi_component *c, const char *content, size_t length, step *s) {
    s->content = malloc(length + 1);
    if (!s->content) return spi_fail_memory(c->ctx, length, "a decoder");
    memcpy(s->content, content, length);
    s->length = length;
    return SP_OK;
}

static sp_status read_replace(const spi_component *c, step *s) {
    const char *content;
    size_t length;
    SPI_TRY(spi_component_string(c, "content", &content, &length));
    SPI_TRY(keep_content(c, content, length, s));
    return spi_component_pattern(c, "pattern", &s->pattern);
}

static sp_status read_strip(const spi_component *c, step *s) {
    const char *content;
    size_t length;
    SPI_TRY(spi_component_char(c, "content", &content, &length));
    SPI_TRY(keep_content(c, content, length, s));
    SPI_TRY(spi_component_int(c, "start", 0, &s->start));
    return spi_component_int(c, "stop", 0, &s->stop);
}

static sp_status read_metaspace(const spi_component *c, step *s) {
    const char *replacement;
    bool prefix;
    SPI_TRY(spi_component_char(c, "replacement", &replacement, &s->replacement_length));
    memcpy(s->replacement, replacement, s->replacement_length);
    SPI_TRY(spi_component_bool(c, "add_prefix_space", true, &prefix));
    const char *scheme = json_string_value(json_object_get(c->json, "prepend_scheme"));
    s->drops_first = scheme ? strcmp(scheme, "never") != 0 : prefix;
    return SP_OK;
}

static const struct {
    const char *type;
    step_fn run;
    sp_status (*read)(const spi_component *c, step *s); /* or NULL: it has no members */
} kinds[] = {
    {"ByteLevel", run_byte_level, NULL},    {"ByteFallback", run_byte_fallback, NULL},
    {"Replace", run_replace, read_replace}, {"Fuse", run_fuse, NULL},
    {"Strip", run_strip, read_strip},       {"Metaspace", run_metaspace, read_metaspace},
};

static sp_status read_step(void *user, const spi_component *c) {
    spi_token_decoder *d = user;
    if (strcmp(c->type, "Sequence") == 0) return spi_component_each(c, "decoders", read_step, d);
    size_t kind = 0;
    while (kind < sizeof kinds / sizeof *kinds && strcmp(kinds[kind].type, c->type) != 0) kind++;
    if (kind == sizeof kinds / sizeof *kinds) return spi_component_unknown(c, KNOWN);
    if (!spi_grow((void **)&d->steps, &d->capacity, d->count, sizeof *d->steps))
        return spi_fail_memory(c->ctx, sizeof *d->steps, "a decoder");
    step *s = &d->steps[d->count++];
    *s = (step){.run = kinds[kind].run};
    return kinds[kind].read ? kinds[kind].read(c, s) : SP_OK;
}

sp_status spi_token_decoder_create(sp_context *ctx, const char *file, const json_t *object,
                                   spi_token_decoder **out) {
    *out = NULL;
    const json_t *decoder = json_object_get(object, "decoder");
    if (!decoder || json_is_null(decoder)) return SP_OK;
    spi_token_decoder *d = calloc(1, sizeof *d);
    if (!d) return spi_fail_memory(ctx, sizeof *d, "a decoder");
    const sp_status status = spi_component_read(ctx, file, object, "decoder", read_step, d);
    if (status == SP_OK) *out = d;
    else spi_token_decoder_free(d);
    return status;
}

void spi_token_decoder_free(spi_token_decoder *d) {
    if (!d) return;
    for (size_t i = 0; i < d->count; i++) {
        spi_pattern_free(d->steps[i].pattern);
        free(d->steps[i].content);
    }
    free(d->steps);
    free(d);
}

/* ------------------------------------------------------------------ running */

static void join(const spi_token_list *tokens, const char *between, spi_buf *out) {
    for (size_t i = 0; i < tokens->count; i++) {
        size_t length;
        const char *token = get_token(tokens, i, &length);
        if (i) spi_buf_puts(out, between);
        spi_buf_append(out, token, length);
    }
}

sp_status spi_token_decoder_run(sp_context *ctx, const spi_token_decoder *d, spi_token_list *tokens,
                                spi_buf *out) {
    spi_token_list lists[2];
    lists[0] = *tokens;
    lists[1] = (spi_token_list){0};
    sp_status status = SP_OK;
    size_t i = 0;
    for (; d && i < d->count && status == SP_OK; i++) {
        spi_token_list *to = &lists[(i + 1) % 2];
        to->text.length = to->count = 0;
        status = d->steps[i].run(ctx, &d->steps[i], &lists[i % 2], to);
    }
    join(&lists[i % 2], d ? "" : " ", out);
    out->failed |= lists[0].text.failed || lists[1].text.failed;
    *tokens = lists[0];
    spi_token_list_free(&lists[1]);
    if (status == SP_OK && out->failed) status = spi_fail_memory(ctx, out->length, "a decoded text");
    return status;
}
