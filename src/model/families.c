#include "model/families.h"

#include <stdlib.h>
#include <string.h>

const spi_family *const *spi_families(void) {
    static const spi_family *const all[] = {&spi_family_llama, &spi_family_mistral, &spi_family_qwen2,
                                            &spi_family_qwen3, NULL};
    return all;
}

/* The names that LLaMA set and its relatives kept. */
#define LLAMA_NAMES                                                                                         \
    .prefix = "model.", .embed = "embed_tokens.weight", .final_norm = "norm.weight", .layer = "layers.%d.", \
    .head = "lm_head.weight"
#define LLAMA_SLOTS                                                                                            \
    [SPI_NORM1_W] = "input_layernorm.weight", [SPI_Q_W] = "self_attn.q_proj.weight",                           \
    [SPI_Q_B] = "self_attn.q_proj.bias", [SPI_K_W] = "self_attn.k_proj.weight",                                \
    [SPI_K_B] = "self_attn.k_proj.bias", [SPI_V_W] = "self_attn.v_proj.weight",                                \
    [SPI_V_B] = "self_attn.v_proj.bias", [SPI_O_W] = "self_attn.o_proj.weight",                                \
    [SPI_O_B] = "self_attn.o_proj.bias", [SPI_NORM2_W] = "post_attention_layernorm.weight",                    \
    [SPI_GATE_W] = "mlp.gate_proj.weight", [SPI_GATE_B] = "mlp.gate_proj.bias",                                \
    [SPI_UP_W] = "mlp.up_proj.weight", [SPI_UP_B] = "mlp.up_proj.bias", [SPI_DOWN_W] = "mlp.down_proj.weight", \
    [SPI_DOWN_B] = "mlp.down_proj.bias"

/* ------------------------------------------------------------------ sliding windows */

static sp_status read_window(sp_context *ctx, const char *file, const json_t *config, int64_t fallback,
                             int32_t *out) {
    int64_t window;
    SPI_TRY(spi_json_int(ctx, file, config, "sliding_window", fallback, &window));
    if (window < 0 || window > INT32_MAX)
        return spi_fail(ctx, SP_ERR_FORMAT,
                        "%s: \"sliding_window\": expected a positive integer or null, found %lld", file,
                        (long long)window);
    *out = (int32_t)window;
    return SP_OK;
}

static sp_status mark_layer_types(sp_context *ctx, const char *file, const json_t *types, spi_arch *arch) {
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

/* Qwen2 and Qwen3: `layer_types`, or the layers from max_window_layers on when use_sliding_window. */
static sp_status read_qwen_window(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    bool use;
    int64_t first;
    SPI_TRY(spi_json_bool(ctx, file, config, "use_sliding_window", false, &use));
    if (!use) return SP_OK;
    SPI_TRY(read_window(ctx, file, config, 4096, &arch->sliding_window));
    if (arch->sliding_window == 0) return SP_OK;
    SPI_TRY(spi_json_int(ctx, file, config, "max_window_layers", 28, &first));
    arch->sliding = calloc((size_t)arch->num_layers, 1);
    if (!arch->sliding) return spi_fail_memory(ctx, (size_t)arch->num_layers, "an architecture");
    const json_t *types = json_object_get(config, "layer_types");
    if (types && !json_is_null(types)) return mark_layer_types(ctx, file, types, arch);
    for (int64_t i = first < 0 ? 0 : first; i < arch->num_layers; i++) arch->sliding[i] = 1;
    return SP_OK;
}

/* ------------------------------------------------------------------ LLaMA 1 to 3 */

static sp_status read_llama(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    SPI_TRY(spi_json_bool(ctx, file, config, "attention_bias", false, &arch->qkv_bias));
    arch->o_bias = arch->qkv_bias;
    return spi_json_bool(ctx, file, config, "mlp_bias", false, &arch->mlp_bias);
}

const spi_family spi_family_llama = {
    .model_type = "llama",
    .causal_lm = "LlamaForCausalLM",
    LLAMA_NAMES,
    .slots = {LLAMA_SLOTS},
    .read = read_llama,
};

/* ------------------------------------------------------------------ Mistral */

static sp_status read_mistral(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    /* A key that is missing means MistralConfig's default; null means no window. */
    const int64_t fallback = json_object_get(config, "sliding_window") ? 0 : 4096;
    SPI_TRY(read_window(ctx, file, config, fallback, &arch->sliding_window));
    if (arch->sliding_window == 0) return SP_OK;
    arch->sliding = malloc((size_t)arch->num_layers);
    if (!arch->sliding) return spi_fail_memory(ctx, (size_t)arch->num_layers, "an architecture");
    memset(arch->sliding, 1, (size_t)arch->num_layers);
    return SP_OK;
}

const spi_family spi_family_mistral = {
    .model_type = "mistral",
    .causal_lm = "MistralForCausalLM",
    LLAMA_NAMES,
    .slots = {LLAMA_SLOTS},
    .read = read_mistral,
};

/* ------------------------------------------------------------------ Qwen2, Qwen2.5 */

static sp_status read_qwen2(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    arch->qkv_bias = true;
    return read_qwen_window(ctx, file, config, arch);
}

const spi_family spi_family_qwen2 = {
    .model_type = "qwen2",
    .causal_lm = "Qwen2ForCausalLM",
    LLAMA_NAMES,
    .slots = {LLAMA_SLOTS},
    .read = read_qwen2,
};

/* ------------------------------------------------------------------ Qwen3 */

static sp_status read_qwen3(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    int64_t head_dim;
    SPI_TRY(spi_json_int(ctx, file, config, "head_dim", 128, &head_dim));
    arch->head_dim = (int32_t)head_dim;
    arch->qk_norm = true;
    SPI_TRY(spi_json_bool(ctx, file, config, "attention_bias", false, &arch->qkv_bias));
    arch->o_bias = arch->qkv_bias;
    return read_qwen_window(ctx, file, config, arch);
}

const spi_family spi_family_qwen3 = {
    .model_type = "qwen3",
    .causal_lm = "Qwen3ForCausalLM",
    LLAMA_NAMES,
    .slots =
        {LLAMA_SLOTS, [SPI_QNORM_W] = "self_attn.q_norm.weight", [SPI_KNORM_W] = "self_attn.k_norm.weight"},
    .read = read_qwen3,
};
