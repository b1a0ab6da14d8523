/* Making adapters: the shadow, what goes with it, and its place on a model. */
#include "shadow/adapter.h"

#include <stdlib.h>
#include <string.h>

#include "shadow/explicit.h"
#include "shadow/peft_config.h"

void spi_adapter_free(spi_device *dev, spi_adapter *a) {
    if (!a) return;
    spi_decoder_free(a->shadow);
    spi_params_free(dev, &a->params);
    spi_params_free(dev, &a->modules);
    free(a->layers);
    free(a->shadow_source);
    json_decref(a->shadow_json);
    spi_st_close(a->files);
    spi_st_close(a->head_files);
    spi_labels_free(&a->labels);
    free(a);
}

/* A tied head that trains is the embedding too, in the dialect where both stay one. */
static bool replaces_embedding(const sp_model *model, const spi_adapter *a) {
    return a && a->head && a->dialect->tied_head && model->head == model->embed;
}

void spi_adapter_put(sp_model *model, spi_adapter *a) {
    spi_adapter_free(model->dev, model->adapter);
    model->adapter = a;
    model->base->embed = replaces_embedding(model, a) ? a->head : model->embed;
}

void sp_adapter_remove(sp_model *model) {
    spi_adapter_put(model, NULL);
}

sp_status spi_adapter_keep_source(sp_context *ctx, spi_adapter *a, const char *source) {
    a->shadow_source = source ? strdup(source) : NULL;
    return a->shadow_source || !source ? SP_OK : spi_fail_memory(ctx, strlen(source), "a path");
}

sp_status spi_adapter_all_params(sp_context *ctx, const spi_adapter *a, spi_params *all) {
    const spi_params *shadow = &a->shadow->params, *own = &a->params;
    *all = (spi_params){.items = malloc((shadow->count + own->count) * sizeof(spi_param *)),
                        .count = shadow->count + own->count};
    if (!all->items) return spi_fail_memory(ctx, all->count * sizeof(spi_param *), "an adapter");
    memcpy(all->items, shadow->items, shadow->count * sizeof(spi_param *));
    memcpy(all->items + shadow->count, own->items, own->count * sizeof(spi_param *));
    return SP_OK;
}

/* ------------------------------------------------------------------ what fits what */

/* The sizes that every adapter needs of its base, and an explicit shadow of itself and the base. */
static sp_status check_base(const sp_model *model) {
    const spi_arch *base = &model->base->arch;
    if (model->trainable)
        return spi_fail(model->ctx, SP_ERR_ARGUMENT,
                        "an adapter needs a frozen base, but this one is trainable");
    if (base->out_size)
        return spi_fail(
            model->ctx, SP_ERR_UNSUPPORTED,
            "%s: an adapter goes on a family's own causal LM, not on a model with a hidden projection",
            model->files.config_path);
    if (base->embed_size != base->hidden_size)
        return spi_fail(
            model->ctx, SP_ERR_UNSUPPORTED,
            "%s: \"word_embed_proj_dim\": a shadow adapter needs the hidden size (%lld), found %lld",
            model->files.config_path, (long long)base->hidden_size, (long long)base->embed_size);
    return SP_OK;
}

static sp_status check_explicit(const sp_model *model, const spi_shadow_plan *plan) {
    const spi_arch *base = &model->base->arch, *shadow = plan->arch;
    if (shadow->embed_size != shadow->hidden_size)
        return spi_fail(model->ctx, SP_ERR_UNSUPPORTED,
                        "explicit shadow: \"word_embed_proj_dim\": expected the hidden size (%lld), found %lld",
                        (long long)shadow->hidden_size, (long long)shadow->embed_size);
    if (!plan->embed && shadow->hidden_size != base->hidden_size)
        return spi_fail(model->ctx, SP_ERR_MISMATCH,
                        "explicit shadow without embed_tokens: the base's embedding drives it, so its hidden "
                        "size must be the base's: expected %lld, found %lld",
                        (long long)base->hidden_size, (long long)shadow->hidden_size);
    return SP_OK;
}

/* The run of the base's layers that the adapter adapts. */
static sp_status choose_layers(const sp_model *model, spi_adapter *a) {
    const int64_t layers = model->base->arch.num_layers;
    const sp_shadow_config *cfg = &a->config;
    a->first = a->dialect->first_layer;
    a->count = layers - a->first;
    if (a->count < 1)
        return spi_fail(
            model->ctx, SP_ERR_UNSUPPORTED,
            "%s: \"num_hidden_layers\": a shadow adapter needs at least 2 decoder layers, found %lld",
            model->files.config_path, (long long)layers);
    if (cfg->layers_to_transform == 0) return SP_OK;
    a->first = cfg->first_layer_to_transform;
    a->count = cfg->layers_to_transform;
    if (a->first >= 0 && a->count > 0 && a->first + a->count <= layers) return SP_OK;
    return spi_fail(
        model->ctx, SP_ERR_MISMATCH,
        "layers_to_transform: expected layers of 0 to %lld (%s: \"num_hidden_layers\"), found %lld to "
        "%lld",
        (long long)layers - 1, model->files.config_path, (long long)a->first,
        (long long)(a->first + a->count - 1));
}

/* ------------------------------------------------------------------ the shadow */

/* The implicit shadow's config.json and architecture, both made from the base's. */
static sp_status implicit_arch(const sp_model *model, spi_adapter *a, spi_arch *arch) {
    a->shadow_json = json_deep_copy(spi_arch_config(model->files.config));
    if (!a->shadow_json) return spi_fail_memory(model->ctx, 1024, "a config");
    if (a->dialect->id == SP_DIALECT_PEFT) return spi_peft_shadow_arch(model, &a->config, a->shadow_json, arch);
    SPI_TRY(spi_shadow_arch(model->ctx, &model->base->arch, &a->config, arch));
    spi_arch_resize_config(a->shadow_json, arch);
    return SP_OK;
}

static sp_status new_implicit(sp_model *model, spi_adapter *a, spi_decoder_spec *spec) {
    spi_arch arch;
    SPI_TRY(implicit_arch(model, a, &arch));
    const spi_arch *base = &model->base->arch;
    /* Embeddings are shared where PEFT's config says so and the sizes let them be. */
    spec->embed = arch.hidden_size != base->hidden_size || !a->config.share_embeddings;
    spec->embed_trainable = spec->embed;
    spec->idle_embed = !spec->embed && base->family->shadow_keeps_embed;
    sp_status status = spi_decoder_new(model->dev, &arch, spec, &a->shadow);
    spi_arch_free(&arch);
    return status;
}

static sp_status new_shadow(sp_model *model, spi_adapter *a, const spi_shadow_plan *plan) {
    spi_decoder_spec spec = {.prefix = a->dialect->shadow_prefix,
                             .group = SPI_GROUP_SHADOW,
                             .dtype = model->base->dtype,
                             .trainable = true};
    if (!plan) return new_implicit(model, a, &spec);
    SPI_TRY(check_explicit(model, plan));
    spec.embed = plan->embed;
    spec.embed_trainable = plan->embed && !plan->embed_frozen;
    a->explicit_shadow = true;
    a->shadow_json = json_deep_copy(plan->config);
    return spi_decoder_new(model->dev, plan->arch, &spec, &a->shadow);
}

sp_status spi_adapter_new(sp_model *model, const sp_shadow_config *cfg, const spi_shadow_plan *plan,
                          uint32_t modules, const spi_labels *labels, spi_adapter **out) {
    *out = NULL;
    SPI_TRY(check_base(model));
    spi_adapter *a = calloc(1, sizeof *a);
    if (!a) return spi_fail_memory(model->ctx, sizeof *a, "an adapter");
    a->config = *cfg;
    a->dialect = spi_dialect_of(cfg->dialect);
    sp_status status = choose_layers(model, a);
    if (status == SP_OK && labels && labels->count)
        status = spi_labels_set(model->ctx, &a->labels, labels->names, labels->count);
    if (status == SP_OK) status = new_shadow(model, a, plan);
    if (status == SP_OK) status = spi_adapter_add_params(model, a);
    if (status == SP_OK) status = spi_adapter_add_modules(model, a, modules);
    if (status != SP_OK) {
        spi_adapter_free(model->dev, a);
        return status;
    }
    *out = a;
    return SP_OK;
}

/* ------------------------------------------------------------------ a fresh adapter */

void sp_adapter_options_default(sp_adapter_options *opts) {
    *opts = (sp_adapter_options){.size = sizeof *opts, .seed = 42};
}

/* Families whose backbone does not hold embed_tokens at its top keep theirs, as in Python. */
static bool keeps_embedding(const spi_shadow_source *source, const sp_adapter_options *opts) {
    return !opts->remove_embed_tokens || source->arch.family->shadow_keeps_embed;
}

static sp_status create_explicit(sp_model *model, const sp_shadow_config *cfg, const sp_adapter_options *opts,
                                 spi_adapter **out) {
    spi_shadow_source source;
    bool projected = false;
    if (cfg->dialect == SP_DIALECT_PEFT && opts->remove_embed_tokens)
        return spi_fail(model->ctx, SP_ERR_UNSUPPORTED,
                        "%s: remove_embed_tokens: in PEFT an explicit shadow has its own embedding",
                        opts->shadow);
    sp_status status = spi_shadow_source_open(model->ctx, opts->shadow, &source);
    if (status == SP_OK) {
        /* PEFT trains no embedding of a checkpoint. */
        const bool frozen = source.projected || cfg->dialect == SP_DIALECT_PEFT;
        const spi_shadow_plan plan = {&source.arch, keeps_embedding(&source, opts), frozen, source.config};
        status = spi_adapter_new(model, cfg, &plan, spi_modules_of(model, cfg), NULL, out);
    }
    if (status == SP_OK) status = spi_adapter_keep_source(model->ctx, *out, opts->shadow);
    if (status == SP_OK) status = spi_shadow_source_load(&source, model, *out, &projected);
    if (status == SP_OK && (*out)->projection && !projected)
        status = spi_adapter_init_param(model->dev, *out, (*out)->projection, opts->seed);
    spi_shadow_source_close(&source);
    return status;
}

static sp_status create_implicit(sp_model *model, const sp_shadow_config *cfg, const sp_adapter_options *opts,
                                 spi_adapter **out) {
    SPI_TRY(spi_adapter_new(model, cfg, NULL, spi_modules_of(model, cfg), NULL, out));
    SPI_TRY(spi_decoder_init((*out)->shadow, opts->seed));
    return (*out)->projection ? spi_adapter_init_param(model->dev, *out, (*out)->projection, opts->seed)
                              : SP_OK;
}

/* Heads begin as the base's. */
static sp_status init_modules(sp_model *model, const spi_adapter *a) {
    for (size_t i = 0; i < a->modules.count; i++) SPI_TRY(spi_adapter_copy_head(model, a->modules.items[i]));
    return SP_OK;
}

sp_status sp_adapter_create(sp_model *model, const sp_shadow_config *cfg, const sp_adapter_options *opts) {
    spi_adapter *a = NULL;
    sp_adapter_options o;
    sp_adapter_options_default(&o);
    if (opts) memcpy(&o, opts, opts->size < sizeof o ? opts->size : sizeof o);
    sp_shadow_config c;
    sp_shadow_config_default(&c);
    memcpy(&c, cfg, cfg->size < sizeof c ? cfg->size : sizeof c);
    if (c.dialect == SP_DIALECT_PEFT && c.gate_hidden_size == 0) c.gate_hidden_size = c.injection_hidden_size;
    SPI_TRY(spi_shadow_config_check(model->ctx, "ShadowConfig", &c));
    sp_status status = o.shadow ? create_explicit(model, &c, &o, &a) : create_implicit(model, &c, &o, &a);
    if (status == SP_OK) status = spi_adapter_init(model->dev, a, o.seed);
    if (status == SP_OK) status = init_modules(model, a);
    if (status != SP_OK) {
        spi_adapter_free(model->dev, a);
        return status;
    }
    spi_adapter_put(model, a);
    return SP_OK;
}
