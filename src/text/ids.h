/* A growing array of token ids. */
#ifndef SPI_TEXT_IDS_H
#define SPI_TEXT_IDS_H

#include "base/mem.h"

/* Start with {0}. After a failed allocation `failed` is set and further ids are dropped, as in spi_buf. */
typedef struct spi_ids {
    int32_t *data;
    size_t count, capacity;
    bool failed;
} spi_ids;

static inline void spi_ids_push(spi_ids *ids, int32_t id) {
    if (ids->count == ids->capacity && !spi_grow((void **)&ids->data, &ids->capacity, ids->count, sizeof id))
        ids->failed = true;
    else ids->data[ids->count++] = id;
}

#endif
