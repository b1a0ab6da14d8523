/* Filters of sequences and dictionaries. */
#include <stdlib.h>
#include <string.h>

#include "text/jinja_eval.h"

#define FILTER(name) \
    static sp_status filter_##name(spi_jinja *j, const spi_jval *v, const spi_jargs *args, spi_jval *out)

static sp_status no_arguments(spi_jinja *j, const char *name, const spi_jargs *args) {
    return args->count || args->named ? spi_jfail(j, "the filter '%s' takes no arguments", name) : SP_OK;
}

/* A copy of a list that its reader may use up or change. */
static sp_status copy_list(spi_jinja *j, const spi_jlist *from, spi_jkind kind, spi_jval *out) {
    SPI_TRY(spi_jwork(j, 16 * from->count));
    SPI_TRY(spi_jlist_new(j, kind, from->count, out));
    if (from->count) memcpy(out->list->items, from->items, from->count * sizeof *from->items);
    out->list->count = from->count;
    return SP_OK;
}

/* ------------------------------------------------------------------ attributes of items */

/* The part of a dotted attribute at *p, which moves behind it: a name, or a number. */
static sp_status attribute_part(spi_jinja *j, const char **p, spi_jval *out) {
    const size_t length = strcspn(*p, ".");
    const bool digits = length && strspn(*p, "0123456789") >= length;
    SPI_TRY(spi_jstring(j, *p, length, out));
    if (digits) *out = spi_jint(strtoll(out->string->text, NULL, 10));
    *p += length + ((*p)[length] == '.');
    return SP_OK;
}

/* item.attribute, where `attribute` may be dotted, or a number; NULL or None: the item itself. */
static sp_status attribute_of(spi_jinja *j, const spi_jval *item, const spi_jval *attribute,
                              const spi_jval *fallback, spi_jval *out) {
    *out = *item;
    if (!attribute || spi_jnone(attribute)) return SP_OK;
    if (attribute->kind != SPI_J_STRING) return spi_jinja_item(j, item, attribute, out);
    for (const char *p = attribute->string->text; *p;) {
        const spi_jval from = *out;
        spi_jval key;
        SPI_TRY(attribute_part(j, &p, &key));
        SPI_TRY(spi_jinja_item(j, &from, &key, out));
        if (out->kind == SPI_J_UNDEFINED && fallback && spi_jgiven(fallback)) *out = *fallback;
    }
    return SP_OK;
}

static sp_status fold_case(spi_jinja *j, bool case_sensitive, spi_jval *v) {
    const spi_jval given = *v;
    return !case_sensitive && v->kind == SPI_J_STRING ? spi_jrecase(j, &given, SPI_J_LOWER, v) : SP_OK;
}

/* ------------------------------------------------------------------ taking parts */

FILTER(length) {
    size_t n;
    SPI_TRY(no_arguments(j, "length", args));
    SPI_TRY(spi_jlength(j, v, &n));
    *out = spi_jint((int64_t)n);
    return SP_OK;
}

FILTER(list) {
    spi_jlist *items;
    SPI_TRY(no_arguments(j, "list", args));
    SPI_TRY(spi_jiterate(j, v, &items));
    return copy_list(j, items, SPI_J_LIST, out);
}

FILTER(first) {
    spi_jlist *items;
    SPI_TRY(no_arguments(j, "first", args));
    if (v->kind == SPI_J_ITERATOR && v->list->at < v->list->count) {
        *out = v->list->items[v->list->at++];
        return SP_OK;
    }
    SPI_TRY(spi_jiterate(j, v, &items));
    if (!items->count) return spi_jmake_undefined(j, out, "No first item, sequence was empty.");
    *out = items->items[0];
    return SP_OK;
}

FILTER(last) {
    spi_jlist *items;
    SPI_TRY(no_arguments(j, "last", args));
    if (v->kind == SPI_J_ITERATOR) return spi_jfail(j, "'generator' object is not reversible");
    SPI_TRY(spi_jiterate(j, v, &items));
    if (!items->count) return spi_jmake_undefined(j, out, "No last item, sequence was empty.");
    *out = items->items[items->count - 1];
    return SP_OK;
}

FILTER(reverse) {
    spi_jlist *items;
    SPI_TRY(no_arguments(j, "reverse", args));
    const spi_jval backwards[3] = {SPI_J_NULL, SPI_J_NULL, spi_jint(-1)};
    if (v->kind == SPI_J_STRING) return spi_jslice(j, v, backwards, out);
    SPI_TRY(spi_jiterate(j, v, &items));
    SPI_TRY(copy_list(j, items, v->kind == SPI_J_ITERATOR ? SPI_J_LIST : SPI_J_ITERATOR, out));
    for (size_t i = 0; i < items->count; i++) out->list->items[i] = items->items[items->count - 1 - i];
    return SP_OK;
}

FILTER(join) {
    static const char *const names[] = {"d", "attribute", NULL};
    spi_jval given[2], separator;
    spi_jlist *items;
    spi_buf text = {0};
    sp_status status = SP_OK;
    SPI_TRY(spi_jbind(j, "join", args, names, given));
    if (spi_jgiven(&given[0])) SPI_TRY(spi_jtext(j, &given[0], &separator));
    else SPI_TRY(spi_jstring_at(j, "", 0, &separator));
    SPI_TRY(spi_jiterate(j, v, &items));
    for (size_t i = 0; i < items->count && status == SP_OK; i++) {
        spi_jval item;
        if (i) status = spi_jprint(j, &text, &separator);
        if (status == SP_OK) status = attribute_of(j, &items->items[i], &given[1], NULL, &item);
        if (status == SP_OK) status = spi_jprint(j, &text, &item);
    }
    if (status == SP_OK) return spi_jstring_take(j, &text, out);
    spi_buf_free(&text);
    return status;
}

FILTER(batch) {
    static const char *const names[] = {"linecount", "fill_with", NULL};
    spi_jval given[2], row = {0};
    spi_jlist *items;
    int64_t size;
    SPI_TRY(spi_jbind(j, "batch", args, names, given));
    SPI_TRY(spi_jarg_int(j, "batch", &given[0], 0, &size));
    if (size < 1) return spi_jfail(j, "the filter 'batch' expected a number above 0");
    SPI_TRY(spi_jiterate(j, v, &items));
    SPI_TRY(spi_jlist_new(j, SPI_J_ITERATOR, 0, out));
    for (size_t i = 0; i < items->count; i++) {
        if (i % (size_t)size == 0) {
            SPI_TRY(spi_jlist_new(j, SPI_J_LIST, 0, &row));
            SPI_TRY(spi_jlist_add(j, out->list, row));
        }
        SPI_TRY(spi_jlist_add(j, row.list, items->items[i]));
    }
    while (items->count && !spi_jnone(&given[1]) && row.list->count < (size_t)size)
        SPI_TRY(spi_jlist_add(j, row.list, given[1]));
    return SP_OK;
}

/* ------------------------------------------------------------------ order */

typedef struct sorting {
    spi_jinja *j;
    sp_status status;
    bool reverse;
} sorting;

typedef struct keyed {
    spi_jval key, value;
    size_t place;
} keyed;

static int order_keys(const void *a, const void *b, void *user) {
    const keyed *x = a, *y = b;
    sorting *s = user;
    int order = 0;
    if (s->status == SP_OK) s->status = spi_jwork(s->j, 16);
    if (s->status == SP_OK) s->status = spi_jcompare(s->j, &x->key, &y->key, &order);
    if (s->reverse) order = -order;
    return order ? order : (x->place > y->place) - (x->place < y->place);
}

/* Sorts values by their keys; equal ones stay in their order, also where it is reversed. */
static sp_status sort_values(spi_jinja *j, keyed *items, size_t count, bool reverse, spi_jval *out) {
    sorting s = {j, SP_OK, reverse};
    for (size_t i = 0; i < count; i++) items[i].place = i;
    if (count) qsort_r(items, count, sizeof *items, order_keys, &s);
    SPI_TRY(s.status);
    SPI_TRY(spi_jlist_new(j, SPI_J_LIST, count, out));
    for (size_t i = 0; i < count; i++) SPI_TRY(spi_jlist_add(j, out->list, items[i].value));
    return SP_OK;
}

static sp_status new_keyed(spi_jinja *j, size_t count, keyed **out) {
    void *place = NULL;
    *out = NULL;
    if (count) SPI_TRY(spi_jalloc(j, count * sizeof **out, &place));
    *out = place;
    return SP_OK;
}

/* The key of an item for "a,b": a tuple of both attributes. */
static sp_status sort_key(spi_jinja *j, const spi_jval *item, const spi_jval *attribute, bool case_sensitive,
                          spi_jval *out) {
    const char *p = attribute->kind == SPI_J_STRING ? attribute->string->text : "";
    if (!strchr(p, ',')) {
        SPI_TRY(attribute_of(j, item, attribute, NULL, out));
        return fold_case(j, case_sensitive, out);
    }
    SPI_TRY(spi_jlist_new(j, SPI_J_LIST, 0, out));
    while (*p) {
        const size_t length = strcspn(p, ",");
        spi_jval name, value;
        SPI_TRY(spi_jstring(j, p, length, &name));
        SPI_TRY(attribute_of(j, item, &name, NULL, &value));
        SPI_TRY(fold_case(j, case_sensitive, &value));
        SPI_TRY(spi_jlist_add(j, out->list, value));
        p += length + (p[length] == ',');
    }
    return SP_OK;
}

FILTER(sort) {
    static const char *const names[] = {"reverse", "case_sensitive", "attribute", NULL};
    spi_jval given[3];
    spi_jlist *items;
    keyed *keys;
    SPI_TRY(spi_jbind(j, "sort", args, names, given));
    SPI_TRY(spi_jiterate(j, v, &items));
    SPI_TRY(new_keyed(j, items->count, &keys));
    for (size_t i = 0; i < items->count; i++) {
        keys[i].value = items->items[i];
        SPI_TRY(sort_key(j, &items->items[i], &given[2], spi_jtruth(j, &given[1]), &keys[i].key));
    }
    return sort_values(j, keys, items->count, spi_jtruth(j, &given[0]), out);
}

static sp_status pair_of(spi_jinja *j, const spi_jpair *pair, spi_jval *out) {
    SPI_TRY(spi_jlist_new(j, SPI_J_TUPLE, 2, out));
    SPI_TRY(spi_jlist_add(j, out->list, pair->key));
    return spi_jlist_add(j, out->list, pair->value);
}

FILTER(dictsort) {
    static const char *const names[] = {"case_sensitive", "by", "reverse", NULL};
    spi_jval given[3];
    keyed *keys;
    SPI_TRY(spi_jbind(j, "dictsort", args, names, given));
    if (v->kind == SPI_J_UNDEFINED) return spi_jundefined(j, v);
    if (v->kind != SPI_J_DICT) return spi_jfail(j, "'%s object' has no attribute 'items'", spi_jtype(v));
    const char *by = given[1].kind == SPI_J_STRING ? given[1].string->text : "key";
    if (strcmp(by, "key") != 0 && strcmp(by, "value") != 0)
        return spi_jfail(j, "You can only sort by either \"key\" or \"value\"");
    SPI_TRY(new_keyed(j, v->dict->count, &keys));
    for (size_t i = 0; i < v->dict->count; i++) {
        const spi_jpair *pair = &v->dict->pairs[i];
        SPI_TRY(pair_of(j, pair, &keys[i].value));
        keys[i].key = *by == 'k' ? pair->key : pair->value;
        SPI_TRY(fold_case(j, spi_jtruth(j, &given[0]), &keys[i].key));
    }
    return sort_values(j, keys, v->dict->count, spi_jtruth(j, &given[2]), out);
}

FILTER(items) {
    SPI_TRY(no_arguments(j, "items", args));
    if (v->kind != SPI_J_UNDEFINED && v->kind != SPI_J_DICT)
        return spi_jfail(j, "Can only get item pairs from a mapping.");
    SPI_TRY(spi_jlist_new(j, SPI_J_ITERATOR, 0, out));
    for (size_t i = 0; v->kind == SPI_J_DICT && i < v->dict->count; i++) {
        spi_jval pair;
        SPI_TRY(pair_of(j, &v->dict->pairs[i], &pair));
        SPI_TRY(spi_jlist_add(j, out->list, pair));
    }
    return SP_OK;
}

FILTER(unique) {
    static const char *const names[] = {"case_sensitive", "attribute", NULL};
    spi_jval given[2], seen, key;
    spi_jlist *items;
    bool known;
    SPI_TRY(spi_jbind(j, "unique", args, names, given));
    SPI_TRY(spi_jiterate(j, v, &items));
    SPI_TRY(spi_jlist_new(j, SPI_J_LIST, 0, &seen));
    SPI_TRY(spi_jlist_new(j, SPI_J_ITERATOR, 0, out));
    for (size_t i = 0; i < items->count; i++) {
        SPI_TRY(attribute_of(j, &items->items[i], &given[1], NULL, &key));
        SPI_TRY(fold_case(j, spi_jtruth(j, &given[0]), &key));
        if (!spi_jhashable(&key)) return spi_jfail(j, "unhashable type: '%s'", spi_jtype(&key));
        SPI_TRY(spi_jcontains(j, &seen, &key, &known));
        if (known) continue;
        SPI_TRY(spi_jlist_add(j, seen.list, key));
        SPI_TRY(spi_jlist_add(j, out->list, items->items[i]));
    }
    return SP_OK;
}

static sp_status extreme(spi_jinja *j, const spi_jval *v, const spi_jargs *args, int wanted, spi_jval *out) {
    static const char *const names[] = {"case_sensitive", "attribute", NULL};
    spi_jval given[2], best = {0}, key;
    spi_jlist *items;
    SPI_TRY(spi_jbind(j, wanted > 0 ? "max" : "min", args, names, given));
    SPI_TRY(spi_jiterate(j, v, &items));
    if (!items->count) return spi_jmake_undefined(j, out, "No aggregated item, sequence was empty.");
    for (size_t i = 0; i < items->count; i++) {
        int order = wanted;
        SPI_TRY(sort_key(j, &items->items[i], &given[1], spi_jtruth(j, &given[0]), &key));
        if (spi_jgiven(&best)) SPI_TRY(spi_jcompare(j, &key, &best, &order));
        if (order * wanted <= 0) continue;
        best = key;
        *out = items->items[i];
    }
    return SP_OK;
}

FILTER(min) {
    return extreme(j, v, args, -1, out);
}

FILTER(max) {
    return extreme(j, v, args, 1, out);
}

FILTER(sum) {
    static const char *const names[] = {"attribute", "start", NULL};
    spi_jval given[2], item;
    spi_jlist *items;
    SPI_TRY(spi_jbind(j, "sum", args, names, given));
    SPI_TRY(spi_jiterate(j, v, &items));
    *out = spi_jgiven(&given[1]) ? given[1] : spi_jint(0);
    for (size_t i = 0; i < items->count; i++) {
        const spi_jval before = *out;
        SPI_TRY(attribute_of(j, &items->items[i], &given[0], NULL, &item));
        SPI_TRY(spi_jbinary(j, SPI_OP_ADD, &before, &item, out));
    }
    return SP_OK;
}

/* ------------------------------------------------------------------ other filters and tests, by name */

static sp_status named(spi_jinja *j, const spi_jargs *args, size_t at, const char *kind, const char **out) {
    if (at >= args->count || args->items[at].kind != SPI_J_STRING)
        return spi_jfail(j, "expected the name of a %s", kind);
    *out = args->items[at].string->text;
    return SP_OK;
}

/* The arguments behind the first `n`. */
static spi_jargs behind(const spi_jargs *args, size_t n) {
    spi_jargs rest = *args;
    if (n) rest.items += n;
    rest.count -= n;
    return rest;
}

static sp_status map_attribute(spi_jinja *j, const spi_jlist *items, const spi_jargs *args, spi_jval *out) {
    static const char *const names[] = {"attribute", "default", NULL};
    spi_jval given[2], item;
    SPI_TRY(spi_jbind(j, "map", args, names, given));
    if (!spi_jgiven(&given[0])) return spi_jfail(j, "map requires a filter argument");
    for (size_t i = 0; i < items->count; i++) {
        SPI_TRY(attribute_of(j, &items->items[i], &given[0], &given[1], &item));
        SPI_TRY(spi_jlist_add(j, out->list, item));
    }
    return SP_OK;
}

FILTER(map) {
    spi_jlist *items;
    const char *name = NULL;
    spi_jval item;
    SPI_TRY(spi_jlist_new(j, SPI_J_ITERATOR, 0, out));
    if (!spi_jtruth(j, v)) return SP_OK; /* None too */
    SPI_TRY(spi_jiterate(j, v, &items));
    if (!args->count) return map_attribute(j, items, args, out);
    SPI_TRY(named(j, args, 0, "filter", &name));
    const spi_jfilter *filter = spi_jinja_filter(name);
    const spi_jargs rest = behind(args, 1);
    if (!filter) return spi_jfail(j, "no filter is named '%s'", name);
    if (++j->depth > SPI_JINJA_DEPTH) return spi_jlacks(j, "filters that call filters so deeply");
    for (size_t i = 0; i < items->count; i++) {
        SPI_TRY(filter->call(j, &items->items[i], &rest, &item));
        SPI_TRY(spi_jlist_add(j, out->list, item));
    }
    j->depth--;
    return SP_OK;
}

/* Items, or their attribute, that pass a test, or are true; or those that do not. */
static sp_status choose(spi_jinja *j, const spi_jval *v, const spi_jargs *args, bool attribute, bool wanted,
                        spi_jval *out) {
    const size_t first = attribute ? 1 : 0;
    const spi_jtest *test = NULL;
    const char *name = NULL;
    spi_jlist *items;
    SPI_TRY(spi_jlist_new(j, SPI_J_ITERATOR, 0, out));
    if (!spi_jtruth(j, v)) return SP_OK; /* None too */
    if (attribute && !args->count) return spi_jfail(j, "Missing parameter for attribute name");
    SPI_TRY(spi_jiterate(j, v, &items));
    if (args->count > first) {
        SPI_TRY(named(j, args, first, "test", &name));
        test = spi_jinja_test(name);
        if (!test) return spi_jfail(j, "no test is named '%s'", name);
    }
    const spi_jargs rest = behind(args, first + (test != NULL));
    for (size_t i = 0; i < items->count; i++) {
        spi_jval item;
        bool holds;
        SPI_TRY(spi_jwork(j, 32));
        SPI_TRY(attribute_of(j, &items->items[i], attribute ? &args->items[0] : NULL, NULL, &item));
        if (test) SPI_TRY(test->call(j, &item, &rest, &holds));
        else holds = spi_jtruth(j, &item);
        if (holds == wanted) SPI_TRY(spi_jlist_add(j, out->list, items->items[i]));
    }
    return SP_OK;
}

FILTER(select) {
    return choose(j, v, args, false, true, out);
}

FILTER(reject) {
    return choose(j, v, args, false, false, out);
}

FILTER(selectattr) {
    return choose(j, v, args, true, true, out);
}

FILTER(rejectattr) {
    return choose(j, v, args, true, false, out);
}

const spi_jfilter spi_jsequence_filters[] = {
    {"batch", filter_batch},
    {"count", filter_length},
    {"dictsort", filter_dictsort},
    {"first", filter_first},
    {"items", filter_items},
    {"join", filter_join},
    {"last", filter_last},
    {"length", filter_length},
    {"list", filter_list},
    {"map", filter_map},
    {"max", filter_max},
    {"min", filter_min},
    {"reject", filter_reject},
    {"rejectattr", filter_rejectattr},
    {"reverse", filter_reverse},
    {"select", filter_select},
    {"selectattr", filter_selectattr},
    {"sort", filter_sort},
    {"sum", filter_sum},
    {"unique", filter_unique},
    {0},
};

const spi_jfilter *spi_jinja_filter(const char *name) {
    for (int table = 0; table < 2; table++)
        for (const spi_jfilter *f = table ? spi_jsequence_filters : spi_jtext_filters; f->name; f++)
            if (strcmp(f->name, name) == 0) return f;
    return NULL;
}
