/*
 * sp_wrap: a small model's backbone behind which a large model's head stands, joined by a projection, as
 * shadow_peft.AutoModelForCausalLMWithHiddenProjection.wrap makes it.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/rng.h"
#include "shadow/adapter.h"
#include "shadow/projected.h"
#include "shadow/pseudo_inverse.h"
#include "shadow/weights.h"

void sp_wrap_options_default(sp_wrap_options *opts) {
    *opts = (sp_wrap_options){.size = sizeof *opts, .init_optimal_projection = true, .seed = 42};
}

/* One of the two models. */
typedef struct source {
    spi_checkpoint files;
    spi_arch arch;
    spi_prefix prefix; /* of the backbone: ours "shadow_model." */
    const spi_st_tensor *head;
    bool opened; /* files and arch are there */
} source;

static void source_close(source *s) {
    if (!s->opened) return;
    spi_arch_free(&s->arch);
    spi_checkpoint_close(&s->files);
    s->opened = false;
}

/* ------------------------------------------------------------------ reading and checking */

/* A tensor of weights and of the shape that is expected, or a line in `wrong`. */
static void check_tensor(spi_buf *wrong, const char *name, const spi_st_tensor *t,
                         const spi_slot_shape *shape) {
    const bool shaped = t && t->ndim == (shape->vector ? 1 : 2) && t->shape[0] == shape->rows &&
                        (shape->vector || t->shape[1] == shape->cols);
    if (shaped && (t->dtype == SP_F32 || t->dtype == SP_BF16 || t->dtype == SP_F16)) return;
    spi_buf_printf(wrong, "\n  %s: expected [%lld", name, (long long)shape->rows);
    if (!shape->vector) spi_buf_printf(wrong, ", %lld", (long long)shape->cols);
    if (!t) spi_buf_puts(wrong, "], found nothing");
    else if (shaped) spi_buf_printf(wrong, "] of F32, BF16 or F16, found %s", sp_dtype_name(t->dtype));
    else {
        spi_buf_puts(wrong, "], found [");
        for (int i = 0; i < t->ndim; i++)
            spi_buf_printf(wrong, "%s%lld", i ? ", " : "", (long long)t->shape[i]);
        spi_buf_puts(wrong, "]");
    }
}

static sp_status report(sp_context *ctx, const char *dir, spi_buf *wrong) {
    sp_status status = SP_OK;
    if (wrong->failed) status = spi_fail_memory(ctx, wrong->length, "a list of tensors");
    else if (wrong->length)
        status = spi_fail(ctx, SP_ERR_MISMATCH, "%s: tensors do not fit its config.json:%s", dir, wrong->data);
    spi_buf_free(wrong);
    return status;
}

/* A head of its own is used whatever tie_word_embeddings says, as Transformers does. */
static void find_head(source *s, spi_buf *wrong) {
    const spi_arch *a = &s->arch;
    const spi_slot_shape shape = {.rows = a->vocab_size, .cols = spi_arch_out_size(a)};
    char name[256];
    snprintf(name, sizeof name, "%s", a->family->head);
    s->head = spi_st_find(s->files.weights, name);
    if (!s->head && a->tie_embeddings) {
        spi_arch_slot_name(a, 0, SPI_EMBED, s->prefix.ours, name, sizeof name);
        s->head = spi_param_find(s->files.weights, name, &s->prefix);
        snprintf(name, sizeof name, "%s (tied to the embedding)", a->family->head);
    }
    check_tensor(wrong, name, s->head, &shape);
}

static sp_status source_open(sp_context *ctx, const char *dir, source *s) {
    SPI_TRY(spi_checkpoint_open(ctx, dir, false, &s->files));
    sp_status status = SP_OK;
    if (spi_is_projected(s->files.config))
        status =
            spi_fail(ctx, SP_ERR_UNSUPPORTED, "%s: \"model_type\": expected a family's own causal LM, found %s",
                     s->files.config_path, SPI_PROJECTED_TYPE);
    if (status == SP_OK) status = spi_st_open_dir(ctx, dir, "model.safetensors", &s->files.weights);
    if (status == SP_OK) status = spi_arch_read(ctx, s->files.config_path, s->files.config, &s->arch);
    if (status != SP_OK) {
        spi_checkpoint_close(&s->files);
        return status;
    }
    s->opened = true;
    s->prefix = (spi_prefix){"shadow_model.", spi_decoder_stored_prefix(&s->arch, s->files.weights)};
    return SP_OK;
}

/* Calls `visit` for every tensor of the backbone by its name in the result. */
typedef sp_status (*visit_fn)(void *user, const char *name, const spi_st_tensor *t,
                              const spi_slot_shape *shape);

static sp_status each_tensor(const source *s, visit_fn visit, void *user) {
    for (int slot = 0; slot < SPI_SLOTS; slot++) {
        const int64_t times = slot < SPI_LAYER_SLOTS ? s->arch.num_layers : 1;
        spi_slot_shape shape;
        if (!spi_arch_slot(&s->arch, (spi_slot)slot, &shape)) continue;
        for (int64_t l = 0; l < times; l++) {
            char name[256];
            spi_arch_slot_name(&s->arch, l, (spi_slot)slot, s->prefix.ours, name, sizeof name);
            SPI_TRY(visit(user, name, spi_param_find(s->files.weights, name, &s->prefix), &shape));
        }
    }
    return SP_OK;
}

static sp_status visit_check(void *user, const char *name, const spi_st_tensor *t,
                             const spi_slot_shape *shape) {
    check_tensor(user, name, t, shape);
    return SP_OK;
}

/* Whether two paths are one directory. */
static bool same_dir(const char *a, const char *b) {
    char *x = realpath(a, NULL), *y = realpath(b, NULL);
    const bool same = x && y && strcmp(x, y) == 0;
    free(x);
    free(y);
    return same;
}

/* All that can be known before anything is computed. */
static sp_status check(sp_context *ctx, source *small, source *large, bool heads) {
    spi_buf wrong = {0};
    if (small->arch.vocab_size != large->arch.vocab_size)
        return spi_fail(ctx, SP_ERR_MISMATCH, "%s: \"vocab_size\": expected %lld as %s says, found %lld",
                        small->files.config_path, (long long)large->arch.vocab_size, large->files.config_path,
                        (long long)small->arch.vocab_size);
    if (small->arch.embed_size != small->arch.hidden_size)
        return spi_fail(
            ctx, SP_ERR_UNSUPPORTED, "%s: \"word_embed_proj_dim\": expected the hidden size (%lld), found %lld",
            small->files.config_path, (long long)small->arch.hidden_size, (long long)small->arch.embed_size);
    SPI_TRY(each_tensor(small, visit_check, &wrong));
    if (heads) find_head(small, &wrong);
    SPI_TRY(report(ctx, small->files.dir, &wrong));
    find_head(large, &wrong);
    return report(ctx, large->files.dir, &wrong);
}

/* ------------------------------------------------------------------ the projection */

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* values [d_large, d_small]: free() them. */
static sp_status make_projection(sp_context *ctx, const source *small, const source *large,
                                 const sp_wrap_options *opts, float **values, sp_wrap_result *result) {
    const double began = now();
    if (opts->init_optimal_projection) {
        spi_projection_fit fit;
        SPI_TRY(spi_projection_fit_heads(ctx, large->head, small->head, &fit));
        *values = fit.values;
        result->rank = fit.rank;
        result->reconstruction_error = fit.error;
    } else {
        const int64_t count = spi_arch_out_size(&large->arch) * small->arch.hidden_size;
        const float bound = 1.0f / sqrtf((float)small->arch.hidden_size);
        *values = malloc((size_t)count * sizeof **values);
        if (!*values) return spi_fail_memory(ctx, (size_t)count * sizeof **values, "a projection");
        spi_fill_uniform(*values, count, -bound, bound, opts->seed, spi_hash_name(SPI_PROJECTED_WEIGHT));
        result->reconstruction_error = NAN;
    }
    result->seconds = now() - began;
    return SP_OK;
}

/* ------------------------------------------------------------------ writing */

typedef struct output {
    sp_context *ctx;
    sp_dtype dtype;
    spi_weights w;
} output;

/* Values of another dtype, in `a`. */
static void *converted(spi_arena *a, const spi_st_tensor *t, sp_dtype dtype) {
    float part[1024];
    const size_t from = spi_dtype_size(t->dtype), to = spi_dtype_size(dtype);
    char *data = spi_arena_alloc(a, (size_t)t->count * to);
    for (int64_t at = 0; data && at < t->count; at += 1024) {
        const int64_t n = t->count - at < 1024 ? t->count - at : 1024;
        spi_to_f32(part, (const char *)t->data + (size_t)at * from, t->dtype, n);
        spi_from_f32(data + (size_t)at * to, part, dtype, n);
    }
    return data;
}

/* Straight from the mapped file where the dtype is right. A visit_fn. */
static sp_status add_tensor(void *user, const char *name, const spi_st_tensor *t, const spi_slot_shape *shape) {
    output *o = user;
    (void)shape;
    const void *data = t->dtype == o->dtype ? t->data : converted(&o->w.arena, t, o->dtype);
    char *copy = spi_arena_strdup(&o->w.arena, name);
    if (!data || !copy) return spi_fail_memory(o->ctx, (size_t)t->count * spi_dtype_size(o->dtype), name);
    spi_st_item *item = &o->w.items[o->w.count++];
    *item = (spi_st_item){.name = copy, .dtype = o->dtype, .ndim = t->ndim, .data = data};
    memcpy(item->shape, t->shape, (size_t)t->ndim * sizeof *t->shape);
    return SP_OK;
}

static sp_status add_weights(output *o, const source *small, const source *large, const float *projection) {
    const int64_t shape[2] = {large->head->shape[1], small->arch.hidden_size};
    SPI_TRY(spi_weights_reserve(o->ctx, &o->w, (size_t)(small->arch.num_layers + 1) * SPI_SLOTS + 2));
    SPI_TRY(each_tensor(small, add_tensor, o));
    SPI_TRY(spi_weights_add(o->ctx, &o->w, SPI_PROJECTED_WEIGHT, 2, shape, o->dtype, projection,
                            shape[0] * shape[1]));
    return add_tensor(o, "lm_head.weight", large->head, NULL);
}

static sp_status save_json(sp_context *ctx, const char *dir, const char *name, const json_t *value) {
    spi_arena names = {0};
    const char *path = spi_path_join(&names, dir, name);
    sp_status status = path ? spi_json_save(ctx, path, value) : spi_fail_memory(ctx, strlen(dir), "a path");
    spi_arena_free(&names);
    return status;
}

static sp_status write_config(const output *o, const source *small, const source *large, const char *dir) {
    const char *dtype = spi_torch_dtype_name(o->dtype);
    json_t *backbone = json_deep_copy(spi_arch_config(small->files.config));
    if (!backbone) return spi_fail_memory(o->ctx, strlen(dir), "a config");
    json_object_del(backbone, "torch_dtype"); /* "dtype" by its older name */
    json_object_set_new(backbone, "dtype", json_string(dtype));
    json_t *config = spi_projected_config(backbone, small->arch.family, large->head->shape[1],
                                          small->arch.vocab_size, backbone);
    if (!config) return spi_fail_memory(o->ctx, strlen(dir), "a config");
    json_object_set_new(config, "dtype", json_string(dtype));
    sp_status status = save_json(o->ctx, dir, "config.json", config);
    json_decref(config);
    return status;
}

static sp_status write_all(output *o, const source *small, const source *large, const float *projection,
                           const char *dir) {
    SPI_TRY(add_weights(o, small, large, projection));
    SPI_TRY(spi_make_dirs(o->ctx, dir));
    SPI_TRY(spi_st_write_dir(o->ctx, dir, o->w.items, o->w.count, SPI_SHARD_BYTES));
    if (small->files.generation)
        SPI_TRY(save_json(o->ctx, dir, "generation_config.json", small->files.generation));
    SPI_TRY(spi_checkpoint_copy_tokenizer(o->ctx, small->files.dir, dir));
    /* The config comes last: a directory that has one has the weights too. */
    return write_config(o, small, large, dir);
}

/* AUTO: the dtype of the small model's embedding, its first parameter, as in Python. */
static sp_dtype choose_dtype(const source *small, sp_dtype asked) {
    char name[256];
    if (asked != SP_DTYPE_AUTO) return asked;
    spi_arch_slot_name(&small->arch, 0, SPI_EMBED, small->prefix.ours, name, sizeof name);
    return spi_param_find(small->files.weights, name, &small->prefix)->dtype;
}

static sp_status wrap(sp_context *ctx, source *small, source *large, const char *dir,
                      const sp_wrap_options *opts, sp_wrap_result *result) {
    float *projection = NULL;
    SPI_TRY(check(ctx, small, large, opts->init_optimal_projection));
    output o = {.ctx = ctx, .dtype = choose_dtype(small, opts->dtype)};
    sp_status status = make_projection(ctx, small, large, opts, &projection, result);
    if (status == SP_OK) status = write_all(&o, small, large, projection, dir);
    free(projection);
    spi_arena_free(&o.w.arena);
    return status;
}

sp_status sp_wrap(sp_context *ctx, const char *small_dir, const char *large_dir, const char *output_dir,
                  const sp_wrap_options *opts, sp_wrap_result *result) {
    source small = {0}, large = {0};
    sp_wrap_result all = {.size = result ? result->size : 0};
    sp_wrap_options o;
    sp_wrap_options_default(&o);
    if (opts) memcpy(&o, opts, opts->size < sizeof o ? opts->size : sizeof o);
    if (o.dtype != SP_DTYPE_AUTO && o.dtype != SP_F32 && o.dtype != SP_BF16 && o.dtype != SP_F16)
        return spi_fail(ctx, SP_ERR_ARGUMENT, "dtype: expected F32, BF16 or F16, found %s",
                        sp_dtype_name(o.dtype));
    if (same_dir(output_dir, small_dir) || same_dir(output_dir, large_dir))
        return spi_fail(ctx, SP_ERR_ARGUMENT, "%s: expected another output directory than the models'",
                        output_dir);
    sp_status status = source_open(ctx, small_dir, &small);
    if (status == SP_OK) status = source_open(ctx, large_dir, &large);
    if (status == SP_OK) status = wrap(ctx, &small, &large, output_dir, &o, &all);
    source_close(&small);
    source_close(&large);
    if (status == SP_OK && result) memcpy(result, &all, result->size < sizeof all ? result->size : sizeof all);
    return status;
}
