/* The merges of a BPE model as a table, and their application to the symbols of one word. */
#ifndef SPI_TEXT_BPE_MERGE_H
#define SPI_TEXT_BPE_MERGE_H

#include "text/tokenizer_file.h"

typedef struct spi_merge_slot {
    uint64_t pair; /* left + 1 in the upper half, right in the lower; 0 = free */
    uint32_t rank;
    int32_t merged;
} spi_merge_slot;

/* Start with {0}. */
typedef struct spi_merge_table {
    spi_merge_slot *slots; /* a power of two; linear probing */
    uint64_t mask;
    int shift;
} spi_merge_table;

/* Of two merges of the same pair the later one counts. False when out of memory. */
bool spi_merge_table_fill(spi_merge_table *t, const spi_merge *merges, size_t count);
void spi_merge_table_free(spi_merge_table *t);

/* A word's symbols and what joining them needs. Start with {0}; set `count` to 0 for each word. */
typedef struct spi_merge_work {
    int32_t *ids; /* [count] */
    size_t count, capacity;
    uint32_t *ranks;          /* [capacity] of the merge with the right neighbour */
    int32_t *merged;          /* [capacity] what that merge makes */
    int32_t *previous, *next; /* [long_capacity] neighbours in a long word */
    uint64_t *heap;           /* [heap_capacity] rank in the upper half, place in the lower */
    size_t long_capacity, heap_count, heap_capacity;
} spi_merge_work;

void spi_merge_work_free(spi_merge_work *w);
/* Room for `count` symbols; false when out of memory. */
bool spi_merge_reserve(spi_merge_work *w, size_t count);

static inline bool spi_merge_push(spi_merge_work *w, int32_t id) {
    if (w->count == w->capacity && !spi_merge_reserve(w, w->count + 1)) return false;
    w->ids[w->count++] = id;
    return true;
}

/* Joins the symbols as far as they go; `count` becomes what is left. False when out of memory. */
bool spi_merge_all(const spi_merge_table *t, spi_merge_work *w);

#endif
