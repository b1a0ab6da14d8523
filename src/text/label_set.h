/*
 * The labels of a classification: texts or whole numbers of a data file, and the numbers that they get. They
 * are given from outside, or found: then names are numbered in the order of their bytes when all are known, and
 * numbers from 0 on stay what they are.
 */
#ifndef SPI_TEXT_LABEL_SET_H
#define SPI_TEXT_LABEL_SET_H

#include <jansson.h>

#include "base/mem.h"

typedef struct spi_label_set {
    spi_arena arena;
    json_t *index; /* name -> its place in `names` */
    char **names;  /* [count] */
    size_t count, capacity;
    bool given;    /* no further ones are taken */
    bool numbered; /* one of the given names is a number itself, so that no number stands for a place */
} spi_label_set;

/* Start with {0}. Takes the names as the only ones. SP_ERR_ARGUMENT for one that is there twice. */
sp_status spi_label_set_give(sp_context *ctx, spi_label_set *set, const char *const *names, int32_t count);
void spi_label_set_free(spi_label_set *set);

/* The place of a label; `where` begins messages. SP_ERR_DATA: of given labels for one that is neither among
 * them nor the number of one; of found ones for an empty one, and for one that is not UTF-8. */
sp_status spi_label_set_find(sp_context *ctx, spi_label_set *set, const char *where, const char *name,
                             int32_t *out);

/*
 * Numbers found labels for good: places [count] becomes the number of each place. `where` begins messages.
 * SP_ERR_DATA for fewer than 2 labels, or for numbers beyond reason.
 */
sp_status spi_label_set_settle(sp_context *ctx, spi_label_set *set, const char *where, int32_t *places);

#endif
