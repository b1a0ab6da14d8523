#include "text/bpe_merge.h"

#include <stdlib.h>
#include <string.h>

#define NO_MERGE UINT32_MAX
/* Up to here every step looks at all ranks; longer words use a heap. */
#define SHORT_WORD 64

/* ------------------------------------------------------------------ the table */

static uint64_t pair_key(int32_t left, int32_t right) {
    return ((uint64_t)left + 1) << 32 | (uint32_t)right;
}

static uint64_t slot_of(const spi_merge_table *t, uint64_t pair) {
    return pair * UINT64_C(0x9E3779B97F4A7C15) >> t->shift;
}

bool spi_merge_table_fill(spi_merge_table *t, const spi_merge *merges, size_t count) {
    int bits = 4;
    while ((size_t)1 << bits < 2 * count) bits++;
    t->slots = calloc((size_t)1 << bits, sizeof *t->slots);
    if (!t->slots) return false;
    t->mask = ((uint64_t)1 << bits) - 1;
    t->shift = 64 - bits;
    for (size_t i = 0; i < count; i++) {
        const uint64_t pair = pair_key(merges[i].left, merges[i].right);
        uint64_t slot = slot_of(t, pair);
        while (t->slots[slot].pair && t->slots[slot].pair != pair) slot = (slot + 1) & t->mask;
        t->slots[slot] = (spi_merge_slot){.pair = pair, .rank = (uint32_t)i, .merged = merges[i].merged};
    }
    return true;
}

void spi_merge_table_free(spi_merge_table *t) {
    free(t->slots);
    *t = (spi_merge_table){0};
}

/* The rank of a pair's merge, NO_MERGE if there is none; *merged is what it makes. */
static inline uint32_t find_merge(const spi_merge_table *t, int32_t left, int32_t right, int32_t *merged) {
    const uint64_t pair = pair_key(left, right);
    for (uint64_t slot = slot_of(t, pair);; slot = (slot + 1) & t->mask) {
        const spi_merge_slot *s = &t->slots[slot];
        if (s->pair == pair) {
            *merged = s->merged;
            return s->rank;
        }
        if (!s->pair) return NO_MERGE;
    }
}

/* ------------------------------------------------------------------ memory */

void spi_merge_work_free(spi_merge_work *w) {
    free(w->ids);
    free(w->ranks);
    free(w->merged);
    free(w->previous);
    free(w->next);
    free(w->heap);
    *w = (spi_merge_work){0};
}

static bool resize(void **array, size_t count, size_t size) {
    void *grown = realloc(*array, count * size);
    if (grown) *array = grown;
    return grown != NULL;
}

bool spi_merge_reserve(spi_merge_work *w, size_t count) {
    if (count <= w->capacity) return true;
    if (count > INT32_MAX / 2) return false;
    size_t capacity = w->capacity ? w->capacity : 2 * SHORT_WORD;
    while (capacity < count) capacity *= 2;
    if (!resize((void **)&w->ids, capacity, sizeof *w->ids) ||
        !resize((void **)&w->ranks, capacity, sizeof *w->ranks) ||
        !resize((void **)&w->merged, capacity, sizeof *w->merged))
        return false;
    w->capacity = capacity;
    return true;
}

static bool reserve_links(spi_merge_work *w) {
    if (w->long_capacity >= w->capacity) return true;
    if (!resize((void **)&w->previous, w->capacity, sizeof *w->previous) ||
        !resize((void **)&w->next, w->capacity, sizeof *w->next))
        return false;
    w->long_capacity = w->capacity;
    return true;
}

/* ------------------------------------------------------------------ short words */

/* Takes out the symbol at `at`, with the rank and result that belong to it. */
static void take_out(spi_merge_work *w, size_t at) {
    const size_t behind = --w->count - at;
    memmove(w->ids + at, w->ids + at + 1, behind * sizeof *w->ids);
    memmove(w->ranks + at, w->ranks + at + 1, behind * sizeof *w->ranks);
    memmove(w->merged + at, w->merged + at + 1, behind * sizeof *w->merged);
}

static void look_up(const spi_merge_table *t, spi_merge_work *w, size_t at) {
    w->ranks[at] = at + 1 < w->count ? find_merge(t, w->ids[at], w->ids[at + 1], &w->merged[at]) : NO_MERGE;
}

static void merge_short(const spi_merge_table *t, spi_merge_work *w) {
    for (size_t i = 0; i < w->count; i++) look_up(t, w, i);
    while (w->count > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < w->count; i++)
            if (w->ranks[i] < w->ranks[best]) best = i;
        if (w->ranks[best] == NO_MERGE) return;
        w->ids[best] = w->merged[best];
        take_out(w, best + 1);
        look_up(t, w, best);
        if (best > 0) look_up(t, w, best - 1);
    }
}

/* ------------------------------------------------------------------ long words */

static bool heap_push(spi_merge_work *w, uint64_t entry) {
    if (!spi_grow((void **)&w->heap, &w->heap_capacity, w->heap_count, sizeof entry)) return false;
    size_t at = w->heap_count++;
    for (; at > 0 && w->heap[(at - 1) / 2] > entry; at = (at - 1) / 2) w->heap[at] = w->heap[(at - 1) / 2];
    w->heap[at] = entry;
    return true;
}

static uint64_t heap_pop(spi_merge_work *w) {
    const uint64_t top = w->heap[0];
    const uint64_t last = w->heap[--w->heap_count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < w->heap_count; at = child) {
        if (child + 1 < w->heap_count && w->heap[child + 1] < w->heap[child]) child++;
        if (w->heap[child] >= last) break;
        w->heap[at] = w->heap[child];
    }
    w->heap[at] = last;
    return top;
}

/* Looks the pair at `at` up, and queues it. */
static bool queue_pair(const spi_merge_table *t, spi_merge_work *w, int32_t at) {
    const int32_t right = w->next[at];
    w->ranks[at] = right < 0 ? NO_MERGE : find_merge(t, w->ids[at], w->ids[right], &w->merged[at]);
    return w->ranks[at] == NO_MERGE || heap_push(w, (uint64_t)w->ranks[at] << 32 | (uint32_t)at);
}

/* Symbols that are gone, and pairs that have changed since they were queued, no longer have the queued rank. */
static bool merge_long(const spi_merge_table *t, spi_merge_work *w) {
    const int32_t count = (int32_t)w->count;
    if (!reserve_links(w)) return false;
    w->heap_count = 0;
    for (int32_t i = 0; i < count; i++) {
        w->previous[i] = i - 1;
        w->next[i] = i + 1 < count ? i + 1 : -1;
    }
    for (int32_t i = 0; i < count; i++)
        if (!queue_pair(t, w, i)) return false;
    while (w->heap_count > 0) {
        const uint64_t top = heap_pop(w);
        const int32_t at = (int32_t)(uint32_t)top;
        if (w->ranks[at] != top >> 32) continue;
        const int32_t gone = w->next[at];
        const int32_t behind = w->next[gone];
        w->ids[at] = w->merged[at];
        w->ranks[gone] = NO_MERGE;
        w->next[at] = behind;
        if (behind >= 0) w->previous[behind] = at;
        if (!queue_pair(t, w, at)) return false;
        if (w->previous[at] >= 0 && !queue_pair(t, w, w->previous[at])) return false;
    }
    w->count = 0;
    for (int32_t i = 0; i >= 0; i = w->next[i]) w->ids[w->count++] = w->ids[i];
    return true;
}

bool spi_merge_all(const spi_merge_table *t, spi_merge_work *w) {
    if (w->count > SHORT_WORD) return merge_long(t, w);
    merge_short(t, w);
    return true;
}
