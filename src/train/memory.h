/* What training will take of the device's memory, planned (tensor/plan.h) by the code that will take it. */
#ifndef SPI_TRAIN_MEMORY_H
#define SPI_TRAIN_MEMORY_H

#include "train/optimizer.h"

/* Bytes beyond what the device has given already. */
typedef struct spi_memory_need {
    size_t state; /* f32 values and gradients of what trains, AdamW's moments */
    size_t pass;  /* beside it, of what was planned: activations, working memory of operations */
    size_t pool;  /* of the model's pool alone, all of it: what there is to reserve (spi_pool_reserve) */
} spi_memory_need;

static inline size_t spi_memory_total(const spi_memory_need *need) {
    return need->state + need->pass;
}

/* What is planned: passes and steps as they will be run, with an optimizer that has no memory. */
typedef sp_status spi_memory_fn(void *user, spi_optimizer *planned);

/*
 * Plans an optimizer and then what `fn` runs, before there is an optimizer. Nothing of the model changes. Fails
 * as these do, and where nothing can be trained.
 */
sp_status spi_memory_plan(sp_model *model, const sp_train_options *options, spi_memory_fn *fn, void *user,
                          spi_memory_need *need);

#endif
