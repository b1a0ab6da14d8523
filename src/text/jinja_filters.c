/* Filters of texts and numbers. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "text/jinja_eval.h"
#include "text/utf8.h"

#define FILTER(name) \
    static sp_status filter_##name(spi_jinja *j, const spi_jval *v, const spi_jargs *args, spi_jval *out)

static sp_status no_arguments(spi_jinja *j, const char *name, const spi_jargs *args) {
    return args->count || args->named ? spi_jfail(j, "the filter '%s' takes no arguments", name) : SP_OK;
}

/* ------------------------------------------------------------------ case and white space */

static sp_status recase(spi_jinja *j, const char *name, const spi_jval *v, const spi_jargs *args, spi_jcase how,
                        spi_jval *out) {
    spi_jval text;
    SPI_TRY(no_arguments(j, name, args));
    SPI_TRY(spi_jtext(j, v, &text));
    return spi_jrecase(j, &text, how, out);
}

FILTER(upper) {
    return recase(j, "upper", v, args, SPI_J_UPPER, out);
}

FILTER(lower) {
    return recase(j, "lower", v, args, SPI_J_LOWER, out);
}

FILTER(capitalize) {
    return recase(j, "capitalize", v, args, SPI_J_CAPITALIZE, out);
}

/* Unlike str.title, a word begins only behind white space, a hyphen or an opening bracket. */
FILTER(title) {
    spi_jval text;
    spi_buf titled = {0};
    bool first = true;
    SPI_TRY(no_arguments(j, "title", args));
    SPI_TRY(spi_jtext(j, v, &text));
    for (size_t i = 0, size; i < text.string->length; i += size) {
        const int32_t c = spi_utf8_get(text.string->text + i, &size);
        const bool splits = spi_jspace(c) || (c < 0x80 && c && strchr("-({[<", (char)c));
        if (first && c == 0xDF) spi_buf_puts(&titled, "SS");
        else spi_utf8_append(&titled, first ? utf8proc_toupper(c) : utf8proc_tolower(c));
        first = splits;
    }
    return spi_jstring_take(j, &titled, out);
}

FILTER(trim) {
    static const char *const names[] = {"chars", NULL};
    spi_jval text, chars;
    SPI_TRY(spi_jbind(j, "trim", args, names, &chars));
    SPI_TRY(spi_jtext(j, v, &text));
    return spi_jstrip(j, &text, &chars, 3, out);
}

/* Lines of Python's splitlines joined again by "\n", the later ones that are not empty behind `by`. */
static void indent_lines(const spi_jstr *s, const spi_jstr *by, bool first, bool blank, spi_buf *out) {
    bool starts = true;
    if (first) spi_buf_append(out, by->text, by->length);
    for (size_t i = 0, size; i < s->length; i += size) {
        const int32_t c = spi_utf8_get(s->text + i, &size);
        const bool ends =
            (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
        if (c == '\r' && i + 1 < s->length && s->text[i + 1] == '\n') size = 2;
        if (starts && i && (blank || !ends)) spi_buf_append(out, by->text, by->length);
        starts = ends;
        if (ends) spi_buf_putc(out, '\n');
        else spi_buf_append(out, s->text + i, size);
    }
    if (starts && s->length && blank) spi_buf_append(out, by->text, by->length);
}

FILTER(indent) {
    static const char *const names[] = {"width", "first", "blank", NULL};
    spi_jval given[3], by;
    spi_buf text = {0};
    int64_t width;
    SPI_TRY(spi_jbind(j, "indent", args, names, given));
    if (v->kind == SPI_J_UNDEFINED) return spi_jundefined(j, v);
    if (v->kind != SPI_J_STRING)
        return spi_jfail(j, "the filter 'indent' expected a string, found '%s'", spi_jtype(v));
    if (given[0].kind == SPI_J_STRING) {
        by = given[0];
    } else {
        SPI_TRY(spi_jarg_int(j, "indent", &given[0], 4, &width));
        if (width > 1000) return spi_jlacks(j, "an indent of this width");
        for (int64_t i = 0; i < width; i++) spi_buf_putc(&text, ' ');
        SPI_TRY(spi_jstring_take(j, &text, &by));
    }
    SPI_TRY(spi_jwork(j, v->string->length * (1 + by.string->length)));
    indent_lines(v->string, by.string, spi_jtruth(j, &given[1]), spi_jtruth(j, &given[2]), &text);
    SPI_TRY(spi_jstring_take(j, &text, out));
    out->markup = v->markup;
    return SP_OK;
}

FILTER(center) {
    static const char *const names[] = {"width", NULL};
    spi_jval given, text;
    spi_buf padded = {0};
    int64_t width;
    SPI_TRY(spi_jbind(j, "center", args, names, &given));
    SPI_TRY(spi_jarg_int(j, "center", &given, 80, &width));
    SPI_TRY(spi_jtext(j, v, &text));
    if (width > 10000) return spi_jlacks(j, "a text of this width");
    const int64_t missing = width - (int64_t)spi_jchars(text.string);
    /* str.center puts the odd space on the left where the width is odd */
    const int64_t left = missing > 0 ? missing / 2 + (missing & width & 1) : 0;
    for (int64_t i = 0; i < left; i++) spi_buf_putc(&padded, ' ');
    spi_buf_append(&padded, text.string->text, text.string->length);
    for (int64_t i = left; i < missing; i++) spi_buf_putc(&padded, ' ');
    return spi_jstring_take(j, &padded, out);
}

/* ------------------------------------------------------------------ text as such */

FILTER(string) {
    SPI_TRY(no_arguments(j, "string", args));
    return spi_jtext(j, v, out);
}

FILTER(safe) {
    SPI_TRY(no_arguments(j, "safe", args));
    SPI_TRY(spi_jtext(j, v, out));
    out->markup = true;
    return SP_OK;
}

FILTER(escape) {
    SPI_TRY(no_arguments(j, "escape", args));
    SPI_TRY(spi_jtext(j, v, out));
    if (out->markup) return SP_OK;
    const spi_jval text = *out;
    return spi_jescape(j, &text, out);
}

FILTER(forceescape) {
    spi_jval text;
    SPI_TRY(no_arguments(j, "forceescape", args));
    SPI_TRY(spi_jtext(j, v, &text));
    return spi_jescape(j, &text, out);
}

FILTER(replace) {
    static const char *const names[] = {"old", "new", "count", NULL};
    spi_jval given[3], text;
    int64_t most;
    SPI_TRY(spi_jbind(j, "replace", args, names, given));
    SPI_TRY(spi_jarg_int(j, "replace", spi_jnone(&given[2]) ? &(spi_jval){0} : &given[2], -1, &most));
    if (!spi_jgiven(&given[1])) return spi_jfail(j, "the filter 'replace' expected two strings");
    SPI_TRY(spi_jtext(j, v, &text));
    SPI_TRY(spi_jtext(j, &given[0], &given[0]));
    SPI_TRY(spi_jtext(j, &given[1], &given[1]));
    text.markup = false;
    return spi_jreplace(j, &text, &given[0], &given[1], most, out);
}

FILTER(format) {
    spi_jval text, values;
    if (args->named) {
        SPI_TRY(spi_jdict_new(j, &values));
        for (size_t i = 0; i < args->named; i++) {
            spi_jval key;
            SPI_TRY(spi_jstring_at(j, args->names[i], strlen(args->names[i]), &key));
            SPI_TRY(spi_jdict_set(j, values.dict, key, args->values[i]));
        }
    } else {
        SPI_TRY(spi_jlist_new(j, SPI_J_TUPLE, args->count, &values));
        for (size_t i = 0; i < args->count; i++) SPI_TRY(spi_jlist_add(j, values.list, args->items[i]));
    }
    SPI_TRY(spi_jtext(j, v, &text));
    return spi_jpercent(j, &text, &values, out);
}

FILTER(wordcount) {
    spi_jval text;
    int64_t words = 0;
    bool inside = false;
    SPI_TRY(no_arguments(j, "wordcount", args));
    SPI_TRY(spi_jtext(j, v, &text));
    for (size_t i = 0, size; i < text.string->length; i += size) {
        const int32_t c = spi_utf8_get(text.string->text + i, &size);
        const utf8proc_category_t k = utf8proc_category(c);
        const bool letter = k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
        const bool word = letter || c == '_' || spi_is_numeric(c);
        words += word && !inside;
        inside = word;
    }
    *out = spi_jint(words);
    return SP_OK;
}

/* ------------------------------------------------------------------ JSON */

static sp_status separators(spi_jinja *j, const spi_jval *given, spi_jdump *how) {
    spi_jlist *both;
    if (spi_jnone(given)) return SP_OK;
    SPI_TRY(spi_jiterate(j, given, &both));
    if (both->count != 2 || both->items[0].kind != SPI_J_STRING || both->items[1].kind != SPI_J_STRING)
        return spi_jfail(j, "tojson: separators: expected two strings");
    how->item = both->items[0].string->text;
    how->key = both->items[1].string->text;
    return SP_OK;
}

FILTER(tojson) {
    static const char *const names[] = {"ensure_ascii", "indent", "separators", "sort_keys", NULL};
    spi_jval given[4];
    spi_buf text = {0};
    char spaces[101];
    int64_t width;
    SPI_TRY(spi_jbind(j, "tojson", args, names, given));
    spi_jdump how = {.item = spi_jnone(&given[1]) ? ", " : ",",
                     .key = ": ",
                     .ascii = spi_jtruth(j, &given[0]),
                     .sort_keys = spi_jtruth(j, &given[3]),
                     .indented = !spi_jnone(&given[1])};
    if (given[1].kind == SPI_J_STRING) {
        how.indent = given[1].string->text;
    } else if (how.indented) {
        SPI_TRY(spi_jarg_int(j, "tojson", &given[1], 0, &width));
        if (width > 100) return spi_jlacks(j, "an indent of this width");
        snprintf(spaces, sizeof spaces, "%*s", width > 0 ? (int)width : 0, "");
        how.indent = spaces;
    }
    SPI_TRY(separators(j, &given[2], &how));
    const sp_status status = spi_jdump_json(j, &text, v, &how);
    if (status == SP_OK) return spi_jstring_take(j, &text, out);
    spi_buf_free(&text);
    return status;
}

/* ------------------------------------------------------------------ numbers */

/* float() of a string, white space around it allowed. */
static bool parse_real(const spi_jval *text, double *out) {
    const size_t length = text->string->length, from = spi_space_prefix(text->string->text, length);
    const size_t to = spi_space_suffix(text->string->text, length);
    char copy[400], *end;
    size_t n = 0;
    if (to <= from || to - from >= sizeof copy) return false;
    for (size_t i = from; i < to; i++) {
        const char c = text->string->text[i];
        if (c == 'x' || c == 'X' || c == '(') return false;
        const bool between = i > from && i + 1 < to && text->string->text[i - 1] >= '0' &&
                             text->string->text[i - 1] <= '9' && text->string->text[i + 1] >= '0' &&
                             text->string->text[i + 1] <= '9';
        if (c == '_' && between) continue;
        copy[n++] = c;
    }
    copy[n] = 0;
    *out = strtod(copy, &end);
    return end == copy + n;
}

/* int(text, base): *fits is false where the number is too large for us. */
static bool parse_int(const spi_jval *text, int base, int64_t *out, bool *fits) {
    const size_t length = text->string->length, from = spi_space_prefix(text->string->text, length);
    const size_t to = spi_space_suffix(text->string->text, length);
    char copy[100], *end;
    size_t n = 0;
    if (to <= from || to - from >= sizeof copy) return false;
    for (size_t i = from; i < to; i++)
        if (text->string->text[i] != '_') copy[n++] = text->string->text[i];
    copy[n] = 0;
    const char *digits = copy + (copy[0] == '-' || copy[0] == '+');
    if (base == 10 && strspn(digits, "0123456789") != strlen(digits)) return false;
    errno = 0;
    *out = strtoll(copy, &end, base);
    *fits = !errno;
    return end == copy + n && n > 0 && *digits;
}

FILTER(int) {
    static const char *const names[] = {"default", "base", NULL};
    spi_jval given[2];
    int64_t base, n = 0;
    double x = 0;
    bool fits = true;
    SPI_TRY(spi_jbind(j, "int", args, names, given));
    SPI_TRY(spi_jarg_int(j, "int", &given[1], 10, &base));
    if (base < 2 || base > 36) return spi_jfail(j, "int() base must be >= 2 and <= 36, or 0");
    if (v->kind == SPI_J_UNDEFINED) return spi_jundefined(j, v);
    if (spi_jas_int(v, &n) || (v->kind == SPI_J_STRING && parse_int(v, (int)base, &n, &fits))) {
        *out = spi_jint(n);
        return fits ? SP_OK : spi_jlacks(j, "an integer of more than 64 bits");
    }
    if (v->kind == SPI_J_FLOAT || (v->kind == SPI_J_STRING && parse_real(v, &x))) {
        if (v->kind == SPI_J_FLOAT) x = v->real;
        if (isfinite(x) && fabs(x) >= 9.2e18) return spi_jlacks(j, "an integer of more than 64 bits");
        if (isfinite(x)) {
            *out = spi_jint((int64_t)x);
            return SP_OK;
        }
    }
    *out = spi_jgiven(&given[0]) ? given[0] : spi_jint(0);
    return SP_OK;
}

FILTER(float) {
    static const char *const names[] = {"default", NULL};
    spi_jval given;
    double x;
    SPI_TRY(spi_jbind(j, "float", args, names, &given));
    if (v->kind == SPI_J_UNDEFINED) return spi_jundefined(j, v);
    if (spi_jis_number(v)) *out = spi_jreal(spi_jas_real(v));
    else if (v->kind == SPI_J_STRING && parse_real(v, &x)) *out = spi_jreal(x);
    else *out = spi_jgiven(&given) ? given : spi_jreal(0);
    return SP_OK;
}

FILTER(abs) {
    int64_t n;
    SPI_TRY(no_arguments(j, "abs", args));
    if (v->kind == SPI_J_UNDEFINED) return spi_jundefined(j, v);
    if (!spi_jis_number(v)) return spi_jfail(j, "bad operand type for abs(): '%s'", spi_jtype(v));
    if (!spi_jas_int(v, &n)) *out = spi_jreal(fabs(v->real));
    else if (n == INT64_MIN) return spi_jlacks(j, "an integer of more than 64 bits");
    else *out = spi_jint(n < 0 ? -n : n);
    return SP_OK;
}

/* "common" rounds the decimal number that the float is, halves to even; so do the digits that C prints. */
FILTER(round) {
    static const char *const names[] = {"precision", "method", NULL};
    spi_jval given[2];
    int64_t precision;
    char digits[400];
    SPI_TRY(spi_jbind(j, "round", args, names, given));
    SPI_TRY(spi_jarg_int(j, "round", &given[0], 0, &precision));
    if (precision < 0 || precision > 30) return spi_jlacks(j, "rounding to these places");
    if (v->kind == SPI_J_UNDEFINED) return spi_jundefined(j, v);
    if (!spi_jis_number(v))
        return spi_jfail(j, "the filter 'round' expected a number, found '%s'", spi_jtype(v));
    const char *method = given[1].kind == SPI_J_STRING ? given[1].string->text : "common";
    if (!strcmp(method, "common")) {
        *out = *v;
        if (v->kind == SPI_J_BOOL) *out = spi_jint(v->truth);
        if (v->kind != SPI_J_FLOAT) return SP_OK;
        snprintf(digits, sizeof digits, "%.*f", (int)precision, v->real);
        *out = spi_jreal(strtod(digits, NULL));
        return SP_OK;
    }
    if (strcmp(method, "ceil") != 0 && strcmp(method, "floor") != 0)
        return spi_jfail(j, "method must be common, ceil or floor");
    const double scale = pow(10, (double)precision), x = spi_jas_real(v) * scale;
    *out = spi_jreal((*method == 'c' ? ceil(x) : floor(x)) / scale);
    return SP_OK;
}

FILTER(default) {
    static const char *const names[] = {"default_value", "boolean", NULL};
    spi_jval given[2];
    SPI_TRY(spi_jbind(j, "default", args, names, given));
    const bool replaces = v->kind == SPI_J_UNDEFINED || (spi_jtruth(j, &given[1]) && !spi_jtruth(j, v));
    *out = replaces ? given[0] : *v;
    return replaces && !spi_jgiven(&given[0]) ? spi_jstring_at(j, "", 0, out) : SP_OK;
}

const spi_jfilter spi_jtext_filters[] = {
    {"abs", filter_abs},
    {"capitalize", filter_capitalize},
    {"center", filter_center},
    {"d", filter_default},
    {"default", filter_default},
    {"e", filter_escape},
    {"escape", filter_escape},
    {"float", filter_float},
    {"forceescape", filter_forceescape},
    {"format", filter_format},
    {"indent", filter_indent},
    {"int", filter_int},
    {"lower", filter_lower},
    {"replace", filter_replace},
    {"round", filter_round},
    {"safe", filter_safe},
    {"string", filter_string},
    {"title", filter_title},
    {"tojson", filter_tojson},
    {"trim", filter_trim},
    {"upper", filter_upper},
    {"wordcount", filter_wordcount},
    {0},
};
