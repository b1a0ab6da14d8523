/* What Python does to strings: stripping, case, replacing, splitting, and the methods that ask for it. */
#include <string.h>
#include <utf8proc.h>

#include "text/jinja_eval.h"
#include "text/utf8.h"

/* ------------------------------------------------------------------ characters */

bool spi_jspace(int32_t c) {
    return spi_is_space(c) || (c >= 0x1C && c <= 0x1F);
}

size_t spi_joffset(const spi_jstr *s, size_t n) {
    if (s->chars == s->length) return n;
    size_t at = 0;
    for (; n > 0 && at < s->length; n--) {
        size_t size;
        spi_utf8_get(s->text + at, &size);
        at += size;
    }
    return at;
}

size_t spi_jfind(const char *text, size_t length, size_t from, const char *what, size_t size) {
    if (from > length) return SIZE_MAX;
    if (size == 0) return from;
    const char *found = memmem(text + from, length - from, what, size);
    return found ? (size_t)(found - text) : SIZE_MAX;
}

/* Marked text stays marked, whatever is done to it. */
static sp_status keep(spi_jinja *j, const spi_jval *like, const char *text, size_t length, spi_jval *out) {
    SPI_TRY(spi_jstring(j, text, length, out));
    out->markup = like->markup;
    return SP_OK;
}

static bool one_of(const spi_jstr *chars, int32_t c) {
    for (size_t i = 0, size; i < chars->length; i += size)
        if (spi_utf8_get(chars->text + i, &size) == c) return true;
    return false;
}

sp_status spi_jstrip(spi_jinja *j, const spi_jval *s, const spi_jval *chars, int ends, spi_jval *out) {
    const char *text = s->string->text;
    size_t from = 0, to = s->string->length, size;
    const spi_jstr *set = spi_jnone(chars) ? NULL : chars->string;
    if (set && chars->kind != SPI_J_STRING) return spi_jfail(j, "strip arg must be None or str");
    SPI_TRY(spi_jwork(j, set ? set->length * 16 : 0));
    while ((ends & 1) && from < to) {
        const int32_t c = spi_utf8_get(text + from, &size);
        if (set ? !one_of(set, c) : !spi_jspace(c)) break;
        from += size;
    }
    while ((ends & 2) && from < to) {
        const size_t last = spi_utf8_last(text, to);
        const int32_t c = spi_utf8_get(text + last, &size);
        if (set ? !one_of(set, c) : !spi_jspace(c)) break;
        to = last;
    }
    return keep(j, s, text + from, to - from, out);
}

static bool is_cased(int32_t c) {
    return utf8proc_toupper(c) != c || utf8proc_tolower(c) != c;
}

static void put_case(spi_buf *out, int32_t c, bool upper) {
    if (upper && c == 0xDF) spi_buf_puts(out, "SS"); /* the one common letter whose capital is two */
    else spi_utf8_append(out, upper ? utf8proc_toupper(c) : utf8proc_tolower(c));
}

sp_status spi_jrecase(spi_jinja *j, const spi_jval *s, spi_jcase how, spi_jval *out) {
    spi_buf text = {0};
    bool first = true, in_word = false;
    for (size_t i = 0, size; i < s->string->length; i += size) {
        const int32_t c = spi_utf8_get(s->string->text + i, &size);
        bool upper = how == SPI_J_UPPER;
        if (how == SPI_J_CAPITALIZE) upper = first;
        if (how == SPI_J_TITLE) upper = !in_word;
        if (how == SPI_J_SWAP) upper = utf8proc_tolower(c) == c;
        put_case(&text, c, upper);
        first = false;
        in_word = is_cased(c);
    }
    SPI_TRY(spi_jstring_take(j, &text, out));
    out->markup = s->markup;
    return SP_OK;
}

sp_status spi_jescape(spi_jinja *j, const spi_jval *s, spi_jval *out) {
    static const char special[] = "&<>'\"";
    static const char *const named[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    spi_buf text = {0};
    for (size_t i = 0; i < s->string->length; i++) {
        const char c = s->string->text[i];
        const char *found = c ? strchr(special, c) : NULL;
        if (found) spi_buf_puts(&text, named[found - special]);
        else spi_buf_putc(&text, c);
    }
    SPI_TRY(spi_jstring_take(j, &text, out));
    out->markup = true;
    return SP_OK;
}

sp_status spi_jreplace(spi_jinja *j, const spi_jval *s, const spi_jval *from, const spi_jval *to, int64_t most,
                       spi_jval *out) {
    const spi_jstr *in = s->string;
    spi_jval with = *to;
    spi_buf text = {0};
    if (from->kind != SPI_J_STRING || to->kind != SPI_J_STRING)
        return spi_jfail(j, "replace() expected two strings, found '%s' and '%s'", spi_jtype(from),
                         spi_jtype(to));
    if (s->markup && !to->markup) SPI_TRY(spi_jescape(j, to, &with));
    const size_t size = from->string->length;
    size_t at = 0, found;
    for (; most != 0 && (found = spi_jfind(in->text, in->length, at, from->string->text, size)) != SIZE_MAX;
         most--) {
        spi_buf_append(&text, in->text + at, found - at);
        spi_buf_append(&text, with.string->text, with.string->length);
        at = found + size;
        if (size == 0) { /* between all characters, before the first and behind the last */
            if (at == in->length) break;
            size_t step;
            spi_utf8_get(in->text + at, &step);
            spi_buf_append(&text, in->text + at, step);
            at += step;
        }
        if (text.length > SPI_JINJA_TEXT) break;
    }
    spi_buf_append(&text, in->text + at, in->length - at);
    SPI_TRY(spi_jstring_take(j, &text, out));
    out->markup = s->markup;
    return SP_OK;
}

/* ------------------------------------------------------------------ splitting */

static sp_status add_part(spi_jinja *j, const spi_jval *s, size_t from, size_t to, spi_jval *list) {
    spi_jval part;
    SPI_TRY(keep(j, s, s->string->text + from, to - from, &part));
    return spi_jlist_add(j, list->list, part);
}

static void reverse(spi_jlist *list) {
    for (size_t a = 0, b = list->count; a + 1 < b; a++) {
        const spi_jval kept = list->items[a];
        list->items[a] = list->items[--b];
        list->items[b] = kept;
    }
}

static sp_status split_at(spi_jinja *j, const spi_jval *s, const spi_jstr *by, int64_t most, spi_jval *out) {
    const spi_jstr *in = s->string;
    size_t from = 0, found;
    for (; most != 0 && (found = spi_jfind(in->text, in->length, from, by->text, by->length)) != SIZE_MAX;
         most--) {
        SPI_TRY(add_part(j, s, from, found, out));
        from = found + by->length;
    }
    return add_part(j, s, from, in->length, out);
}

static sp_status rsplit_at(spi_jinja *j, const spi_jval *s, const spi_jstr *by, int64_t most, spi_jval *out) {
    const spi_jstr *in = s->string;
    size_t to = in->length;
    for (size_t at = to; most != 0 && at >= by->length;) {
        if (memcmp(in->text + at - by->length, by->text, by->length) != 0) {
            at--;
            continue;
        }
        SPI_TRY(add_part(j, s, at, to, out));
        to = at -= by->length;
        most--;
    }
    SPI_TRY(add_part(j, s, 0, to, out));
    reverse(out->list);
    return SP_OK;
}

/* At white space, which is left out. */
static sp_status split_words(spi_jinja *j, const spi_jval *s, int64_t most, spi_jval *out) {
    const char *text = s->string->text;
    const size_t length = s->string->length;
    size_t at = 0, size;
    while (true) {
        while (at < length && spi_jspace(spi_utf8_get(text + at, &size))) at += size;
        if (at == length) return SP_OK;
        const size_t from = at;
        if (most-- == 0) {
            spi_jval rest;
            SPI_TRY(keep(j, s, text + from, length - from, &rest));
            return spi_jlist_add(j, out->list, rest);
        }
        while (at < length && !spi_jspace(spi_utf8_get(text + at, &size))) at += size;
        SPI_TRY(add_part(j, s, from, at, out));
    }
}

static sp_status rsplit_words(spi_jinja *j, const spi_jval *s, int64_t most, spi_jval *out) {
    const char *text = s->string->text;
    size_t to = s->string->length, size;
    while (true) {
        while (to && spi_jspace(spi_utf8_get(text + spi_utf8_last(text, to), &size)))
            to = spi_utf8_last(text, to);
        if (!to) break;
        size_t from = most-- == 0 ? 0 : to;
        while (from && !spi_jspace(spi_utf8_get(text + spi_utf8_last(text, from), &size)))
            from = spi_utf8_last(text, from);
        SPI_TRY(add_part(j, s, from, to, out));
        to = from;
    }
    reverse(out->list);
    return SP_OK;
}

static sp_status split(spi_jinja *j, const spi_jval *s, const spi_jargs *args, bool right, spi_jval *out) {
    static const char *const names[] = {"sep", "maxsplit", NULL};
    spi_jval given[2];
    int64_t most;
    SPI_TRY(spi_jbind(j, "split", args, names, given));
    SPI_TRY(spi_jarg_int(j, "split", &given[1], -1, &most));
    SPI_TRY(spi_jlist_new(j, SPI_J_LIST, 0, out));
    SPI_TRY(spi_jwork(j, s->string->length));
    if (spi_jnone(&given[0])) return right ? rsplit_words(j, s, most, out) : split_words(j, s, most, out);
    if (given[0].kind != SPI_J_STRING) return spi_jfail(j, "must be str or None, not %s", spi_jtype(&given[0]));
    if (!given[0].string->length) return spi_jfail(j, "empty separator");
    return right ? rsplit_at(j, s, given[0].string, most, out) : split_at(j, s, given[0].string, most, out);
}

/* The bytes of a line's end at `at`, 0 if there is none. */
static size_t line_end(const spi_jstr *s, size_t at) {
    size_t size;
    const int32_t c = spi_utf8_get(s->text + at, &size);
    if (c == '\r' && at + 1 < s->length && s->text[at + 1] == '\n') return 2;
    const bool ends =
        (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
    return ends ? size : 0;
}

static sp_status split_lines(spi_jinja *j, const spi_jval *s, const spi_jargs *args, spi_jval *out) {
    static const char *const names[] = {"keepends", NULL};
    spi_jval keepends;
    size_t from = 0;
    SPI_TRY(spi_jbind(j, "splitlines", args, names, &keepends));
    SPI_TRY(spi_jlist_new(j, SPI_J_LIST, 0, out));
    for (size_t at = 0; at < s->string->length;) {
        const size_t end = line_end(s->string, at);
        size_t size;
        spi_utf8_get(s->string->text + at, &size);
        if (end) SPI_TRY(add_part(j, s, from, at + (spi_jtruth(j, &keepends) ? end : 0), out));
        at += end ? end : size;
        if (end) from = at;
    }
    return from < s->string->length ? add_part(j, s, from, s->string->length, out) : SP_OK;
}

/* ------------------------------------------------------------------ methods */

/* str.startswith and endswith: one string or a tuple of them. */
static sp_status affix(spi_jinja *j, const spi_jval *s, const spi_jargs *args, bool end, spi_jval *out) {
    if (args->count > 1 || args->named) return spi_jlacks(j, "startswith or endswith with a range");
    if (!args->count) return spi_jfail(j, "startswith expected at least 1 argument, got 0");
    const spi_jval *given = &args->items[0];
    const size_t count = given->kind == SPI_J_TUPLE ? given->list->count : 1;
    bool found = false;
    for (size_t i = 0; i < count && !found; i++) {
        const spi_jval *one = given->kind == SPI_J_TUPLE ? &given->list->items[i] : given;
        if (one->kind == SPI_J_UNDEFINED) return spi_jundefined(j, one);
        if (one->kind != SPI_J_STRING)
            return spi_jfail(j, "%s first arg must be str or a tuple of str, not %s",
                             end ? "endswith" : "startswith", spi_jtype(one));
        const size_t n = one->string->length, length = s->string->length;
        found = n <= length && !memcmp(s->string->text + (end ? length - n : 0), one->string->text, n);
    }
    *out = spi_jbool(found);
    return SP_OK;
}

/* The one argument that must be a string. */
static sp_status one_string(spi_jinja *j, const char *name, const spi_jargs *args, const spi_jstr **out) {
    if (args->count == 1 && args->items[0].kind == SPI_J_UNDEFINED) return spi_jundefined(j, &args->items[0]);
    if (args->count != 1 || args->named || args->items[0].kind != SPI_J_STRING)
        return spi_jfail(j, "%s() expected one string", name);
    *out = args->items[0].string;
    return SP_OK;
}

/* find, rfind, index, rindex, count */
static sp_status search(spi_jinja *j, const spi_jval *s, const char *name, const spi_jargs *args,
                        spi_jval *out) {
    const spi_jstr *what = NULL;
    const spi_jstr *in = s->string;
    size_t at = 0, last = SIZE_MAX, found;
    int64_t count = 0;
    SPI_TRY(one_string(j, name, args, &what));
    SPI_TRY(spi_jwork(j, in->length));
    const bool first = !strcmp(name, "find") || !strcmp(name, "index");
    while ((found = spi_jfind(in->text, in->length, at, what->text, what->length)) != SIZE_MAX) {
        count++;
        last = found;
        if (first) break;
        at = found + (*name == 'c' && what->length ? what->length : 1);
        if (!what->length && found == in->length) break;
        while (at < in->length && ((unsigned char)in->text[at] & 0xC0) == 0x80) at++;
    }
    if (*name == 'c') {
        *out = spi_jint(count);
        return SP_OK;
    }
    if (!count && strstr(name, "index")) return spi_jfail(j, "substring not found");
    spi_jstr before = {in->text, count ? last : 0, SIZE_MAX};
    *out = spi_jint(count ? (int64_t)spi_jchars(&before) : -1);
    return SP_OK;
}

static sp_status join(spi_jinja *j, const spi_jval *s, const spi_jargs *args, spi_jval *out) {
    spi_jlist *items;
    spi_buf text = {0};
    if (args->count != 1 || args->named) return spi_jfail(j, "join() expected one argument");
    SPI_TRY(spi_jiterate(j, &args->items[0], &items));
    for (size_t i = 0; i < items->count; i++)
        if (items->items[i].kind != SPI_J_STRING)
            return spi_jfail(j, "sequence item %zu: expected str instance, %s found", i,
                             spi_jtype(&items->items[i]));
    for (size_t i = 0; i < items->count && text.length <= SPI_JINJA_TEXT; i++) {
        if (i) spi_buf_append(&text, s->string->text, s->string->length);
        spi_buf_append(&text, items->items[i].string->text, items->items[i].string->length);
    }
    return spi_jstring_take(j, &text, out);
}

static bool in_class(const char *name, int32_t c) {
    const utf8proc_category_t k = utf8proc_category(c);
    if (!strcmp(name, "isspace")) return spi_jspace(c);
    if (!strcmp(name, "isdigit") || !strcmp(name, "isdecimal")) return k == UTF8PROC_CATEGORY_ND;
    const bool letter = k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
    if (!strcmp(name, "isalpha")) return letter;
    return letter || spi_is_numeric(c);
}

/* isdigit, isalpha, isalnum, isspace; isupper, islower */
static sp_status classify(spi_jinja *j, const spi_jval *s, const char *name, spi_jval *out) {
    bool all = s->string->length > 0, cased = false;
    SPI_TRY(spi_jwork(j, 8 * s->string->length));
    for (size_t i = 0, size; i < s->string->length && all; i += size) {
        const int32_t c = spi_utf8_get(s->string->text + i, &size);
        const bool upper = utf8proc_tolower(c) != c, lower = utf8proc_toupper(c) != c;
        cased |= upper || lower;
        if (!strcmp(name, "isupper")) all = !lower;
        else if (!strcmp(name, "islower")) all = !upper;
        else all = in_class(name, c);
    }
    const bool about_case = !strcmp(name, "isupper") || !strcmp(name, "islower");
    *out = spi_jbool(all && (cased || !about_case));
    return SP_OK;
}

static sp_status remove_affix(spi_jinja *j, const spi_jval *s, const char *name, const spi_jargs *args,
                              spi_jval *out) {
    spi_jval has;
    const spi_jstr *what = NULL;
    const bool end = !strcmp(name, "removesuffix");
    SPI_TRY(one_string(j, name, args, &what));
    SPI_TRY(affix(j, s, args, end, &has));
    const size_t cut = has.truth ? what->length : 0;
    return keep(j, s, s->string->text + (end ? 0 : cut), s->string->length - cut, out);
}

/* partition, rpartition: before, separator, behind */
static sp_status partition(spi_jinja *j, const spi_jval *s, const char *name, const spi_jargs *args,
                           spi_jval *out) {
    const spi_jstr *by = NULL;
    const spi_jstr *in = s->string;
    size_t found = SIZE_MAX;
    SPI_TRY(one_string(j, name, args, &by));
    if (!by->length) return spi_jfail(j, "empty separator");
    for (size_t at = 0; (at = spi_jfind(in->text, in->length, at, by->text, by->length)) != SIZE_MAX; at++) {
        found = at;
        if (*name == 'p') break;
    }
    SPI_TRY(spi_jlist_new(j, SPI_J_TUPLE, 3, out));
    const bool none = found == SIZE_MAX, back = *name == 'r';
    const size_t a = none ? (back ? 0 : in->length) : found, b = none ? a : found + by->length;
    SPI_TRY(add_part(j, s, 0, a, out));
    SPI_TRY(add_part(j, s, a, b, out));
    return add_part(j, s, b, in->length, out);
}

static const char *const methods[] = {
    "strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "startswith", "endswith", "upper", "lower",
    "title", "capitalize", "swapcase", "casefold", "replace", "join", "find", "rfind", "index", "rindex",
    "count", "format", "isdigit", "isdecimal", "isnumeric", "isalpha", "isalnum", "isspace", "isupper",
    "islower", "removeprefix", "removesuffix", "partition", "rpartition",
    /* not there */
    "center", "encode", "expandtabs", "format_map", "isascii", "isidentifier", "isprintable", "istitle",
    "ljust", "maketrans", "rjust", "translate", "zfill", NULL};

const char *spi_jstring_method_name(const char *name) {
    for (const char *const *m = methods; *m; m++)
        if (strcmp(*m, name) == 0) return *m;
    return NULL;
}

static sp_status recase(spi_jinja *j, const spi_jval *s, const char *name, const spi_jargs *args,
                        spi_jval *out) {
    if (args->count || args->named) return spi_jfail(j, "%s() takes no arguments", name);
    return spi_jrecase(j, s,
                       *name == 'u'                  ? SPI_J_UPPER
                       : *name == 't'                ? SPI_J_TITLE
                       : *name == 's'                ? SPI_J_SWAP
                       : !strcmp(name, "capitalize") ? SPI_J_CAPITALIZE
                                                     : SPI_J_LOWER,
                       out);
}

static sp_status strip(spi_jinja *j, const spi_jval *s, const char *name, const spi_jargs *args,
                       spi_jval *out) {
    static const char *const names[] = {"chars", NULL};
    spi_jval chars;
    SPI_TRY(spi_jbind(j, name, args, names, &chars));
    if (chars.kind == SPI_J_UNDEFINED) return spi_jundefined(j, &chars);
    return spi_jstrip(j, s, &chars, *name == 'l' ? 1 : *name == 'r' ? 2 : 3, out);
}

static sp_status replace(spi_jinja *j, const spi_jval *s, const spi_jargs *args, spi_jval *out) {
    static const char *const names[] = {"old", "new", "count", NULL};
    spi_jval given[3];
    int64_t most;
    SPI_TRY(spi_jbind(j, "replace", args, names, given));
    SPI_TRY(spi_jarg_int(j, "replace", &given[2], -1, &most));
    return spi_jreplace(j, s, &given[0], &given[1], most, out);
}

sp_status spi_jstring_method(spi_jinja *j, const spi_jmethod *m, const spi_jargs *args, spi_jval *out) {
    const spi_jval *s = &m->receiver;
    const char *name = m->name;
    static const char *const cases[] = {"upper", "lower", "title", "capitalize", "swapcase", "casefold", NULL};
    for (const char *const *c = cases; *c; c++)
        if (!strcmp(*c, name)) return recase(j, s, name, args, out);
    if (strstr(name, "strip")) return strip(j, s, name, args, out);
    if (!strcmp(name, "splitlines")) return split_lines(j, s, args, out);
    if (strstr(name, "split")) return split(j, s, args, *name == 'r', out);
    if (strstr(name, "with")) return affix(j, s, args, *name == 'e', out);
    if (!strcmp(name, "replace")) return replace(j, s, args, out);
    if (!strcmp(name, "join")) return join(j, s, args, out);
    if (!strcmp(name, "format")) return spi_jformat(j, s, args, out);
    if (strstr(name, "find") || strstr(name, "index") || !strcmp(name, "count"))
        return search(j, s, name, args, out);
    if (!strncmp(name, "remove", 6)) return remove_affix(j, s, name, args, out);
    if (strstr(name, "partition")) return partition(j, s, name, args, out);
    static const char *const classes[] = {"isdigit", "isdecimal", "isnumeric", "isalpha", "isalnum",
                                          "isspace", "isupper",   "islower",   NULL};
    for (const char *const *c = classes; *c; c++)
        if (!strcmp(*c, name)) return classify(j, s, name, out);
    char what[64];
    snprintf(what, sizeof what, "the method '%s' of strings", name);
    return spi_jlacks(j, what);
}
