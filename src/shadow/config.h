/* shadow_peft.ShadowConfig: defaults, rules, shadow_config.json. */
#ifndef SPI_SHADOW_CONFIG_H
#define SPI_SHADOW_CONFIG_H

#include "model/arch.h"
#include "shadow/dialect.h"
#include "shadow/labels.h"

/* Each field against its rule; `where` is the file it came from, or "ShadowConfig". */
sp_status spi_shadow_config_check(sp_context *ctx, const char *where, const sp_shadow_config *cfg);

/*
 * DIR/shadow_config.json. Unknown keys are ignored, as Python ignores them; "id2label" is ours: the labels that
 * a classifier's heads were trained for (labels NULL: not wanted).
 */
sp_status spi_shadow_config_read(sp_context *ctx, const char *dir, sp_task task, sp_shadow_config *out,
                                 spi_labels *labels);
sp_status spi_shadow_config_write(sp_context *ctx, const char *dir, sp_task task, const sp_shadow_config *cfg,
                                  const spi_labels *labels);

/* The implicit shadow's architecture: the base's with fewer layers and, where asked, smaller parts
 * (shadow_peft.model_utils.build_implicit_shadow_model). Free with spi_arch_free. */
sp_status spi_shadow_arch(sp_context *ctx, const spi_arch *base, const sp_shadow_config *cfg, spi_arch *out);

#endif
