/* sp_describe: what a directory is, from its JSON files and tensor headers alone. */
#include <stdlib.h>
#include <string.h>

#include "shadow/config.h"
#include "shadow/peft_config.h"
#include "shadow/projected.h"

static int64_t elements(const spi_st_set *set) {
    int64_t n = 0;
    for (size_t i = 0; i < spi_st_count(set); i++) n += spi_st_at(set, i)->count;
    return n;
}

/* {"BF16": tensors, ...} */
static json_t *dtypes_of(const spi_st_set *set) {
    json_t *counts = json_object();
    for (size_t i = 0; i < spi_st_count(set); i++) {
        const char *name = sp_dtype_name(spi_st_at(set, i)->dtype);
        json_object_set_new(counts, name, json_integer(json_integer_value(json_object_get(counts, name)) + 1));
    }
    return counts;
}

static void set_weights(json_t *out, const spi_st_set *set) {
    int64_t bytes = 0;
    for (size_t i = 0; i < spi_st_count(set); i++) bytes += (int64_t)spi_st_at(set, i)->bytes;
    json_object_set_new(out, "parameters", json_integer(elements(set)));
    json_object_set_new(out, "tensors", json_integer((json_int_t)spi_st_count(set)));
    json_object_set_new(out, "bytes", json_integer(bytes));
    json_object_set_new(out, "dtypes", dtypes_of(set));
}

static void set_arch(json_t *out, const spi_arch *a) {
    json_object_set_new(out, "model_type", json_string(a->family->model_type));
    json_object_set_new(out, "vocab_size", json_integer(a->vocab_size));
    json_object_set_new(out, "hidden_size", json_integer(a->hidden_size));
    json_object_set_new(out, "intermediate_size", json_integer(a->intermediate_size));
    json_object_set_new(out, "num_hidden_layers", json_integer(a->num_layers));
    json_object_set_new(out, "num_attention_heads", json_integer(a->heads));
    json_object_set_new(out, "num_key_value_heads", json_integer(a->kv_heads));
    json_object_set_new(out, "head_dim", json_integer(a->head_dim));
    json_object_set_new(out, "max_position_embeddings", json_integer(a->max_positions));
    json_object_set_new(out, "tie_word_embeddings", json_boolean(a->tie_embeddings));
}

static sp_status describe_model(sp_context *ctx, const char *dir, json_t *out) {
    spi_checkpoint ck;
    spi_arch arch;
    SPI_TRY(spi_checkpoint_open(ctx, dir, true, &ck));
    sp_status status = spi_model_arch_read(ctx, ck.config_path, ck.config, &arch);
    if (status == SP_OK) {
        json_object_set_new(out, "kind", json_string("model"));
        set_arch(out, &arch);
        if (arch.out_size) {
            json_object_set_new(out, "kind", json_string("projected model"));
            json_object_set_new(out, "base_hidden_size", json_integer(arch.out_size));
        }
        set_weights(out, ck.weights);
        spi_arch_free(&arch);
    }
    spi_checkpoint_close(&ck);
    return status;
}

/* A classifier's adapter shows in its config: labels (shadow_peft), or the task (PEFT); or in its heads. */
static bool is_classifier(const spi_dialect *dialect, const char *dir, const json_t *config) {
    const char *task = json_string_value(json_object_get(config, "task_type"));
    if (json_object_get(config, "id2label") || (task && strcmp(task, "SEQ_CLS") == 0)) return true;
    if (!dialect->modules_file) return false;
    spi_arena names = {0};
    sp_context *quiet = sp_context_new();
    spi_st_set *set = NULL;
    const char *file = spi_path_join(&names, dir, dialect->modules_file);
    const bool opened = quiet && file && spi_path_exists(file) && spi_st_open(quiet, file, &set) == SP_OK;
    const bool found =
        opened && (spi_st_find(set, dialect->heads[1][0]) || spi_st_find(set, dialect->heads[1][1]));
    spi_st_close(set);
    sp_context_free(quiet);
    spi_arena_free(&names);
    return found;
}

static sp_status describe_adapter(sp_context *ctx, const spi_dialect *dialect, const char *dir, json_t *out) {
    spi_arena names = {0};
    spi_st_set *set = NULL;
    json_t *config = NULL;
    sp_shadow_config cfg;
    const char *config_file = spi_path_join(&names, dir, dialect->config_file);
    const char *tensors = spi_path_join(&names, dir, dialect->weights_file);
    sp_status status = config_file && tensors ? SP_OK : spi_fail_memory(ctx, strlen(dir), "a path");
    if (status == SP_OK && dialect->id == SP_DIALECT_SHADOW_PEFT)
        status = spi_shadow_config_read(ctx, dir, SP_TASK_AUTO, &cfg, NULL);
    if (status == SP_OK) status = spi_json_load(ctx, config_file, &config);
    if (status == SP_OK && dialect->id == SP_DIALECT_PEFT)
        status = spi_peft_check_type(ctx, config_file, config);
    if (status == SP_OK) status = spi_st_open(ctx, tensors, &set);
    spi_arena_free(&names);
    json_object_set_new(out, "kind", json_string("adapter"));
    json_object_set_new(out, "dialect", json_string(dialect->name));
    json_object_set_new(out, "task",
                        json_string(is_classifier(dialect, dir, config) ? "seq-cls" : "causal-lm"));
    if (config) json_object_set_new(out, "shadow_config", config);
    SPI_TRY(status);
    const spi_st_tensor *downs = spi_st_find(set, "shadow_injection_model.injection_downs");
    if (downs && downs->ndim == 3) {
        json_object_set_new(out, "hidden_size", json_integer(downs->shape[1]));
        json_object_set_new(out, "base_num_hidden_layers", json_integer(downs->shape[0] + 1));
    }
    set_weights(out, set);
    spi_st_close(set);
    return SP_OK;
}

/* The dialect whose config lies in the directory, NULL: none does. */
static const spi_dialect *dialect_in(spi_arena *names, const char *dir) {
    for (int id = 0; spi_dialect_of((sp_dialect)id); id++) {
        const spi_dialect *dialect = spi_dialect_of((sp_dialect)id);
        const char *file = spi_path_join(names, dir, dialect->config_file);
        if (file && spi_path_exists(file)) return dialect;
    }
    return NULL;
}

sp_status sp_describe(sp_context *ctx, const char *path, char **json) {
    spi_arena names = {0};
    const spi_dialect *dialect = dialect_in(&names, path);
    const char *model = spi_path_join(&names, path, "config.json");
    json_t *out = json_object();
    sp_status status;
    *json = NULL;
    if (!model || !out) status = spi_fail_memory(ctx, strlen(path), "a description");
    else if (dialect) status = describe_adapter(ctx, dialect, path, out);
    else if (spi_path_exists(model)) status = describe_model(ctx, path, out);
    else
        status = spi_fail(ctx, SP_ERR_IO,
                          "%s: expected a directory with config.json (a model), or shadow_config.json or "
                          "adapter_config.json (an adapter), found none",
                          path);
    if (status == SP_OK) {
        json_object_set_new(out, "path", json_string(path));
        *json = json_dumps(out, JSON_INDENT(2) | JSON_SORT_KEYS);
        if (!*json) status = spi_fail_memory(ctx, strlen(path), "a description");
    }
    json_decref(out);
    spi_arena_free(&names);
    return status;
}
