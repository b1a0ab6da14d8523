/* What an adapter has beside its shadow: parameters of injection, update and trained heads, and fresh values.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "shadow/adapter.h"
#include "shadow/peft_config.h"

/* ------------------------------------------------------------------ injection and update */

static spi_param *add(spi_device *dev, spi_adapter *a, const spi_param_spec *what, const char *name) {
    spi_param_spec spec = *what;
    spec.name = name;
    spec.kind = SPI_PARAM_F32;
    spec.group = SPI_GROUP_MAIN;
    spec.trainable = true;
    spec.decay = spec.ndim > 1;
    return spi_params_add(dev, &a->params, &spec);
}

/* shadow_hidden_projection: W [d, d_shadow], no bias; only where the sizes differ. */
static sp_status add_projection(spi_device *dev, spi_adapter *a, int64_t d) {
    const int64_t own = a->shadow->arch.hidden_size;
    if (own == d) return SP_OK;
    a->projection = spi_params_add(dev, &a->params,
                                   &(spi_param_spec){.name = a->dialect->projection,
                                                     .kind = SPI_PARAM_MATRIX,
                                                     .group = SPI_GROUP_SHADOW,
                                                     .ndim = 2,
                                                     .shape = {d, own},
                                                     .trainable = true,
                                                     .decay = true});
    return a->projection ? SP_OK : SP_ERR_MEMORY;
}

/* One tensor of the linears of a layer's update: where it goes, and its name in either dialect. */
typedef struct update_part {
    size_t offset; /* in spi_adapter_layer */
    bool gate;     /* of update_gates, else of update_transforms */
    bool second;   /* the linear after the activation */
    bool bias;
} update_part;

static const update_part update_parts[] = {
    {offsetof(spi_adapter_layer, v0), true, false, false},
    {offsetof(spi_adapter_layer, c0), true, false, true},
    {offsetof(spi_adapter_layer, v2), true, true, false},
    {offsetof(spi_adapter_layer, c2), true, true, true},
    {offsetof(spi_adapter_layer, w0), false, false, false},
    {offsetof(spi_adapter_layer, b0), false, false, true},
    {offsetof(spi_adapter_layer, w3), false, true, false},
    {offsetof(spi_adapter_layer, b3), false, true, true},
};

static void update_name(const sp_model *model, const spi_adapter *a, int64_t i, const update_part *part,
                        char *name, size_t size) {
    const char *kind = part->bias ? "bias" : "weight";
    if (a->dialect->stacked) {
        snprintf(name, size, "shadow_update_model.%s.%lld.%d.%s",
                 part->gate ? "update_gates" : "update_transforms", (long long)i,
                 part->second ? (part->gate ? 2 : 3) : 0, kind);
        return;
    }
    char layer[160];
    spi_peft_layer_name(model, a->first + i, layer, sizeof layer);
    snprintf(name, size, "%sshadow_update_%s.default.%d.%s", layer, part->gate ? "gate" : "transform",
             part->second ? 2 : 0, kind);
}

/* The last update feeds nothing, so nothing ever reaches its gradients. */
static sp_status add_update(sp_model *model, spi_adapter *a, int64_t i, int64_t d) {
    const int64_t g = a->config.gate_hidden_size;
    for (size_t j = 0; j < sizeof update_parts / sizeof *update_parts; j++) {
        const update_part *part = &update_parts[j];
        char name[256];
        if (part->bias && !a->dialect->biases) continue;
        update_name(model, a, i, part, name, sizeof name);
        spi_param_spec spec = {.ndim = part->bias ? 1 : 2, .no_grad = i == a->count - 1};
        spec.shape[0] = part->second ? d : g;
        spec.shape[1] = part->second ? g : d;
        spi_param *p = add(model->dev, a, &spec, name);
        if (!p) return SP_ERR_MEMORY;
        memcpy((char *)&a->layers[i] + part->offset, &p, sizeof(spi_param *));
    }
    return SP_OK;
}

static sp_status add_stacked_injections(spi_device *dev, spi_adapter *a, int64_t d) {
    const int64_t n = a->count, k = a->config.injection_hidden_size;
    spi_param *down =
        add(dev, a, &(spi_param_spec){.ndim = 3, .shape = {n, d, k}}, "shadow_injection_model.injection_downs");
    spi_param *up =
        add(dev, a, &(spi_param_spec){.ndim = 3, .shape = {n, k, d}}, "shadow_injection_model.injection_ups");
    for (int64_t i = 0; i < n; i++) {
        a->layers[i].down = down;
        a->layers[i].up = up;
    }
    return down && up ? SP_OK : SP_ERR_MEMORY;
}

/* nn.Linear's weights [k, d] and [d, k], which lie in memory as the operations want them. */
static sp_status add_injection(sp_model *model, spi_adapter *a, int64_t i, int64_t d) {
    const int64_t k = a->config.injection_hidden_size;
    char layer[160], name[256];
    spi_peft_layer_name(model, a->first + i, layer, sizeof layer);
    snprintf(name, sizeof name, "%sshadow_down.default.weight", layer);
    a->layers[i].down = add(model->dev, a, &(spi_param_spec){.ndim = 2, .shape = {k, d}, .turned = true}, name);
    snprintf(name, sizeof name, "%sshadow_up.default.weight", layer);
    a->layers[i].up = add(model->dev, a, &(spi_param_spec){.ndim = 2, .shape = {d, k}, .turned = true}, name);
    return a->layers[i].down && a->layers[i].up ? SP_OK : SP_ERR_MEMORY;
}

/* With a single adapted layer there is no update whose norm anything could reach. */
static sp_status add_norm(spi_device *dev, spi_adapter *a, int64_t d) {
    const spi_param_spec spec = {.ndim = 1, .shape = {d}, .no_grad = a->count == 1};
    a->norm_weight = add(dev, a, &spec, "shadow_update_model.hidden_norm.weight");
    a->norm_bias = add(dev, a, &spec, "shadow_update_model.hidden_norm.bias");
    return a->norm_weight && a->norm_bias ? SP_OK : SP_ERR_MEMORY;
}

sp_status spi_adapter_add_params(sp_model *model, spi_adapter *a) {
    spi_device *dev = model->dev;
    const int64_t d = model->base->arch.hidden_size;
    SPI_TRY(add_projection(dev, a, d));
    a->layers = calloc((size_t)a->count, sizeof *a->layers);
    if (!a->layers) return spi_fail_memory(model->ctx, (size_t)a->count * sizeof *a->layers, "an adapter");
    if (a->dialect->stacked) SPI_TRY(add_stacked_injections(dev, a, d));
    for (int64_t i = 0; i < a->count; i++) {
        if (!a->dialect->stacked) SPI_TRY(add_injection(model, a, i, d));
        SPI_TRY(add_update(model, a, i, d));
    }
    return a->dialect->norm ? add_norm(dev, a, d) : SP_OK;
}

/* ------------------------------------------------------------------ trained heads */

uint32_t spi_modules_of(const sp_model *model, const sp_shadow_config *cfg) {
    if (model->task != SP_TASK_SEQ_CLS) return cfg->modules_to_save;
    const uint32_t both = SP_MODULE_HEAD | SP_MODULE_SHADOW_HEAD;
    return cfg->modules_to_save && cfg->dialect == SP_DIALECT_SHADOW_PEFT ? cfg->modules_to_save : both;
}

/* The adapter that stands on the model meanwhile may be of other labels. */
static int64_t outputs_of(const sp_model *model, const spi_adapter *a) {
    if (model->task != SP_TASK_SEQ_CLS) return model->base->arch.vocab_size;
    return a->labels.count ? a->labels.count : model->labels.count;
}

static sp_status add_head(sp_model *model, spi_adapter *a, const char *name, spi_param_group group,
                          spi_param **out) {
    const int64_t width = spi_arch_out_size(&model->base->arch);
    *out = spi_params_add(model->dev, &a->modules,
                          &(spi_param_spec){.name = name,
                                            .kind = SPI_PARAM_MATRIX,
                                            .group = group,
                                            .ndim = 2,
                                            .shape = {outputs_of(model, a), width},
                                            .trainable = true,
                                            .decay = true});
    return *out ? SP_OK : SP_ERR_MEMORY;
}

sp_status spi_adapter_add_modules(sp_model *model, spi_adapter *a, uint32_t modules) {
    const char *const *names = a->dialect->heads[model->task == SP_TASK_SEQ_CLS];
    if (modules && outputs_of(model, a) == 0)
        return spi_fail(
            model->ctx, SP_ERR_ARGUMENT,
            "%s: a classifier's labels are not known: neither its files have a head nor was one made",
            model->files.dir);
    if (modules & SP_MODULE_HEAD) SPI_TRY(add_head(model, a, names[0], SPI_GROUP_MAIN, &a->head));
    if (!(modules & SP_MODULE_SHADOW_HEAD)) {
        /* PEFT's shadow reads what is the base's output head by then. */
        if (!names[1]) a->shadow_head = a->head;
        return SP_OK;
    }
    if (!names[1])
        return spi_fail(
            model->ctx, SP_ERR_UNSUPPORTED,
            "modules_to_save: PEFT's shadow has no head of its own for causal LM: expected lm_head only");
    return add_head(model, a, names[1], SPI_GROUP_SHADOW, &a->shadow_head);
}

sp_status spi_adapter_copy_head(sp_model *model, spi_param *to) {
    float *values = malloc((size_t)to->count * sizeof *values);
    if (!values) return spi_fail_memory(model->ctx, (size_t)to->count * sizeof *values, to->name);
    sp_status status = spi_param_get(model->dev, model->head, values);
    if (status == SP_OK) status = spi_param_set(model->dev, to, model->base->dtype, values);
    free(values);
    return status;
}

/* ------------------------------------------------------------------ fresh values */

static bool is_up(const spi_adapter *a, const spi_param *p) {
    for (int64_t i = 0; i < a->count; i++)
        if (a->layers[i].up == p) return true;
    return false;
}

/* How many elements an output of the parameter's linear sums over: a bias's is that of its weight. */
static int64_t fan_in(const spi_adapter *a, const spi_param *p) {
    if (p->ndim > 1) return p->shape[1];
    for (int64_t i = 0; i < a->count; i++)
        if (a->layers[i].b3 == p || a->layers[i].c2 == p) return a->config.gate_hidden_size;
    return a->layers[0].v0->shape[1];
}

static void fresh_values(const spi_adapter *a, const spi_param *p, float *values, uint64_t seed, int threads) {
    const uint64_t stream = spi_hash_name(p->name);
    if (a->dialect->stacked && p == a->layers[0].down) {
        spi_fill_normal(values, p->count, 0.02f, seed, stream, threads);
    } else if (is_up(a, p) || p == a->norm_bias) {
        memset(values, 0, (size_t)p->count * sizeof *values);
    } else if (p == a->norm_weight) {
        for (int64_t i = 0; i < p->count; i++) values[i] = 1.0f;
    } else {
        const float bound = 1.0f / sqrtf((float)fan_in(a, p));
        spi_fill_uniform(values, p->count, -bound, bound, seed, stream);
    }
}

sp_status spi_adapter_init_param(spi_device *dev, const spi_adapter *a, spi_param *p, uint64_t seed) {
    float *values = malloc((size_t)p->count * sizeof *values);
    if (!values) return spi_fail_memory(dev->ctx, (size_t)p->count * sizeof *values, p->name);
    fresh_values(a, p, values, seed, spi_threads(dev->ctx));
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
