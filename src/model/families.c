/* LLaMA and its nearest relatives, and what readers of all families share. */
#include "model/families.h"

#include <stdlib.h>
#include <string.h>

const spi_family *const *spi_families(void) {
    static const spi_family *const all[] = {&spi_family_llama,
                                            &spi_family_mistral,
                                            &spi_family_qwen2,
                                            &spi_family_qwen3,
                                            &spi_family_gemma,
                                            &spi_family_gemma2,
                                            &spi_family_gemma3,
                                            &spi_family_gpt2,
                                            &spi_family_opt,
                                            &spi_family_hunyuan,
                                            &spi_family_phi3,
                                            &spi_family_olmo2,
                                            NULL};
    return all;
}

/* ------------------------------------------------------------------ shared by readers */

sp_status spi_read_attention_bias(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    SPI_TRY(spi_json_bool(ctx, file, config, "attention_bias", false, &arch->qkv_bias));
    arch->o_bias = arch->qkv_bias;
    return SP_OK;
}

sp_status spi_read_window(sp_context *ctx, const char *file, const json_t *config, int64_t fallback,
                          spi_arch *arch) {
    int64_t window;
    if (json_object_get(config, "sliding_window")) fallback = 0;
    SPI_TRY(spi_json_int(ctx, file, config, "sliding_window", fallback, &window));
    if (window < 0 || window > INT32_MAX)
        return spi_fail(ctx, SP_ERR_FORMAT,
                        "%s: \"sliding_window\": expected a positive integer or null, found %lld", file,
                        (long long)window);
    arch->sliding_window = (int32_t)window;
    return SP_OK;
}

sp_status spi_new_sliding(sp_context *ctx, spi_arch *arch) {
    arch->sliding = calloc((size_t)arch->num_layers, 1);
    return arch->sliding ? SP_OK : spi_fail_memory(ctx, (size_t)arch->num_layers, "an architecture");
}

sp_status spi_read_layer_types(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch,
                               bool *found) {
    const json_t *types = json_object_get(config, "layer_types");
    *found = types && !json_is_null(types);
    if (!*found) return SP_OK;
    if (!json_is_array(types) || (int64_t)json_array_size(types) < arch->num_layers)
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"layer_types\": expected a list of %lld names, found %zu",
                        file, (long long)arch->num_layers, json_array_size(types));
    for (int64_t i = 0; i < arch->num_layers; i++) {
        const char *name = json_string_value(json_array_get(types, (size_t)i));
        const bool sliding = name && strcmp(name, "sliding_attention") == 0;
        if (!sliding && !(name && strcmp(name, "full_attention") == 0))
            return spi_fail(ctx, SP_ERR_UNSUPPORTED,
                            "%s: \"layer_types\"[%lld]: expected full_attention or sliding_attention, found %s",
                            file, (long long)i, name ? name : "no string");
        arch->sliding[i] = sliding;
    }
    return SP_OK;
}

sp_status spi_refuse_flag(sp_context *ctx, const char *file, const json_t *config, const char *key) {
    bool set;
    SPI_TRY(spi_json_bool(ctx, file, config, key, false, &set));
    return set ? spi_fail(ctx, SP_ERR_UNSUPPORTED, "%s: \"%s\": expected false, found true", file, key) : SP_OK;
}

/* ------------------------------------------------------------------ LLaMA 1 to 3 */

static sp_status read_llama(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    SPI_TRY(spi_read_usual_rope(ctx, file, config, arch));
    SPI_TRY(spi_read_attention_bias(ctx, file, config, arch));
    return spi_json_bool(ctx, file, config, "mlp_bias", false, &arch->mlp_bias);
}

const spi_family spi_family_llama = {
    .model_type = "llama",
    .causal_lm = "LlamaForCausalLM",
    .classifier = "LlamaForSequenceClassification",
    SPI_LLAMA_NAMES,
    .slots = {SPI_LLAMA_OUTER, SPI_LLAMA_NORMS, SPI_LLAMA_ATTENTION, SPI_LLAMA_MLP},
    .read = read_llama,
};

/* ------------------------------------------------------------------ Mistral */

static sp_status read_mistral(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    SPI_TRY(spi_read_usual_rope(ctx, file, config, arch));
    SPI_TRY(spi_read_window(ctx, file, config, 4096, arch));
    if (arch->sliding_window == 0) return SP_OK;
    SPI_TRY(spi_new_sliding(ctx, arch));
    memset(arch->sliding, 1, (size_t)arch->num_layers);
    return SP_OK;
}

const spi_family spi_family_mistral = {
    .model_type = "mistral",
    .causal_lm = "MistralForCausalLM",
    .classifier = "MistralForSequenceClassification",
    SPI_LLAMA_NAMES,
    .slots = {SPI_LLAMA_OUTER, SPI_LLAMA_NORMS, SPI_LLAMA_ATTENTION, SPI_LLAMA_MLP},
    .read = read_mistral,
};

/* ------------------------------------------------------------------ Qwen2, Qwen2.5 */

/* `layer_types`, or the layers from max_window_layers on, when use_sliding_window. */
static sp_status read_qwen_window(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    bool use, typed;
    int64_t first;
    SPI_TRY(spi_json_bool(ctx, file, config, "use_sliding_window", false, &use));
    if (!use) return SP_OK;
    SPI_TRY(spi_read_window(ctx, file, config, 4096, arch));
    if (arch->sliding_window == 0) return SP_OK;
    SPI_TRY(spi_json_int(ctx, file, config, "max_window_layers", 28, &first));
    SPI_TRY(spi_new_sliding(ctx, arch));
    SPI_TRY(spi_read_layer_types(ctx, file, config, arch, &typed));
    for (int64_t i = first < 0 ? 0 : first; !typed && i < arch->num_layers; i++) arch->sliding[i] = 1;
    return SP_OK;
}

static sp_status read_qwen2(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    arch->qkv_bias = true;
    /* Qwen2Config has no head_dim of its own; files of derived models may carry one. */
    arch->head_dim_derived = !json_is_integer(json_object_get(config, "head_dim"));
    SPI_TRY(spi_read_usual_rope(ctx, file, config, arch));
    return read_qwen_window(ctx, file, config, arch);
}

const spi_family spi_family_qwen2 = {
    .model_type = "qwen2",
    .causal_lm = "Qwen2ForCausalLM",
    .classifier = "Qwen2ForSequenceClassification",
    SPI_LLAMA_NAMES,
    .slots = {SPI_LLAMA_OUTER, SPI_LLAMA_NORMS, SPI_LLAMA_ATTENTION, SPI_LLAMA_MLP},
    .read = read_qwen2,
};

/* ------------------------------------------------------------------ Qwen3 */

static sp_status read_qwen3(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    arch->qk_norm = SPI_QK_NORM_HEAD;
    SPI_TRY(spi_read_usual_rope(ctx, file, config, arch));
    SPI_TRY(spi_read_attention_bias(ctx, file, config, arch));
    return read_qwen_window(ctx, file, config, arch);
}

const spi_family spi_family_qwen3 = {
    .model_type = "qwen3",
    .causal_lm = "Qwen3ForCausalLM",
    .classifier = "Qwen3ForSequenceClassification",
    SPI_LLAMA_NAMES,
    .slots =
        {SPI_LLAMA_OUTER, SPI_LLAMA_NORMS, SPI_LLAMA_ATTENTION,
         SPI_LLAMA_MLP, [SPI_QNORM_W] = "self_attn.q_norm.weight", [SPI_KNORM_W] = "self_attn.k_norm.weight"},
    .defaults = {[SPI_FACT_HEAD_DIM] = 128},
    .read = read_qwen3,
};
