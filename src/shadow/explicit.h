/*
 * Explicit shadows: another checkpoint's backbone in the place of the implicit shadow, as
 * shadow_peft.get_shadow_model(..., shadow_model=...) takes it: a causal LM (its head is left behind), or a
 * `causal_lm_with_hidden_projection`, whose projection comes along.
 */
#ifndef SPI_SHADOW_EXPLICIT_H
#define SPI_SHADOW_EXPLICIT_H

#include "shadow/adapter.h"

/* In an adapter's directory: the explicit shadow's config.json. */
#define SPI_SHADOW_MODEL_CONFIG "shadow_model_config.json"

typedef struct spi_shadow_source {
    spi_checkpoint files;     /* closed where only a config was read */
    json_t *config;           /* config.json, owned */
    spi_arch arch;            /* of the backbone */
    const char *prefix;       /* of its tensors in `files` */
    bool projected;           /* a causal_lm_with_hidden_projection: the backbone's config is inside `config` */
    bool opened, has_weights; /* arch is there; files are */
} spi_shadow_source;

/* From a checkpoint's directory. The weights are mapped, not read. Close it after a failure too. */
sp_status spi_shadow_source_open(sp_context *ctx, const char *dir, spi_shadow_source *out);
/* From DIR/shadow_model_config.json of an adapter: the architecture alone. */
sp_status spi_shadow_source_config(sp_context *ctx, const char *file, spi_shadow_source *out);
void spi_shadow_source_close(spi_shadow_source *source);

/*
 * Gives the adapter's shadow and, where it has one and `source` carries one that fits, its projection the
 * values of the source, whose weights become the adapter's. *projected: the projection got its values.
 */
sp_status spi_shadow_source_load(spi_shadow_source *source, sp_model *model, spi_adapter *a, bool *projected);

#endif
