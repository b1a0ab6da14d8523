#include "train/state.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "format/safetensors.h"
#include "train/fingerprint.h"
#include "train/run_dir.h"

#define OPTIMIZER_FILE "optimizer.safetensors"

/* ------------------------------------------------------------------ trainer_state.json */

static sp_status save_progress(const spi_state *s, const char *path) {
    sp_context *ctx = s->optimizer->model->ctx;
    const spi_progress *p = s->progress;
    json_t *best = p->evaluated ? json_real(p->best_eval_loss) : json_null();
    json_t *options = json_deep_copy(s->fingerprint);
    json_t *top =
        json_pack("{s:I,s:I,s:f,s:f,s:f,s:f,s:f,s:I,s:o,s:I,s:i,s:o}", "global_step", (json_int_t)p->step,
                  "max_steps", (json_int_t)s->total_steps, "epoch", s->epoch, "loss_sum", p->loss,
                  "base_loss_sum", p->base_loss, "shadow_loss_sum", p->shadow_loss, "total_loss_sum",
                  p->total_loss, "logged_steps", (json_int_t)p->logged, "best_eval_loss", best, "best_step",
                  (json_int_t)p->best_step, "evals_without_better", p->evals_without_better, "run", options);
    if (!top) return spi_fail_memory(ctx, 1024, path);
    const sp_status status = spi_json_save(ctx, path, top);
    json_decref(top);
    return status;
}

static sp_status read_progress(sp_context *ctx, const char *path, const json_t *top, spi_progress *p) {
    int64_t patience;
    SPI_TRY(spi_json_int(ctx, path, top, "global_step", 0, &p->step));
    SPI_TRY(spi_json_real(ctx, path, top, "loss_sum", 0, &p->loss));
    SPI_TRY(spi_json_real(ctx, path, top, "base_loss_sum", 0, &p->base_loss));
    SPI_TRY(spi_json_real(ctx, path, top, "shadow_loss_sum", 0, &p->shadow_loss));
    SPI_TRY(spi_json_real(ctx, path, top, "total_loss_sum", 0, &p->total_loss));
    SPI_TRY(spi_json_int(ctx, path, top, "logged_steps", 0, &p->logged));
    SPI_TRY(spi_json_int(ctx, path, top, "best_step", 0, &p->best_step));
    SPI_TRY(spi_json_int(ctx, path, top, "evals_without_better", 0, &patience));
    SPI_TRY(spi_json_real(ctx, path, top, "best_eval_loss", 0, &p->best_eval_loss));
    p->evaluated = json_is_number(json_object_get(top, "best_eval_loss"));
    p->evals_without_better = (int32_t)patience;
    return SP_OK;
}

static sp_status load_progress(const spi_state *s, const char *path, spi_progress *p) {
    sp_context *ctx = s->optimizer->model->ctx;
    json_t *top = NULL;
    SPI_TRY(spi_json_load(ctx, path, &top));
    const json_t *run = json_object_get(top, "run");
    sp_status status = json_is_object(run)
                           ? spi_fingerprint_check(ctx, path, s->fingerprint, run)
                           : spi_fail(ctx, SP_ERR_FORMAT, "%s: \"run\": expected an object, found %s", path,
                                      run ? spi_json_kind(run) : "nothing: another program's checkpoint");
    if (status == SP_OK) status = read_progress(ctx, path, top, p);
    json_decref(top);
    return status;
}

/* ------------------------------------------------------------------ optimizer.safetensors */

/* One tensor of the file: PREFIX.KEY, f32 of p's shape at `data` on the device. */
typedef struct entry {
    const char *name;
    spi_param *param;
    float *data;
    bool is_param;
} entry;

typedef struct entries {
    spi_arena arena;
    entry *list;
    size_t count;
} entries;

static void add_entry(entries *e, const char *prefix, spi_param *p, float *data) {
    const char *name = spi_arena_printf(&e->arena, "%s.%s", prefix, p->name);
    e->list[e->count++] = (entry){.name = name, .param = p, .data = data, .is_param = data == p->f32};
}

/* The file's tensors: parameters, and where `moments` those too. */
static sp_status list_entries(const spi_optimizer *o, bool moments, entries *e) {
    *e = (entries){0};
    e->list = spi_arena_alloc(&e->arena, 3 * o->count * sizeof *e->list);
    for (size_t i = 0; e->list && i < o->count; i++) {
        add_entry(e, "param", o->params[i], o->params[i]->f32);
        if (!moments || !o->m[i]) continue;
        add_entry(e, "exp_avg", o->params[i], o->m[i]);
        add_entry(e, "exp_avg_sq", o->params[i], o->v[i]);
    }
    bool ok = e->list != NULL;
    for (size_t i = 0; ok && i < e->count; i++) ok = e->list[i].name != NULL;
    if (ok) return SP_OK;
    spi_arena_free(&e->arena);
    return spi_fail_memory(o->model->ctx, o->count * sizeof *e->list, "optimizer state");
}

/* The values in host memory, laid out as in files: where they are, or a copy in the arena. NULL when out of
 * memory. */
static const float *host_values(spi_device *dev, spi_arena *arena, const entry *e) {
    if (dev->op->host_memory && !e->param->turned) return e->data;
    float *copy = spi_arena_alloc(arena, (size_t)e->param->count * sizeof *copy);
    return copy && spi_param_get_like(dev, e->param, e->data, copy) == SP_OK ? copy : NULL;
}

static sp_status save_tensors(const spi_optimizer *o, const char *path) {
    spi_device *dev = o->model->dev;
    entries e;
    SPI_TRY(list_entries(o, true, &e));
    spi_st_item *items = spi_arena_alloc(&e.arena, e.count * sizeof *items);
    bool ok = items != NULL;
    for (size_t i = 0; ok && i < e.count; i++) {
        const spi_param *p = e.list[i].param;
        const float *data = host_values(dev, &e.arena, &e.list[i]);
        items[i] = (spi_st_item){.name = e.list[i].name, .dtype = SP_F32, .ndim = p->ndim, .data = data};
        memcpy(items[i].shape, p->shape, (size_t)p->ndim * sizeof *p->shape);
        ok = data != NULL;
    }
    sp_status status = ok ? dev->status : spi_fail_memory(dev->ctx, e.count * sizeof *items, path);
    if (status == SP_OK) status = spi_st_write(dev->ctx, path, items, e.count);
    spi_arena_free(&e.arena);
    return status;
}

static sp_status check_tensor(sp_context *ctx, const char *path, const entry *e, const spi_st_tensor *t) {
    if (t && t->dtype == SP_F32 && t->count == e->param->count) return SP_OK;
    return spi_fail(ctx, SP_ERR_MISMATCH, "%s: \"%s\": expected %lld F32 elements, found %s (%lld)", path,
                    e->name, (long long)e->param->count, t ? sp_dtype_name(t->dtype) : "no tensor",
                    t ? (long long)t->count : 0LL);
}

static sp_status load_tensors(const spi_optimizer *o, const char *path, bool moments) {
    spi_device *dev = o->model->dev;
    spi_st_set *set = NULL;
    entries e;
    SPI_TRY(list_entries(o, moments, &e));
    sp_status status = spi_st_open(dev->ctx, path, &set);
    for (size_t i = 0; status == SP_OK && i < e.count; i++)
        status = check_tensor(dev->ctx, path, &e.list[i], spi_st_find(set, e.list[i].name));
    for (size_t i = 0; status == SP_OK && i < e.count; i++) {
        const spi_st_tensor *t = spi_st_find(set, e.list[i].name);
        status = e.list[i].is_param ? spi_param_set(dev, e.list[i].param, o->model->base->dtype, t->data)
                                    : spi_param_set_like(dev, e.list[i].param, e.list[i].data, t->data);
    }
    spi_st_close(set);
    spi_arena_free(&e.arena);
    return status == SP_OK ? dev->status : status;
}

/* ------------------------------------------------------------------ the directory */

typedef struct paths {
    spi_arena arena;
    char *state, *optimizer, *partial;
} paths;

static sp_status name_files(sp_context *ctx, const char *dir, paths *p) {
    *p = (paths){0};
    p->state = spi_path_join(&p->arena, dir, SPI_STATE_FILE);
    p->optimizer = spi_path_join(&p->arena, dir, OPTIMIZER_FILE);
    p->partial = spi_run_dir_partial(&p->arena, dir);
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
    spi_progress progress = {0};
    SPI_TRY(name_files(s->optimizer->model->ctx, dir, &p));
    sp_status status = load_progress(s, p.state, &progress);
    if (status == SP_OK) status = load_tensors(s->optimizer, p.optimizer, true);
    if (status == SP_OK) *s->progress = progress;
    spi_arena_free(&p.arena);
    return status;
}

sp_status spi_state_load_params(const spi_state *s, const char *dir) {
    paths p;
    SPI_TRY(name_files(s->optimizer->model->ctx, dir, &p));
    const sp_status status = load_tensors(s->optimizer, p.optimizer, false);
    spi_arena_free(&p.arena);
    return status;
}
