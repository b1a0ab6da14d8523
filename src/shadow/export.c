/*
 * The detached shadow as a checkpoint of its own (ShadowPeftModel.export_shadow): what SHADOW_ONLY computes,
 * with the head that the shadow's path ends in. A shadow of the base's hidden size becomes a plain task model
 * of its family, with the embedding that drove it; any other a causal_lm_with_hidden_projection around its
 * backbone.
 */
#include <string.h>

#include "base/file.h"
#include "shadow/config.h"
#include "shadow/projected.h"
#include "shadow/step.h"
#include "shadow/weights.h"

/* ------------------------------------------------------------------ config.json */

/* The shadow's own config. NULL: out of memory. */
static json_t *shadow_config(const sp_model *model) {
    const spi_adapter *a = model->adapter;
    return json_deep_copy(spi_arch_config(spi_is_projected(a->shadow_json)
                                              ? json_object_get(a->shadow_json, "shadow_model_config")
                                              : a->shadow_json));
}

/* The task model that the shadow becomes: its logits are a plain product, and it ties what is one matrix. */
static void make_task_model(json_t *config, const sp_model *model, bool tied) {
    const spi_family *family = model->adapter->shadow->arch.family;
    const bool classifier = model->task == SP_TASK_SEQ_CLS;
    json_object_set_new(config, "architectures",
                        json_pack("[s]", classifier ? family->classifier : family->causal_lm));
    json_object_set_new(config, "tie_word_embeddings", json_boolean(tied));
    if (json_object_get(config, "final_logit_softcapping"))
        json_object_set_new(config, "final_logit_softcapping", json_null());
    if (classifier) spi_labels_write(config, spi_model_labels(model), true);
}

static sp_status write_config(const sp_model *model, const char *dir, bool tied) {
    const spi_adapter *a = model->adapter;
    const spi_arch *base = &model->base->arch;
    spi_arena names = {0};
    const char *file = spi_path_join(&names, dir, "config.json");
    json_t *config = shadow_config(model);
    if (config && a->projection)
        config = spi_projected_config(config, a->shadow->arch.family, base->hidden_size, base->vocab_size,
                                      spi_arch_config(model->files.config));
    else if (config) make_task_model(config, model, tied);
    sp_status status = SP_OK;
    if (!file || !config) status = spi_fail_memory(model->ctx, strlen(dir), "a config");
    if (status == SP_OK) {
        json_object_del(config, "torch_dtype");
        json_object_set_new(config, "dtype", json_string(spi_torch_dtype_name(model->base->dtype)));
        status = spi_json_save(model->ctx, file, config);
    }
    json_decref(config);
    spi_arena_free(&names);
    return status;
}

/* ------------------------------------------------------------------ weights */

/* "shadow_model.x" by the name that it has in the exported checkpoint. */
static sp_status add_as(sp_model *model, spi_weights *w, const spi_param *p, const char *prefix) {
    const char *name =
        spi_arena_printf(&w->arena, "%s%s", prefix, p->name + strlen(model->adapter->dialect->shadow_prefix));
    if (!name) return spi_fail_memory(model->ctx, strlen(p->name), "a name");
    return spi_weights_add_param(model, w, p, name);
}

static sp_status add_embedding(sp_model *model, spi_weights *w, const char *prefix) {
    char name[256];
    const spi_decoder *from = spi_shadow_embedder(model);
    spi_arch_slot_name(&model->adapter->shadow->arch, 0, SPI_EMBED, prefix, name, sizeof name);
    return spi_weights_add_param(model, w, from->embed, name);
}

static sp_status add_weights(sp_model *model, spi_weights *w, bool tied) {
    const spi_adapter *a = model->adapter;
    const spi_params *shadow = &a->shadow->params;
    const char *prefix = a->projection ? "shadow_model." : a->shadow->arch.family->prefix;
    SPI_TRY(spi_weights_reserve(model->ctx, w, shadow->count + 3));
    for (size_t i = 0; i < shadow->count; i++)
        if (shadow->items[i] != a->shadow->embed && shadow->items[i] != a->shadow->idle_embed)
            SPI_TRY(add_as(model, w, shadow->items[i], prefix));
    SPI_TRY(add_embedding(model, w, prefix));
    if (a->projection) SPI_TRY(spi_weights_add_param(model, w, a->projection, SPI_PROJECTED_WEIGHT));
    const char *head = model->task == SP_TASK_SEQ_CLS ? SPI_SCORE_WEIGHT : "lm_head.weight";
    return tied ? SP_OK : spi_weights_add_param(model, w, spi_shadow_head(model), head);
}

sp_status sp_export_shadow(sp_model *model, const char *dir) {
    if (!model->adapter)
        return spi_fail(model->ctx, SP_ERR_ARGUMENT, "export: expected a model with an adapter, found none");
    if (model->task == SP_TASK_SEQ_CLS && model->adapter->projection)
        return spi_fail(
            model->ctx, SP_ERR_UNSUPPORTED,
            "export: no class of Transformers or shadow_peft is a classifier with a hidden projection; only "
            "a shadow of the base's hidden size can be detached");
    spi_weights w = {0};
    const bool tied =
        !model->adapter->projection && spi_shadow_embedder(model)->embed == spi_shadow_head(model);
    SPI_TRY(spi_make_dirs(model->ctx, dir));
    sp_status status = add_weights(model, &w, tied);
    if (status == SP_OK) status = spi_st_write_dir(model->ctx, dir, w.items, w.count, SPI_SHARD_BYTES);
    if (status == SP_OK) status = spi_save_side_files(model, dir);
    if (status == SP_OK) status = write_config(model, dir, tied);
    spi_arena_free(&w.arena);
    return status;
}
