#define PCRE2_CODE_UNIT_WIDTH 8
#include "text/pattern.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#include "text/regex_dialect.h"
#include "text/utf8.h"

#define JIT_STACK_SMALLEST ((size_t)32 << 10)
#define JIT_STACK_LARGEST ((size_t)4 << 20)

struct spi_pattern {
    char *string; /* or NULL: a regular expression */
    size_t length;
    pcre2_code *code;
    pcre2_match_data *data;
    pcre2_match_context *match;
    pcre2_jit_stack *stack; /* NULL where there is no JIT */
};

void spi_pattern_free(spi_pattern *p) {
    if (!p) return;
    free(p->string);
    pcre2_jit_stack_free(p->stack);
    pcre2_match_context_free(p->match);
    pcre2_match_data_free(p->data);
    pcre2_code_free(p->code);
    free(p);
}

spi_pattern *spi_pattern_string(const char *text, size_t length) {
    spi_pattern *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->string = malloc(length);
    if (!p->string) {
        free(p);
        return NULL;
    }
    memcpy(p->string, text, length);
    p->length = length;
    return p;
}

/* ------------------------------------------------------------------ compiling */

static sp_status compile(sp_context *ctx, const char *file, const char *key, const spi_buf *text,
                         spi_pattern *p) {
    int error;
    PCRE2_SIZE offset;
    /* Ruby: ^ and $ match at lines, . matches all but a line feed. */
    const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;
    pcre2_compile_context *compiler = pcre2_compile_context_create(NULL);
    if (!compiler) return spi_fail_memory(ctx, text->length, "a pattern");
    pcre2_set_newline(compiler, PCRE2_NEWLINE_LF);
    p->code = pcre2_compile((PCRE2_SPTR)text->data, text->length, options, &error, &offset, compiler);
    pcre2_compile_context_free(compiler);
    if (!p->code) {
        PCRE2_UCHAR message[256];
        pcre2_get_error_message(error, message, sizeof message);
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"%s\": not a regular expression (%s at byte %zu of \"%s\")",
                        file, key, (const char *)message, (size_t)offset, text->data);
    }
    p->data = pcre2_match_data_create(1, NULL); /* the whole match; groups are not asked for */
    p->match = pcre2_match_context_create(NULL);
    if (!p->data || !p->match) return spi_fail_memory(ctx, text->length, "a pattern");
    if (pcre2_jit_compile(p->code, PCRE2_JIT_COMPLETE) == 0) {
        p->stack = pcre2_jit_stack_create(JIT_STACK_SMALLEST, JIT_STACK_LARGEST, NULL);
        if (!p->stack) return spi_fail_memory(ctx, JIT_STACK_SMALLEST, "a pattern");
        pcre2_jit_stack_assign(p->match, NULL, p->stack);
    }
    return SP_OK;
}

sp_status spi_pattern_regex(sp_context *ctx, const char *file, const char *key, const char *regex,
                            size_t length, spi_pattern **out) {
    *out = NULL;
    spi_buf text = {0};
    spi_buf_append(&text, "", 0);
    const bool known = spi_regex_translate(&text, regex, length);
    spi_pattern *p = calloc(1, sizeof *p);
    sp_status status = SP_OK;
    if (text.failed || !p) status = spi_fail_memory(ctx, length, "a pattern");
    if (status == SP_OK && !known)
        status = spi_fail(ctx, SP_ERR_UNSUPPORTED,
                          "%s: \"%s\": nested or intersected character classes in \"%s\"", file, key, regex);
    if (status == SP_OK) status = compile(ctx, file, key, &text, p);
    spi_buf_free(&text);
    if (status == SP_OK) *out = p;
    else spi_pattern_free(p);
    return status;
}

/* ------------------------------------------------------------------ matching */

/* PCRE2's result of one search: above 0, or an error code. */
static int search(const spi_pattern *p, const char *text, size_t length, size_t from) {
    const PCRE2_SPTR subject = (PCRE2_SPTR)text;
    if (p->stack) {
        const int rc = pcre2_jit_match(p->code, subject, length, from, 0, p->data, p->match);
        if (rc != PCRE2_ERROR_JIT_STACKLIMIT) return rc;
    }
    return pcre2_match(p->code, subject, length, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, p->data, p->match);
}

static sp_status find(sp_context *ctx, const spi_matches *m, size_t *start, size_t *end, bool *found) {
    const spi_pattern *p = m->pattern;
    *found = false;
    if (p->string) {
        const char *at = memmem(m->text + m->from, m->length - m->from, p->string, p->length);
        if (!at) return SP_OK;
        *start = (size_t)(at - m->text);
        *end = *start + p->length;
    } else {
        const int rc = search(p, m->text, m->length, m->from);
        if (rc == PCRE2_ERROR_NOMATCH) return SP_OK;
        if (rc < 0) {
            PCRE2_UCHAR message[256];
            pcre2_get_error_message(rc, message, sizeof message);
            return spi_fail(ctx, SP_ERR_DATA, "a tokenizer's pattern failed on a text of %zu bytes: %s",
                            m->length, (const char *)message);
        }
        const PCRE2_SIZE *offsets = pcre2_get_ovector_pointer(p->data);
        *start = offsets[0];
        *end = offsets[1];
        if (*end < m->from) *end = m->from; /* PCRE2 before 10.38 lets \K in a lookaround do such things */
        if (*start < m->from) *start = m->from;
        if (*start > *end) *start = *end;
    }
    *found = true;
    return SP_OK;
}

sp_status spi_matches_next(sp_context *ctx, spi_matches *m, size_t *start, size_t *end, bool *found) {
    for (*found = false; m->from <= m->length;) {
        SPI_TRY(find(ctx, m, start, end, found));
        if (!*found) return SP_OK;
        if (*start != *end || m->last_end != *end + 1) {
            m->from = *end;
            m->last_end = *end + 1;
            return SP_OK;
        }
        size_t size = 1;
        if (m->from < m->length) spi_utf8_get(m->text + m->from, &size);
        m->from += size;
        *found = false;
    }
    return SP_OK;
}
