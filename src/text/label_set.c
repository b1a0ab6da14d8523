#include "text/label_set.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* More than any classification has; keeps a stray number from asking for a head of its size. */
#define MOST_LABELS 1000000

void spi_label_set_free(spi_label_set *set) {
    json_decref(set->index);
    free(set->names);
    spi_arena_free(&set->arena);
    *set = (spi_label_set){0};
}

/* The name's place in the index; false when out of memory. */
static bool note(spi_label_set *set, const char *name, size_t place) {
    return json_object_set_new_nocheck(set->index, name, json_integer((json_int_t)place)) == 0;
}

static sp_status add(sp_context *ctx, spi_label_set *set, const char *name) {
    if (!set->index) set->index = json_object();
    char *copy = spi_arena_strdup(&set->arena, name);
    if (!copy || !set->index ||
        !spi_grow((void **)&set->names, &set->capacity, set->count, sizeof *set->names) ||
        !note(set, copy, set->count))
        return spi_fail_memory(ctx, strlen(name), "label names");
    set->names[set->count++] = copy;
    return SP_OK;
}

static bool look_up(const spi_label_set *set, const char *name, int32_t *out) {
    const json_t *place = set->index ? json_object_get(set->index, name) : NULL;
    if (place) *out = (int32_t)json_integer_value(place);
    return place != NULL;
}

/* A whole number from 0 on, written without leading zeros; -1 for any other text. All that are too large are
 * INT64_MAX. */
static int64_t number_of(const char *name) {
    int64_t value = 0;
    if (!*name || (name[0] == '0' && name[1])) return -1;
    for (const char *c = name; *c; c++) {
        if (*c < '0' || *c > '9') return -1;
        value = value > INT32_MAX ? INT64_MAX : 10 * value + (*c - '0');
    }
    return value > INT32_MAX ? INT64_MAX : value;
}

sp_status spi_label_set_give(sp_context *ctx, spi_label_set *set, const char *const *names, int32_t count) {
    int32_t before;
    for (int32_t i = 0; i < count; i++) {
        if (look_up(set, names[i], &before))
            return spi_fail(ctx, SP_ERR_ARGUMENT,
                            "labels: expected names that differ, found \"%s\" for %d and %d", names[i], before,
                            i);
        SPI_TRY(add(ctx, set, names[i]));
        set->numbered = set->numbered || number_of(names[i]) >= 0;
    }
    set->given = true;
    return SP_OK;
}

/* A label that no file could keep, or that is likely a field left empty. */
static sp_status check_name(sp_context *ctx, const char *where, const char *name) {
    json_t *text = json_string(name);
    const bool utf8 = text != NULL;
    json_decref(text);
    if (!*name) return spi_fail(ctx, SP_ERR_DATA, "%s: expected a label, found an empty text", where);
    return utf8 ? SP_OK : spi_fail(ctx, SP_ERR_DATA, "%s: expected a label in UTF-8, found other bytes", where);
}

sp_status spi_label_set_find(sp_context *ctx, spi_label_set *set, const char *where, const char *name,
                             int32_t *out) {
    if (look_up(set, name, out)) return SP_OK;
    if (!set->given) {
        SPI_TRY(check_name(ctx, where, name));
        *out = (int32_t)set->count;
        return add(ctx, set, name);
    }
    const int64_t number = set->numbered ? -1 : number_of(name);
    if (number >= 0 && number < (int64_t)set->count) {
        *out = (int32_t)number;
        return SP_OK;
    }
    return spi_fail(ctx, SP_ERR_DATA,
                    "%s: expected one of %zu labels (\"%s\", \"%s\", ...) or its number, found \"%s\"", where,
                    set->count, set->count ? set->names[0] : "", set->count > 1 ? set->names[1] : "", name);
}

/* ------------------------------------------------------------------ settling */

typedef struct named {
    char *name;
    size_t place;
} named;

static int by_name(const void *a, const void *b) {
    return strcmp(((const named *)a)->name, ((const named *)b)->name);
}

static sp_status settle_names(sp_context *ctx, spi_label_set *set, int32_t *places) {
    named *sorted = malloc(set->count * sizeof *sorted);
    if (!sorted) return spi_fail_memory(ctx, set->count * sizeof *sorted, "label names");
    for (size_t i = 0; i < set->count; i++) sorted[i] = (named){set->names[i], i};
    qsort(sorted, set->count, sizeof *sorted, by_name);
    for (size_t i = 0; i < set->count; i++) {
        places[sorted[i].place] = (int32_t)i;
        set->names[i] = sorted[i].name;
    }
    bool ok = true;
    for (size_t i = 0; ok && i < set->count; i++) ok = note(set, set->names[i], i);
    free(sorted);
    return ok ? SP_OK : spi_fail_memory(ctx, set->count * sizeof *sorted, "label names");
}

/* Every number up to the largest is a label, whether it occurs or not; their names are LABEL_n, as in
 * Transformers. */
static sp_status settle_numbers(sp_context *ctx, spi_label_set *set, int64_t largest, int32_t *places) {
    for (size_t i = 0; i < set->count; i++) places[i] = (int32_t)number_of(set->names[i]);
    set->count = 0;
    json_object_clear(set->index);
    for (int64_t i = 0; i <= largest; i++) {
        char name[32];
        snprintf(name, sizeof name, "LABEL_%lld", (long long)i);
        SPI_TRY(add(ctx, set, name));
    }
    return SP_OK;
}

sp_status spi_label_set_settle(sp_context *ctx, spi_label_set *set, const char *where, int32_t *places) {
    int64_t largest = -1;
    size_t at = 0;
    bool numbers = true;
    for (size_t i = 0; i < set->count; i++) {
        const int64_t number = number_of(set->names[i]);
        numbers = numbers && number >= 0;
        if (number > largest) {
            largest = number;
            at = i;
        }
    }
    if (numbers && largest >= MOST_LABELS)
        return spi_fail(ctx, SP_ERR_DATA, "%s: labels: expected numbers below %d, found %s", where, MOST_LABELS,
                        set->names[at]);
    if ((numbers ? largest + 1 : (int64_t)set->count) < 2)
        return spi_fail(ctx, SP_ERR_DATA, "%s: labels: expected at least 2 that differ, found only \"%s\"",
                        where, set->count ? set->names[0] : "");
    set->given = true;
    return numbers ? settle_numbers(ctx, set, largest, places) : settle_names(ctx, set, places);
}
