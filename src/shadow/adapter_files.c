/* An adapter's directory: shadow_config.json, shadow_adapter.safetensors and, of an explicit shadow, its
 * config. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "shadow/explicit.h"

#define ADAPTER_FILE "shadow_adapter.safetensors"

static bool has_param(const spi_params *list, const char *name) {
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->items[i]->name, name) == 0) return true;
    return false;
}

/* Python loads adapters strictly: a tensor that has no place is a sign of another architecture. */
static sp_status check_unexpected(sp_context *ctx, const spi_adapter *a, const spi_st_set *set,
                                  const char *file) {
    spi_buf names = {0};
    size_t count = 0;
    for (size_t i = 0; i < spi_st_count(set); i++) {
        const char *name = spi_st_at(set, i)->name;
        if (has_param(&a->shadow->params, name) || has_param(&a->params, name)) continue;
        spi_buf_printf(&names, "\n  %s", name);
        count++;
    }
    sp_status status = SP_OK;
    if (count > 0)
        status = spi_fail(ctx, SP_ERR_MISMATCH, "%s: %zu tensors have no place in %s:%s", file, count,
                          a->shadow_json ? "an adapter with this explicit shadow"
                                         : "an implicit shadow of this base (an explicit one has to be named)",
                          names.failed ? "" : names.data);
    spi_buf_free(&names);
    return status;
}

/* The shadow's parameters and the adapter's in one list, so that one message says everything. free() its items.
 */
static sp_status all_params(sp_context *ctx, const spi_adapter *a, spi_params *all) {
    const spi_params *shadow = &a->shadow->params, *own = &a->params;
    *all = (spi_params){.items = malloc((shadow->count + own->count) * sizeof(spi_param *)),
                        .count = shadow->count + own->count};
    if (!all->items) return spi_fail_memory(ctx, all->count * sizeof(spi_param *), "an adapter");
    memcpy(all->items, shadow->items, shadow->count * sizeof(spi_param *));
    memcpy(all->items + shadow->count, own->items, own->count * sizeof(spi_param *));
    return SP_OK;
}

static sp_status load_values(sp_model *model, spi_adapter *a, const spi_st_set *set, const char *file) {
    spi_params all = {0};
    sp_status status = all_params(model->ctx, a, &all);
    if (status == SP_OK) status = spi_params_load(model->dev, &all, a->shadow->dtype, set, NULL, file);
    if (status == SP_OK) status = check_unexpected(model->ctx, a, set, file);
    free(all.items);
    return status;
}

/* The shadow that an adapter's files are of: `named`, else the one whose config lies beside them, else
 * implicit. Whether it has an embedding of its own shows in the tensors. */
static sp_status load_adapter(sp_model *model, const char *dir, const char *named, const sp_shadow_config *cfg,
                              const spi_st_set *set, spi_arena *names, spi_adapter **out) {
    const char *beside = spi_path_join(names, dir, SPI_SHADOW_MODEL_CONFIG);
    if (!beside) return spi_fail_memory(model->ctx, strlen(dir), "a path");
    if (!named && !spi_path_exists(beside)) return spi_adapter_new(model, cfg, NULL, out);
    spi_shadow_source source;
    char embed[256];
    sp_status status = named ? spi_shadow_source_open(model->ctx, named, &source)
                             : spi_shadow_source_config(model->ctx, beside, &source);
    if (status == SP_OK) {
        spi_arch_slot_name(&source.arch, 0, SPI_EMBED, "shadow_model.", embed, sizeof embed);
        const spi_shadow_plan plan = {&source.arch, spi_st_find(set, embed) != NULL, source.projected,
                                      source.config};
        status = spi_adapter_new(model, cfg, &plan, out);
    }
    spi_shadow_source_close(&source);
    return status;
}

sp_status sp_adapter_load(sp_model *model, const char *dir, const sp_adapter_options *opts) {
    sp_shadow_config cfg;
    spi_adapter *a = NULL;
    spi_st_set *set = NULL;
    spi_arena names = {0};
    SPI_TRY(spi_shadow_config_read(model->ctx, dir, &cfg));
    const char *file = spi_path_join(&names, dir, ADAPTER_FILE);
    sp_status status = file ? spi_st_open(model->ctx, file, &set) : spi_fail_memory(model->ctx, 1, "a path");
    if (status == SP_OK) status = load_adapter(model, dir, opts ? opts->shadow : NULL, &cfg, set, &names, &a);
    if (status == SP_OK) status = load_values(model, a, set, file);
    spi_arena_free(&names);
    if (status != SP_OK) {
        spi_st_close(set);
        spi_adapter_free(model->dev, a);
        return status;
    }
    a->files = set;
    spi_adapter_put(model, a);
    return SP_OK;
}

/* An implicit shadow must not be taken for the explicit one that an earlier save left. */
static sp_status save_shadow_config(sp_model *model, const char *dir, spi_arena *names) {
    const char *file = spi_path_join(names, dir, SPI_SHADOW_MODEL_CONFIG);
    if (!file) return spi_fail_memory(model->ctx, strlen(dir), "a path");
    if (model->adapter->shadow_json) return spi_json_save(model->ctx, file, model->adapter->shadow_json);
    if (unlink(file) == 0 || errno == ENOENT) return SP_OK;
    return spi_fail(model->ctx, SP_ERR_IO, "%s: cannot remove: %s", file, strerror(errno));
}

sp_status sp_adapter_save(sp_model *model, const char *dir) {
    if (!model->adapter)
        return spi_fail(model->ctx, SP_ERR_ARGUMENT, "%s: the model has no adapter to save", dir);
    SPI_TRY(spi_make_dirs(model->ctx, dir));
    spi_arena names = {0};
    const char *file = spi_path_join(&names, dir, ADAPTER_FILE);
    spi_params all = {0};
    sp_status status = file ? all_params(model->ctx, model->adapter, &all)
                            : spi_fail_memory(model->ctx, strlen(dir), "a path");
    if (status == SP_OK) status = spi_params_save(model->dev, all.items, all.count, SP_F32, file);
    if (status == SP_OK) status = save_shadow_config(model, dir, &names);
    /* The config comes last: a directory that has one has the tensors too. */
    if (status == SP_OK) status = spi_shadow_config_write(model->ctx, dir, &model->adapter->config);
    free(all.items);
    spi_arena_free(&names);
    return status;
}
