#include "shadow/adapter.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "shadow/explicit.h"

void spi_adapter_free(spi_device *dev, spi_adapter *a) {
    if (!a) return;
    spi_decoder_free(a->shadow);
    spi_params_free(dev, &a->params);
    free(a->gate0);
    json_decref(a->shadow_json);
    spi_st_close(a->files);
    free(a);
}

void spi_adapter_put(sp_model *model, spi_adapter *a) {
    spi_adapter_free(model->dev, model->adapter);
    model->adapter = a;
}

void sp_adapter_remove(sp_model *model) {
    spi_adapter_put(model, NULL);
}

/* ------------------------------------------------------------------ parameters */

static spi_param *add(spi_device *dev, spi_adapter *a, const char *name, const int64_t *shape, int ndim,
                      bool no_grad) {
    spi_param_spec spec = {.name = name,
                           .kind = SPI_PARAM_F32,
                           .group = SPI_GROUP_MAIN,
                           .ndim = ndim,
                           .trainable = true,
                           .no_grad = no_grad,
                           .decay = ndim > 1};
    memcpy(spec.shape, shape, (size_t)ndim * sizeof *shape);
    return spi_params_add(dev, &a->params, &spec);
}

/* The linears of update i; the last update feeds nothing, so nothing ever reaches its gradients. */
static sp_status add_update(spi_device *dev, spi_adapter *a, int64_t i, int64_t n, int64_t d) {
    const int64_t g = a->config.gate_hidden_size;
    const struct {
        spi_param **list;
        const char *module, *index;
        int64_t shape[2];
    } parts[] = {{a->gate0, "update_gates", "0", {g, d}},
                 {a->gate2, "update_gates", "2", {d, g}},
                 {a->transform0, "update_transforms", "0", {g, d}},
                 {a->transform3, "update_transforms", "3", {d, g}}};
    for (size_t j = 0; j < sizeof parts / sizeof *parts; j++) {
        char name[96];
        snprintf(name, sizeof name, "shadow_update_model.%s.%lld.%s.weight", parts[j].module, (long long)i,
                 parts[j].index);
        spi_param *p = add(dev, a, name, parts[j].shape, 2, i == n - 1);
        if (!p) return SP_ERR_MEMORY;
        parts[j].list[i] = p;
    }
    return SP_OK;
}

/* shadow_hidden_projection: W [d, d_shadow], no bias; only where the sizes differ. */
static sp_status add_projection(spi_device *dev, spi_adapter *a, int64_t d) {
    const int64_t own = a->shadow->arch.hidden_size;
    if (own == d) return SP_OK;
    a->projection = spi_params_add(dev, &a->params,
                                   &(spi_param_spec){.name = SPI_PROJECTION_KEY,
                                                     .kind = SPI_PARAM_MATRIX,
                                                     .group = SPI_GROUP_SHADOW,
                                                     .ndim = 2,
                                                     .shape = {d, own},
                                                     .trainable = true,
                                                     .decay = true});
    return a->projection ? SP_OK : SP_ERR_MEMORY;
}

static sp_status add_params(spi_device *dev, spi_adapter *a, int64_t n, int64_t d) {
    const int64_t k = a->config.injection_hidden_size;
    SPI_TRY(add_projection(dev, a, d));
    a->gate0 = calloc((size_t)n * 4, sizeof *a->gate0);
    if (!a->gate0) return spi_fail_memory(dev->ctx, (size_t)n * 4 * sizeof *a->gate0, "an adapter");
    a->gate2 = a->gate0 + n;
    a->transform0 = a->gate0 + 2 * n;
    a->transform3 = a->gate0 + 3 * n;
    a->downs = add(dev, a, "shadow_injection_model.injection_downs", (int64_t[]){n, d, k}, 3, false);
    a->ups = add(dev, a, "shadow_injection_model.injection_ups", (int64_t[]){n, k, d}, 3, false);
    if (!a->downs || !a->ups) return SP_ERR_MEMORY;
    for (int64_t i = 0; i < n; i++) SPI_TRY(add_update(dev, a, i, n, d));
    /* With a single adapted layer there is no update whose norm anything could reach. */
    a->norm_weight = add(dev, a, "shadow_update_model.hidden_norm.weight", &d, 1, n == 1);
    a->norm_bias = add(dev, a, "shadow_update_model.hidden_norm.bias", &d, 1, n == 1);
    return a->norm_weight && a->norm_bias ? SP_OK : SP_ERR_MEMORY;
}

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
    if (base->num_layers < 2)
        return spi_fail(
            model->ctx, SP_ERR_UNSUPPORTED,
            "%s: \"num_hidden_layers\": a shadow adapter needs at least 2 decoder layers, found %lld",
            model->files.config_path, (long long)base->num_layers);
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

static sp_status new_shadow(sp_model *model, spi_adapter *a, const spi_shadow_plan *plan) {
    spi_decoder_spec spec = {
        .prefix = "shadow_model.", .group = SPI_GROUP_SHADOW, .dtype = model->base->dtype, .trainable = true};
    if (plan) {
        SPI_TRY(check_explicit(model, plan));
        spec.embed = plan->embed;
        spec.embed_trainable = plan->embed && !plan->embed_frozen;
        a->shadow_json = json_deep_copy(plan->config);
        return spi_decoder_new(model->dev, plan->arch, &spec, &a->shadow);
    }
    spi_arch arch;
    SPI_TRY(spi_shadow_arch(model->ctx, &model->base->arch, &a->config, &arch));
    spec.idle_embed = model->base->arch.family->shadow_keeps_embed;
    sp_status status = spi_decoder_new(model->dev, &arch, &spec, &a->shadow);
    spi_arch_free(&arch);
    return status;
}

sp_status spi_adapter_new(sp_model *model, const sp_shadow_config *cfg, const spi_shadow_plan *plan,
                          spi_adapter **out) {
    const spi_arch *base = &model->base->arch;
    SPI_TRY(check_base(model));
    spi_adapter *a = calloc(1, sizeof *a);
    if (!a) return spi_fail_memory(model->ctx, sizeof *a, "an adapter");
    a->config = *cfg;
    sp_status status = new_shadow(model, a, plan);
    if (status == SP_OK) status = add_params(model->dev, a, base->num_layers - 1, base->hidden_size);
    if (status != SP_OK) {
        spi_adapter_free(model->dev, a);
        return status;
    }
    *out = a;
    return SP_OK;
}

/* ------------------------------------------------------------------ fresh values */

static void fresh_values(const spi_adapter *a, const spi_param *p, float *values, uint64_t seed) {
    const uint64_t stream = spi_hash_name(p->name);
    if (p == a->downs) {
        spi_fill_normal(values, p->count, 0.02f, seed, stream);
    } else if (p == a->ups || p == a->norm_bias) {
        memset(values, 0, (size_t)p->count * sizeof *values);
    } else if (p == a->norm_weight) {
        for (int64_t i = 0; i < p->count; i++) values[i] = 1.0f;
    } else {
        const float bound = 1.0f / sqrtf((float)p->shape[1]);
        spi_fill_uniform(values, p->count, -bound, bound, seed, stream);
    }
}

sp_status spi_adapter_init_param(spi_device *dev, const spi_adapter *a, spi_param *p, uint64_t seed) {
    float *values = malloc((size_t)p->count * sizeof *values);
    if (!values) return spi_fail_memory(dev->ctx, (size_t)p->count * sizeof *values, p->name);
    fresh_values(a, p, values, seed);
    sp_status status = spi_param_set(dev, p, a->shadow->dtype, values);
    free(values);
    return status;
}

sp_status spi_adapter_init(spi_device *dev, const spi_adapter *a, uint64_t seed) {
    for (size_t i = 0; i < a->params.count; i++)
        if (a->params.items[i] != a->projection)
            SPI_TRY(spi_adapter_init_param(dev, a, a->params.items[i], seed));
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
    sp_status status = spi_shadow_source_open(model->ctx, opts->shadow, &source);
    if (status == SP_OK) {
        const spi_shadow_plan plan = {&source.arch, keeps_embedding(&source, opts), source.projected,
                                      source.config};
        status = spi_adapter_new(model, cfg, &plan, out);
    }
    if (status == SP_OK) status = spi_shadow_source_load(&source, model, *out, &projected);
    if (status == SP_OK && (*out)->projection && !projected)
        status = spi_adapter_init_param(model->dev, *out, (*out)->projection, opts->seed);
    spi_shadow_source_close(&source);
    return status;
}

static sp_status create_implicit(sp_model *model, const sp_shadow_config *cfg, const sp_adapter_options *opts,
                                 spi_adapter **out) {
    SPI_TRY(spi_adapter_new(model, cfg, NULL, out));
    return spi_decoder_init((*out)->shadow, opts->seed);
}

sp_status sp_adapter_create(sp_model *model, const sp_shadow_config *cfg, const sp_adapter_options *opts) {
    spi_adapter *a = NULL;
    sp_adapter_options o;
    sp_adapter_options_default(&o);
    if (opts) memcpy(&o, opts, opts->size < sizeof o ? opts->size : sizeof o);
    SPI_TRY(spi_shadow_config_check(model->ctx, "ShadowConfig", cfg));
    sp_status status = o.shadow ? create_explicit(model, cfg, &o, &a) : create_implicit(model, cfg, &o, &a);
    if (status == SP_OK) status = spi_adapter_init(model->dev, a, o.seed);
    if (status != SP_OK) {
        spi_adapter_free(model->dev, a);
        return status;
    }
    spi_adapter_put(model, a);
    return SP_OK;
}
