/* Making an adapter: its parameters and their fresh values. */
#ifndef SPI_SHADOW_ADAPTER_H
#define SPI_SHADOW_ADAPTER_H

#include "shadow/config.h"
#include "shadow/model.h"

/* The shadow that an adapter gets. */
typedef struct spi_shadow_plan {
    const spi_arch *arch;
    bool embed;           /* an embedding of its own */
    bool embed_frozen;    /* which does not train: the published default for projected shadows */
    const json_t *config; /* config.json of the explicit shadow */
} spi_shadow_plan;

/*
 * An adapter for the model with all parameters but no values; the one that is on the model stays there. plan
 * NULL: the implicit shadow of the config. `modules`: SP_MODULE_* of the heads that train. `labels` (NULL or
 * none: the base's) are copied.
 */
sp_status spi_adapter_new(sp_model *model, const sp_shadow_config *cfg, const spi_shadow_plan *plan,
                          uint32_t modules, const spi_labels *labels, spi_adapter **out);
void spi_adapter_free(spi_device *dev, spi_adapter *a);

/* Which heads train with an adapter of this config: for classification both unless it says otherwise. */
uint32_t spi_modules_of(const sp_model *model, const sp_shadow_config *cfg);

/* The parameters of projection, injection and update (a->params, a->layers), and of trained heads (a->modules).
 */
sp_status spi_adapter_add_params(sp_model *model, spi_adapter *a);
sp_status spi_adapter_add_modules(sp_model *model, spi_adapter *a, uint32_t modules);

/* Fresh values for injection and update, and for one parameter. */
sp_status spi_adapter_init(spi_device *dev, const spi_adapter *a, uint64_t seed);
sp_status spi_adapter_init_param(spi_device *dev, const spi_adapter *a, spi_param *p, uint64_t seed);
/* The base's head as the value of a trained one. */
sp_status spi_adapter_copy_head(sp_model *model, spi_param *to);

/* Where an explicit shadow came from (NULL: not known): PEFT's config names it, and PEFT looks it up there. */
sp_status spi_adapter_keep_source(sp_context *ctx, spi_adapter *a, const char *source);

/* Puts `a`, which may be NULL, in the place of the model's adapter. */
void spi_adapter_put(sp_model *model, spi_adapter *a);

/* SP_ERR_ARGUMENT where an adapter of the other dialect lies in `dir`, which a save must not cover up. */
sp_status spi_adapter_check_place(const sp_model *model, const char *dir);

/* Every parameter of the adapter but trained heads: the shadow's and its own. free() its items. */
sp_status spi_adapter_all_params(sp_context *ctx, const spi_adapter *a, spi_params *all);

#endif
