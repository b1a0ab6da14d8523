/* Making an adapter: its parameters and their fresh values. */
#ifndef SPI_SHADOW_ADAPTER_H
#define SPI_SHADOW_ADAPTER_H

#include "shadow/config.h"
#include "shadow/model.h"

#define SPI_PROJECTION_KEY "shadow_hidden_projection.weight"

/* The shadow that an adapter gets. */
typedef struct spi_shadow_plan {
    const spi_arch *arch;
    bool embed;           /* an embedding of its own */
    bool embed_frozen;    /* which does not train: the published default for projected shadows */
    const json_t *config; /* config.json of an explicit shadow; NULL: implicit */
} spi_shadow_plan;

/* An adapter for the model with all parameters but no values. plan NULL: the implicit shadow of the config. */
sp_status spi_adapter_new(sp_model *model, const sp_shadow_config *cfg, const spi_shadow_plan *plan,
                          spi_adapter **out);
void spi_adapter_free(spi_device *dev, spi_adapter *a);

/* Fresh values for everything beside the shadow and its projection, and for these. */
sp_status spi_adapter_init(spi_device *dev, const spi_adapter *a, uint64_t seed);
sp_status spi_adapter_init_param(spi_device *dev, const spi_adapter *a, spi_param *p, uint64_t seed);

/* Puts `a`, which may be NULL, in the place of the model's adapter. */
void spi_adapter_put(sp_model *model, spi_adapter *a);

#endif
