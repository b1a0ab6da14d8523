/* Whole checkpoints: writing a trained base, and making a fresh random one from a config.json. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shadow/model.h"
#include "shadow/projected.h"

/* As save_pretrained cuts them. */
#define SHARD_BYTES ((int64_t)5000000000)

/* ------------------------------------------------------------------ config.json */

static const char *torch_name(sp_dtype dtype) {
    return dtype == SP_BF16 ? "bfloat16" : dtype == SP_F16 ? "float16" : "float32";
}

static sp_status write_config(sp_context *ctx, const json_t *config, const spi_family *family, sp_dtype dtype,
                              const char *dir) {
    spi_arena names = {0};
    const char *path = spi_path_join(&names, dir, "config.json");
    json_t *copy = json_deep_copy(spi_arch_config(config));
    json_object_del(copy, "torch_dtype"); /* "dtype" by its older name */
    json_object_set_new(copy, "dtype", json_string(torch_name(dtype)));
    json_object_set_new(copy, "architectures",
                        json_pack("[s]", spi_is_projected(copy) ? SPI_PROJECTED_CLASS : family->causal_lm));
    sp_status status = path ? spi_json_save(ctx, path, copy) : spi_fail_memory(ctx, strlen(dir), "a path");
    json_decref(copy);
    spi_arena_free(&names);
    return status;
}

/* ------------------------------------------------------------------ a base in memory */

typedef struct weights {
    spi_arena arena;
    spi_st_item *items;
    size_t count;
} weights;

static sp_status add_weight(sp_context *ctx, weights *w, const char *name, int ndim, const int64_t *shape,
                            sp_dtype dtype, const float *values, int64_t count) {
    void *data = spi_arena_alloc(&w->arena, (size_t)count * spi_dtype_size(dtype));
    char *copy = spi_arena_strdup(&w->arena, name);
    if (!data || !copy) return spi_fail_memory(ctx, (size_t)count * spi_dtype_size(dtype), name);
    spi_from_f32(data, values, dtype, count);
    spi_st_item *item = &w->items[w->count++];
    *item = (spi_st_item){.name = copy, .dtype = dtype, .ndim = ndim, .data = data};
    memcpy(item->shape, shape, (size_t)ndim * sizeof *shape);
    return SP_OK;
}

static sp_status add_list(sp_model *model, weights *w, const spi_params *list) {
    for (size_t i = 0; i < list->count; i++) {
        const spi_param *p = list->items[i];
        float *values = malloc((size_t)p->count * sizeof *values);
        if (!values) return spi_fail_memory(model->ctx, (size_t)p->count * sizeof *values, p->name);
        sp_status status = spi_param_get(model->dev, p, values);
        if (status == SP_OK)
            status =
                add_weight(model->ctx, w, p->name, p->ndim, p->shape, model->base->dtype, values, p->count);
        free(values);
        SPI_TRY(status);
    }
    return SP_OK;
}

static sp_status write_side_files(sp_model *model, const char *dir) {
    spi_arena names = {0};
    const char *generation = spi_path_join(&names, dir, "generation_config.json");
    sp_status status = generation ? SP_OK : spi_fail_memory(model->ctx, strlen(dir), "a path");
    if (status == SP_OK && model->files.generation)
        status = spi_json_save(model->ctx, generation, model->files.generation);
    spi_arena_free(&names);
    SPI_TRY(status);
    SPI_TRY(spi_checkpoint_copy_tokenizer(model->ctx, model->files.dir, dir));
    return write_config(model->ctx, model->files.config, model->base->arch.family, model->base->dtype, dir);
}

sp_status sp_model_save(sp_model *model, const char *dir) {
    weights w = {0};
    SPI_TRY(spi_make_dirs(model->ctx, dir));
    const size_t count = model->base->params.count + model->head_params.count;
    w.items = spi_arena_alloc(&w.arena, count * sizeof *w.items);
    sp_status status = w.items ? SP_OK : spi_fail_memory(model->ctx, count * sizeof *w.items, "weights");
    if (status == SP_OK) status = add_list(model, &w, &model->base->params);
    if (status == SP_OK) status = add_list(model, &w, &model->head_params);
    if (status == SP_OK) status = spi_st_write_dir(model->ctx, dir, w.items, w.count, SHARD_BYTES);
    if (status == SP_OK) status = write_side_files(model, dir);
    spi_arena_free(&w.arena);
    return status;
}

/* ------------------------------------------------------------------ a fresh one */

static sp_status add_fresh(sp_context *ctx, weights *w, const char *name, const spi_slot_shape *shape,
                           sp_dtype dtype, uint64_t seed) {
    const int64_t count = shape->rows * shape->cols, sizes[2] = {shape->rows, shape->cols};
    float *values = malloc((size_t)count * sizeof *values);
    if (!values) return spi_fail_memory(ctx, (size_t)count * sizeof *values, name);
    spi_arch_fresh_values(shape, name, seed, values);
    sp_status status = add_weight(ctx, w, name, shape->vector ? 1 : 2, sizes, dtype, values, count);
    free(values);
    return status;
}

/* Values as Transformers' _init_weights gives them. */
static sp_status add_fresh_model(sp_context *ctx, weights *w, const spi_arch *a, sp_dtype dtype,
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
    weights w = {0};
    SPI_TRY(spi_make_dirs(ctx, dir));
    w.items = spi_arena_alloc(&w.arena, (size_t)(a->num_layers + 1) * SPI_SLOTS * sizeof *w.items);
    sp_status status = w.items ? add_fresh_model(ctx, &w, a, dtype, seed)
                               : spi_fail_memory(ctx, (size_t)a->num_layers * sizeof *w.items, "weights");
    if (status == SP_OK) status = spi_st_write_dir(ctx, dir, w.items, w.count, SHARD_BYTES);
    /* The config comes last: a directory that has one has the weights too. */
    if (status == SP_OK) status = write_config(ctx, config, a->family, dtype, dir);
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
