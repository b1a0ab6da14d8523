/* Gemma 1 to 3: scaled embeddings, norms around an offset of 1, sandwich norms, soft caps, two rotary bases. */
#include <math.h>
#include <string.h>

#include "model/families.h"

#define SANDWICH_NORMS                                                                           \
    [SPI_NORM1_W] = "input_layernorm.weight", [SPI_POST1_W] = "post_attention_layernorm.weight", \
    [SPI_NORM2_W] = "pre_feedforward_layernorm.weight", [SPI_POST2_W] = "post_feedforward_layernorm.weight"

/* What all three share. */
static sp_status read_common(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    arch->embed_scale = sqrtf((float)arch->hidden_size);
    SPI_TRY(spi_refuse_flag(ctx, file, config, "use_bidirectional_attention"));
    return spi_read_attention_bias(ctx, file, config, arch);
}

/* ------------------------------------------------------------------ Gemma */

static sp_status read_gemma(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    /* The first release said "gelu" and meant its tanh form. */
    if (arch->activation == SPI_ACT_GELU_ERF) arch->activation = SPI_ACT_GELU_TANH;
    SPI_TRY(spi_read_usual_rope(ctx, file, config, arch));
    return read_common(ctx, file, config, arch);
}

const spi_family spi_family_gemma = {
    .model_type = "gemma",
    .causal_lm = "GemmaForCausalLM",
    .classifier = "GemmaForSequenceClassification",
    SPI_LLAMA_NAMES,
    .slots = {SPI_LLAMA_OUTER, SPI_LLAMA_NORMS, SPI_LLAMA_ATTENTION, SPI_LLAMA_MLP},
    .defaults = {[SPI_FACT_HEAD_DIM] = 256, [SPI_FACT_MAX_POSITIONS] = 8192},
    .activation = "gelu_pytorch_tanh",
    .tied = true,
    .norm_offset = 1,
    .read = read_gemma,
};

/* ------------------------------------------------------------------ Gemma 2 and 3 */

/* A number that null switches off, and that a file may lack. */
static sp_status read_cap(sp_context *ctx, const char *file, const json_t *config, const char *key,
                          double fallback, float *out) {
    double value;
    SPI_TRY(spi_json_real(ctx, file, config, key, json_object_get(config, key) ? 0 : fallback, &value));
    if (value < 0)
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"%s\": expected a positive number or null, found %g", file,
                        key, value);
    *out = (float)value;
    return SP_OK;
}

/* Attention's scale and caps, and which layers slide: "layer_types", else all but each `pattern`th. */
static sp_status read_attention(sp_context *ctx, const char *file, const json_t *config, int64_t pattern,
                                double attn_cap, double logit_cap, spi_arch *arch) {
    double scalar;
    bool typed;
    SPI_TRY(spi_json_real(ctx, file, config, "query_pre_attn_scalar", 256, &scalar));
    if (scalar <= 0 || pattern < 1)
        return spi_fail(ctx, SP_ERR_FORMAT,
                        "%s: \"query_pre_attn_scalar\", \"sliding_window_pattern\": expected positive numbers, "
                        "found %g and %lld",
                        file, scalar, (long long)pattern);
    arch->attn_scale = (float)(1 / sqrt(scalar));
    SPI_TRY(read_cap(ctx, file, config, "attn_logit_softcapping", attn_cap, &arch->attn_softcap));
    SPI_TRY(read_cap(ctx, file, config, "final_logit_softcapping", logit_cap, &arch->logit_softcap));
    SPI_TRY(spi_read_window(ctx, file, config, 4096, arch));
    SPI_TRY(spi_new_sliding(ctx, arch));
    SPI_TRY(spi_read_layer_types(ctx, file, config, arch, &typed));
    for (int64_t i = 0; !typed && i < arch->num_layers; i++) arch->sliding[i] = (i + 1) % pattern != 0;
    return read_common(ctx, file, config, arch);
}

static sp_status read_gemma2(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    SPI_TRY(spi_read_usual_rope(ctx, file, config, arch));
    return read_attention(ctx, file, config, 2, 50, 30, arch);
}

const spi_family spi_family_gemma2 = {
    .model_type = "gemma2",
    .causal_lm = "Gemma2ForCausalLM",
    .classifier = "Gemma2ForSequenceClassification",
    SPI_LLAMA_NAMES,
    .slots = {SPI_LLAMA_OUTER, SANDWICH_NORMS, SPI_LLAMA_ATTENTION, SPI_LLAMA_MLP},
    .keys = {[SPI_FACT_ACTIVATION] = "hidden_activation"},
    .defaults = {[SPI_FACT_KV_HEADS] = 4, [SPI_FACT_HEAD_DIM] = 256, [SPI_FACT_MAX_POSITIONS] = 8192},
    .activation = "gelu_pytorch_tanh",
    .tied = true,
    .norm_offset = 1,
    .read = read_gemma2,
};

/*
 * Layers that slide have a rotary base of their own. Transformers 5 writes one dictionary for each kind of
 * layer; older files have rope_theta and rope_scaling for the others, rope_local_base_freq for these.
 */
static sp_status read_gemma3_ropes(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    const json_t *dict = NULL;
    spi_rope_defaults full = {.partial = 1}, local = {.partial = 1};
    SPI_TRY(spi_json_real(ctx, file, config, "rope_theta", 1e6, &full.theta));
    SPI_TRY(spi_json_real(ctx, file, config, "rope_local_base_freq", 1e4, &local.theta));
    SPI_TRY(spi_rope_dict(ctx, file, config, &dict));
    const json_t *of_full = json_object_get(dict, "full_attention");
    const json_t *of_local = json_object_get(dict, "sliding_attention");
    if (!of_full && !of_local) of_full = dict;
    arch->two_ropes = true;
    SPI_TRY(spi_read_rope(ctx, file, of_full, &full, arch, &arch->rope));
    return spi_read_rope(ctx, file, of_local, &local, arch, &arch->sliding_rope);
}

static sp_status read_gemma3(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    int64_t pattern;
    arch->qk_norm = SPI_QK_NORM_HEAD;
    SPI_TRY(read_gemma3_ropes(ctx, file, config, arch));
    SPI_TRY(spi_json_int(ctx, file, config, "sliding_window_pattern", 6, &pattern));
    return read_attention(ctx, file, config, pattern, 0, 0, arch);
}

/* Where the text tower's tensors stand in files that hold the image tower too: before and since Transformers
 * 4.52. */
static const char *const gemma3_prefixes[] = {"language_model.model.", "model.language_model.", NULL};

const spi_family spi_family_gemma3 = {
    .model_type = "gemma3_text",
    .causal_lm = "Gemma3ForCausalLM",
    .classifier = "Gemma3TextForSequenceClassification",
    SPI_LLAMA_NAMES,
    .other_prefixes = gemma3_prefixes,
    .slots =
        {SPI_LLAMA_OUTER, SANDWICH_NORMS, SPI_LLAMA_ATTENTION,
         SPI_LLAMA_MLP, [SPI_QNORM_W] = "self_attn.q_norm.weight", [SPI_KNORM_W] = "self_attn.k_norm.weight"},
    .keys = {[SPI_FACT_ACTIVATION] = "hidden_activation"},
    .defaults = {[SPI_FACT_VOCAB_SIZE] = 262208,
                 [SPI_FACT_HEADS] = 8,
                 [SPI_FACT_KV_HEADS] = 4,
                 [SPI_FACT_HEAD_DIM] = 256,
                 [SPI_FACT_MAX_POSITIONS] = 131072},
    .activation = "gelu_pytorch_tanh",
    .tied = true,
    .norm_offset = 1,
    .read = read_gemma3,
};
