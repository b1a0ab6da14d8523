/* Whole checkpoints: writing a trained base, and making a fresh random one from a config.json. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shadow/model.h"
#include "shadow/projected.h"
#include "shadow/weights.h"

/* ------------------------------------------------------------------ config.json */

const char *spi_torch_dtype_name(sp_dtype dtype) {
    return dtype == SP_BF16 ? "bfloat16" : dtype == SP_F16 ? "float16" : "float32";
}

/* `labels`: of a classifier; NULL: causal LM. */
static sp_status write_config(sp_context *ctx, const json_t *config, const spi_family *family,
                              const spi_labels *labels, sp_dtype dtype, const char *dir) {
    spi_arena names = {0};
    const char *path = spi_path_join(&names, dir, "config.json");
    json_t *copy = json_deep_copy(spi_arch_config(config));
    json_object_del(copy, "torch_dtype"); /* "dtype" by its older name */
    json_object_set_new(copy, "dtype", json_string(spi_torch_dtype_name(dtype)));
    json_object_set_new(copy, "architectures",
                        json_pack("[s]", spi_is_projected(copy) ? SPI_PROJECTED_CLASS
                                         : labels               ? family->classifier
                                                                : family->causal_lm));
    if (labels) spi_labels_write(copy, labels, true);
    sp_status status = path ? spi_json_save(ctx, path, copy) : spi_fail_memory(ctx, strlen(dir), "a path");
    json_decref(copy);
    spi_arena_free(&names);
    return status;
}

/* ------------------------------------------------------------------ a base in memory */

static sp_status add_list(sp_model *model, spi_weights *w, const spi_params *list) {
    for (size_t i = 0; i < list->count; i++)
        SPI_TRY(spi_weights_add_param(model, w, list->items[i], list->items[i]->name));
    return SP_OK;
}

sp_status spi_save_side_files(const sp_model *model, const char *dir) {
    spi_arena names = {0};
    const char *generation = spi_path_join(&names, dir, "generation_config.json");
    sp_status status = generation ? SP_OK : spi_fail_memory(model->ctx, strlen(dir), "a path");
    if (status == SP_OK && model->files.generation)
        status = spi_json_save(model->ctx, generation, model->files.generation);
    spi_arena_free(&names);
    SPI_TRY(status);
    return spi_checkpoint_copy_tokenizer(model->ctx, model->files.dir, dir);
}

sp_status sp_model_save(sp_model *model, const char *dir) {
    spi_weights w = {0};
    const spi_labels *labels = model->task == SP_TASK_SEQ_CLS ? &model->labels : NULL;
    if (labels && !model->head)
        return spi_fail(model->ctx, SP_ERR_ARGUMENT,
                        "%s: task seq-cls: expected a base with a head over labels to save, found none", dir);
    SPI_TRY(spi_make_dirs(model->ctx, dir));
    sp_status status =
        spi_weights_reserve(model->ctx, &w, model->base->params.count + model->head_params.count);
    if (status == SP_OK) status = add_list(model, &w, &model->base->params);
    if (status == SP_OK) status = add_list(model, &w, &model->head_params);
    if (status == SP_OK) status = spi_st_write_dir(model->ctx, dir, w.items, w.count, SPI_SHARD_BYTES);
    if (status == SP_OK) status = spi_save_side_files(model, dir);
    /* The config comes last: a directory that has one has the weights too. */
    if (status == SP_OK)
        status = write_config(model->ctx, model->files.config, model->base->arch.family, labels,
                              model->base->dtype, dir);
    spi_arena_free(&w.arena);
    return status;
}

/* ------------------------------------------------------------------ a fresh one */

static sp_status add_fresh(sp_context *ctx, spi_weights *w, const char *name, const spi_slot_shape *shape,
                           sp_dtype dtype, uint64_t seed) {
    const int64_t count = shape->rows * shape->cols, sizes[2] = {shape->rows, shape->cols};
    float *values = malloc((size_t)count * sizeof *values);
    if (!values) return spi_fail_memory(ctx, (size_t)count * sizeof *values, name);
    spi_arch_fresh_values(shape, name, seed, spi_threads(ctx), values);
    sp_status status = spi_weights_add(ctx, w, name, shape->vector ? 1 : 2, sizes, dtype, values, count);
    free(values);
    return status;
}

/* Values as Transformers' _init_weights gives them. */
static sp_status add_fresh_model(sp_context *ctx, spi_weights *w, const spi_arch *a, sp_dtype dtype,
                                 uint64_t seed) {
    const spi_slot_shape head = {.rows = a->vocab_size, .cols = spi_arch_out_size(a), .std = a->init_range};
    for (int slot = 0; slot < SPI_SLOTS; slot++) {
        const int64_t times = slot < SPI_LAYER_SLOTS ? a->num_layers : 1;
        spi_slot_shape shape;
        if (!spi_arch_slot(a, (spi_slot)slot, &shape)) continue;
        for (int64_t l = 0; l < times; l++) {
            char name[256];
            spi_arch_slot_name(a, l, (spi_slot)slot, spi_arch_prefix(a), name, sizeof name);
            SPI_TRY(add_fresh(ctx, w, name, &shape, dtype, seed));
        }
    }
    return a->tie_embeddings ? SP_OK : add_fresh(ctx, w, a->family->head, &head, dtype, seed);
}

static sp_status init_checkpoint(sp_context *ctx, const json_t *config, const spi_arch *a, const char *dir,
                                 uint64_t seed, sp_dtype dtype) {
    spi_weights w = {0};
    SPI_TRY(spi_make_dirs(ctx, dir));
    sp_status status = spi_weights_reserve(ctx, &w, (size_t)(a->num_layers + 1) * SPI_SLOTS);
    if (status == SP_OK) status = add_fresh_model(ctx, &w, a, dtype, seed);
    if (status == SP_OK) status = spi_st_write_dir(ctx, dir, w.items, w.count, SPI_SHARD_BYTES);
    /* The config comes last: a directory that has one has the weights too. */
    if (status == SP_OK) status = write_config(ctx, config, a->family, NULL, dtype, dir);
    spi_arena_free(&w.arena);
    return status;
}

sp_status sp_checkpoint_init(sp_context *ctx, const char *config_path, const char *output_dir, uint64_t seed,
                             sp_dtype dtype) {
    json_t *config = NULL;
    spi_arch arch;
    SPI_TRY(spi_json_load(ctx, config_path, &config));
    sp_status status = spi_model_arch_read(ctx, config_path, config, &arch);
    if (status == SP_OK) {
        if (dtype == SP_DTYPE_AUTO) {
            const char *name = json_string_value(json_object_get(config, "dtype"));
            if (!name) name = json_string_value(json_object_get(config, "torch_dtype"));
            dtype = name && strcmp(name, "bfloat16") == 0  ? SP_BF16
                    : name && strcmp(name, "float16") == 0 ? SP_F16
                                                           : SP_F32;
        }
        status = init_checkpoint(ctx, config, &arch, output_dir, seed, dtype);
        spi_arch_free(&arch);
    }
    json_decref(config);
    return status;
}
