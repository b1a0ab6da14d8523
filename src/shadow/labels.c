/* A classifier's labels: their names, and a fresh head where the base has none. */
#include "shadow/labels.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "shadow/adapter.h"

/* ------------------------------------------------------------------ names */

void spi_labels_free(spi_labels *labels) {
    spi_arena_free(&labels->arena);
    *labels = (spi_labels){0};
}

/* The name, "LABEL_i" where there is none (PretrainedConfig.num_labels). */
static const char *copy_name(spi_arena *arena, const char *name, int32_t i) {
    return name ? spi_arena_strdup(arena, name) : spi_arena_printf(arena, "LABEL_%d", i);
}

sp_status spi_labels_set(sp_context *ctx, spi_labels *labels, const char *const *names, int32_t count) {
    spi_labels copy = {.count = count};
    copy.names = spi_arena_alloc(&copy.arena, ((size_t)count + 1) * sizeof *copy.names);
    bool ok = copy.names != NULL;
    for (int32_t i = 0; ok && i < count; i++) {
        copy.names[i] = copy_name(&copy.arena, names ? names[i] : NULL, i);
        ok = copy.names[i] != NULL;
    }
    if (!ok) {
        spi_arena_free(&copy.arena);
        return spi_fail_memory(ctx, (size_t)count * 32, "label names");
    }
    spi_labels_free(labels);
    *labels = copy;
    return SP_OK;
}

bool spi_labels_are_default(const spi_labels *labels) {
    for (int32_t i = 0; i < labels->count; i++) {
        char name[32];
        snprintf(name, sizeof name, "LABEL_%d", i);
        if (strcmp(name, labels->names[i]) != 0) return false;
    }
    return true;
}

sp_status spi_labels_check(sp_context *ctx, const char *where, const spi_labels *labels) {
    sp_status status = SP_OK;
    json_t *seen = json_object();
    if (!seen) return spi_fail_memory(ctx, (size_t)labels->count * 32, "label names");
    for (int32_t i = 0; i < labels->count && status == SP_OK; i++) {
        const json_t *before = json_object_get(seen, labels->names[i]);
        if (!*labels->names[i])
            status =
                spi_fail(ctx, SP_ERR_ARGUMENT, "%s: name %d: expected a name, found an empty one", where, i);
        else if (before)
            status =
                spi_fail(ctx, SP_ERR_ARGUMENT, "%s: expected names that differ, found \"%s\" for %d and for %d",
                         where, labels->names[i], (int)json_integer_value(before), i);
        else if (json_object_set_new(seen, labels->names[i], json_integer(i)) != 0)
            status =
                spi_fail(ctx, SP_ERR_ARGUMENT, "%s: expected UTF-8, found other bytes in name %d", where, i);
    }
    json_decref(seen);
    return status;
}

/* ------------------------------------------------------------------ configs */

sp_status spi_labels_read(sp_context *ctx, const char *file, const json_t *config, spi_labels *labels) {
    const json_t *map = json_object_get(config, "id2label");
    const size_t n = json_object_size(map);
    if (map && !json_is_null(map) && !json_is_object(map))
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"id2label\": expected an object of names, found %s", file,
                        spi_json_kind(map));
    if (n == 0) return SP_OK;
    const char **names = malloc(n * sizeof *names);
    sp_status status = names ? SP_OK : spi_fail_memory(ctx, n * sizeof *names, "label names");
    for (size_t i = 0; i < n && status == SP_OK; i++) {
        char key[24];
        snprintf(key, sizeof key, "%zu", i);
        names[i] = json_string_value(json_object_get(map, key));
        if (!names[i])
            status = spi_fail(ctx, SP_ERR_FORMAT,
                              "%s: \"id2label\": expected a name for each of 0 to %zu, found none for %s", file,
                              n - 1, key);
    }
    if (status == SP_OK) status = spi_labels_set(ctx, labels, names, (int32_t)n);
    free(names);
    return status;
}

void spi_labels_write(json_t *config, const spi_labels *labels, bool both_ways) {
    json_t *map = json_object(), *back = json_object();
    for (int32_t i = 0; map && back && i < labels->count; i++) {
        char key[24];
        snprintf(key, sizeof key, "%d", i);
        json_object_set_new(map, key, json_string(labels->names[i]));
        json_object_set_new(back, labels->names[i], json_integer(i));
    }
    json_object_set_new(config, "id2label", map);
    if (both_ways) json_object_set(config, "label2id", back);
    json_decref(back);
}

/* ------------------------------------------------------------------ a model's */

sp_status spi_model_read_labels(sp_model *m) {
    const spi_st_tensor *score = spi_st_find(m->files.weights, SPI_SCORE_WEIGHT);
    const json_t *map = json_object_get(m->files.config, "id2label");
    const char *problem;
    if (!score) return SP_OK;
    const int64_t outputs = score->ndim == 2 ? score->shape[0] : 0;
    if (outputs < 2 || outputs > INT32_MAX)
        return spi_fail(
            m->ctx, SP_ERR_UNSUPPORTED,
            "%s: \"%s\": expected a head with 2 labels or more (regression is not supported), found %lld",
            m->files.dir, SPI_SCORE_WEIGHT, (long long)outputs);
    SPI_TRY(spi_json_string(m->ctx, m->files.config_path, m->files.config, "problem_type",
                            "single_label_classification", &problem));
    if (strcmp(problem, "single_label_classification") != 0)
        return spi_fail(m->ctx, SP_ERR_UNSUPPORTED,
                        "%s: \"problem_type\": expected \"single_label_classification\", found \"%s\"",
                        m->files.config_path, problem);
    if ((int64_t)json_object_size(map) != outputs)
        return spi_labels_set(m->ctx, &m->labels, NULL, (int32_t)outputs);
    return spi_labels_read(m->ctx, m->files.config_path, m->files.config, &m->labels);
}

/* Transformers' score: N(0, initializer_range). */
static sp_status fresh_head(sp_model *m, int32_t count, uint64_t seed) {
    const int64_t width = spi_arch_out_size(&m->base->arch);
    const spi_slot_shape shape = {.rows = count, .cols = width, .std = m->base->arch.init_range};
    const size_t bytes = (size_t)(count * width) * sizeof(float);
    float *values = malloc(bytes);
    if (!values) return spi_fail_memory(m->ctx, bytes, SPI_SCORE_WEIGHT);
    spi_arch_fresh_values(&shape, SPI_SCORE_WEIGHT, seed, spi_threads(m->ctx), values);
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

/* A head is made last: a call that fails leaves everything as it was. */
static sp_status take_labels(sp_model *model, spi_labels *labels, uint64_t seed) {
    SPI_TRY(spi_labels_check(model->ctx, "labels", labels));
    if (!model->head) SPI_TRY(fresh_head(model, labels->count, seed));
    spi_labels_free(&model->labels);
    model->labels = *labels;
    *labels = (spi_labels){0};
    return SP_OK;
}

sp_status sp_model_set_labels(sp_model *model, const char *const *names, int32_t count, uint64_t seed) {
    spi_labels labels = {0};
    if (model->task != SP_TASK_SEQ_CLS || model->adapter)
        return spi_fail(model->ctx, SP_ERR_ARGUMENT,
                        "labels: expected a model of the task seq-cls without an adapter, found another");
    if (count < 2) return spi_fail(model->ctx, SP_ERR_ARGUMENT, "labels: expected at least 2, found %d", count);
    if (model->head && count != model->labels.count)
        return spi_fail(model->ctx, SP_ERR_MISMATCH, "labels: expected %d, as %s has outputs, found %d",
                        model->labels.count, model->files.dir, count);
    SPI_TRY(spi_labels_set(model->ctx, &labels, names, count));
    sp_status status = take_labels(model, &labels, seed);
    spi_labels_free(&labels);
    return status;
}

const char *sp_model_label(const sp_model *model, int32_t index) {
    const spi_labels *labels = spi_model_labels(model);
    return index >= 0 && index < labels->count ? labels->names[index] : NULL;
}
