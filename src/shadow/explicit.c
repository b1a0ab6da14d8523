#include "shadow/explicit.h"

#include "shadow/projected.h"

/* ------------------------------------------------------------------ reading */

/* Takes `all` over. */
static sp_status read_config(sp_context *ctx, const char *file, json_t *all, spi_shadow_source *out) {
    const json_t *config;
    out->config = all;
    out->projected = spi_is_projected(all);
    SPI_TRY(spi_backbone_config(ctx, file, all, &config));
    SPI_TRY(spi_arch_read(ctx, file, config, &out->arch));
    out->opened = true;
    return SP_OK;
}

sp_status spi_shadow_source_open(sp_context *ctx, const char *dir, spi_shadow_source *out) {
    *out = (spi_shadow_source){0};
    SPI_TRY(spi_checkpoint_open(ctx, dir, true, &out->files));
    out->has_weights = true;
    SPI_TRY(read_config(ctx, out->files.config_path, json_incref(out->files.config), out));
    out->prefix = out->projected ? "shadow_model." : spi_decoder_stored_prefix(&out->arch, out->files.weights);
    return SP_OK;
}

sp_status spi_shadow_source_config(sp_context *ctx, const char *file, spi_shadow_source *out) {
    json_t *config = NULL;
    *out = (spi_shadow_source){0};
    SPI_TRY(spi_json_load(ctx, file, &config));
    return read_config(ctx, file, config, out);
}

void spi_shadow_source_close(spi_shadow_source *source) {
    if (source->opened) spi_arch_free(&source->arch);
    json_decref(source->config);
    if (source->has_weights) spi_checkpoint_close(&source->files);
    *source = (spi_shadow_source){0};
}

/* ------------------------------------------------------------------ values */

/* A projection of other sizes is left where it is: a fresh one takes its place, as in Python. */
static bool projection_fits(const spi_shadow_source *source, const spi_param *p) {
    const spi_st_tensor *t = spi_st_find(source->files.weights, SPI_PROJECTED_WEIGHT);
    return t && p && t->ndim == 2 && t->shape[0] == p->shape[0] && t->shape[1] == p->shape[1];
}

sp_status spi_shadow_source_load(spi_shadow_source *source, sp_model *model, spi_adapter *a, bool *projected) {
    const spi_prefix prefix = {a->dialect->shadow_prefix, source->prefix};
    *projected = projection_fits(source, a->projection);
    SPI_TRY(spi_params_load(model->dev, &a->shadow->params, a->shadow->dtype, source->files.weights, &prefix,
                            source->files.dir));
    if (*projected)
        SPI_TRY(spi_param_load(model->dev, a->projection, a->shadow->dtype,
                               spi_st_find(source->files.weights, SPI_PROJECTED_WEIGHT)));
    a->files = source->files.weights;
    source->files.weights = NULL;
    return SP_OK;
}
