/* A classifier's labels: their names, and a fresh head where the base has none. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "shadow/adapter.h"

void spi_model_drop_labels(sp_model *model) {
    for (int32_t i = 0; model->labels && i < model->num_labels; i++) free(model->labels[i]);
    free(model->labels);
    model->labels = NULL;
    model->num_labels = 0;
}

/* The name as an owned copy, "LABEL_i" where there is none (PretrainedConfig.num_labels). */
static char *copy_name(const char *name, int32_t i) {
    char text[32];
    snprintf(text, sizeof text, "LABEL_%d", i);
    return strdup(name ? name : text);
}

sp_status spi_model_take_labels(sp_model *model, const char *const *names, int32_t count) {
    char **copies = calloc((size_t)count + 1, sizeof *copies);
    bool ok = copies != NULL;
    for (int32_t i = 0; ok && i < count; i++) {
        copies[i] = copy_name(names ? names[i] : NULL, i);
        ok = copies[i] != NULL;
    }
    if (ok) {
        spi_model_drop_labels(model);
        model->labels = copies;
        model->num_labels = count;
        return SP_OK;
    }
    for (int32_t i = 0; copies && i < count; i++) free(copies[i]);
    free(copies);
    return spi_fail_memory(model->ctx, (size_t)count * 32, "label names");
}

sp_status spi_model_read_labels(sp_model *m) {
    const json_t *map = json_object_get(m->files.config, "id2label");
    const spi_st_tensor *score = spi_st_find(m->files.weights, SPI_SCORE_WEIGHT);
    if (!score) return SP_OK;
    const int64_t outputs = score->ndim == 2 ? score->shape[0] : 0;
    if (outputs < 2 || outputs > INT32_MAX)
        return spi_fail(
            m->ctx, SP_ERR_UNSUPPORTED,
            "%s: \"%s\": expected a head with 2 labels or more (regression is not supported), found %lld",
            m->files.dir, SPI_SCORE_WEIGHT, (long long)outputs);
    if ((int64_t)json_object_size(map) != outputs) return spi_model_take_labels(m, NULL, (int32_t)outputs);
    spi_labels labels = {0};
    labels.names = spi_arena_alloc(&labels.arena, (size_t)outputs * sizeof *labels.names);
    sp_status status = labels.names ? spi_read_id2label(m->ctx, m->files.config_path, map, &labels.arena,
                                                        labels.names, &labels.count)
                                    : spi_fail_memory(m->ctx, (size_t)outputs * 8, "label names");
    if (status == SP_OK) status = spi_model_take_labels(m, labels.names, labels.count);
    spi_arena_free(&labels.arena);
    return status;
}

/* Transformers' score: N(0, initializer_range). */
static sp_status fresh_head(sp_model *m, int32_t count, uint64_t seed) {
    const int64_t width = spi_arch_out_size(&m->base->arch);
    const spi_slot_shape shape = {.rows = count, .cols = width, .std = m->base->arch.init_range};
    float *values = malloc((size_t)(count * width) * sizeof *values);
    if (!values) return spi_fail_memory(m->ctx, (size_t)(count * width) * sizeof *values, SPI_SCORE_WEIGHT);
    spi_arch_fresh_values(&shape, SPI_SCORE_WEIGHT, seed, values);
    m->head = spi_params_add(m->dev, &m->head_params,
                             &(spi_param_spec){.name = SPI_SCORE_WEIGHT,
                                               .kind = SPI_PARAM_MATRIX,
                                               .group = SPI_GROUP_MAIN,
                                               .ndim = 2,
                                               .shape = {count, width},
                                               .decay = true});
    sp_status status = m->head ? spi_param_set(m->dev, m->head, m->base->dtype, values) : SP_ERR_MEMORY;
    free(values);
    return status;
}

void spi_set_labels(json_t *config, char *const *names, int32_t count) {
    json_t *back = json_object();
    for (int32_t i = 0; back && i < count; i++) json_object_set_new(back, names[i], json_integer(i));
    json_object_set_new(config, "id2label", spi_id2label(names, count));
    json_object_set_new(config, "label2id", back);
}

/* label2id needs names that tell labels apart. */
static sp_status check_names(const sp_model *model, const char *const *names, int32_t count) {
    for (int32_t i = 0; names && i < count; i++) {
        if (names[i] && !*names[i])
            return spi_fail(model->ctx, SP_ERR_ARGUMENT, "labels: name %d: expected a name, found an empty one",
                            i);
        for (int32_t j = 0; names[i] && j < i; j++)
            if (names[j] && strcmp(names[i], names[j]) == 0)
                return spi_fail(model->ctx, SP_ERR_ARGUMENT,
                                "labels: expected names that differ, found \"%s\" for %d and %d", names[i], j,
                                i);
    }
    return SP_OK;
}

sp_status sp_model_set_labels(sp_model *model, const char *const *names, int32_t count, uint64_t seed) {
    if (model->task != SP_TASK_SEQ_CLS || model->adapter)
        return spi_fail(model->ctx, SP_ERR_ARGUMENT,
                        "labels: expected a model of the task seq-cls without an adapter, found another");
    if (count < 2) return spi_fail(model->ctx, SP_ERR_ARGUMENT, "labels: expected at least 2, found %d", count);
    if (model->head && count != model->num_labels)
        return spi_fail(model->ctx, SP_ERR_MISMATCH, "labels: expected %d, as %s has outputs, found %d",
                        model->num_labels, model->files.dir, count);
    SPI_TRY(check_names(model, names, count));
    if (!model->head) SPI_TRY(fresh_head(model, count, seed));
    return spi_model_take_labels(model, names, count);
}

const char *sp_model_label(const sp_model *model, int32_t index) {
    return index >= 0 && index < model->num_labels ? model->labels[index] : NULL;
}
