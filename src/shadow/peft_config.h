/* peft.ShadowConfig: adapter_config.json, and the "mirror" shadow that it makes of a base's config. */
#ifndef SPI_SHADOW_PEFT_CONFIG_H
#define SPI_SHADOW_PEFT_CONFIG_H

#include "shadow/model.h"

/*
 * DIR/adapter_config.json. *shadow_model: the checkpoint that it names as an explicit shadow, to free(), or
 * NULL for a mirror. Which layers are wrapped shows in the tensors, not here: see spi_peft_layers. "id2label"
 * is ours: a classifier's labels, where they have names that its base's files do not tell. Keys that are not
 * known are ignored, by PEFT with a warning. Errors: another "peft_type", task or kind of target than this
 * library has.
 */
sp_status spi_peft_config_read(const sp_model *model, const char *dir, sp_shadow_config *out,
                               char **shadow_model, spi_labels *labels);
sp_status spi_peft_config_write(const sp_model *model, const char *dir);

/* SP_ERR_UNSUPPORTED for another "peft_type" than SHADOW. */
sp_status spi_peft_check_type(sp_context *ctx, const char *file, const json_t *json);

/* What stands before the names of a wrapped layer's tensors: "base_model.model.model.layers.3.". */
void spi_peft_layer_name(const sp_model *model, int64_t layer, char *name, size_t size);

/* The run of wrapped layers, by the names of the tensors in `set`, into cfg. `file` names it in messages. */
sp_status spi_peft_layers(const sp_model *model, const spi_st_set *set, const char *file,
                          sp_shadow_config *cfg);

/* ShadowModel._build_shadow_backbone: changes a copy of the base's config to the mirror's, and reads that. Free
 * *arch with spi_arch_free. */
sp_status spi_peft_shadow_arch(const sp_model *model, const sp_shadow_config *cfg, json_t *config,
                               spi_arch *arch);

#endif
