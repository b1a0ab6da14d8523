#include "train/state.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "format/safetensors.h"

#define STATE_FILE "trainer_state.json"
#define OPTIMIZER_FILE "optimizer.safetensors"

/* ------------------------------------------------------------------ what must not change */

/* Everything that the numbers of a run depend on. The number of steps may change: runs get prolonged. */
static json_t *fingerprint(const spi_state *s) {
    const sp_train_options *o = s->options;
    return json_pack(
        "{s:i,s:i,s:f,s:f,s:f,s:f,s:f,s:f,s:i,s:f,s:I,s:f,s:f,s:b,s:i,s:b,s:I,s:b,s:b,s:I,s:I}",
        "per_device_train_batch_size", o->per_device_train_batch_size, "gradient_accumulation_steps",
        o->gradient_accumulation_steps, "learning_rate", o->learning_rate, "weight_decay", o->weight_decay,
        "adam_beta1", o->adam_beta1, "adam_beta2", o->adam_beta2, "adam_epsilon", o->adam_epsilon,
        "max_grad_norm", o->max_grad_norm, "lr_scheduler_type", (int)o->lr_scheduler_type, "warmup_ratio",
        o->warmup_ratio, "warmup_steps", (json_int_t)o->warmup_steps, "shadow_lr_multiplier",
        o->shadow_lr_multiplier, "shadow_loss_weight", o->shadow_loss_weight, "packing", o->packing,
        "max_seq_length", o->max_seq_length, "shuffle", o->shuffle, "seed", (json_int_t)o->seed, "freeze_embed",
        o->freeze_embed, "freeze_head", o->freeze_head, "train_examples", (json_int_t)sp_dataset_count(s->data),
        "train_tokens", (json_int_t)sp_dataset_tokens(s->data));
}

static sp_status check_fingerprint(sp_context *ctx, const spi_state *s, const char *file, const json_t *found) {
    json_t *expected = fingerprint(s), *value;
    const char *key;
    sp_status status = expected ? SP_OK : spi_fail_memory(ctx, 1024, "training options");
    json_object_foreach(expected, key, value) {
        const json_t *was = json_object_get(found, key);
        if (status != SP_OK || (was && json_equal(was, value))) continue;
        char *before = json_dumps(was, JSON_ENCODE_ANY), *now = json_dumps(value, JSON_ENCODE_ANY);
        status =
            spi_fail(ctx, SP_ERR_MISMATCH,
                     "%s: \"%s\": the run to resume was begun with %s, now it is %s (start anew in another "
                     "output directory, or give the same value)",
                     file, key, before ? before : "no value", now ? now : "another");
        free(before);
        free(now);
    }
    json_decref(expected);
    return status;
}

/* ------------------------------------------------------------------ trainer_state.json */

static sp_status save_progress(const spi_state *s, const char *path) {
    sp_context *ctx = s->optimizer->model->ctx;
    const spi_progress *p = s->progress;
    json_t *best = p->evaluated ? json_real(p->best_eval_loss) : json_null();
    json_t *top = json_pack(
        "{s:I,s:I,s:f,s:f,s:f,s:f,s:f,s:I,s:o,s:I,s:i,s:o}", "global_step", (json_int_t)p->step, "max_steps",
        (json_int_t)s->total_steps, "epoch", s->epoch, "loss_sum", p->loss, "base_loss_sum", p->base_loss,
        "shadow_loss_sum", p->shadow_loss, "total_loss_sum", p->total_loss, "logged_steps",
        (json_int_t)p->logged, "best_eval_loss", best, "best_step", (json_int_t)p->best_step,
        "evals_without_better", p->evals_without_better, "options", fingerprint(s));
    if (!top) return spi_fail_memory(ctx, 1024, path);
    const sp_status status = spi_json_save(ctx, path, top);
    json_decref(top);
    return status;
}

static sp_status load_progress(const spi_state *s, const char *path) {
    sp_context *ctx = s->optimizer->model->ctx;
    spi_progress p = {0};
    int64_t patience = 0;
    json_t *top = NULL;
    SPI_TRY(spi_json_load(ctx, path, &top));
    sp_status status = check_fingerprint(ctx, s, path, json_object_get(top, "options"));
    SPI_GOTO(out, status, status);
    SPI_GOTO(out, status, spi_json_int(ctx, path, top, "global_step", 0, &p.step));
    SPI_GOTO(out, status, spi_json_real(ctx, path, top, "loss_sum", 0, &p.loss));
    SPI_GOTO(out, status, spi_json_real(ctx, path, top, "base_loss_sum", 0, &p.base_loss));
    SPI_GOTO(out, status, spi_json_real(ctx, path, top, "shadow_loss_sum", 0, &p.shadow_loss));
    SPI_GOTO(out, status, spi_json_real(ctx, path, top, "total_loss_sum", 0, &p.total_loss));
    SPI_GOTO(out, status, spi_json_int(ctx, path, top, "logged_steps", 0, &p.logged));
    SPI_GOTO(out, status, spi_json_int(ctx, path, top, "best_step", 0, &p.best_step));
    SPI_GOTO(out, status, spi_json_int(ctx, path, top, "evals_without_better", 0, &patience));
    SPI_GOTO(out, status, spi_json_real(ctx, path, top, "best_eval_loss", 0, &p.best_eval_loss));
    p.evaluated = json_is_number(json_object_get(top, "best_eval_loss"));
    p.evals_without_better = (int32_t)patience;
    *s->progress = p;
out:
    json_decref(top);
    return status;
}

/* ------------------------------------------------------------------ optimizer.safetensors */

static const char *const parts[] = {"param", "exp_avg", "exp_avg_sq"};

static float *part_of(const spi_optimizer *o, size_t i, size_t part) {
    return part == 0 ? o->params[i]->f32 : part == 1 ? o->m[i] : o->v[i];
}

static sp_status save_tensors(const spi_optimizer *o, const char *path) {
    spi_device *dev = o->model->dev;
    spi_arena arena = {0};
    spi_st_item *items = spi_arena_alloc(&arena, 3 * o->count * sizeof *items);
    bool ok = items != NULL;
    for (size_t i = 0; ok && i < 3 * o->count; i++) {
        const spi_param *p = o->params[i / 3];
        const size_t bytes = (size_t)p->count * sizeof(float);
        char *name = spi_arena_printf(&arena, "%s.%s", parts[i % 3], p->name);
        float *data = spi_arena_alloc(&arena, bytes);
        ok = name && data;
        if (!ok) break;
        dev->op->download(dev, data, part_of(o, i / 3, i % 3), bytes);
        items[i] = (spi_st_item){.name = name, .dtype = SP_F32, .ndim = p->ndim, .data = data};
        memcpy(items[i].shape, p->shape, (size_t)p->ndim * sizeof *p->shape);
    }
    sp_status status = !ok ? spi_fail_memory(dev->ctx, 3 * o->count * sizeof *items, path) : dev->status;
    if (status == SP_OK) status = spi_st_write(dev->ctx, path, items, 3 * o->count);
    spi_arena_free(&arena);
    return status;
}

/* The tensor of a part, checked. */
static sp_status find_tensor(const spi_optimizer *o, const spi_st_set *set, const char *path, size_t i,
                             size_t part, const spi_st_tensor **out) {
    const spi_param *p = o->params[i];
    char name[512];
    snprintf(name, sizeof name, "%s.%s", parts[part], p->name);
    *out = spi_st_find(set, name);
    if (*out && (*out)->dtype == SP_F32 && (*out)->count == p->count) return SP_OK;
    return spi_fail(o->model->ctx, SP_ERR_MISMATCH, "%s: \"%s\": expected %lld F32 elements, found %lld of %s",
                    path, name, (long long)p->count, *out ? (long long)(*out)->count : 0LL,
                    *out ? sp_dtype_name((*out)->dtype) : "no tensor");
}

static sp_status load_tensors(const spi_optimizer *o, const char *path, size_t count) {
    spi_device *dev = o->model->dev;
    spi_st_set *set = NULL;
    const spi_st_tensor *t;
    SPI_TRY(spi_st_open(dev->ctx, path, &set));
    sp_status status = SP_OK;
    for (size_t i = 0; i < o->count && status == SP_OK; i++)
        for (size_t part = 0; part < count && status == SP_OK; part++)
            status = find_tensor(o, set, path, i, part, &t);
    for (size_t i = 0; i < o->count && status == SP_OK; i++) {
        spi_param *p = o->params[i];
        status = find_tensor(o, set, path, i, 0, &t);
        if (status == SP_OK) status = spi_param_set(dev, p, o->model->base->dtype, t->data);
        for (size_t part = 1; part < count && status == SP_OK; part++) {
            status = find_tensor(o, set, path, i, part, &t);
            if (status == SP_OK) dev->op->upload(dev, part_of(o, i, part), t->data, t->bytes);
        }
    }
    spi_st_close(set);
    return status == SP_OK ? dev->status : status;
}

/* ------------------------------------------------------------------ the directory */

typedef struct paths {
    spi_arena arena;
    char *state, *optimizer, *partial;
} paths;

static sp_status name_files(sp_context *ctx, const char *dir, paths *p) {
    *p = (paths){0};
    p->state = spi_path_join(&p->arena, dir, STATE_FILE);
    p->optimizer = spi_path_join(&p->arena, dir, OPTIMIZER_FILE);
    p->partial = spi_arena_printf(&p->arena, "%s.partial", dir);
    if (p->state && p->optimizer && p->partial) return SP_OK;
    spi_arena_free(&p->arena);
    return spi_fail_memory(ctx, strlen(dir), "a path");
}

static sp_status fill_directory(const spi_state *s, const char *dir) {
    paths p;
    SPI_TRY(name_files(s->optimizer->model->ctx, dir, &p));
    sp_status status = spi_model_save_trained(s->optimizer->model, dir);
    if (status == SP_OK) status = save_tensors(s->optimizer, p.optimizer);
    if (status == SP_OK) status = save_progress(s, p.state);
    spi_arena_free(&p.arena);
    return status;
}

sp_status spi_state_save(const spi_state *s, const char *dir) {
    sp_context *ctx = s->optimizer->model->ctx;
    paths p;
    SPI_TRY(name_files(ctx, dir, &p));
    sp_status status = spi_dir_remove(ctx, p.partial);
    if (status == SP_OK) status = fill_directory(s, p.partial);
    if (status == SP_OK) status = spi_dir_publish(ctx, p.partial, dir);
    spi_arena_free(&p.arena);
    return status;
}

sp_status spi_state_load(const spi_state *s, const char *dir) {
    paths p;
    SPI_TRY(name_files(s->optimizer->model->ctx, dir, &p));
    sp_status status = load_progress(s, p.state);
    if (status == SP_OK) status = load_tensors(s->optimizer, p.optimizer, 3);
    spi_arena_free(&p.arena);
    return status;
}

sp_status spi_state_load_params(const spi_state *s, const char *dir) {
    paths p;
    SPI_TRY(name_files(s->optimizer->model->ctx, dir, &p));
    const sp_status status = load_tensors(s->optimizer, p.optimizer, 1);
    spi_arena_free(&p.arena);
    return status;
}
