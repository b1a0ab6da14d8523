/* The adapter: making, loading, saving, taking off. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "shadow/config.h"
#include "shadow/model.h"

#define ADAPTER_FILE "shadow_adapter.safetensors"

static void adapter_free(spi_device *dev, spi_adapter *a) {
    if (!a) return;
    spi_decoder_free(a->shadow);
    spi_params_free(dev, &a->params);
    free(a->gate0);
    free(a);
}

void sp_adapter_remove(sp_model *model) {
    adapter_free(model->dev, model->adapter);
    model->adapter = NULL;
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

static sp_status add_params(spi_device *dev, spi_adapter *a, int64_t n, int64_t d) {
    const int64_t k = a->config.injection_hidden_size;
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

/* An adapter for the model with all parameters but no values. */
static sp_status adapter_new(sp_model *model, const sp_shadow_config *cfg, spi_adapter **out) {
    const spi_arch *base = &model->base->arch;
    if (model->trainable)
        return spi_fail(model->ctx, SP_ERR_ARGUMENT,
                        "an adapter needs a frozen base, but this one is trainable");
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
    spi_adapter *a = calloc(1, sizeof *a);
    if (!a) return spi_fail_memory(model->ctx, sizeof *a, "an adapter");
    a->config = *cfg;
    spi_arch arch;
    sp_status status = spi_shadow_arch(model->ctx, base, cfg, &arch);
    if (status == SP_OK) {
        const spi_decoder_spec spec = {.prefix = "shadow_model.",
                                       .group = SPI_GROUP_SHADOW,
                                       .dtype = model->base->dtype,
                                       .idle_embed = base->family->shadow_keeps_embed,
                                       .trainable = true};
        status = spi_decoder_new(model->dev, &arch, &spec, &a->shadow);
        spi_arch_free(&arch);
    }
    if (status == SP_OK) status = add_params(model->dev, a, base->num_layers - 1, base->hidden_size);
    if (status != SP_OK) {
        adapter_free(model->dev, a);
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

static sp_status init_values(spi_device *dev, const spi_adapter *a, uint64_t seed) {
    SPI_TRY(spi_decoder_init(a->shadow, seed));
    for (size_t i = 0; i < a->params.count; i++) {
        spi_param *p = a->params.items[i];
        float *values = malloc((size_t)p->count * sizeof *values);
        if (!values) return spi_fail_memory(dev->ctx, (size_t)p->count * sizeof *values, p->name);
        fresh_values(a, p, values, seed);
        sp_status status = spi_param_set(dev, p, SP_F32, values);
        free(values);
        SPI_TRY(status);
    }
    return SP_OK;
}

sp_status sp_adapter_create(sp_model *model, const sp_shadow_config *cfg, uint64_t seed) {
    spi_adapter *a = NULL;
    SPI_TRY(spi_shadow_config_check(model->ctx, "ShadowConfig", cfg));
    SPI_TRY(adapter_new(model, cfg, &a));
    sp_status status = init_values(model->dev, a, seed);
    if (status != SP_OK) {
        adapter_free(model->dev, a);
        return status;
    }
    sp_adapter_remove(model);
    model->adapter = a;
    return SP_OK;
}

/* ------------------------------------------------------------------ files */

static bool has_param(const spi_params *list, const char *name) {
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->items[i]->name, name) == 0) return true;
    return false;
}

/* Python loads adapters strictly: a tensor that has no place is a sign of another architecture. */
static sp_status check_unexpected(sp_context *ctx, const spi_adapter *a, const spi_st_set *set,
                                  const char *file) {
    spi_buf names = {0};
    size_t count = 0;
    for (size_t i = 0; i < spi_st_count(set); i++) {
        const char *name = spi_st_at(set, i)->name;
        if (has_param(&a->shadow->params, name) || has_param(&a->params, name)) continue;
        spi_buf_printf(&names, "\n  %s", name);
        count++;
    }
    sp_status status = SP_OK;
    if (count > 0)
        status = spi_fail(ctx, SP_ERR_MISMATCH,
                          "%s: %zu tensors have no place in an implicit shadow of this base:%s", file, count,
                          names.failed ? "" : names.data);
    spi_buf_free(&names);
    return status;
}

static sp_status load_values(sp_model *model, spi_adapter *a, const char *file) {
    spi_st_set *set = NULL;
    SPI_TRY(spi_st_open(model->ctx, file, &set));
    /* Both lists are checked before either is loaded, so that one message says everything. */
    spi_params all = {.items = malloc((a->shadow->params.count + a->params.count) * sizeof(spi_param *))};
    sp_status status = all.items ? SP_OK : spi_fail_memory(model->ctx, a->params.count, "an adapter");
    if (status == SP_OK) {
        memcpy(all.items, a->shadow->params.items, a->shadow->params.count * sizeof(spi_param *));
        memcpy(all.items + a->shadow->params.count, a->params.items, a->params.count * sizeof(spi_param *));
        all.count = a->shadow->params.count + a->params.count;
        status = spi_params_load(model->dev, &all, a->shadow->dtype, set, NULL, file);
    }
    if (status == SP_OK) status = check_unexpected(model->ctx, a, set, file);
    free(all.items);
    spi_st_close(set);
    return status;
}

sp_status sp_adapter_load(sp_model *model, const char *dir) {
    sp_shadow_config cfg;
    spi_adapter *a = NULL;
    SPI_TRY(spi_shadow_config_read(model->ctx, dir, &cfg));
    SPI_TRY(adapter_new(model, &cfg, &a));
    spi_arena names = {0};
    const char *file = spi_path_join(&names, dir, ADAPTER_FILE);
    sp_status status = file ? load_values(model, a, file) : spi_fail_memory(model->ctx, strlen(dir), "a path");
    spi_arena_free(&names);
    if (status != SP_OK) {
        adapter_free(model->dev, a);
        return status;
    }
    sp_adapter_remove(model);
    model->adapter = a;
    return SP_OK;
}

sp_status sp_adapter_save(sp_model *model, const char *dir) {
    if (!model->adapter)
        return spi_fail(model->ctx, SP_ERR_ARGUMENT, "%s: the model has no adapter to save", dir);
    SPI_TRY(spi_make_dirs(model->ctx, dir));
    spi_arena names = {0};
    const char *file = spi_path_join(&names, dir, ADAPTER_FILE);
    spi_param **list = NULL;
    size_t count = 0;
    sp_status status =
        file ? spi_model_trainable(model, &list, &count) : spi_fail_memory(model->ctx, strlen(dir), "a path");
    if (status == SP_OK) status = spi_params_save(model->dev, list, count, SP_F32, file);
    /* The config comes last: a directory that has one has the tensors too. */
    if (status == SP_OK) status = spi_shadow_config_write(model->ctx, dir, &model->adapter->config);
    free(list);
    spi_arena_free(&names);
    return status;
}
