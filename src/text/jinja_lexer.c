#include "text/jinja_lexer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/utf8.h"

typedef struct lexer {
    sp_context *ctx;
    spi_arena *arena;
    const char *name;
    const char *text, *end, *at;
    int line;
    bool line_starting; /* what was taken last ended a line */
    spi_jtokens *out;
} lexer;

static sp_status fail(const lexer *l, const char *what) {
    return spi_fail(l->ctx, SP_ERR_FORMAT, "%s: line %d: %s", l->name, l->line, what);
}

static sp_status push(lexer *l, spi_jtoken token) {
    if (!spi_grow((void **)&l->out->items, &l->out->capacity, l->out->count, sizeof token))
        return spi_fail_memory(l->ctx, l->out->count * sizeof token, l->name);
    l->out->items[l->out->count++] = token;
    return SP_OK;
}

static sp_status push_text(lexer *l, spi_jtoken_kind kind, const char *text, size_t length) {
    const char *copy = spi_arena_strndup(l->arena, text, length);
    if (!copy) return spi_fail_memory(l->ctx, length, l->name);
    return push(l, (spi_jtoken){.kind = kind, .line = l->line, .text = copy, .length = length});
}

/* Moves on to `to`, counting lines. */
static void advance(lexer *l, const char *to) {
    if (to > l->at) l->line_starting = to[-1] == '\n';
    for (; l->at < to; l->at++) l->line += *l->at == '\n';
}

static const char *skip_space(const lexer *l, const char *p) {
    return p + spi_space_prefix(p, (size_t)(l->end - p));
}

static bool begins(const lexer *l, const char *p, const char *with) {
    const size_t n = strlen(with);
    return (size_t)(l->end - p) >= n && memcmp(p, with, n) == 0;
}

char *spi_jinja_newlines(spi_arena *arena, const char *text, size_t *length) {
    char *copy = spi_arena_alloc(arena, *length + 1);
    size_t n = 0;
    for (size_t i = 0; copy && i < *length; i++) {
        copy[n++] = text[i] == '\r' ? '\n' : text[i];
        if (text[i] == '\r' && i + 1 < *length && text[i + 1] == '\n') i++;
    }
    *length = n;
    return copy;
}

/* ------------------------------------------------------------------ strings and numbers */

static int digit_value(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return 99;
}

/* Reads exactly `digits` hexadecimal digits; -1 where they are not there. */
static int64_t read_hex(const char *p, const char *end, int digits) {
    int64_t value = 0;
    for (int i = 0; i < digits; i++, p++) {
        if (p >= end || digit_value(*p) > 15) return -1;
        value = value * 16 + digit_value(*p);
    }
    return value;
}

/* The escape behind the backslash at p, as Python's unicode-escape; *p moves behind it. */
static sp_status unescape(lexer *l, const char **p, const char *end, spi_buf *out) {
    static const char letters[] = "abfnrtv\\'\"";
    static const char meant[] = "\a\b\f\n\r\t\v\\'\"";
    const char c = *(*p)++;
    const char *plain = c ? strchr(letters, c) : NULL;
    int64_t value = 0;
    if (plain) {
        spi_buf_putc(out, meant[plain - letters]);
        return SP_OK;
    }
    if (c == '\n') return SP_OK;
    if (c >= '0' && c <= '7') {
        value = c - '0';
        for (int i = 0; i < 2 && *p < end && **p >= '0' && **p <= '7'; i++) value = value * 8 + (*(*p)++ - '0');
    } else if (c == 'x' || c == 'u' || c == 'U') {
        const int digits = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        value = read_hex(*p, end, digits);
        if (value < 0 || value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF))
            return fail(l, "a string has an escape that is no character");
        *p += digits;
    } else if (c == 'N') {
        return spi_fail(l->ctx, SP_ERR_UNSUPPORTED, "%s: line %d: '\\N' in a string is not supported", l->name,
                        l->line);
    } else {
        spi_buf_putc(out, '\\');
        spi_buf_putc(out, c);
        return SP_OK;
    }
    spi_utf8_append(out, (int32_t)value);
    return SP_OK;
}

static sp_status lex_string(lexer *l) {
    const char quote = *l->at;
    const char *stop = l->at + 1;
    while (stop < l->end && *stop != quote) stop += *stop == '\\' ? 2 : 1;
    if (stop >= l->end) return fail(l, "a string is never closed");
    spi_buf value = {0};
    sp_status status = SP_OK;
    for (const char *p = l->at + 1; p < stop && status == SP_OK;) {
        if (*p != '\\') {
            spi_buf_putc(&value, *p++);
            continue;
        }
        p++;
        status = unescape(l, &p, stop, &value);
    }
    if (status == SP_OK && value.failed) status = spi_fail_memory(l->ctx, value.length, l->name);
    if (status == SP_OK) status = push_text(l, SPI_T_STRING, value.data ? value.data : "", value.length);
    spi_buf_free(&value);
    advance(l, stop + 1);
    return status;
}

/* Digits with single underscores between them. */
static const char *skip_digits(const lexer *l, const char *p, int base) {
    while (p < l->end) {
        if (digit_value(*p) < base) p++;
        else if (*p == '_' && p + 1 < l->end && digit_value(p[1]) < base) p += 2;
        else break;
    }
    return p;
}

/* Where the fraction and exponent of a float behind the digits at p end; p itself if it is an integer. */
static const char *skip_fraction(const lexer *l, const char *p) {
    const char *q = p;
    if (q + 1 < l->end && *q == '.' && digit_value(q[1]) < 10) q = skip_digits(l, q + 1, 10);
    if (q < l->end && (*q == 'e' || *q == 'E')) {
        const char *e = q + 1;
        if (e < l->end && (*e == '+' || *e == '-')) e++;
        if (e < l->end && digit_value(*e) < 10) q = skip_digits(l, e, 10);
    }
    return q;
}

static sp_status lex_number(lexer *l) {
    const char *p = l->at;
    const bool after_dot = p > l->text && p[-1] == '.';
    const char letter = p + 1 < l->end && *p == '0' ? (char)(p[1] | 0x20) : 0;
    const int base = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 10;
    const char *digits = base == 10 ? p : p + 2;
    const char *stop = skip_digits(l, digits, base);
    const char *fraction = base == 10 && !after_dot ? skip_fraction(l, stop) : stop;
    char plain[512];
    size_t n = 0;
    if (stop == digits) return fail(l, "a number has no digits");
    if (fraction - digits >= (ptrdiff_t)sizeof plain) return fail(l, "a number is too long");
    for (const char *q = digits; q < fraction; q++)
        if (*q != '_') plain[n++] = *q;
    plain[n] = 0;
    spi_jtoken token = {.kind = SPI_T_INT, .line = l->line, .length = (size_t)(fraction - p)};
    token.text = spi_arena_strndup(l->arena, p, token.length);
    if (!token.text) return spi_fail_memory(l->ctx, token.length, l->name);
    if (fraction > stop) {
        token.kind = SPI_T_FLOAT;
        token.real = strtod(plain, NULL);
    } else {
        errno = 0;
        token.integer = strtoll(plain, NULL, base);
        if (errno) return fail(l, "an integer has more than 64 bits");
    }
    advance(l, fraction);
    return push(l, token);
}

/* ------------------------------------------------------------------ tags */

static bool is_name_start(unsigned char c) {
    return c == '_' || c >= 0x80 || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static sp_status lex_name(lexer *l) {
    const char *p = l->at;
    while (p < l->end && (is_name_start((unsigned char)*p) || (*p >= '0' && *p <= '9'))) p++;
    const sp_status status = push_text(l, SPI_T_NAME, l->at, (size_t)(p - l->at));
    advance(l, p);
    return status;
}

static sp_status lex_operator(lexer *l, spi_buf *open) {
    static const char *const doubles[] = {"//", "**", "==", "!=", ">=", "<="};
    const char c = *l->at;
    size_t n = 0;
    for (size_t i = 0; i < sizeof doubles / sizeof *doubles; i++)
        if (begins(l, l->at, doubles[i])) n = 2;
    if (!n && strchr("+-/*%~[](){}><=.:|,;", c)) n = 1;
    if (!n) {
        char what[64];
        const size_t size = spi_utf8_valid(l->at, (size_t)(l->end - l->at)) ? 1 : 0;
        snprintf(what, sizeof what, "unexpected character '%.*s'", (int)size, l->at);
        return fail(l, what);
    }
    if (n == 1 && strchr("([{", c)) spi_buf_putc(open, (char)(c == '(' ? ')' : c == '[' ? ']' : '}'));
    if (n == 1 && strchr(")]}", c)) {
        if (!open->length || open->data[open->length - 1] != c) {
            char what[64];
            snprintf(what, sizeof what, "unexpected '%c'", c);
            return fail(l, what);
        }
        open->length--;
    }
    const sp_status status = push_text(l, SPI_T_OP, l->at, n);
    advance(l, l->at + n);
    return status;
}

/* Takes the end of a tag at the cursor: "%}" with perhaps - or + before it, and what white space goes with it.
 */
static bool take_end(lexer *l, const char *closing, bool block) {
    const char *p = l->at;
    const char sign = *p == '-' || (*p == '+' && block) ? *p : 0;
    if (sign) p++;
    if (!begins(l, p, closing)) return false;
    p += 2;
    if (sign == '-') p = skip_space(l, p);
    else if (!sign && block && p < l->end && *p == '\n') p++;
    advance(l, p);
    return true;
}

static sp_status lex_inside(lexer *l, const char *closing, bool block, spi_buf *open) {
    while (l->at < l->end) {
        advance(l, skip_space(l, l->at));
        if (l->at == l->end) break;
        const int line = l->line;
        if (!open->length && take_end(l, closing, block))
            return push(l, (spi_jtoken){.kind = block ? SPI_T_BLOCK_END : SPI_T_PRINT_END,
                                        .line = line,
                                        .text = block ? "%}" : "}}",
                                        .length = 2});
        const unsigned char c = (unsigned char)*l->at;
        if (c >= '0' && c <= '9') SPI_TRY(lex_number(l));
        else if (is_name_start(c)) SPI_TRY(lex_name(l));
        else if (c == '"' || c == '\'') SPI_TRY(lex_string(l));
        else SPI_TRY(lex_operator(l, open));
    }
    return fail(l, block ? "a '{%' is never closed" : "a '{{' is never closed");
}

static sp_status lex_tag(lexer *l, bool block) {
    spi_buf open = {0};
    sp_status status = push(l, (spi_jtoken){.kind = block ? SPI_T_BLOCK_BEGIN : SPI_T_PRINT_BEGIN,
                                            .line = l->line,
                                            .text = block ? "{%" : "{{",
                                            .length = 2});
    if (status == SP_OK) status = lex_inside(l, block ? "%}" : "}}", block, &open);
    spi_buf_free(&open);
    return status;
}

/* ------------------------------------------------------------------ text between tags */

/* Text before a tag that begins with `sign` (0 if there is none), as far as white space control leaves it. */
static sp_status push_data(lexer *l, const char *stop, char sign, bool lstrip) {
    size_t n = (size_t)(stop - l->at);
    if (sign == '-') {
        n = spi_space_suffix(l->at, n);
    } else if (sign != '+' && lstrip) {
        size_t line = n;
        while (line > 0 && l->at[line - 1] != '\n') line--;
        if ((line > 0 || l->line_starting) && spi_space_prefix(l->at + line, n - line) == n - line) n = line;
    }
    const sp_status status = n ? push_text(l, SPI_T_DATA, l->at, n) : SP_OK;
    advance(l, stop);
    return status;
}

static sp_status skip_comment(lexer *l) {
    const char *p = l->at;
    while (p < l->end && !begins(l, p, "#}")) p++;
    if (p >= l->end) return fail(l, "a comment is never closed");
    const char sign = p > l->at && (p[-1] == '-' || p[-1] == '+') ? p[-1] : 0;
    p += 2;
    if (sign == '-') p = skip_space(l, p);
    else if (!sign && p < l->end && *p == '\n') p++;
    advance(l, p);
    return SP_OK;
}

/* Behind `{%` and its sign at p: `word` and the end of the tag, NULL if that is not what stands there. */
static const char *tag_is(const lexer *l, const char *p, const char *word, bool trims) {
    p = skip_space(l, p);
    if (!begins(l, p, word)) return NULL;
    p = skip_space(l, p + strlen(word));
    if (begins(l, p, "-%}")) return skip_space(l, p + 3);
    if (trims && begins(l, p, "+%}")) return p + 3;
    if (!begins(l, p, "%}")) return NULL;
    return trims && p + 2 < l->end && p[2] == '\n' ? p + 3 : p + 2;
}

/* {% raw %} up to {% endraw %}: `behind` is where the text begins. */
static sp_status lex_raw(lexer *l, const char *behind) {
    advance(l, behind);
    for (const char *p = l->at; p < l->end; p++) {
        if (!begins(l, p, "{%")) continue;
        const char sign = p + 2 < l->end && (p[2] == '-' || p[2] == '+') ? p[2] : 0;
        const char *stop = tag_is(l, p + 2 + (sign != 0), "endraw", true);
        if (!stop) continue;
        SPI_TRY(push_data(l, p, sign, true));
        advance(l, stop);
        return SP_OK;
    }
    return fail(l, "a 'raw' is never closed");
}

static const char *next_tag(const lexer *l) {
    for (const char *p = l->at; p + 1 < l->end; p++)
        if (*p == '{' && (p[1] == '%' || p[1] == '{' || p[1] == '#')) return p;
    return NULL;
}

static sp_status lex_all(lexer *l) {
    while (l->at < l->end) {
        const char *tag = next_tag(l);
        if (!tag) return push_data(l, l->end, '+', false);
        const char kind = tag[1];
        const char sign = tag + 2 < l->end && (tag[2] == '-' || tag[2] == '+') ? tag[2] : 0;
        const char *behind = tag + 2 + (sign != 0);
        SPI_TRY(push_data(l, tag, sign, kind != '{'));
        const char *raw = kind == '%' ? tag_is(l, behind, "raw", false) : NULL;
        if (raw) {
            SPI_TRY(lex_raw(l, raw));
            continue;
        }
        advance(l, behind);
        if (kind == '#') SPI_TRY(skip_comment(l));
        else SPI_TRY(lex_tag(l, kind == '%'));
    }
    return SP_OK;
}

sp_status spi_jinja_lex(sp_context *ctx, spi_arena *arena, const char *name, const char *text, size_t length,
                        spi_jtokens *out) {
    *out = (spi_jtokens){0};
    if (spi_utf8_valid(text, length) != length)
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: the template is not UTF-8", name);
    char *copy = spi_jinja_newlines(arena, text, &length);
    if (!copy) return spi_fail_memory(ctx, length, name);
    if (length && copy[length - 1] == '\n') copy[--length] = 0;
    lexer l = {.ctx = ctx,
               .arena = arena,
               .name = name,
               .text = copy,
               .end = copy + length,
               .at = copy,
               .line = 1,
               .line_starting = true,
               .out = out};
    sp_status status = lex_all(&l);
    if (status == SP_OK) status = push(&l, (spi_jtoken){.line = l.line, .text = "the end"});
    if (status != SP_OK) {
        free(out->items);
        *out = (spi_jtokens){0};
    }
    return status;
}
