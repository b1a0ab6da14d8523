/* HunYuan dense, Phi-3, OLMo 2: LLaMA's layer with one part each that differs. */
#include <string.h>

#include "model/families.h"

/* ------------------------------------------------------------------ HunYuan dense */

static sp_status read_hunyuan(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    const json_t *dict = NULL;
    arch->qk_norm = SPI_QK_NORM_HEAD;
    arch->qk_norm_after_rope = true;
    SPI_TRY(spi_read_usual_rope(ctx, file, config, arch));
    SPI_TRY(spi_rope_dict(ctx, file, config, &dict));
    SPI_TRY(spi_json_real(ctx, file, dict, "alpha", 0, &arch->rope.alpha));
    if (arch->rope.kind == SPI_ROPE_DYNAMIC && arch->rope.alpha > 0) arch->rope.kind = SPI_ROPE_NTK_ALPHA;
    return spi_read_attention_bias(ctx, file, config, arch);
}

const spi_family spi_family_hunyuan = {
    .model_type = "hunyuan_v1_dense",
    .causal_lm = "HunYuanDenseV1ForCausalLM",
    .classifier = "HunYuanDenseV1ForSequenceClassification",
    SPI_LLAMA_NAMES,
    .slots = {SPI_LLAMA_OUTER, SPI_LLAMA_NORMS, SPI_LLAMA_ATTENTION,
              SPI_LLAMA_MLP, [SPI_QNORM_W] = "self_attn.query_layernorm.weight",
              [SPI_KNORM_W] = "self_attn.key_layernorm.weight"},
    .defaults = {[SPI_FACT_NORM_EPS] = 1e-5},
    .read = read_hunyuan,
};

/* ------------------------------------------------------------------ Phi-3, Phi-3.5, Phi-4-mini */

static sp_status read_phi3_rope(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    const json_t *dict = NULL;
    const char *kind = NULL;
    spi_rope_defaults defaults = {0};
    SPI_TRY(spi_rope_dict(ctx, file, config, &dict));
    SPI_TRY(spi_json_string(ctx, file, dict, "type", "default", &kind));
    SPI_TRY(spi_json_string(ctx, file, dict, "rope_type", kind, &kind));
    /* Earlier names of what is longrope. */
    if (strcmp(kind, "su") == 0 || strcmp(kind, "yarn") == 0) defaults.kind = "longrope";
    SPI_TRY(spi_json_real(ctx, file, config, "rope_theta", 10000.0, &defaults.theta));
    SPI_TRY(spi_json_real(ctx, file, config, "partial_rotary_factor", 1.0, &defaults.partial));
    SPI_TRY(spi_json_int(ctx, file, config, "original_max_position_embeddings", 4096,
                         &defaults.original_max_positions));
    return spi_read_rope(ctx, file, dict, &defaults, arch, &arch->rope);
}

static sp_status read_phi3(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    /* Phi3Config has no head_dim of its own. */
    arch->head_dim_derived = !json_is_integer(json_object_get(config, "head_dim"));
    SPI_TRY(read_phi3_rope(ctx, file, config, arch));
    SPI_TRY(spi_read_window(ctx, file, config, 0, arch));
    if (arch->sliding_window == 0) return SP_OK;
    SPI_TRY(spi_new_sliding(ctx, arch));
    memset(arch->sliding, 1, (size_t)arch->num_layers);
    return SP_OK;
}

const spi_family spi_family_phi3 = {
    .model_type = "phi3",
    .causal_lm = "Phi3ForCausalLM",
    .classifier = "Phi3ForSequenceClassification",
    SPI_LLAMA_NAMES,
    .slots = {SPI_LLAMA_OUTER,
              SPI_LLAMA_NORMS, [SPI_QKV_W] = "self_attn.qkv_proj.weight", [SPI_O_W] = "self_attn.o_proj.weight",
              [SPI_GATE_UP_W] = "mlp.gate_up_proj.weight", [SPI_DOWN_W] = "mlp.down_proj.weight"},
    .defaults = {[SPI_FACT_NORM_EPS] = 1e-5, [SPI_FACT_MAX_POSITIONS] = 4096},
    .read = read_phi3,
};

/* ------------------------------------------------------------------ OLMo 2 */

static sp_status read_olmo2(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    arch->qk_norm = SPI_QK_NORM_ROW;
    arch->head_dim_derived = !json_is_integer(json_object_get(config, "head_dim"));
    SPI_TRY(spi_read_usual_rope(ctx, file, config, arch));
    return spi_read_attention_bias(ctx, file, config, arch);
}

const spi_family spi_family_olmo2 = {
    .model_type = "olmo2",
    .causal_lm = "Olmo2ForCausalLM",
    .classifier = "Olmo2ForSequenceClassification",
    SPI_LLAMA_NAMES,
    .slots = {SPI_LLAMA_OUTER, SPI_LLAMA_ATTENTION,
              SPI_LLAMA_MLP, [SPI_POST1_W] = "post_attention_layernorm.weight",
              [SPI_POST2_W] = "post_feedforward_layernorm.weight", [SPI_QNORM_W] = "self_attn.q_norm.weight",
              [SPI_KNORM_W] = "self_attn.k_norm.weight"},
    .defaults = {[SPI_FACT_NORM_EPS] = 1e-5},
    .read = read_olmo2,
};
