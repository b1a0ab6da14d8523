#include "text/jinja_value.h"

#include <math.h>
#include <string.h>

#include "text/jinja_eval.h"
#include "text/utf8.h"

/* ------------------------------------------------------------------ making values */

sp_status spi_jalloc(spi_jinja *j, size_t bytes, void **out) {
    *out = NULL;
    if (bytes > SPI_JINJA_MEMORY - j->memory) return spi_jlacks(j, "a template that needs more than 256 MiB");
    *out = spi_arena_alloc(&j->arena, bytes);
    if (!*out) return spi_jmemory(j, bytes);
    j->memory += bytes + 32;
    return SP_OK;
}

sp_status spi_jstring_at(spi_jinja *j, const char *text, size_t length, spi_jval *out) {
    void *place;
    SPI_TRY(spi_jalloc(j, sizeof(spi_jstr), &place));
    spi_jstr *s = place;
    *s = (spi_jstr){text, length, SIZE_MAX};
    *out = (spi_jval){.kind = SPI_J_STRING, .string = s};
    return SP_OK;
}

sp_status spi_jstring(spi_jinja *j, const char *text, size_t length, spi_jval *out) {
    void *copy;
    SPI_TRY(spi_jwork(j, length));
    SPI_TRY(spi_jalloc(j, length + 1, &copy));
    if (length) memcpy(copy, text, length);
    return spi_jstring_at(j, copy, length, out);
}

sp_status spi_jstring_take(spi_jinja *j, spi_buf *text, spi_jval *out) {
    const sp_status status = text->failed ? spi_jmemory(j, text->length)
                                          : spi_jstring(j, text->data ? text->data : "", text->length, out);
    spi_buf_free(text);
    return status;
}

sp_status spi_jlist_new(spi_jinja *j, spi_jkind kind, size_t capacity, spi_jval *out) {
    void *list, *items = NULL;
    SPI_TRY(spi_jalloc(j, sizeof(spi_jlist), &list));
    if (capacity > SPI_JINJA_MEMORY / sizeof(spi_jval))
        return spi_jlacks(j, "a template that needs more than 256 MiB");
    if (capacity) SPI_TRY(spi_jalloc(j, capacity * sizeof(spi_jval), &items));
    *out = (spi_jval){.kind = kind, .list = list};
    out->list->items = items;
    out->list->capacity = capacity;
    return SP_OK;
}

sp_status spi_jlist_add(spi_jinja *j, spi_jlist *list, spi_jval item) {
    if (list->count == list->capacity) {
        const size_t capacity = list->capacity ? 2 * list->capacity : 8;
        void *items;
        SPI_TRY(spi_jalloc(j, capacity * sizeof item, &items));
        if (list->count) memcpy(items, list->items, list->count * sizeof item);
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->count++] = item;
    return SP_OK;
}

sp_status spi_jdict_new(spi_jinja *j, spi_jval *out) {
    void *dict;
    SPI_TRY(spi_jalloc(j, sizeof(spi_jdict), &dict));
    *out = (spi_jval){.kind = SPI_J_DICT, .dict = dict};
    return SP_OK;
}

static sp_status dict_add(spi_jinja *j, spi_jdict *dict, spi_jval key, spi_jval value) {
    if (dict->count == dict->capacity) {
        const size_t capacity = dict->capacity ? 2 * dict->capacity : 8;
        void *pairs;
        SPI_TRY(spi_jalloc(j, capacity * sizeof(spi_jpair), &pairs));
        if (dict->count) memcpy(pairs, dict->pairs, dict->count * sizeof(spi_jpair));
        dict->pairs = pairs;
        dict->capacity = capacity;
    }
    dict->pairs[dict->count++] = (spi_jpair){key, value};
    return SP_OK;
}

static bool same_text(const spi_jstr *a, const spi_jstr *b) {
    return a->length == b->length && memcmp(a->text, b->text, a->length) == 0;
}

const spi_jval *spi_jdict_get(spi_jinja *j, const spi_jdict *dict, const spi_jval *key) {
    for (size_t i = 0; i < dict->count; i++) {
        const spi_jval *k = &dict->pairs[i].key;
        const bool strings = k->kind == SPI_J_STRING && key->kind == SPI_J_STRING;
        if (strings ? same_text(k->string, key->string) : spi_jequal(j, k, key)) return &dict->pairs[i].value;
    }
    return NULL;
}

const spi_jval *spi_jdict_find(const spi_jdict *dict, const char *name) {
    const size_t length = strlen(name);
    for (size_t i = 0; i < dict->count; i++) {
        const spi_jval *k = &dict->pairs[i].key;
        if (k->kind == SPI_J_STRING && k->string->length == length && !memcmp(k->string->text, name, length))
            return &dict->pairs[i].value;
    }
    return NULL;
}

/* Tuples of tuples of ... are followed so far. */
#define HASH_DEPTH 64

static bool hashable_at(const spi_jval *v, int depth) {
    if (v->kind == SPI_J_TUPLE)
        for (size_t i = 0; i < v->list->count; i++)
            if (depth > HASH_DEPTH || !hashable_at(&v->list->items[i], depth + 1)) return false;
    return v->kind != SPI_J_LIST && v->kind != SPI_J_DICT && v->kind != SPI_J_VIEW;
}

bool spi_jhashable(const spi_jval *v) {
    return hashable_at(v, 0);
}

sp_status spi_jdict_set(spi_jinja *j, spi_jdict *dict, spi_jval key, spi_jval value) {
    if (!spi_jhashable(&key)) return spi_jfail(j, "unhashable type: '%s'", spi_jtype(&key));
    SPI_TRY(spi_jwork(j, 8 * dict->count));
    const spi_jval *old = spi_jdict_get(j, dict, &key);
    if (!old) return dict_add(j, dict, key, value);
    dict->pairs[(const spi_jpair *)((const char *)old - offsetof(spi_jpair, value)) - dict->pairs].value =
        value;
    return SP_OK;
}

static sp_status from_object(spi_jinja *j, const json_t *json, spi_jval *out) {
    const char *key;
    json_t *member;
    SPI_TRY(spi_jdict_new(j, out));
    json_object_foreach((json_t *)json, key, member) {
        spi_jval name, value;
        SPI_TRY(spi_jstring_at(j, key, strlen(key), &name));
        SPI_TRY(spi_jval_from_json(j, member, &value));
        SPI_TRY(dict_add(j, out->dict, name, value));
    }
    return SP_OK;
}

static sp_status from_array(spi_jinja *j, const json_t *json, spi_jval *out) {
    SPI_TRY(spi_jlist_new(j, SPI_J_LIST, json_array_size(json), out));
    for (size_t i = 0; i < json_array_size(json); i++) {
        spi_jval item;
        SPI_TRY(spi_jval_from_json(j, json_array_get(json, i), &item));
        SPI_TRY(spi_jlist_add(j, out->list, item));
    }
    return SP_OK;
}

/* jansson itself bounds how deep JSON is nested. */
sp_status spi_jval_from_json(spi_jinja *j, const json_t *json, spi_jval *out) {
    switch (json_typeof(json)) {
    case JSON_OBJECT: return from_object(j, json, out);
    case JSON_ARRAY: return from_array(j, json, out);
    case JSON_STRING: return spi_jstring_at(j, json_string_value(json), json_string_length(json), out);
    case JSON_INTEGER: *out = spi_jint(json_integer_value(json)); return SP_OK;
    case JSON_REAL: *out = spi_jreal(json_real_value(json)); return SP_OK;
    case JSON_TRUE:
    case JSON_FALSE: *out = spi_jbool(json_is_true(json)); return SP_OK;
    case JSON_NULL: break;
    }
    *out = SPI_J_NULL;
    return SP_OK;
}

/* ------------------------------------------------------------------ what Python asks of values */

const char *spi_jtype(const spi_jval *v) {
    static const char *const names[] = {
        [SPI_J_MISSING] = "NoneType",
        [SPI_J_UNDEFINED] = "Undefined",
        [SPI_J_NONE] = "NoneType",
        [SPI_J_BOOL] = "bool",
        [SPI_J_INT] = "int",
        [SPI_J_FLOAT] = "float",
        [SPI_J_STRING] = "str",
        [SPI_J_LIST] = "list",
        [SPI_J_TUPLE] = "tuple",
        [SPI_J_DICT] = "dict",
        [SPI_J_RANGE] = "range",
        [SPI_J_ITERATOR] = "generator",
        [SPI_J_NAMESPACE] = "TemplateNamespace",
        [SPI_J_LOOP] = "LoopContext",
        [SPI_J_MACRO] = "Macro",
        [SPI_J_FUNCTION] = "function",
        [SPI_J_METHOD] = "builtin_function_or_method",
        [SPI_J_CYCLER] = "Cycler",
        [SPI_J_JOINER] = "Joiner",
    };
    if (v->kind == SPI_J_VIEW) return v->list->name;
    return v->kind == SPI_J_STRING && v->markup ? "Markup" : names[v->kind];
}

size_t spi_jchars(spi_jstr *s) {
    if (s->chars != SIZE_MAX) return s->chars;
    size_t n = 0;
    for (size_t i = 0; i < s->length; i++) n += ((unsigned char)s->text[i] & 0xC0) != 0x80;
    s->chars = n;
    return n;
}

bool spi_jtruth(spi_jinja *j, const spi_jval *v) {
    (void)j;
    switch (v->kind) {
    case SPI_J_MISSING:
    case SPI_J_UNDEFINED:
    case SPI_J_NONE: return false;
    case SPI_J_BOOL: return v->truth;
    case SPI_J_INT: return v->integer != 0;
    case SPI_J_FLOAT: return v->real != 0;
    case SPI_J_STRING: return v->string->length > 0;
    case SPI_J_LIST:
    case SPI_J_TUPLE:
    case SPI_J_VIEW:
    case SPI_J_RANGE: return v->list->count > 0;
    case SPI_J_DICT: return v->dict->count > 0;
    default: return true;
    }
}

bool spi_jis_number(const spi_jval *v) {
    return v->kind == SPI_J_INT || v->kind == SPI_J_FLOAT || v->kind == SPI_J_BOOL;
}

bool spi_jas_int(const spi_jval *v, int64_t *out) {
    if (v->kind == SPI_J_BOOL) *out = v->truth;
    else if (v->kind == SPI_J_INT) *out = v->integer;
    else return false;
    return true;
}

double spi_jas_real(const spi_jval *v) {
    return v->kind == SPI_J_FLOAT ? v->real : v->kind == SPI_J_BOOL ? (double)v->truth : (double)v->integer;
}

static bool equal_dicts(spi_jinja *j, const spi_jdict *a, const spi_jdict *b) {
    if (a->count != b->count) return false;
    for (size_t i = 0; i < a->count; i++) {
        const spi_jval *other = spi_jdict_get(j, b, &a->pairs[i].key);
        if (!other || !spi_jequal(j, &a->pairs[i].value, other)) return false;
    }
    return true;
}

static bool equal_lists(spi_jinja *j, const spi_jlist *a, const spi_jlist *b) {
    if (a->count != b->count) return false;
    for (size_t i = 0; i < a->count; i++)
        if (!spi_jequal(j, &a->items[i], &b->items[i])) return false;
    return true;
}

static bool equal_values(spi_jinja *j, const spi_jval *a, const spi_jval *b) {
    switch (a->kind) {
    case SPI_J_STRING: return same_text(a->string, b->string);
    case SPI_J_LIST:
    case SPI_J_TUPLE:
    case SPI_J_VIEW:
    case SPI_J_RANGE: return equal_lists(j, a->list, b->list);
    case SPI_J_DICT: return equal_dicts(j, a->dict, b->dict);
    case SPI_J_NONE:
    case SPI_J_UNDEFINED: return true;
    default: return a->list == b->list;
    }
}

/* Where values are too deep or too many the steps are used up: the next piece of work fails. */
bool spi_jequal(spi_jinja *j, const spi_jval *a, const spi_jval *b) {
    int64_t x, y;
    if (spi_jis_number(a) && spi_jis_number(b))
        return spi_jas_int(a, &x) && spi_jas_int(b, &y) ? x == y : spi_jas_real(a) == spi_jas_real(b);
    if (a->kind != b->kind) return false;
    if (j->steps >= SPI_JINJA_STEPS) return false;
    j->steps++;
    if (j->depth >= SPI_JINJA_DEPTH) j->steps = SPI_JINJA_STEPS;
    j->depth++;
    const bool equal = j->steps < SPI_JINJA_STEPS && equal_values(j, a, b);
    j->depth--;
    return equal;
}

static int order_texts(const spi_jstr *a, const spi_jstr *b) {
    const int order = memcmp(a->text, b->text, a->length < b->length ? a->length : b->length);
    return order ? order : (a->length > b->length) - (a->length < b->length);
}

sp_status spi_jcompare(spi_jinja *j, const spi_jval *a, const spi_jval *b, int *order) {
    int64_t x, y;
    if (spi_jas_int(a, &x) && spi_jas_int(b, &y)) {
        *order = (x > y) - (x < y);
        return SP_OK;
    }
    if (spi_jis_number(a) && spi_jis_number(b)) {
        *order = (spi_jas_real(a) > spi_jas_real(b)) - (spi_jas_real(a) < spi_jas_real(b));
        return SP_OK;
    }
    if (a->kind == SPI_J_STRING && b->kind == SPI_J_STRING) {
        *order = order_texts(a->string, b->string);
        return SP_OK;
    }
    if (a->kind == SPI_J_UNDEFINED) return spi_jundefined(j, a);
    if (b->kind == SPI_J_UNDEFINED) return spi_jundefined(j, b);
    if (a->kind != b->kind || (a->kind != SPI_J_LIST && a->kind != SPI_J_TUPLE))
        return spi_jfail(j, "'<' not supported between instances of '%s' and '%s'", spi_jtype(a), spi_jtype(b));
    SPI_TRY(spi_jwork(j, 8 * a->list->count));
    if (++j->depth > SPI_JINJA_DEPTH) return spi_jlacks(j, "a value that is nested so deeply");
    for (size_t i = 0; i < a->list->count && i < b->list->count; i++)
        if (!spi_jequal(j, &a->list->items[i], &b->list->items[i]))
            return spi_jcompare(j, &a->list->items[i], &b->list->items[i], order);
    j->depth--;
    *order = (a->list->count > b->list->count) - (a->list->count < b->list->count);
    return SP_OK;
}

sp_status spi_jlength(spi_jinja *j, const spi_jval *v, size_t *out) {
    switch (v->kind) {
    case SPI_J_UNDEFINED: *out = 0; return SP_OK;
    case SPI_J_STRING:
        SPI_TRY(spi_jwork(j, v->string->chars == SIZE_MAX ? v->string->length : 0));
        *out = spi_jchars(v->string);
        return SP_OK;
    case SPI_J_LIST:
    case SPI_J_TUPLE:
    case SPI_J_VIEW:
    case SPI_J_RANGE: *out = v->list->count; return SP_OK;
    case SPI_J_DICT: *out = v->dict->count; return SP_OK;
    default: return spi_jfail(j, "object of type '%s' has no len()", spi_jtype(v));
    }
}

static sp_status characters(spi_jinja *j, const spi_jstr *s, spi_jlist *out) {
    for (size_t i = 0, size; i < s->length; i += size) {
        spi_jval one;
        spi_utf8_get(s->text + i, &size);
        SPI_TRY(spi_jstring(j, s->text + i, size, &one));
        SPI_TRY(spi_jlist_add(j, out, one));
    }
    return SP_OK;
}

sp_status spi_jiterate(spi_jinja *j, const spi_jval *v, spi_jlist **out) {
    spi_jval all;
    if (spi_jlisted(v) && v->kind != SPI_J_ITERATOR) {
        *out = v->list;
        return SP_OK;
    }
    SPI_TRY(spi_jlist_new(j, SPI_J_LIST, 0, &all));
    *out = all.list;
    if (v->kind == SPI_J_ITERATOR && v->list->at == v->list->count) return SP_OK;
    if (v->kind == SPI_J_ITERATOR) {
        all.list->items = v->list->items + v->list->at;
        all.list->count = all.list->capacity = v->list->count - v->list->at;
        v->list->at = v->list->count;
    } else if (v->kind == SPI_J_STRING) {
        SPI_TRY(characters(j, v->string, all.list));
    } else if (v->kind == SPI_J_DICT) {
        for (size_t i = 0; i < v->dict->count; i++) SPI_TRY(spi_jlist_add(j, all.list, v->dict->pairs[i].key));
    } else if (v->kind != SPI_J_UNDEFINED) {
        return spi_jfail(j, "'%s' object is not iterable", spi_jtype(v));
    }
    return SP_OK;
}

sp_status spi_jcontains(spi_jinja *j, const spi_jval *container, const spi_jval *item, bool *out) {
    spi_jlist *list;
    if (container->kind == SPI_J_STRING) {
        if (item->kind != SPI_J_STRING)
            return spi_jfail(j, "'in <string>' requires string as left operand, not %s", spi_jtype(item));
        SPI_TRY(spi_jwork(j, container->string->length));
        *out = spi_jfind(container->string->text, container->string->length, 0, item->string->text,
                         item->string->length) != SIZE_MAX;
        return SP_OK;
    }
    if (container->kind == SPI_J_DICT) {
        if (!spi_jhashable(item)) return spi_jfail(j, "unhashable type: '%s'", spi_jtype(item));
        SPI_TRY(spi_jwork(j, 8 * container->dict->count));
        *out = spi_jdict_get(j, container->dict, item) != NULL;
        return SP_OK;
    }
    if (container->kind != SPI_J_UNDEFINED && !spi_jlisted(container))
        return spi_jfail(j, "argument of type '%s' is not iterable", spi_jtype(container));
    SPI_TRY(spi_jiterate(j, container, &list));
    *out = false;
    for (size_t i = 0; i < list->count && !*out; i++) *out = spi_jequal(j, &list->items[i], item);
    return spi_jwork(j, 8 * list->count);
}
