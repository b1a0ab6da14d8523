/*
 * From one dialect to the other. Shadow, projection, injections and heads mean the same in both; updates do not
 * (LayerNorm, SiLU and no biases against no norm, GELU and biases), and no values of one give the other. So the
 * same result is possible only where no update takes part: with a single adapted layer, whose own update feeds
 * nothing.
 */
#include <stdlib.h>
#include <string.h>

#include "shadow/adapter.h"
#include "shadow/projected.h"

/* ------------------------------------------------------------------ whether it can be */

static sp_status refuse(const sp_model *model, const char *why) {
    return spi_fail(model->ctx, SP_ERR_UNSUPPORTED, "convert: from %s to %s: %s", model->adapter->dialect->name,
                    model->adapter->dialect->id == SP_DIALECT_PEFT ? "shadow_peft" : "PEFT", why);
}

static sp_status check_layers(const sp_model *model, const spi_dialect *to) {
    const spi_adapter *a = model->adapter;
    if (a->count > 1)
        return spi_fail(
            model->ctx, SP_ERR_UNSUPPORTED,
            "convert: from %s to %s: %lld updates lie between the %lld adapted layers: they are LayerNorm "
            "and SiLU in shadow_peft, GELU with biases in PEFT, and no values of one compute the other; "
            "expected a single adapted layer",
            a->dialect->name, to->name, (long long)a->count - 1, (long long)a->count);
    if (to->id == SP_DIALECT_SHADOW_PEFT && (a->first != 1 || model->base->arch.num_layers != 2))
        return refuse(model,
                      "shadow_peft adapts every decoder layer but the first, this adapter another choice");
    return SP_OK;
}

/* In PEFT an explicit shadow has an embedding of the sizes that its own config says. */
static sp_status check_embedding(const sp_model *model, const spi_dialect *to) {
    const spi_decoder *shadow = model->adapter->shadow;
    const int64_t own = shadow->arch.vocab_size, borrowed = model->base->arch.vocab_size;
    if (to->id != SP_DIALECT_PEFT || shadow->embed || own == borrowed) return SP_OK;
    return spi_fail(
        model->ctx, SP_ERR_UNSUPPORTED,
        "convert: from %s to %s: the explicit shadow borrows the base's embedding, and PEFT gives it one of "
        "its "
        "own: expected one vocabulary of both, found %lld tokens of the base and %lld of the shadow",
        model->adapter->dialect->name, to->name, (long long)borrowed, (long long)own);
}

static sp_status check_shadow(const sp_model *model, const spi_dialect *to) {
    const spi_adapter *a = model->adapter;
    const sp_shadow_config *c = &a->config;
    if (a->explicit_shadow) return check_embedding(model, to);
    if (to->id == SP_DIALECT_PEFT && (c->shadow_num_key_value_heads || c->shadow_head_dim))
        return refuse(model, "PEFT's config has no key/value heads and no head size of the shadow's own");
    if (to->id == SP_DIALECT_SHADOW_PEFT && a->shadow->embed)
        return refuse(model, "an implicit shadow of shadow_peft has the base's hidden size and embedding");
    return SP_OK;
}

static sp_status check_heads(const sp_model *model, const spi_dialect *to) {
    const spi_adapter *a = model->adapter;
    const bool tied = model->head == model->embed;
    if (model->task == SP_TASK_SEQ_CLS || (!a->head && !a->shadow_head)) return SP_OK;
    if (to->id == SP_DIALECT_PEFT)
        return refuse(model, "both of PEFT's paths end in the same lm_head, these two heads differ");
    return tied ? refuse(model, "shadow_peft trains a tied lm_head together with the embedding, PEFT did not")
                : SP_OK;
}

/* ------------------------------------------------------------------ doing it */

static sp_shadow_config config_for(const sp_model *model, const spi_dialect *to) {
    sp_shadow_config c = model->adapter->config;
    const bool peft = to->id == SP_DIALECT_PEFT;
    c.dialect = to->id;
    c.first_layer_to_transform = peft ? (int32_t)model->adapter->first : 0;
    c.layers_to_transform = peft ? (int32_t)model->adapter->count : 0;
    c.share_embeddings = true;
    c.shadow_hidden_size = 0;
    if (!peft && c.gate_hidden_size < 2)
        c.gate_hidden_size = 2; /* the least there; the update is fresh anyway */
    c.modules_to_save =
        model->task != SP_TASK_SEQ_CLS && model->adapter->head ? SP_MODULE_HEAD | SP_MODULE_SHADOW_HEAD : 0;
    return c;
}

static sp_status copy_param(sp_model *model, spi_param *to, const spi_param *from) {
    float *values = malloc((size_t)to->count * sizeof *values);
    if (!values) return spi_fail_memory(model->ctx, (size_t)to->count * sizeof *values, to->name);
    sp_status status = spi_param_get(model->dev, from, values);
    if (status == SP_OK) status = spi_param_set(model->dev, to, model->base->dtype, values);
    free(values);
    return status;
}

/* The parameter of the old shadow with the same name behind its dialect's prefix, or NULL. */
static const spi_param *old_shadow_param(const spi_adapter *a, const char *name) {
    const size_t prefix = strlen(a->dialect->shadow_prefix);
    for (size_t i = 0; i < a->shadow->params.count; i++)
        if (strcmp(a->shadow->params.items[i]->name + prefix, name) == 0) return a->shadow->params.items[i];
    return NULL;
}

static sp_status copy_shadow(sp_model *model, const spi_adapter *to) {
    const size_t prefix = strlen(to->dialect->shadow_prefix);
    for (size_t i = 0; i < to->shadow->params.count; i++) {
        spi_param *p = to->shadow->params.items[i];
        const spi_param *from = old_shadow_param(model->adapter, p->name + prefix);
        if (!from && p == to->shadow->embed) from = model->base->embed; /* which was borrowed */
        if (!from || from->count != p->count)
            return spi_fail(model->ctx, SP_ERR_INTERNAL, "convert: \"%s\": the adapter has no such tensor",
                            p->name);
        SPI_TRY(copy_param(model, p, from));
    }
    return to->projection ? copy_param(model, to->projection, model->adapter->projection) : SP_OK;
}

/* In memory the injections of both dialects are the same. */
static sp_status copy_injection(sp_model *model, const spi_adapter *to) {
    const spi_adapter_layer *a = &model->adapter->layers[0], *b = &to->layers[0];
    const size_t bytes = (size_t)a->down->count * sizeof(float);
    model->dev->op->copy(model->dev, b->down->f32, a->down->f32, bytes);
    model->dev->op->copy(model->dev, b->up->f32, a->up->f32, bytes);
    return model->dev->status;
}

static sp_status copy_heads(sp_model *model, const spi_adapter *to) {
    if (to->head) SPI_TRY(copy_param(model, to->head, spi_base_head(model)));
    return to->shadow_head && to->shadow_head != to->head
               ? copy_param(model, to->shadow_head, spi_shadow_head(model))
               : SP_OK;
}

/* PEFT lets no explicit shadow borrow the base's embedding: it gets a copy. */
static sp_status new_adapter(sp_model *model, const spi_dialect *to, spi_adapter **out) {
    const spi_adapter *a = model->adapter;
    const sp_shadow_config c = config_for(model, to);
    const bool peft = to->id == SP_DIALECT_PEFT;
    /* Frozen as it would be if the result were saved and loaded. */
    const spi_shadow_plan plan = {.arch = &a->shadow->arch,
                                  .embed = a->shadow->embed || peft,
                                  .embed_frozen = peft || spi_is_projected(a->shadow_json),
                                  .config = a->shadow_json};
    SPI_TRY(spi_adapter_new(model, &c, a->explicit_shadow ? &plan : NULL, spi_modules_of(model, &c),
                            spi_model_labels(model), out));
    return spi_adapter_keep_source(model->ctx, *out, a->shadow_source);
}

sp_status sp_adapter_convert(sp_model *model, sp_dialect dialect) {
    const spi_dialect *to = spi_dialect_of(dialect);
    spi_adapter *a = NULL;
    if (!to) return spi_fail(model->ctx, SP_ERR_ARGUMENT, "convert: no such dialect: %d", (int)dialect);
    if (!model->adapter)
        return spi_fail(model->ctx, SP_ERR_ARGUMENT, "convert: expected a model with an adapter, found none");
    if (model->adapter->dialect == to) return SP_OK;
    SPI_TRY(check_layers(model, to));
    SPI_TRY(check_shadow(model, to));
    SPI_TRY(check_heads(model, to));
    sp_status status = new_adapter(model, to, &a);
    if (status == SP_OK) status = spi_adapter_init(model->dev, a, 42);
    if (status == SP_OK) status = copy_shadow(model, a);
    if (status == SP_OK) status = copy_injection(model, a);
    if (status == SP_OK) status = copy_heads(model, a);
    if (status != SP_OK) {
        spi_adapter_free(model->dev, a);
        return status;
    }
    spi_adapter_put(model, a);
    return SP_OK;
}
