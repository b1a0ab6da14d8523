/* "..." % values and str.format, as far as templates go: s, d, i, r, f, e, g, x, o, c with widths and
 * precision. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja_eval.h"
#include "text/utf8.h"

typedef struct spec {
    char fill, align; /* align 0: by kind; of ASCII only */
    char sign;        /* '+', ' ' or 0 */
    bool zero, comma, alternate;
    int width, precision; /* precision -1: none */
    char type;            /* 0: none */
} spec;

#define WIDTH_LIMIT 10000

static const char *read_number(const char *p, int *out) {
    *out = 0;
    while (*p >= '0' && *p <= '9' && *out <= WIDTH_LIMIT) *out = *out * 10 + (*p++ - '0');
    return p;
}

/* Digits with commas between the thousands. */
static void group(spi_buf *out, const char *digits) {
    const size_t whole = strspn(digits, "0123456789");
    for (size_t i = 0; i < whole; i++) {
        if (i && (whole - i) % 3 == 0) spi_buf_putc(out, ',');
        spi_buf_putc(out, digits[i]);
    }
    spi_buf_puts(out, digits + whole);
}

static sp_status format_number(spi_jinja *j, const spi_jval *v, const spec *s, spi_buf *out) {
    char text[512];
    int64_t n = 0;
    const bool real = strchr("feEgG%", s->type) && s->type;
    if (real || !spi_jas_int(v, &n)) {
        if (!spi_jis_number(v))
            return spi_jfail(j, "%%%c format: a number is required, not %s", s->type, spi_jtype(v));
        const double x = spi_jas_real(v);
        const char *how = s->type == 'e' ? "%+.*e" : s->type == 'g' ? "%+.*g" : "%+.*f";
        if (!real) {
            if (!(x > -9e18 && x < 9e18)) return spi_jlacks(j, "an integer of more than 64 bits");
            snprintf(text, sizeof text, "%+" PRId64, (int64_t)x);
        } else {
            snprintf(text, sizeof text, how,
                     s->precision < 0     ? 6
                     : s->precision < 300 ? s->precision
                                          : 300,
                     s->type == '%' ? x * 100 : x);
        }
    } else if (s->type == 'x' || s->type == 'o' || s->type == 'X') {
        const uint64_t magnitude = n < 0 ? 0 - (uint64_t)n : (uint64_t)n;
        snprintf(text, sizeof text,
                 s->type == 'x'   ? "%c%" PRIx64
                 : s->type == 'X' ? "%c%" PRIX64
                                  : "%c%" PRIo64,
                 n < 0 ? '-' : '+', magnitude);
    } else {
        snprintf(text, sizeof text, "%+" PRId64, n);
    }
    if (text[0] == '-') spi_buf_putc(out, '-');
    else if (s->sign) spi_buf_putc(out, s->sign);
    if (s->comma) group(out, text + 1);
    else spi_buf_puts(out, text + 1);
    if (s->type == '%') spi_buf_putc(out, '%');
    return SP_OK;
}

static void pad(const spec *s, const spi_buf *text, bool number, spi_buf *out) {
    spi_jstr as = {text->data ? text->data : "", text->length, SIZE_MAX};
    const int length = (int)spi_jchars(&as), missing = s->width > length ? s->width - length : 0;
    const char align = (char)(s->align ? s->align : s->zero && number ? '=' : number ? '>' : '<');
    const char fill = (char)(s->zero && number ? '0' : s->fill ? s->fill : ' ');
    const size_t sign = align == '=' && as.length && strchr("+- ", as.text[0]) ? 1 : 0;
    const int before = align == '<' ? 0 : align == '^' ? missing / 2 : missing;
    spi_buf_append(out, as.text, sign);
    for (int i = 0; i < before; i++) spi_buf_putc(out, fill);
    spi_buf_append(out, as.text + sign, as.length - sign);
    for (int i = before; i < missing; i++) spi_buf_putc(out, fill);
}

static sp_status format_one(spi_jinja *j, const spi_jval *v, const spec *s, spi_buf *out) {
    spi_buf text = {0};
    sp_status status = SP_OK;
    const bool number = s->type ? !strchr("src", s->type) : spi_jis_number(v) && v->kind != SPI_J_BOOL;
    if (s->width > WIDTH_LIMIT) return spi_jlacks(j, "a format of this width");
    if (s->type && number) {
        status = format_number(j, v, s, &text);
    } else if (number && v->kind == SPI_J_INT) {
        const spec plain = {.type = 'd', .sign = s->sign, .comma = s->comma, .precision = -1};
        status = format_number(j, v, &plain, &text);
    } else if (number && (s->precision >= 0 || s->comma)) {
        status = spi_jlacks(j, "a format of floats without a type");
    } else {
        status = s->type == 'r' ? spi_jrepr(j, &text, v) : spi_jprint(j, &text, v);
        spi_jstr as = {text.data ? text.data : "", text.length, SIZE_MAX};
        if (s->precision >= 0 && (size_t)s->precision < spi_jchars(&as))
            text.length = spi_joffset(&as, (size_t)s->precision);
    }
    if (status == SP_OK) pad(s, &text, number, out);
    spi_buf_free(&text);
    return status;
}

/* ------------------------------------------------------------------ % */

/* One value behind the other, or by name of a dictionary. */
typedef struct supply {
    const spi_jval *values;
    size_t next;
} supply;

static sp_status next_value(spi_jinja *j, supply *from, spi_jval *out) {
    const spi_jval *v = from->values;
    const size_t count = v->kind == SPI_J_TUPLE ? v->list->count : 1;
    if (from->next >= count) return spi_jfail(j, "not enough arguments for format string");
    *out = v->kind == SPI_J_TUPLE ? v->list->items[from->next] : *v;
    from->next++;
    return SP_OK;
}

static sp_status named_value(spi_jinja *j, const spi_jval *values, const char *name, size_t length,
                             spi_jval *out) {
    spi_jval key;
    if (values->kind != SPI_J_DICT) return spi_jfail(j, "format requires a mapping");
    SPI_TRY(spi_jstring(j, name, length, &key));
    const spi_jval *found = spi_jdict_get(j, values->dict, &key);
    if (!found) return spi_jfail(j, "'%s' is not in the mapping of a format", key.string->text);
    *out = *found;
    return SP_OK;
}

/* The conversion behind a '%' at p, *p moves behind it. */
static sp_status convert(spi_jinja *j, const char **p, supply *from, spi_buf *out) {
    spec s = {.precision = -1};
    spi_jval v = {0};
    if (**p == '(') {
        const char *close = strchr(*p, ')');
        if (!close) return spi_jfail(j, "incomplete format key");
        SPI_TRY(named_value(j, from->values, *p + 1, (size_t)(close - *p - 1), &v));
        *p = close + 1;
    }
    for (; **p && strchr("-+ 0#", **p); ++*p) {
        if (**p == '-') s.align = '<';
        else if (**p == '0') s.zero = true;
        else if (**p == '#') s.alternate = true;
        else s.sign = s.sign == '+' ? '+' : **p;
    }
    *p = read_number(*p, &s.width);
    if (**p == '.') *p = read_number(*p + 1, &s.precision);
    s.type = **p;
    if (!s.type) return spi_jfail(j, "incomplete format");
    ++*p;
    if (s.type == '%') {
        spi_buf_putc(out, '%');
        return SP_OK;
    }
    if (!strchr("srdifegxXo", s.type) || s.alternate) return spi_jlacks(j, "this conversion of '%'");
    if (s.type == 'i') s.type = 'd';
    if (s.align == '<') s.zero = false;
    if (!s.align && strchr("sr", s.type)) s.align = '>';
    if (!spi_jgiven(&v)) SPI_TRY(next_value(j, from, &v));
    return format_one(j, &v, &s, out);
}

sp_status spi_jpercent(spi_jinja *j, const spi_jval *format, const spi_jval *values, spi_jval *out) {
    const spi_jstr *f = format->string;
    supply from = {values, 0};
    spi_buf text = {0};
    sp_status status = SP_OK;
    if (format->markup) return spi_jlacks(j, "'%' of text that is marked safe");
    for (const char *p = f->text; p < f->text + f->length && status == SP_OK;) {
        if (text.length > SPI_JINJA_TEXT) break;
        if (*p == '%') {
            p++;
            status = convert(j, &p, &from, &text);
        } else {
            spi_buf_putc(&text, *p++);
        }
    }
    /* What could be asked for items by name may have been given in vain. */
    const bool mapping =
        values->kind == SPI_J_DICT || values->kind == SPI_J_LIST || values->kind == SPI_J_UNDEFINED;
    const size_t left = values->kind == SPI_J_TUPLE ? values->list->count : mapping ? 0 : 1;
    const bool counted = from.next < left;
    if (status == SP_OK && counted)
        status = spi_jfail(j, "not all arguments converted during string formatting");
    if (status == SP_OK) return spi_jstring_take(j, &text, out);
    spi_buf_free(&text);
    return status;
}

/* ------------------------------------------------------------------ str.format */

/* The part behind the colon of a field. */
static sp_status read_spec(spi_jinja *j, const char *p, const char *end, spec *s) {
    *s = (spec){.precision = -1};
    if (p + 1 < end && strchr("<>^=", p[1])) {
        s->fill = *p;
        s->align = p[1];
        p += 2;
    } else if (p < end && strchr("<>^=", *p)) {
        s->align = *p++;
    }
    if (p < end && strchr("+- ", *p)) s->sign = *p++;
    if (s->sign == '-') s->sign = 0;
    if (p < end && *p == '0') {
        s->zero = true;
        p++;
    }
    p = read_number(p, &s->width);
    if (p < end && *p == ',') {
        s->comma = true;
        p++;
    }
    if (p < end && *p == '.') p = read_number(p + 1, &s->precision);
    if (p < end && strchr("sdfegxXo%", *p)) s->type = *p++;
    return p == end ? SP_OK : spi_jlacks(j, "this format specification");
}

/* The value that a field names by number, by name, or by its place. */
static sp_status field_value(spi_jinja *j, const char *name, size_t length, const spi_jargs *args, size_t *next,
                             spi_jval *out) {
    size_t at = length ? 0 : (*next)++;
    const bool digits = length && strspn(name, "0123456789") >= length;
    for (size_t i = 0; digits && i < length && at <= args->count; i++) at = at * 10 + (size_t)(name[i] - '0');
    if (digits || !length) {
        if (at >= args->count)
            return spi_jfail(j, "Replacement index %zu out of range for positional args tuple", at);
        *out = args->items[at];
        return SP_OK;
    }
    for (size_t i = 0; i < args->named; i++)
        if (strlen(args->names[i]) == length && !memcmp(args->names[i], name, length)) {
            *out = args->values[i];
            return SP_OK;
        }
    if (memchr(name, '.', length) || memchr(name, '[', length))
        return spi_jlacks(j, "a member in a format field");
    return spi_jfail(j, "format() has no argument '%.*s'", (int)length, name);
}

static sp_status format_field(spi_jinja *j, const char *p, const char *end, const spi_jargs *args, size_t *next,
                              spi_buf *out) {
    const char *colon = memchr(p, ':', (size_t)(end - p));
    const char *stop = colon ? colon : end;
    const char *bang = memchr(p, '!', (size_t)(stop - p));
    spec s;
    spi_jval v;
    SPI_TRY(read_spec(j, colon ? colon + 1 : end, end, &s));
    SPI_TRY(field_value(j, p, (size_t)((bang ? bang : stop) - p), args, next, &v));
    if (bang && (stop - bang != 2 || !strchr("rs", bang[1])))
        return spi_jlacks(j, "this conversion of a field");
    if (bang) {
        if (s.type && s.type != 's')
            return spi_jfail(j, "Unknown format code '%c' for object of type 'str'", s.type);
        s.type = bang[1];
    }
    return format_one(j, &v, &s, out);
}

sp_status spi_jformat(spi_jinja *j, const spi_jval *format, const spi_jargs *args, spi_jval *out) {
    const char *p = format->string->text, *end = p + format->string->length;
    spi_buf text = {0};
    size_t next = 0;
    sp_status status = SP_OK;
    if (format->markup) return spi_jlacks(j, "format() of text that is marked safe");
    while (p < end && status == SP_OK && text.length <= SPI_JINJA_TEXT) {
        if ((*p == '{' || *p == '}') && p + 1 < end && p[1] == *p) {
            spi_buf_putc(&text, *p);
            p += 2;
        } else if (*p == '{') {
            const char *close = memchr(p, '}', (size_t)(end - p));
            if (!close) status = spi_jfail(j, "expected '}' before end of string");
            else status = format_field(j, p + 1, close, args, &next, &text);
            p = close ? close + 1 : end;
        } else if (*p == '}') {
            status = spi_jfail(j, "Single '}' encountered in format string");
        } else {
            spi_buf_putc(&text, *p++);
        }
    }
    if (status == SP_OK) return spi_jstring_take(j, &text, out);
    spi_buf_free(&text);
    return status;
}
