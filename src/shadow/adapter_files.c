/* An adapter's directory, in either dialect: config, tensors, trained heads and, of an explicit shadow, its
 * config. */
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "shadow/explicit.h"
#include "shadow/peft_config.h"

/* What is being loaded from, beside the model that it is for. */
typedef struct source {
    sp_model *model;
    const char *dir, *file; /* of the adapter; of its tensors */
    const char *heads_file; /* of trained heads, where they have one of their own */
    const spi_dialect *dialect;
    sp_shadow_config cfg;
    spi_labels labels;
    char *named;             /* PEFT: the checkpoint that the config names as the shadow, or NULL */
    spi_st_set *set, *heads; /* tensors; those of trained heads, which may be the same set, or NULL */
    spi_arena names;
} source;

static void close_source(source *s) {
    if (s->heads != s->set) spi_st_close(s->heads);
    spi_st_close(s->set);
    spi_labels_free(&s->labels);
    spi_arena_free(&s->names);
    free(s->named);
}

/* ------------------------------------------------------------------ opening */

static bool has_file(source *s, const char *name, const char **path) {
    *path = spi_path_join(&s->names, s->dir, name);
    return *path && spi_path_exists(*path);
}

static sp_status read_config(source *s) {
    const char *peft, *own;
    const sp_model *m = s->model;
    if (!has_file(s, "shadow_config.json", &own) && has_file(s, "adapter_config.json", &peft)) {
        s->dialect = spi_dialect_of(SP_DIALECT_PEFT);
        return spi_peft_config_read(m, s->dir, &s->cfg, &s->named, &s->labels);
    }
    s->dialect = spi_dialect_of(SP_DIALECT_SHADOW_PEFT);
    return spi_shadow_config_read(m->ctx, s->dir, m->task, &s->cfg, &s->labels);
}

static sp_status open_source(source *s) {
    sp_context *ctx = s->model->ctx;
    SPI_TRY(read_config(s));
    s->file = spi_path_join(&s->names, s->dir, s->dialect->weights_file);
    if (!s->file) return spi_fail_memory(ctx, strlen(s->dir), "a path");
    SPI_TRY(spi_st_open(ctx, s->file, &s->set));
    if (!s->dialect->modules_file) s->heads = s->set;
    else if (has_file(s, s->dialect->modules_file, &s->heads_file))
        SPI_TRY(spi_st_open(ctx, s->heads_file, &s->heads));
    return s->dialect->id == SP_DIALECT_PEFT ? spi_peft_layers(s->model, s->set, s->file, &s->cfg) : SP_OK;
}

/* ------------------------------------------------------------------ heads */

static const spi_st_tensor *find_head(const source *s, bool shadow) {
    const char *name = s->dialect->heads[s->model->task == SP_TASK_SEQ_CLS][shadow];
    return name && s->heads ? spi_st_find(s->heads, name) : NULL;
}

/* Heads over a vocabulary say nothing to a classifier, nor the other way round. */
static sp_status check_task(const source *s) {
    const bool classifier = s->model->task == SP_TASK_SEQ_CLS;
    const char *const *others = s->dialect->heads[!classifier];
    if (!s->heads || s->heads == s->set || find_head(s, false) || find_head(s, true)) return SP_OK;
    for (int i = 0; i < 2; i++)
        if (spi_st_find(s->heads, others[i]))
            return spi_fail(s->model->ctx, SP_ERR_MISMATCH,
                            "%s: the adapter has \"%s\", a head for %s, but the model is loaded for %s", s->dir,
                            others[i], classifier ? "causal LM" : "classification",
                            classifier ? "classification" : "causal LM");
    return SP_OK;
}

/* A base without a head has the labels that the adapter's heads are of; one with a head has its own. */
static sp_status settle_labels(source *s) {
    sp_model *m = s->model;
    if (m->task != SP_TASK_SEQ_CLS) return SP_OK;
    const spi_st_tensor *head = find_head(s, false);
    if (!head) head = find_head(s, true);
    const int64_t outputs = m->head ? m->labels.count : head && head->ndim == 2 ? head->shape[0] : 0;
    if (s->labels.count == 0 && !m->head && outputs >= 2 && outputs <= INT32_MAX)
        return spi_labels_set(m->ctx, &s->labels, NULL, (int32_t)outputs);
    if (s->labels.count == 0 || outputs == 0 || s->labels.count == outputs) return SP_OK;
    return spi_fail(m->ctx, SP_ERR_MISMATCH, "%s: \"id2label\": expected %lld labels, as %s, found %d", s->dir,
                    (long long)outputs, m->head ? "the base has" : "the heads have", s->labels.count);
}

/* Causal LM: Python takes every head that the file has when the config names none. */
static uint32_t modules_to_load(const source *s) {
    const uint32_t asked = spi_modules_of(s->model, &s->cfg);
    if (asked) return asked;
    return (find_head(s, false) ? SP_MODULE_HEAD : 0) | (find_head(s, true) ? SP_MODULE_SHADOW_HEAD : 0);
}

/* Those of the trained heads that the files have, behind the items of `list`. */
static sp_status append_stored_heads(const source *s, const spi_adapter *a, spi_params *list) {
    spi_param **items = realloc(list->items, (list->count + a->modules.count + 1) * sizeof *items);
    if (!items) return spi_fail_memory(s->model->ctx, list->count * sizeof *items, "an adapter");
    list->items = items;
    for (size_t i = 0; s->heads && i < a->modules.count; i++)
        if (spi_st_find(s->heads, a->modules.items[i]->name)) list->items[list->count++] = a->modules.items[i];
    return SP_OK;
}

/* Heads that the files lack are the base's. */
static sp_status copy_missing_heads(const source *s, const spi_adapter *a) {
    sp_model *m = s->model;
    for (size_t i = 0; i < a->modules.count; i++) {
        spi_param *p = a->modules.items[i];
        if (s->heads && spi_st_find(s->heads, p->name)) continue;
        if (!m->head)
            return spi_fail(m->ctx, SP_ERR_MISMATCH,
                            "%s: expected \"%s\", for the base has no such head either, found nothing", s->dir,
                            p->name);
        spi_log(m->ctx, SP_LOG_WARNING, "%s: \"%s\" is not there: the base's head takes its place", s->dir,
                p->name);
        SPI_TRY(spi_adapter_copy_head(m, p));
    }
    return SP_OK;
}

/* ------------------------------------------------------------------ tensors */

static bool has_param(const spi_params *list, const char *name) {
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->items[i]->name, name) == 0) return true;
    return false;
}

/* Lines about the tensors that are missing or misshapen, under their file's name. */
static void report_misfits(spi_buf *report, const char *file, const spi_params *list, const spi_st_set *set) {
    spi_buf lines = {0};
    const size_t count = spi_params_misfits(list, set, NULL, &lines);
    if (count)
        spi_buf_printf(report, "%s%s: %zu of %zu tensors do not fit:%s", report->length ? "\n" : "", file,
                       count, list->count, lines.failed ? "" : lines.data);
    spi_buf_free(&lines);
}

/* Python loads adapters strictly: a tensor that has no place is a sign of another architecture. */
static void report_unexpected(spi_buf *report, const source *s, const spi_adapter *a) {
    spi_buf names = {0};
    size_t count = 0;
    for (size_t i = 0; i < spi_st_count(s->set); i++) {
        const char *name = spi_st_at(s->set, i)->name;
        if (has_param(&a->shadow->params, name) || has_param(&a->params, name) || has_param(&a->modules, name))
            continue;
        spi_buf_printf(&names, "\n  %s", name);
        count++;
    }
    if (count)
        spi_buf_printf(report, "%s%s: %zu tensors have no place in %s:%s", report->length ? "\n" : "", s->file,
                       count,
                       a->explicit_shadow ? "an adapter with this explicit shadow"
                                          : "an implicit shadow of this base (an explicit one has to be named)",
                       names.failed ? "" : names.data);
    spi_buf_free(&names);
}

/* All that does not fit, in every file, at once. `heads`: those of a file of their own. */
static sp_status check_tensors(const source *s, const spi_adapter *a, const spi_params *all,
                               const spi_params *heads) {
    spi_buf report = {0};
    report_misfits(&report, s->file, all, s->set);
    report_unexpected(&report, s, a);
    if (heads->count) report_misfits(&report, s->heads_file, heads, s->heads);
    sp_status status = SP_OK;
    if (report.failed) status = spi_fail_memory(s->model->ctx, report.length, "a message");
    else if (report.length) status = spi_fail(s->model->ctx, SP_ERR_MISMATCH, "%s", report.data);
    spi_buf_free(&report);
    return status;
}

static sp_status load_values(const source *s, const spi_adapter *a) {
    sp_model *m = s->model;
    const bool apart = s->heads != s->set;
    spi_params all = {0}, heads = {0};
    sp_status status = spi_adapter_all_params(m->ctx, a, &all);
    if (status == SP_OK) status = append_stored_heads(s, a, apart ? &heads : &all);
    if (status == SP_OK) status = check_tensors(s, a, &all, &heads);
    if (status == SP_OK) status = spi_params_load(m->dev, &all, a->shadow->dtype, s->set, NULL, s->file);
    if (status == SP_OK && heads.count)
        status = spi_params_load(m->dev, &heads, a->shadow->dtype, s->heads, NULL, s->heads_file);
    free(all.items);
    free(heads.items);
    return status == SP_OK ? copy_missing_heads(s, a) : status;
}

/* ------------------------------------------------------------------ the shadow */

static sp_status new_explicit(source *s, spi_shadow_source *shadow, spi_adapter **out) {
    char embed[256];
    spi_arch_slot_name(&shadow->arch, 0, SPI_EMBED, s->dialect->shadow_prefix, embed, sizeof embed);
    const bool frozen = shadow->projected || s->dialect->id == SP_DIALECT_PEFT;
    const spi_shadow_plan plan = {&shadow->arch, spi_st_find(s->set, embed) != NULL, frozen, shadow->config};
    return spi_adapter_new(s->model, &s->cfg, &plan, modules_to_load(s), &s->labels, out);
}

/*
 * The shadow that an adapter's files are of: `named`, else the one whose config lies beside them, else the one
 * that PEFT's config names, else implicit. Whether it has an embedding of its own shows in the tensors.
 */
static sp_status new_adapter(source *s, const char *named, spi_adapter **out) {
    sp_context *ctx = s->model->ctx;
    spi_shadow_source shadow;
    const char *beside;
    const bool config = has_file(s, SPI_SHADOW_MODEL_CONFIG, &beside);
    if (!named && !config && s->named && !spi_path_exists(s->named))
        return spi_fail(ctx, SP_ERR_IO,
                        "%s: \"shadow_model\": %s is no directory here: name the explicit shadow's checkpoint",
                        s->dir, s->named);
    if (!named && !config) named = s->named;
    if (!named && !config) return spi_adapter_new(s->model, &s->cfg, NULL, modules_to_load(s), &s->labels, out);
    sp_status status =
        named ? spi_shadow_source_open(ctx, named, &shadow) : spi_shadow_source_config(ctx, beside, &shadow);
    if (status == SP_OK) status = new_explicit(s, &shadow, out);
    spi_shadow_source_close(&shadow);
    return status == SP_OK ? spi_adapter_keep_source(ctx, *out, s->named ? s->named : named) : status;
}

sp_status sp_adapter_load(sp_model *model, const char *dir, const sp_adapter_options *opts) {
    source s = {.model = model, .dir = dir};
    spi_adapter *a = NULL;
    sp_status status = open_source(&s);
    if (status == SP_OK) status = check_task(&s);
    if (status == SP_OK) status = settle_labels(&s);
    if (status == SP_OK) status = new_adapter(&s, opts ? opts->shadow : NULL, &a);
    if (status == SP_OK) status = load_values(&s, a);
    if (status == SP_OK) {
        a->files = s.set;
        if (s.heads != s.set) a->head_files = s.heads;
        s.set = s.heads = NULL;
        spi_adapter_put(model, a);
    } else {
        spi_adapter_free(model->dev, a);
    }
    close_source(&s);
    return status;
}

/* ------------------------------------------------------------------ saving */

/* An implicit shadow must not be taken for the explicit one that an earlier save left. */
static sp_status save_shadow_config(sp_model *model, const char *dir, spi_arena *names) {
    const char *file = spi_path_join(names, dir, SPI_SHADOW_MODEL_CONFIG);
    if (!file) return spi_fail_memory(model->ctx, strlen(dir), "a path");
    if (model->adapter->explicit_shadow) return spi_json_save(model->ctx, file, model->adapter->shadow_json);
    return spi_file_remove(model->ctx, file);
}

static sp_status save_tensors(sp_model *model, const char *dir, spi_arena *names) {
    const spi_adapter *a = model->adapter;
    const char *file = spi_path_join(names, dir, a->dialect->weights_file);
    const char *heads = a->dialect->modules_file ? spi_path_join(names, dir, a->dialect->modules_file) : "";
    spi_params all = {0};
    if (!file || !heads) return spi_fail_memory(model->ctx, strlen(dir), "a path");
    SPI_TRY(spi_adapter_all_params(model->ctx, a, &all));
    sp_status status = SP_OK;
    if (!a->dialect->modules_file) {
        spi_param **items = realloc(all.items, (all.count + a->modules.count) * sizeof *items);
        if (!items) status = spi_fail_memory(model->ctx, all.count * sizeof *items, "an adapter");
        else all.items = items;
        for (size_t i = 0; items && i < a->modules.count; i++) all.items[all.count++] = a->modules.items[i];
    } else if (a->modules.count > 0) {
        status = spi_params_save(model->dev, a->modules.items, a->modules.count, SP_F32, heads);
    } else {
        status = spi_file_remove(model->ctx, heads);
    }
    if (status == SP_OK) status = spi_params_save(model->dev, all.items, all.count, SP_F32, file);
    free(all.items);
    return status;
}

static sp_status save_config(sp_model *model, const char *dir) {
    const spi_adapter *a = model->adapter;
    if (a->dialect->id == SP_DIALECT_PEFT) return spi_peft_config_write(model, dir);
    return spi_shadow_config_write(model->ctx, dir, model->task, &a->config,
                                   model->task == SP_TASK_SEQ_CLS ? spi_model_labels(model) : NULL);
}

/* Two configs in one directory would leave open which of its adapters is meant. */
sp_status spi_adapter_check_place(const sp_model *model, const char *dir) {
    spi_arena names = {0};
    sp_status status = SP_OK;
    for (int id = 0; status == SP_OK && spi_dialect_of((sp_dialect)id); id++) {
        const spi_dialect *other = spi_dialect_of((sp_dialect)id);
        const char *file = spi_path_join(&names, dir, other->config_file);
        if (!file) status = spi_fail_memory(model->ctx, strlen(dir), "a path");
        else if (other != model->adapter->dialect && spi_path_exists(file))
            status = spi_fail(model->ctx, SP_ERR_ARGUMENT,
                              "%s: an adapter of the other dialect (%s) lies there: choose another directory",
                              file, other->name);
    }
    spi_arena_free(&names);
    return status;
}

sp_status sp_adapter_save(sp_model *model, const char *dir) {
    if (!model->adapter)
        return spi_fail(model->ctx, SP_ERR_ARGUMENT, "%s: the model has no adapter to save", dir);
    SPI_TRY(spi_adapter_check_place(model, dir));
    SPI_TRY(spi_make_dirs(model->ctx, dir));
    spi_arena names = {0};
    sp_status status = save_tensors(model, dir, &names);
    if (status == SP_OK) status = save_shadow_config(model, dir, &names);
    /* The config comes last: a directory that has one has the tensors too. */
    if (status == SP_OK) status = save_config(model, dir);
    spi_arena_free(&names);
    return status;
}
