/*
 * shadow_peft.AutoModelForCausalLMWithHiddenProjection, model_type "causal_lm_with_hidden_projection": a small
 * decoder whose final norm is projected to another model's hidden size and read by that model's head.
 *
 *   shadow_model.* [d]  ->  shadow_hidden_projection.weight [base_hidden_size, d]  ->  lm_head.weight [V,
 * base_hidden_size]
 */
#ifndef SPI_SHADOW_PROJECTED_H
#define SPI_SHADOW_PROJECTED_H

#include "model/arch.h"

#define SPI_PROJECTED_TYPE "causal_lm_with_hidden_projection"
#define SPI_PROJECTED_CLASS "AutoModelForCausalLMWithHiddenProjection"

bool spi_is_projected(const json_t *config);

/* The backbone's own config.json: the one inside a projected model's, else `config` itself. */
sp_status spi_backbone_config(sp_context *ctx, const char *file, const json_t *config, const json_t **out);

/* spi_arch_read for what a base may be: a family's model, or a projected one, whose arch.out_size is set. */
sp_status spi_model_arch_read(sp_context *ctx, const char *file, const json_t *config, spi_arch *out);

/*
 * The config.json of AutoModelForCausalLMWithHiddenProjection around a backbone of `family`, whose config is
 * taken over: a head of `width` columns for `vocab_size` tokens, and the special ids that `ids` (a config)
 * names. Without "dtype". NULL: out of memory.
 */
json_t *spi_projected_config(json_t *backbone, const spi_family *family, int64_t width, int64_t vocab_size,
                             const json_t *ids);

#endif
