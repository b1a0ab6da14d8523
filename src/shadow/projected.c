#include "shadow/projected.h"

#include <stdio.h>
#include <string.h>

bool spi_is_projected(const json_t *config) {
    const char *type = json_string_value(json_object_get(config, "model_type"));
    return type && strcmp(type, SPI_PROJECTED_TYPE) == 0;
}

sp_status spi_backbone_config(sp_context *ctx, const char *file, const json_t *config, const json_t **out) {
    *out = spi_is_projected(config) ? json_object_get(config, "shadow_model_config") : config;
    if (json_is_object(*out)) return SP_OK;
    return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"shadow_model_config\": expected the backbone's config, found %s",
                    file, *out ? "no object" : "nothing");
}

/* What the projection and its head add to the backbone. */
static sp_status read_projection(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    int64_t width, vocab;
    SPI_TRY(spi_json_int(ctx, file, config, "base_hidden_size", 0, &width));
    SPI_TRY(spi_json_int(ctx, file, config, "vocab_size", arch->vocab_size, &vocab));
    if (width < 1 || width > INT32_MAX)
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"base_hidden_size\": expected 1 to %d, found %lld", file,
                        INT32_MAX, (long long)width);
    if (vocab != arch->vocab_size)
        return spi_fail(ctx, SP_ERR_UNSUPPORTED,
                        "%s: \"vocab_size\": expected the backbone's (%lld), found %lld", file,
                        (long long)arch->vocab_size, (long long)vocab);
    if (arch->embed_size != arch->hidden_size)
        return spi_fail(ctx, SP_ERR_UNSUPPORTED,
                        "%s: \"word_embed_proj_dim\": expected the backbone's hidden size (%lld), found %lld",
                        file, (long long)arch->hidden_size, (long long)arch->embed_size);
    arch->out_size = width;
    arch->tie_embeddings = false;
    arch->logit_softcap = 0; /* the family's task model caps its logits, this one has none */
    return SP_OK;
}

sp_status spi_model_arch_read(sp_context *ctx, const char *file, const json_t *config, spi_arch *out) {
    const json_t *backbone;
    *out = (spi_arch){0};
    SPI_TRY(spi_backbone_config(ctx, file, config, &backbone));
    SPI_TRY(spi_arch_read(ctx, file, backbone, out));
    if (backbone == config) return SP_OK;
    sp_status status = read_projection(ctx, file, config, out);
    if (status != SP_OK) spi_arch_free(out);
    return status;
}

/* ------------------------------------------------------------------ writing */

/* "transformers.models.qwen3.modeling_qwen3:Qwen3Model" and its config's class, as Python finds them again. */
static void set_classes(json_t *config, const spi_family *family) {
    const bool gemma3 = strcmp(family->model_type, "gemma3_text") == 0;
    const char *module = gemma3 ? "gemma3" : family->model_type, *class = family->causal_lm;
    const char *end = strstr(class, "ForCausalLM");
    if (!end) end = strstr(class, "LMHeadModel");
    const int length = (int)(end ? end - class : (ptrdiff_t)strlen(class));
    const char *text = gemma3 ? "Text" : "";
    char name[256];
    snprintf(name, sizeof name, "transformers.models.%s.modeling_%s:%.*s%sModel", module, module, length, class,
             text);
    json_object_set_new(config, "shadow_model_class", json_string(name));
    snprintf(name, sizeof name, "transformers.models.%s.configuration_%s:%.*s%sConfig", module, module, length,
             class, text);
    json_object_set_new(config, "shadow_model_config_class", json_string(name));
}

static void copy_keys(json_t *to, const json_t *from, const char *const *keys) {
    for (; *keys; keys++)
        if (json_object_get(from, *keys)) json_object_set(to, *keys, json_object_get(from, *keys));
}

json_t *spi_projected_config(json_t *backbone, const spi_family *family, int64_t width, int64_t vocab_size,
                             const json_t *ids) {
    /* What Python shows of the backbone, for Transformers' caches and generation. */
    static const char *const shown[] = {"num_hidden_layers",
                                        "num_attention_heads",
                                        "num_key_value_heads",
                                        "intermediate_size",
                                        "max_position_embeddings",
                                        "rope_theta",
                                        "rms_norm_eps",
                                        "layer_types",
                                        "sliding_window",
                                        "attention_dropout",
                                        "head_dim",
                                        "use_sliding_window",
                                        "max_window_layers",
                                        NULL};
    static const char *const special[] = {"bos_token_id", "eos_token_id", "pad_token_id", NULL};
    json_t *config =
        json_pack("{s:s,s:[s],s:I,s:I,s:I,s:b}", "model_type", SPI_PROJECTED_TYPE, "architectures",
                  SPI_PROJECTED_CLASS, "base_hidden_size", (json_int_t)width, "hidden_size", (json_int_t)width,
                  "vocab_size", (json_int_t)vocab_size, "tie_word_embeddings", 0);
    copy_keys(config, backbone, shown);
    copy_keys(config, ids, special);
    set_classes(config, family);
    json_object_set_new(config, "shadow_model_config", backbone);
    return config;
}
