/* Names of a classifier's labels, in the order of their numbers: id2label of configs. */
#ifndef SPI_SHADOW_LABELS_H
#define SPI_SHADOW_LABELS_H

#include "base/json.h"
#include "base/mem.h"

/* Start with {0}. count 0: none. */
typedef struct spi_labels {
    spi_arena arena;
    const char **names; /* [count] */
    int32_t count;
} spi_labels;

void spi_labels_free(spi_labels *labels);

/* Copies of `names` in the place of what was there; "LABEL_0", ... where names is NULL, or one of them is.
 * After a failure everything is as before. */
sp_status spi_labels_set(sp_context *ctx, spi_labels *labels, const char *const *names, int32_t count);

/* "id2label" of a config read from `file`: a name for every number from 0 on; none where it is not there. */
sp_status spi_labels_read(sp_context *ctx, const char *file, const json_t *config, spi_labels *labels);

/* Sets "id2label" {"0": NAME, ...}, and in a model's config "label2id" the other way round. */
void spi_labels_write(json_t *config, const spi_labels *labels, bool both_ways);

/* Whether all are Transformers' "LABEL_n", which need no place in a file. */
bool spi_labels_are_default(const spi_labels *labels);

/* Fails unless all differ and are UTF-8: what a config can hold. `where` begins the message. */
sp_status spi_labels_check(sp_context *ctx, const char *where, const spi_labels *labels);

#endif
