#include "shadow/dialect.h"

static const spi_dialect shadow_peft = {
    .id = SP_DIALECT_SHADOW_PEFT,
    .name = "shadow_peft",
    .config_file = "shadow_config.json",
    .weights_file = "shadow_adapter.safetensors",
    .modules_file = "shadow_modules.safetensors",
    .shadow_prefix = "shadow_model.",
    .projection = "shadow_hidden_projection.weight",
    .heads = {{"lm_head.weight", "shadow_lm_head.weight"},
              {"classifier_head.weight", "shadow_classifier_head.weight"}},
    .first_layer = 1,
    .stacked = true,
    .norm = true,
    .drop_update = true,
    .tied_head = true,
    .update_act = SPI_ACT_SILU,
};

static const spi_dialect peft = {
    .id = SP_DIALECT_PEFT,
    .name = "PEFT",
    .config_file = "adapter_config.json",
    .weights_file = "adapter_model.safetensors",
    .shadow_prefix = "base_model.shadow_backbone.default.",
    .projection = "base_model.shadow_projection.default.weight",
    .heads = {{"base_model.model.lm_head.weight", NULL},
              {"base_model.model.score.weight", "base_model.shadow_head.default.weight"}},
    .biases = true,
    .drop_delta = true,
    .base_counts_heads = true,
    .update_act = SPI_ACT_GELU_ERF,
};

const spi_dialect *spi_dialect_of(sp_dialect id) {
    return id == SP_DIALECT_SHADOW_PEFT ? &shadow_peft : id == SP_DIALECT_PEFT ? &peft : NULL;
}
