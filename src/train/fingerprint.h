/*
 * Everything that the numbers of a run depend on, as one JSON object: options, data, the base and the adapter's
 * configuration. A run may be resumed only with what it was begun with.
 */
#ifndef SPI_TRAIN_FINGERPRINT_H
#define SPI_TRAIN_FINGERPRINT_H

#include "base/json.h"
#include "shadow/model.h"

typedef struct spi_run_facts {
    const sp_model *model;
    const sp_train_options *options;
    const sp_dataset *train, *eval; /* eval may be NULL */
    int64_t total_steps, warmup_steps;
} spi_run_facts;

/* A new reference, or NULL when out of memory. */
json_t *spi_fingerprint(const spi_run_facts *facts);

/*
 * SP_ERR_MISMATCH unless `found`, read from `file`, has every value of `expected`; the message names the first
 * key that differs, with both values.
 */
sp_status spi_fingerprint_check(sp_context *ctx, const char *file, const json_t *expected, const json_t *found);

#endif
