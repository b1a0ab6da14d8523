/* Calls: arguments and their names, the global functions, methods of lists and dictionaries. */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "text/jinja_eval.h"

/* ------------------------------------------------------------------ arguments */

sp_status spi_jbind(spi_jinja *j, const char *function, const spi_jargs *args, const char *const *names,
                    spi_jval *out) {
    size_t count = 0;
    for (; names[count]; count++) out[count] = count < args->count ? args->items[count] : (spi_jval){0};
    if (args->count > count)
        return spi_jfail(j, "%s() takes at most %zu arguments (%zu given)", function, count, args->count);
    for (size_t i = 0; i < args->named; i++) {
        size_t at = 0;
        while (at < count && strcmp(names[at], args->names[i]) != 0) at++;
        if (at == count)
            return spi_jfail(j, "%s() got an unexpected keyword argument '%s'", function, args->names[i]);
        if (spi_jgiven(&out[at]))
            return spi_jfail(j, "%s() got multiple values for argument '%s'", function, args->names[i]);
        out[at] = args->values[i];
    }
    return SP_OK;
}

sp_status spi_jarg_int(spi_jinja *j, const char *function, const spi_jval *v, int64_t fallback, int64_t *out) {
    *out = fallback;
    if (!spi_jgiven(v) || spi_jas_int(v, out)) return SP_OK;
    return spi_jfail(j, "%s() expected an integer, found '%s'", function, spi_jtype(v));
}

/* ------------------------------------------------------------------ global functions */

#define RANGE_LIMIT 100000 /* jinja2.sandbox.MAX_RANGE */

static sp_status call_range(spi_jinja *j, const spi_jargs *args, spi_jval *out) {
    int64_t n[3] = {0, 0, 1};
    if (!args->count || args->count > 3 || args->named)
        return spi_jfail(j, "range expected 1 to 3 arguments, got %zu", args->count);
    for (size_t i = 0; i < args->count; i++)
        SPI_TRY(spi_jarg_int(j, "range", &args->items[i], 0, &n[args->count == 1 ? 1 : i]));
    if (n[2] == 0) return spi_jfail(j, "range() arg 3 must not be zero");
    SPI_TRY(spi_jlist_new(j, SPI_J_RANGE, 0, out));
    for (int64_t i = n[0]; n[2] > 0 ? i < n[1] : i > n[1];) {
        if (out->list->count == RANGE_LIMIT)
            return spi_jfail(j, "Range too big. The sandbox blocks ranges larger than MAX_RANGE (%d).",
                             RANGE_LIMIT);
        SPI_TRY(spi_jwork(j, 16));
        SPI_TRY(spi_jlist_add(j, out->list, spi_jint(i)));
        if (__builtin_add_overflow(i, n[2], &i)) break;
    }
    return SP_OK;
}

static sp_status add_pair(spi_jinja *j, spi_jdict *dict, const spi_jval *pair) {
    spi_jlist *parts;
    SPI_TRY(spi_jiterate(j, pair, &parts));
    if (parts->count != 2)
        return spi_jfail(j, "dictionary update sequence element has length %zu; 2 is required", parts->count);
    return spi_jdict_set(j, dict, parts->items[0], parts->items[1]);
}

/* dict(mapping or pairs, **more) */
static sp_status call_dict(spi_jinja *j, const spi_jargs *args, spi_jval *out) {
    spi_jlist *pairs;
    SPI_TRY(spi_jdict_new(j, out));
    if (args->count > 1) return spi_jfail(j, "dict expected at most 1 argument, got %zu", args->count);
    const spi_jval *from = args->items;
    if (args->count && from->kind == SPI_J_DICT) {
        for (size_t i = 0; i < from->dict->count; i++)
            SPI_TRY(spi_jdict_set(j, out->dict, from->dict->pairs[i].key, from->dict->pairs[i].value));
    } else if (args->count) {
        SPI_TRY(spi_jiterate(j, from, &pairs));
        for (size_t i = 0; i < pairs->count; i++) SPI_TRY(add_pair(j, out->dict, &pairs->items[i]));
    }
    for (size_t i = 0; i < args->named; i++) {
        spi_jval key;
        SPI_TRY(spi_jstring_at(j, args->names[i], strlen(args->names[i]), &key));
        SPI_TRY(spi_jdict_set(j, out->dict, key, args->values[i]));
    }
    return SP_OK;
}

static sp_status call_namespace(spi_jinja *j, const spi_jargs *args, spi_jval *out) {
    SPI_TRY(call_dict(j, args, out));
    out->kind = SPI_J_NAMESPACE;
    for (size_t i = 0; i < out->dict->count; i++) {
        const spi_jval *key = &out->dict->pairs[i].key;
        if (key->kind == SPI_J_STRING && key->string->text[0] == '_')
            return spi_jfail(j, "'%s' cannot be stored on a namespace", key->string->text);
    }
    return SP_OK;
}

static sp_status call_cycler(spi_jinja *j, const spi_jargs *args, spi_jval *out) {
    if (!args->count || args->named) return spi_jfail(j, "at least one item has to be provided");
    SPI_TRY(spi_jlist_new(j, SPI_J_CYCLER, args->count, out));
    for (size_t i = 0; i < args->count; i++) SPI_TRY(spi_jlist_add(j, out->list, args->items[i]));
    return SP_OK;
}

static sp_status call_joiner(spi_jinja *j, const spi_jargs *args, spi_jval *out) {
    static const char *const names[] = {"sep", NULL};
    spi_jval separator;
    SPI_TRY(spi_jbind(j, "joiner", args, names, &separator));
    if (!spi_jgiven(&separator)) SPI_TRY(spi_jstring_at(j, ", ", 2, &separator));
    SPI_TRY(spi_jlist_new(j, SPI_J_JOINER, 1, out));
    return spi_jlist_add(j, out->list, separator);
}

static sp_status call_raise(spi_jinja *j, const spi_jargs *args, spi_jval *out) {
    static const char *const names[] = {"message", NULL};
    spi_jval message;
    SPI_TRY(spi_jbind(j, "raise_exception", args, names, &message));
    if (!spi_jgiven(&message)) return spi_jfail(j, "raise_exception() expected a message");
    SPI_TRY(spi_jtext(j, &message, out));
    return spi_jfail(j, "%s", out->string->text);
}

static sp_status call_now(spi_jinja *j, const spi_jargs *args, spi_jval *out) {
    static const char *const names[] = {"format", NULL};
    spi_jval format;
    char text[512];
    struct tm when;
    const time_t now = (time_t)j->now;
    SPI_TRY(spi_jbind(j, "strftime_now", args, names, &format));
    if (format.kind != SPI_J_STRING)
        return spi_jfail(j, "strftime_now() expected a string, found '%s'", spi_jtype(&format));
    if (!localtime_r(&now, &when)) return spi_jfail(j, "strftime_now() cannot tell the time");
    if (format.string->length > 100) return spi_jlacks(j, "a date format of more than 100 bytes");
    const size_t length = strftime(text, sizeof text, format.string->text, &when);
    return spi_jstring(j, text, length, out);
}

typedef struct global {
    const char *name;
    sp_status (*call)(spi_jinja *j, const spi_jargs *args, spi_jval *out);
} global;

static const global globals[] = {
    {"range", call_range},      {"dict", call_dict},     {"namespace", call_namespace},
    {"cycler", call_cycler},    {"joiner", call_joiner}, {"raise_exception", call_raise},
    {"strftime_now", call_now},
};

int spi_jglobal(const char *name) {
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++)
        if (strcmp(globals[i].name, name) == 0) return (int)i;
    return -1;
}

sp_status spi_jglobal_call(spi_jinja *j, int function, const spi_jargs *args, spi_jval *out) {
    return globals[function].call(j, args, out);
}

/* ------------------------------------------------------------------ methods of lists and dictionaries */

static const char *among(const char *const *names, const char *name) {
    for (; *names; names++)
        if (strcmp(*names, name) == 0) return *names;
    return NULL;
}

/* Those of the second half change their object: the sandbox lets nobody call them. */
static const char *const dict_methods[] = {"get", "items",   "keys",       "values", "copy",     "clear",
                                           "pop", "popitem", "setdefault", "update", "fromkeys", NULL};
static const char *const list_methods[] = {"index",  "count", "copy",   "append",  "clear", "extend",
                                           "insert", "pop",   "remove", "reverse", "sort",  NULL};
static const char *const cycler_methods[] = {"next", "reset", NULL};

const char *spi_jmethod_name(const spi_jval *v, const char *name) {
    switch (v->kind) {
    case SPI_J_STRING: return spi_jstring_method_name(name);
    case SPI_J_DICT: return among(dict_methods, name);
    case SPI_J_LIST: return among(list_methods, name);
    case SPI_J_TUPLE: return !strcmp(name, "index") ? "index" : !strcmp(name, "count") ? "count" : NULL;
    case SPI_J_CYCLER: return among(cycler_methods, name);
    default: return NULL;
    }
}

static sp_status dict_view(spi_jinja *j, const spi_jdict *dict, const char *name, spi_jval *out) {
    SPI_TRY(spi_jwork(j, 16 * dict->count));
    SPI_TRY(spi_jlist_new(j, SPI_J_VIEW, dict->count, out));
    out->list->name = *name == 'k' ? "dict_keys" : *name == 'v' ? "dict_values" : "dict_items";
    for (size_t i = 0; i < dict->count; i++) {
        spi_jval item = *name == 'k' ? dict->pairs[i].key : dict->pairs[i].value;
        if (*name == 'i') {
            SPI_TRY(spi_jlist_new(j, SPI_J_TUPLE, 2, &item));
            SPI_TRY(spi_jlist_add(j, item.list, dict->pairs[i].key));
            SPI_TRY(spi_jlist_add(j, item.list, dict->pairs[i].value));
        }
        SPI_TRY(spi_jlist_add(j, out->list, item));
    }
    return SP_OK;
}

static sp_status dict_method(spi_jinja *j, const spi_jmethod *m, const spi_jargs *args, spi_jval *out) {
    static const char *const none[] = {NULL};
    static const char *const get[] = {"key", "default", NULL};
    const spi_jdict *dict = m->receiver.dict;
    spi_jval given[2];
    if (strcmp(m->name, "get") != 0) {
        SPI_TRY(spi_jbind(j, m->name, args, none, given));
        if (strcmp(m->name, "copy") != 0) return dict_view(j, dict, m->name, out);
        *out = m->receiver; /* nobody can change either */
        return SP_OK;
    }
    SPI_TRY(spi_jbind(j, "get", args, get, given));
    if (!spi_jgiven(&given[0])) return spi_jfail(j, "get expected at least 1 argument, got 0");
    SPI_TRY(spi_jwork(j, 4 * dict->count));
    const spi_jval *found = spi_jdict_get(j, dict, &given[0]);
    *out = found ? *found : spi_jgiven(&given[1]) ? given[1] : SPI_J_NULL;
    return SP_OK;
}

static sp_status list_method(spi_jinja *j, const spi_jmethod *m, const spi_jargs *args, spi_jval *out) {
    const spi_jlist *list = m->receiver.list;
    if (!strcmp(m->name, "copy")) {
        *out = m->receiver;
        return SP_OK;
    }
    if (args->count != 1 || args->named) return spi_jfail(j, "%s() expected one argument", m->name);
    int64_t count = 0;
    SPI_TRY(spi_jwork(j, 8 * list->count));
    for (size_t i = 0; i < list->count; i++) {
        if (!spi_jequal(j, &list->items[i], &args->items[0])) continue;
        count++;
        if (*m->name == 'c') continue;
        *out = spi_jint((int64_t)i);
        return SP_OK;
    }
    *out = spi_jint(count);
    return *m->name == 'c' ? SP_OK : spi_jfail(j, "the value is not in the %s", spi_jtype(&m->receiver));
}

static bool changes_object(const spi_jmethod *m) {
    static const char *const safe[] = {"get", "items", "keys", "values", "copy", "index", "count", NULL};
    return !among(safe, m->name);
}

sp_status spi_jmethod_call(spi_jinja *j, const spi_jmethod *m, const spi_jargs *args, spi_jval *out) {
    const spi_jval *v = &m->receiver;
    if (v->kind == SPI_J_STRING) return spi_jstring_method(j, m, args, out);
    if (v->kind == SPI_J_LOOP) return spi_jloop_call(j, v->loop, m->name, args, out);
    if (v->kind == SPI_J_CYCLER) {
        const size_t at = v->list->at;
        v->list->at = *m->name == 'n' ? (at + 1) % v->list->count : 0;
        *out = *m->name == 'n' ? v->list->items[at] : SPI_J_NULL;
        return SP_OK;
    }
    if (changes_object(m))
        return spi_jfail(j, "access to attribute '%s' of '%s' object is unsafe.", m->name, spi_jtype(v));
    return v->kind == SPI_J_DICT ? dict_method(j, m, args, out) : list_method(j, m, args, out);
}
