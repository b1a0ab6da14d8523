/* Values as text: str(), repr() and json.dumps() of Python. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "text/jinja_eval.h"
#include "text/utf8.h"

/* Values nest no deeper than this when they are printed: each level is a call. */
#define PRINT_DEPTH 500

static sp_status enter(spi_jinja *j) {
    if (++j->depth > SPI_JINJA_DEPTH + PRINT_DEPTH) return spi_jlacks(j, "a value that is nested so deeply");
    return SP_OK;
}

/* ------------------------------------------------------------------ numbers */

/* The fewest digits that read back as the same number; an exponent below 1e-4 and from 1e16 on. */
void spi_jprint_real(spi_buf *out, double x) {
    char digits[40];
    if (isnan(x) || isinf(x)) {
        spi_buf_puts(out, isnan(x) ? "nan" : x < 0 ? "-inf" : "inf");
        return;
    }
    for (int precision = 0; precision < 17; precision++) {
        snprintf(digits, sizeof digits, "%.*e", precision, x);
        if (strtod(digits, NULL) == x) break;
    }
    char *e = strchr(digits, 'e');
    const int exponent = atoi(e + 1);
    const int fraction = (int)(e - digits) - (digits[0] == '-') - 1; /* with its point */
    if (exponent < -4 || exponent >= 16) {
        spi_buf_puts(out, digits); /* C writes at least two digits of the exponent, as Python does */
        return;
    }
    const int decimals = (fraction > 0 ? fraction - 1 : 0) - exponent;
    spi_buf_printf(out, "%.*f", decimals > 1 ? decimals : 1, x);
}

/* ------------------------------------------------------------------ repr */

static bool is_printable(int32_t c) {
    if (c == ' ') return true;
    switch (utf8proc_category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS: return false;
    default: return true;
    }
}

static void repr_char(spi_buf *out, int32_t c, char quote) {
    if (c == quote || c == '\\') spi_buf_printf(out, "\\%c", (char)c);
    else if (c == '\n') spi_buf_puts(out, "\\n");
    else if (c == '\r') spi_buf_puts(out, "\\r");
    else if (c == '\t') spi_buf_puts(out, "\\t");
    else if (is_printable(c)) spi_utf8_append(out, c);
    else if (c < 0x100) spi_buf_printf(out, "\\x%02x", (unsigned)c);
    else if (c < 0x10000) spi_buf_printf(out, "\\u%04x", (unsigned)c);
    else spi_buf_printf(out, "\\U%08x", (unsigned)c);
}

static void repr_string(spi_buf *out, const spi_jstr *s) {
    const bool single = s->length && memchr(s->text, '\'', s->length);
    const char quote = single && !memchr(s->text, '"', s->length) ? '"' : '\'';
    spi_buf_putc(out, quote);
    for (size_t i = 0, size; i < s->length; i += size) repr_char(out, spi_utf8_get(s->text + i, &size), quote);
    spi_buf_putc(out, quote);
}

static sp_status repr_items(spi_jinja *j, spi_buf *out, const spi_jlist *list) {
    for (size_t i = 0; i < list->count; i++) {
        if (i) spi_buf_puts(out, ", ");
        SPI_TRY(spi_jrepr(j, out, &list->items[i]));
    }
    return SP_OK;
}

static sp_status repr_dict(spi_jinja *j, spi_buf *out, const spi_jdict *dict) {
    spi_buf_putc(out, '{');
    for (size_t i = 0; i < dict->count; i++) {
        if (i) spi_buf_puts(out, ", ");
        SPI_TRY(spi_jrepr(j, out, &dict->pairs[i].key));
        spi_buf_puts(out, ": ");
        SPI_TRY(spi_jrepr(j, out, &dict->pairs[i].value));
    }
    spi_buf_putc(out, '}');
    return SP_OK;
}

static sp_status repr_list(spi_jinja *j, spi_buf *out, const spi_jval *v) {
    const spi_jlist *list = v->list;
    if (v->kind == SPI_J_VIEW) spi_buf_printf(out, "%s(", list->name);
    spi_buf_putc(out, (char)(v->kind == SPI_J_TUPLE ? '(' : '['));
    SPI_TRY(repr_items(j, out, list));
    if (v->kind == SPI_J_TUPLE) spi_buf_puts(out, list->count == 1 ? ",)" : ")");
    else spi_buf_putc(out, ']');
    if (v->kind == SPI_J_VIEW) spi_buf_putc(out, ')');
    return SP_OK;
}

static sp_status repr_value(spi_jinja *j, spi_buf *out, const spi_jval *v) {
    switch (v->kind) {
    case SPI_J_UNDEFINED: spi_buf_puts(out, "Undefined"); return SP_OK;
    case SPI_J_MISSING:
    case SPI_J_NONE: spi_buf_puts(out, "None"); return SP_OK;
    case SPI_J_BOOL: spi_buf_puts(out, v->truth ? "True" : "False"); return SP_OK;
    case SPI_J_INT: spi_buf_printf(out, "%" PRId64, v->integer); return SP_OK;
    case SPI_J_FLOAT: spi_jprint_real(out, v->real); return SP_OK;
    case SPI_J_STRING:
        if (v->markup) spi_buf_puts(out, "Markup(");
        repr_string(out, v->string);
        if (v->markup) spi_buf_putc(out, ')');
        return SP_OK;
    case SPI_J_LIST:
    case SPI_J_TUPLE:
    case SPI_J_VIEW: return repr_list(j, out, v);
    case SPI_J_DICT: return repr_dict(j, out, v->dict);
    default: return spi_jfail(j, "printing a value of type '%s' is not supported", spi_jtype(v));
    }
}

sp_status spi_jrepr(spi_jinja *j, spi_buf *out, const spi_jval *v) {
    SPI_TRY(enter(j));
    SPI_TRY(spi_jwork(j, 16));
    SPI_TRY(repr_value(j, out, v));
    if (out->length > SPI_JINJA_TEXT) return spi_jlacks(j, "a text of more than 64 MiB");
    j->depth--;
    return SP_OK;
}

sp_status spi_jprint(spi_jinja *j, spi_buf *out, const spi_jval *v) {
    if (v->kind == SPI_J_UNDEFINED) return SP_OK;
    if (v->kind != SPI_J_STRING) return spi_jrepr(j, out, v);
    SPI_TRY(spi_jwork(j, v->string->length));
    spi_buf_append(out, v->string->text, v->string->length);
    if (out->length > SPI_JINJA_TEXT) return spi_jlacks(j, "a text of more than 64 MiB");
    return SP_OK;
}

sp_status spi_jtext(spi_jinja *j, const spi_jval *v, spi_jval *out) {
    if (v->kind == SPI_J_STRING) {
        *out = *v;
        return SP_OK;
    }
    spi_buf text = {0};
    const sp_status status = spi_jprint(j, &text, v);
    if (status == SP_OK) return spi_jstring_take(j, &text, out);
    spi_buf_free(&text);
    return status;
}

/* ------------------------------------------------------------------ JSON */

static void dump_char(spi_buf *out, int32_t c, bool ascii) {
    static const char named[] = "\"\\\n\r\t\f\b";
    static const char letters[] = "\"\\nrtfb";
    const char *found = c && c < 0x80 ? strchr(named, (char)c) : NULL;
    if (found) spi_buf_printf(out, "\\%c", letters[found - named]);
    else if (c < 0x20 || (ascii && c >= 0x7F && c < 0x10000)) spi_buf_printf(out, "\\u%04x", (unsigned)c);
    else if (ascii && c >= 0x10000)
        spi_buf_printf(out, "\\u%04x\\u%04x", 0xD800u + ((unsigned)(c - 0x10000) >> 10),
                       0xDC00u + ((unsigned)(c - 0x10000) & 0x3FF));
    else spi_utf8_append(out, c);
}

static void dump_string(spi_buf *out, const spi_jstr *s, bool ascii) {
    spi_buf_putc(out, '"');
    for (size_t i = 0, size; i < s->length; i += size) dump_char(out, spi_utf8_get(s->text + i, &size), ascii);
    spi_buf_putc(out, '"');
}

static void dump_real(spi_buf *out, double x) {
    if (isnan(x)) spi_buf_puts(out, "NaN");
    else if (isinf(x)) spi_buf_puts(out, x < 0 ? "-Infinity" : "Infinity");
    else spi_jprint_real(out, x);
}

static void new_line(spi_buf *out, const spi_jdump *how, int level) {
    if (!how->indented) return;
    spi_buf_putc(out, '\n');
    for (int i = 0; i < level; i++) spi_buf_puts(out, how->indent);
}

static sp_status dump(spi_jinja *j, spi_buf *out, const spi_jval *v, const spi_jdump *how, int level);

static sp_status dump_list(spi_jinja *j, spi_buf *out, const spi_jlist *list, const spi_jdump *how, int level) {
    spi_buf_putc(out, '[');
    for (size_t i = 0; i < list->count; i++) {
        if (i) spi_buf_puts(out, how->item);
        new_line(out, how, level + 1);
        SPI_TRY(dump(j, out, &list->items[i], how, level + 1));
    }
    if (list->count) new_line(out, how, level);
    spi_buf_putc(out, ']');
    return SP_OK;
}

static sp_status dump_key(spi_jinja *j, spi_buf *out, const spi_jval *key, const spi_jdump *how) {
    if (key->kind == SPI_J_STRING) {
        dump_string(out, key->string, how->ascii);
        return SP_OK;
    }
    if (!spi_jis_number(key) && key->kind != SPI_J_NONE)
        return spi_jfail(j, "keys must be str, int, float, bool or None, not %s", spi_jtype(key));
    spi_buf_putc(out, '"');
    SPI_TRY(dump(j, out, key, how, 0));
    spi_buf_putc(out, '"');
    return SP_OK;
}

/* The order of keys: as they are, or sorted by insertion, which is quick for the few that objects have. */
static sp_status sorted_pairs(spi_jinja *j, const spi_jdict *dict, spi_jpair *pairs) {
    for (size_t i = 0; i < dict->count; i++) {
        size_t at = i;
        for (int order = 0; at > 0; at--) {
            SPI_TRY(spi_jwork(j, 64));
            SPI_TRY(spi_jcompare(j, &dict->pairs[i].key, &pairs[at - 1].key, &order));
            if (order >= 0) break;
            pairs[at] = pairs[at - 1];
        }
        pairs[at] = dict->pairs[i];
    }
    return SP_OK;
}

static sp_status dump_dict(spi_jinja *j, spi_buf *out, const spi_jdict *dict, const spi_jdump *how, int level) {
    const spi_jpair *pairs = dict->pairs;
    if (how->sort_keys && dict->count) {
        void *sorted;
        SPI_TRY(spi_jalloc(j, dict->count * sizeof *pairs, &sorted));
        SPI_TRY(sorted_pairs(j, dict, sorted));
        pairs = sorted;
    }
    spi_buf_putc(out, '{');
    for (size_t i = 0; i < dict->count; i++) {
        if (i) spi_buf_puts(out, how->item);
        new_line(out, how, level + 1);
        SPI_TRY(dump_key(j, out, &pairs[i].key, how));
        spi_buf_puts(out, how->key);
        SPI_TRY(dump(j, out, &pairs[i].value, how, level + 1));
    }
    if (dict->count) new_line(out, how, level);
    spi_buf_putc(out, '}');
    return SP_OK;
}

static sp_status dump(spi_jinja *j, spi_buf *out, const spi_jval *v, const spi_jdump *how, int level) {
    SPI_TRY(enter(j));
    SPI_TRY(spi_jwork(j, 16));
    if (out->length > SPI_JINJA_TEXT) return spi_jlacks(j, "a text of more than 64 MiB");
    sp_status status = SP_OK;
    switch (v->kind) {
    case SPI_J_MISSING:
    case SPI_J_NONE: spi_buf_puts(out, "null"); break;
    case SPI_J_BOOL: spi_buf_puts(out, v->truth ? "true" : "false"); break;
    case SPI_J_INT: spi_buf_printf(out, "%" PRId64, v->integer); break;
    case SPI_J_FLOAT: dump_real(out, v->real); break;
    case SPI_J_STRING: dump_string(out, v->string, how->ascii); break;
    case SPI_J_LIST:
    case SPI_J_TUPLE: status = dump_list(j, out, v->list, how, level); break;
    case SPI_J_DICT: status = dump_dict(j, out, v->dict, how, level); break;
    default: return spi_jfail(j, "Object of type %s is not JSON serializable", spi_jtype(v));
    }
    j->depth--;
    return status;
}

sp_status spi_jdump_json(spi_jinja *j, spi_buf *out, const spi_jval *v, const spi_jdump *how) {
    return dump(j, out, v, how, 0);
}
