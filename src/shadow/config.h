/* shadow_peft.ShadowConfig: defaults, rules, shadow_config.json. */
#ifndef SPI_SHADOW_CONFIG_H
#define SPI_SHADOW_CONFIG_H

#include "model/arch.h"
#include "shadow/dialect.h"

/* Each field against its rule; `where` is the file it came from, or "ShadowConfig". */
sp_status spi_shadow_config_check(sp_context *ctx, const char *where, const sp_shadow_config *cfg);

/* Names of labels in an arena of their own: free that. count 0: none. */
typedef struct spi_labels {
    spi_arena arena;
    const char **names; /* [count] */
    int32_t count;
} spi_labels;

/*
 * DIR/shadow_config.json. Unknown keys are ignored, as Python ignores them; "id2label" is ours: the labels that
 * a classifier's heads were trained for (labels NULL: not wanted).
 */
sp_status spi_shadow_config_read(sp_context *ctx, const char *dir, sp_task task, sp_shadow_config *out,
                                 spi_labels *labels);
sp_status spi_shadow_config_write(sp_context *ctx, const char *dir, sp_task task, const sp_shadow_config *cfg,
                                  const json_t *id2label);

/* {"0": NAME, ...} as names [json_object_size(map)] in the arena, and back. */
sp_status spi_read_id2label(sp_context *ctx, const char *file, const json_t *map, spi_arena *arena,
                            const char **names, int32_t *count);
json_t *spi_id2label(char *const *names, int32_t count);
/* id2label and label2id of a classifier's config.json. */
void spi_set_labels(json_t *config, char *const *names, int32_t count);

/* The implicit shadow's architecture: the base's with fewer layers and, where asked, smaller parts
 * (shadow_peft.model_utils.build_implicit_shadow_model). Free with spi_arch_free. */
sp_status spi_shadow_arch(sp_context *ctx, const spi_arch *base, const sp_shadow_config *cfg, spi_arch *out);

#endif
