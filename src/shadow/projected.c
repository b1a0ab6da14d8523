#include "shadow/projected.h"

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
