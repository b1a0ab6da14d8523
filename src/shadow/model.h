/* sp_model from the inside: a base decoder with its head, at most one adapter, and the memory of a step. */
#ifndef SPI_SHADOW_MODEL_H
#define SPI_SHADOW_MODEL_H

#include "format/checkpoint.h"
#include "model/decoder.h"

/*
 * An adapter in memory. n = L - 1 adapted layers; index i belongs to base layer i + 1.
 */
typedef struct spi_adapter {
    sp_shadow_config config;
    spi_decoder *shadow;    /* without an embedding of its own the base's drives it */
    spi_param *projection;  /* [d, d_shadow], in params; NULL where the sizes are equal */
    json_t *shadow_json;    /* config.json of an explicit shadow; NULL: implicit */
    spi_st_set *files;      /* where frozen weights (a projected shadow's embedding) are mapped from, or NULL */
    spi_params params;      /* injection and update */
    spi_param *downs, *ups; /* [n, d, k], [n, k, d] */
    spi_param **gate0, **gate2, **transform0, **transform3; /* [n] of [g, d], [d, g], [g, d], [d, g] */
    spi_param *norm_weight, *norm_bias;
} spi_adapter;

struct sp_model {
    sp_context *ctx;
    spi_device *dev;
    spi_checkpoint files;
    spi_prefix prefix; /* what the files say in place of the backbone's */
    spi_decoder *base;
    spi_params head_params;
    spi_param *lm_head;   /* [V, e]; base->embed itself where tied */
    spi_adapter *adapter; /* NULL: plain base */
    spi_pool *pool;       /* memory of a step */
    bool trainable;       /* loaded for pretraining */
    int32_t *eos_ids;     /* of generation_config.json or config.json */
    size_t eos_count;
};

/*
 * Every trainable parameter, in checkpoint order: the adapter's if there is one, else a trainable base's.
 * *list is allocated: free() it. Parameters whose grad is NULL are in it.
 */
sp_status spi_model_trainable(const sp_model *model, spi_param ***list, size_t *count);

/*
 * Of a trainable base: the backbone (embedding included), the embedding and the head train, or where true stay
 * as they are and cost no gradient. A tied pair goes together.
 */
sp_status spi_model_freeze(sp_model *model, bool backbone, bool embed, bool head);

/* Writes what training made into `dir`: the adapter, or the whole base. */
sp_status spi_model_save_trained(sp_model *model, const char *dir);

#endif
