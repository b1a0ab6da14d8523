/* The tensors of a checkpoint on their way to a file, and the small files that travel with them. */
#ifndef SPI_SHADOW_WEIGHTS_H
#define SPI_SHADOW_WEIGHTS_H

#include "shadow/model.h"

/* As save_pretrained cuts them. */
#define SPI_SHARD_BYTES ((int64_t)5000000000)

/* Names and values live in the arena: free it. */
typedef struct spi_weights {
    spi_arena arena;
    spi_st_item *items;
    size_t count;
} spi_weights;

/* Room for `most` tensors; once, before the first. */
sp_status spi_weights_reserve(sp_context *ctx, spi_weights *w, size_t most);
/* A tensor of f32 values, rounded to `dtype`. */
sp_status spi_weights_add(sp_context *ctx, spi_weights *w, const char *name, int ndim, const int64_t *shape,
                          sp_dtype dtype, const float *values, int64_t count);
/* A parameter's values under a name, in the model's dtype. */
sp_status spi_weights_add_param(sp_model *model, spi_weights *w, const spi_param *p, const char *name);

/* generation_config.json and the tokenizer of the directory that the model came from. */
sp_status spi_save_side_files(const sp_model *model, const char *dir);

/* "bfloat16" and so on, as config.json says it. Static storage. */
const char *spi_torch_dtype_name(sp_dtype dtype);

#endif
