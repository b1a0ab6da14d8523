/* GPT-2 and OPT: learned positions, LayerNorm with biases, an MLP without a gate. */
#include "model/families.h"

/* ------------------------------------------------------------------ GPT-2 */

static sp_status read_gpt2(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    bool scale;
    arch->qkv_bias = arch->o_bias = arch->mlp_bias = true;
    SPI_TRY(spi_json_bool(ctx, file, config, "scale_attn_weights", true, &scale));
    if (!scale) arch->attn_scale = 1;
    SPI_TRY(
        spi_json_bool(ctx, file, config, "scale_attn_by_inverse_layer_idx", false, &arch->attn_scale_by_layer));
    return spi_refuse_flag(ctx, file, config, "add_cross_attention");
}

const spi_family spi_family_gpt2 = {
    .model_type = "gpt2",
    .causal_lm = "GPT2LMHeadModel",
    .classifier = "GPT2ForSequenceClassification",
    .prefix = "transformer.",
    .layer = "h.%d.",
    .head = "lm_head.weight",
    .slots = {[SPI_EMBED] = "wte.weight",
              [SPI_POSITIONS] = "wpe.weight",
              [SPI_FINAL_NORM_W] = "ln_f.weight",
              [SPI_FINAL_NORM_B] = "ln_f.bias",
              [SPI_NORM1_W] = "ln_1.weight",
              [SPI_NORM1_B] = "ln_1.bias",
              [SPI_QKV_W] = "attn.c_attn.weight",
              [SPI_QKV_B] = "attn.c_attn.bias",
              [SPI_O_W] = "attn.c_proj.weight",
              [SPI_O_B] = "attn.c_proj.bias",
              [SPI_NORM2_W] = "ln_2.weight",
              [SPI_NORM2_B] = "ln_2.bias",
              [SPI_GATE_W] = "mlp.c_fc.weight",
              [SPI_GATE_B] = "mlp.c_fc.bias",
              [SPI_DOWN_W] = "mlp.c_proj.weight",
              [SPI_DOWN_B] = "mlp.c_proj.bias"},
    .keys = {[SPI_FACT_HIDDEN_SIZE] = "n_embd",
             [SPI_FACT_LAYERS] = "n_layer",
             [SPI_FACT_INTERMEDIATE_SIZE] = "n_inner",
             [SPI_FACT_HEADS] = "n_head",
             [SPI_FACT_MAX_POSITIONS] = "n_positions",
             [SPI_FACT_NORM_EPS] = "layer_norm_epsilon",
             [SPI_FACT_ACTIVATION] = "activation_function"},
    .defaults = {[SPI_FACT_MAX_POSITIONS] = 1024, [SPI_FACT_NORM_EPS] = 1e-5},
    .activation = "gelu_new",
    .tied = true,
    .mlp_ratio = 4,
    .multi_head = true,
    .norm_kind = SPI_NORM_LAYER,
    .transposed = true,
    .scaled_init = true,
    .shadow_keeps_embed = true,
    .read = read_gpt2,
};

/* ------------------------------------------------------------------ OPT */

static sp_status read_opt(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    bool before, bias, removed, affine;
    SPI_TRY(spi_json_int(ctx, file, config, "word_embed_proj_dim", arch->hidden_size, &arch->embed_size));
    if (arch->embed_size < 1 || arch->embed_size > INT32_MAX)
        return spi_fail(ctx, SP_ERR_FORMAT,
                        "%s: \"word_embed_proj_dim\": expected a positive integer, found %lld", file,
                        (long long)arch->embed_size);
    SPI_TRY(spi_json_bool(ctx, file, config, "layer_norm_elementwise_affine", true, &affine));
    if (!affine)
        return spi_fail(ctx, SP_ERR_UNSUPPORTED,
                        "%s: \"layer_norm_elementwise_affine\": expected true, found false", file);
    SPI_TRY(spi_json_bool(ctx, file, config, "enable_bias", true, &bias));
    arch->qkv_bias = arch->o_bias = arch->mlp_bias = bias;
    SPI_TRY(spi_json_bool(ctx, file, config, "do_layer_norm_before", true, &before));
    SPI_TRY(spi_json_bool(ctx, file, config, "_remove_final_layer_norm", false, &removed));
    arch->norm_residual = !before;
    arch->no_final_norm = !before || removed;
    return SP_OK;
}

const spi_family spi_family_opt = {
    .model_type = "opt",
    .causal_lm = "OPTForCausalLM",
    .classifier = "OPTForSequenceClassification",
    .prefix = "model.",
    .layer = "decoder.layers.%d.",
    .head = "lm_head.weight",
    .slots = {[SPI_EMBED] = "decoder.embed_tokens.weight",
              [SPI_POSITIONS] = "decoder.embed_positions.weight",
              [SPI_PROJECT_IN] = "decoder.project_in.weight",
              [SPI_PROJECT_OUT] = "decoder.project_out.weight",
              [SPI_FINAL_NORM_W] = "decoder.final_layer_norm.weight",
              [SPI_FINAL_NORM_B] = "decoder.final_layer_norm.bias",
              SPI_LLAMA_QKV,
              [SPI_O_W] = "self_attn.out_proj.weight",
              [SPI_O_B] = "self_attn.out_proj.bias",
              [SPI_NORM1_W] = "self_attn_layer_norm.weight",
              [SPI_NORM1_B] = "self_attn_layer_norm.bias",
              [SPI_NORM2_W] = "final_layer_norm.weight",
              [SPI_NORM2_B] = "final_layer_norm.bias",
              [SPI_GATE_W] = "fc1.weight",
              [SPI_GATE_B] = "fc1.bias",
              [SPI_DOWN_W] = "fc2.weight",
              [SPI_DOWN_B] = "fc2.bias"},
    .keys = {[SPI_FACT_INTERMEDIATE_SIZE] = "ffn_dim",
             [SPI_FACT_INIT_RANGE] = "init_std",
             [SPI_FACT_ACTIVATION] = "activation_function"},
    .defaults = {[SPI_FACT_NORM_EPS] = 1e-5}, /* PyTorch's; no file says it */
    .activation = "relu",
    .tied = true,
    .multi_head = true,
    .norm_kind = SPI_NORM_LAYER,
    .position_offset = 2,
    .positions_count_attended = true,
    .shadow_keeps_embed = true,
    .read = read_opt,
};
