/* sp_model_set_teacher: the head that the small model of a wrapped one has of its own, to be imitated. */
#include "shadow/teacher.h"

#include <stdio.h>
#include <stdlib.h>

#include "shadow/projected.h"

void spi_teacher_free(sp_model *model) {
    spi_teacher *t = model->teacher;
    if (!t) return;
    spi_params_free(model->dev, &t->params);
    spi_checkpoint_close(&t->files);
    free(t);
    model->teacher = NULL;
}

/* The small model's own backbone is the one that the wrapped model has, as far as their configs say. */
static sp_status check_fit(const sp_model *model, const spi_checkpoint *files, const spi_arch *small) {
    const spi_arch *base = &model->base->arch;
    const struct {
        const char *key;
        int64_t expected, found;
    } facts[] = {{"vocab_size", base->vocab_size, small->vocab_size},
                 {"hidden_size", base->hidden_size, spi_arch_out_size(small)},
                 {"num_hidden_layers", base->num_layers, small->num_layers}};
    if (small->family != base->family)
        return spi_fail(model->ctx, SP_ERR_MISMATCH,
                        "%s: \"model_type\": expected %s, the backbone of %s, found %s", files->config_path,
                        base->family->model_type, model->files.dir, small->family->model_type);
    for (size_t i = 0; i < sizeof facts / sizeof *facts; i++)
        if (facts[i].expected != facts[i].found)
            return spi_fail(model->ctx, SP_ERR_MISMATCH,
                            "%s: \"%s\": expected %lld, as the backbone of %s has, found %lld",
                            files->config_path, facts[i].key, (long long)facts[i].expected, model->files.dir,
                            (long long)facts[i].found);
    return SP_OK;
}

/* A head of its own is used whatever tie_word_embeddings says, as Transformers does. */
static sp_status load_head(sp_model *model, spi_teacher *t, const spi_arch *small) {
    const spi_prefix prefix = {spi_arch_prefix(small), spi_decoder_stored_prefix(small, t->files.weights)};
    char name[256];
    snprintf(name, sizeof name, "%s", small->family->head);
    if (!spi_st_find(t->files.weights, name) && small->tie_embeddings)
        spi_arch_slot_name(small, 0, SPI_EMBED, prefix.ours, name, sizeof name);
    t->softcap = small->logit_softcap;
    t->head = spi_params_add(model->dev, &t->params,
                             &(spi_param_spec){.name = name,
                                               .kind = SPI_PARAM_MATRIX,
                                               .group = SPI_GROUP_MAIN,
                                               .ndim = 2,
                                               .shape = {small->vocab_size, spi_arch_out_size(small)}});
    if (!t->head) return SP_ERR_MEMORY;
    return spi_params_load(model->dev, &t->params, model->base->dtype, t->files.weights, &prefix, t->files.dir);
}

static sp_status load_teacher(sp_model *model, const char *dir, spi_teacher *t) {
    spi_arch small;
    SPI_TRY(spi_checkpoint_open(model->ctx, dir, false, &t->files));
    if (spi_is_projected(t->files.config))
        return spi_fail(model->ctx, SP_ERR_UNSUPPORTED,
                        "%s: \"model_type\": expected a family's own causal LM, found %s", t->files.config_path,
                        SPI_PROJECTED_TYPE);
    SPI_TRY(spi_arch_read(model->ctx, t->files.config_path, t->files.config, &small));
    sp_status status = check_fit(model, &t->files, &small);
    if (status == SP_OK) status = spi_st_open_dir(model->ctx, dir, "model.safetensors", &t->files.weights);
    if (status == SP_OK) status = load_head(model, t, &small);
    spi_arch_free(&small);
    return status;
}

/* The projection alone trains. It was loaded as one that never would: now its exact values are to be known. */
static sp_status train_projection(sp_model *model) {
    spi_param *p = model->base->project_out;
    spi_model_freeze(model, true, true, true);
    if (p->trainable) return SP_OK;
    spi_param_train(model->dev, p, true);
    return spi_param_load(model->dev, p, model->base->dtype,
                          spi_param_find(model->files.weights, p->name, &model->prefix));
}

sp_status sp_model_set_teacher(sp_model *model, const char *small_dir) {
    if (!model->base->arch.out_size)
        return spi_fail(model->ctx, SP_ERR_ARGUMENT,
                        "%s: \"model_type\": expected %s to have a teacher, found %s", model->files.config_path,
                        SPI_PROJECTED_TYPE, model->base->arch.family->model_type);
    if (model->adapter)
        return spi_fail(model->ctx, SP_ERR_ARGUMENT,
                        "%s: expected a model without an adapter to have a teacher, found one with",
                        model->files.dir);
    spi_teacher_free(model);
    model->teacher = calloc(1, sizeof *model->teacher);
    if (!model->teacher) return spi_fail_memory(model->ctx, sizeof *model->teacher, "a teacher");
    sp_status status = load_teacher(model, small_dir, model->teacher);
    if (status == SP_OK) status = train_projection(model);
    if (status != SP_OK) spi_teacher_free(model);
    return status;
}
