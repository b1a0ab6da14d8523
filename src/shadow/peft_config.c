#include "shadow/peft_config.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "shadow/config.h"

/* Before the base's own names in PEFT's files. */
#define MODEL_PREFIX "base_model.model."
#define CONFIG_FILE "adapter_config.json"
/* {"id2label": {...}} of a classifier's adapter: PEFT's own files have no place for it. */
#define LABELS_FILE "shadow_labels.json"
/* The version whose format is written. */
#define PEFT_VERSION "0.21.0"

/* ------------------------------------------------------------------ reading */

typedef struct field {
    const char *key;
    size_t offset; /* of an int32_t in sp_shadow_config */
    int32_t least;
    bool optional; /* null is 0 here */
} field;

static const field fields[] = {
    {"r", offsetof(sp_shadow_config, injection_hidden_size), 1, false},
    {"update_hidden_size", offsetof(sp_shadow_config, gate_hidden_size), 1, true},
    {"shadow_num_hidden_layers", offsetof(sp_shadow_config, num_shadow_layers), 1, true},
    {"shadow_hidden_size", offsetof(sp_shadow_config, shadow_hidden_size), 1, true},
    {"shadow_num_attention_heads", offsetof(sp_shadow_config, shadow_num_attention_heads), 1, true},
    {"shadow_intermediate_size", offsetof(sp_shadow_config, shadow_intermediate_size), 1, true},
};

#define FIELD_COUNT (sizeof fields / sizeof *fields)

static sp_status read_fields(sp_context *ctx, const char *file, const json_t *json, sp_shadow_config *cfg) {
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        int64_t value;
        const json_t *given = json_object_get(json, fields[i].key);
        SPI_TRY(spi_json_int(ctx, file, json, fields[i].key, fields[i].optional ? 0 : 8, &value));
        if (value > INT32_MAX || (json_is_integer(given) && value < fields[i].least))
            return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"%s\": expected %d to %d, found %lld", file,
                            fields[i].key, fields[i].least, INT32_MAX, (long long)value);
        const int32_t narrow = (int32_t)value;
        memcpy((char *)cfg + fields[i].offset, &narrow, sizeof narrow);
    }
    if (cfg->num_shadow_layers == 0) cfg->num_shadow_layers = 1;
    if (cfg->gate_hidden_size == 0) cfg->gate_hidden_size = cfg->injection_hidden_size;
    SPI_TRY(spi_json_real(ctx, file, json, "shadow_alpha", cfg->alpha, &cfg->alpha));
    SPI_TRY(spi_json_real(ctx, file, json, "shadow_dropout", cfg->dropout, &cfg->dropout));
    SPI_TRY(spi_json_real(ctx, file, json, "auxiliary_loss_weight", cfg->auxiliary_loss_weight,
                          &cfg->auxiliary_loss_weight));
    SPI_TRY(spi_json_bool(ctx, file, json, "share_embeddings", true, &cfg->share_embeddings));
    return spi_shadow_config_check(ctx, file, cfg);
}

sp_status spi_peft_check_type(sp_context *ctx, const char *file, const json_t *json) {
    const char *type = NULL;
    SPI_TRY(spi_json_string(ctx, file, json, "peft_type", "nothing", &type));
    if (strcmp(type, "SHADOW") == 0) return SP_OK;
    return spi_fail(
        ctx, SP_ERR_UNSUPPORTED,
        "%s: \"peft_type\": expected \"SHADOW\", found %s: other kinds of adapters are not supported", file,
        type);
}

static sp_status check_kind(const sp_model *model, const char *file, const json_t *json) {
    const char *task = NULL;
    const char *expected = model->task == SP_TASK_SEQ_CLS ? "SEQ_CLS" : "CAUSAL_LM";
    SPI_TRY(spi_peft_check_type(model->ctx, file, json));
    SPI_TRY(spi_json_string(model->ctx, file, json, "task_type", expected, &task));
    if (strcmp(task, expected) == 0) return SP_OK;
    return spi_fail(model->ctx, SP_ERR_MISMATCH, "%s: \"task_type\": the model is loaded for %s, found %s",
                    file, expected, task);
}

/* modules_to_save: heads only. A classifier's is always there, under either of its names. */
static sp_status read_modules(const sp_model *model, const char *file, const json_t *json,
                              sp_shadow_config *cfg) {
    const json_t *list = json_object_get(json, "modules_to_save");
    if (list && !json_is_null(list) && !json_is_array(list))
        return spi_fail(model->ctx, SP_ERR_FORMAT,
                        "%s: \"modules_to_save\": expected a list of names, found %s", file,
                        spi_json_kind(list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        const bool score = name && (strcmp(name, "score") == 0 || strcmp(name, "classifier") == 0);
        if (name && strcmp(name, "lm_head") == 0 && model->task != SP_TASK_SEQ_CLS)
            cfg->modules_to_save |= SP_MODULE_HEAD;
        else if (!score || model->task != SP_TASK_SEQ_CLS)
            return spi_fail(
                model->ctx, SP_ERR_UNSUPPORTED,
                "%s: \"modules_to_save\": expected lm_head (causal LM) or score (classification), found "
                "%s",
                file, name ? name : "no string");
    }
    return SP_OK;
}

static sp_status read_all(const sp_model *model, const char *file, const json_t *json, sp_shadow_config *cfg,
                          char **shadow_model) {
    const char *shadow;
    SPI_TRY(check_kind(model, file, json));
    SPI_TRY(read_fields(model->ctx, file, json, cfg));
    SPI_TRY(read_modules(model, file, json, cfg));
    SPI_TRY(spi_json_string(model->ctx, file, json, "shadow_model", "mirror", &shadow));
    if (strcmp(shadow, "mirror") == 0) return SP_OK;
    *shadow_model = strdup(shadow);
    return *shadow_model ? SP_OK : spi_fail_memory(model->ctx, strlen(shadow), "a path");
}

/* PEFT would warn of a key in its config that it does not know, so they have a file of their own. */
static sp_status read_label_names(sp_context *ctx, const char *dir, spi_labels *labels) {
    spi_arena names = {0};
    json_t *json = NULL;
    const char *file = spi_path_join(&names, dir, LABELS_FILE);
    sp_status status = file ? SP_OK : spi_fail_memory(ctx, strlen(dir), "a path");
    if (status == SP_OK && spi_path_exists(file)) {
        status = spi_json_load(ctx, file, &json);
        if (status == SP_OK) status = spi_labels_read(ctx, file, json, labels);
    }
    json_decref(json);
    spi_arena_free(&names);
    return status;
}

sp_status spi_peft_config_read(const sp_model *model, const char *dir, sp_shadow_config *out,
                               char **shadow_model, spi_labels *labels) {
    spi_arena names = {0};
    json_t *json = NULL;
    *shadow_model = NULL;
    sp_peft_shadow_config_default(out);
    const char *file = spi_path_join(&names, dir, CONFIG_FILE);
    sp_status status =
        file ? spi_json_load(model->ctx, file, &json) : spi_fail_memory(model->ctx, strlen(dir), "a path");
    if (status == SP_OK) status = read_all(model, file, json, out, shadow_model);
    if (status == SP_OK && model->task == SP_TASK_SEQ_CLS) status = read_label_names(model->ctx, dir, labels);
    json_decref(json);
    spi_arena_free(&names);
    return status;
}

/* ------------------------------------------------------------------ which layers */

void spi_peft_layer_name(const sp_model *model, int64_t layer, char *name, size_t size) {
    const spi_arch *base = &model->base->arch;
    char prefix[96];
    snprintf(prefix, sizeof prefix, MODEL_PREFIX "%s", base->family->prefix);
    spi_arch_layer_name(base, layer, prefix, name, size);
}

sp_status spi_peft_layers(const sp_model *model, const spi_st_set *set, const char *file,
                          sp_shadow_config *cfg) {
    static const char after[] = "shadow_down.default.weight";
    const spi_family *family = model->base->arch.family;
    const int64_t layers = model->base->arch.num_layers;
    const char *number = strstr(family->layer, "%d");
    int32_t first = -1, last = -1, count = 0;
    for (int32_t l = 0; l < (int32_t)layers; l++) {
        char layer[160], name[256];
        spi_peft_layer_name(model, l, layer, sizeof layer);
        snprintf(name, sizeof name, "%s%s", layer, after);
        if (!spi_st_find(set, name)) continue;
        if (first < 0) first = l;
        last = l;
        count++;
    }
    if (count == 0)
        return spi_fail(model->ctx, SP_ERR_MISMATCH,
                        "%s: expected tensors %s%s%.*sN%s%s for layers of this base (%s), found none", file,
                        MODEL_PREFIX, family->prefix, (int)(number - family->layer), family->layer, number + 2,
                        after, family->model_type);
    if (last - first + 1 != count)
        return spi_fail(model->ctx, SP_ERR_FORMAT,
                        "%s: wrapped layers: expected one run without gaps, found %d of the layers %d to %d",
                        file, count, first, last);
    cfg->first_layer_to_transform = first;
    cfg->layers_to_transform = count;
    return SP_OK;
}

/* ------------------------------------------------------------------ the mirror */

sp_status spi_peft_shadow_arch(const sp_model *model, const sp_shadow_config *cfg, json_t *config,
                               spi_arch *arch) {
    const spi_arch *base = &model->base->arch;
    if (base->family->shadow_keeps_embed && base->family->positions_count_attended)
        return spi_fail(
            model->ctx, SP_ERR_UNSUPPORTED,
            "%s: PEFT's dialect is not supported on \"%s\" (its shadow is a part of the backbone there)",
            model->files.config_path, base->family->model_type);
    spi_arch_mirror_config(config, base,
                           &(spi_mirror_sizes){.layers = cfg->num_shadow_layers,
                                               .hidden_size = cfg->shadow_hidden_size,
                                               .intermediate_size = cfg->shadow_intermediate_size,
                                               .heads = cfg->shadow_num_attention_heads});
    return spi_arch_read(model->ctx, "the mirror of the base in peft.ShadowConfig", config, arch);
}

/* ------------------------------------------------------------------ writing */

static json_t *number_or_null(int32_t value) {
    return value ? json_integer(value) : json_null();
}

/* The wrapped layers by their names in the base. */
static json_t *target_modules(const sp_model *model) {
    const spi_adapter *a = model->adapter;
    const spi_arch *base = &model->base->arch;
    json_t *list = json_array();
    for (int64_t i = 0; list && i < a->count; i++) {
        char name[160];
        spi_arch_layer_name(base, a->first + i, base->family->prefix, name, sizeof name);
        name[strlen(name) - 1] = 0; /* the dot behind it */
        json_array_append_new(list, json_string(name));
    }
    return list;
}

static json_t *modules_to_save(const sp_model *model) {
    if (model->task == SP_TASK_SEQ_CLS) return json_pack("[s,s]", "classifier", "score");
    return model->adapter->head ? json_pack("[s]", "lm_head") : json_null();
}

static void set_sizes(json_t *json, const sp_shadow_config *cfg, bool mirror) {
    const bool as_rank = cfg->gate_hidden_size == cfg->injection_hidden_size;
    json_object_set_new(json, "r", json_integer(cfg->injection_hidden_size));
    json_object_set_new(json, "update_hidden_size",
                        as_rank ? json_null() : json_integer(cfg->gate_hidden_size));
    json_object_set_new(json, "shadow_num_hidden_layers",
                        mirror ? number_or_null(cfg->num_shadow_layers) : json_null());
    json_object_set_new(json, "shadow_hidden_size", number_or_null(mirror ? cfg->shadow_hidden_size : 0));
    json_object_set_new(json, "shadow_num_attention_heads",
                        number_or_null(mirror ? cfg->shadow_num_attention_heads : 0));
    json_object_set_new(json, "shadow_intermediate_size",
                        number_or_null(mirror ? cfg->shadow_intermediate_size : 0));
}

/* Whether a classifier's base tells the labels' names by itself, or they have none. */
static bool names_are_known(const sp_model *model) {
    const spi_labels *labels = spi_model_labels(model);
    const json_t *map = json_object_get(model->files.config, "id2label");
    if (spi_labels_are_default(labels)) return true;
    bool same =
        spi_st_find(model->files.weights, SPI_SCORE_WEIGHT) && json_object_size(map) == (size_t)labels->count;
    for (int32_t i = 0; same && i < labels->count; i++) {
        char key[24];
        snprintf(key, sizeof key, "%d", i);
        const char *name = json_string_value(json_object_get(map, key));
        same = name && strcmp(name, labels->names[i]) == 0;
    }
    return same;
}

/* PEFT's keys, all of them, so that its from_pretrained misses none. */
static json_t *config_of(const sp_model *model) {
    static const char *const nulls[] = {"auto_mapping", "exclude_modules", "layers_pattern",
                                        "layers_to_transform", "revision"};
    const spi_adapter *a = model->adapter;
    const sp_shadow_config *cfg = &a->config;
    /* Python looks the shadow up there: the files beside the adapter say what it is. */
    const char *shadow = a->explicit_shadow ? (a->shadow_source ? a->shadow_source : "") : "mirror";
    json_t *json = json_pack(
        "{s:f,s:f,s:f,s:s,s:s,s:s,s:s,s:b,s:b,s:b}", "shadow_alpha", cfg->alpha, "shadow_dropout", cfg->dropout,
        "auxiliary_loss_weight", cfg->auxiliary_loss_weight, "peft_type", "SHADOW", "peft_version",
        PEFT_VERSION, "task_type", model->task == SP_TASK_SEQ_CLS ? "SEQ_CLS" : "CAUSAL_LM", "shadow_model",
        shadow, "inference_mode", 1, "init_weights", 1, "share_embeddings", cfg->share_embeddings);
    for (size_t i = 0; json && i < sizeof nulls / sizeof *nulls; i++)
        json_object_set_new(json, nulls[i], json_null());
    if (!json) return NULL;
    set_sizes(json, cfg, !a->explicit_shadow);
    json_object_set_new(json, "base_model_name_or_path", json_string(model->files.dir));
    json_object_set_new(json, "target_modules", target_modules(model));
    json_object_set_new(json, "modules_to_save", modules_to_save(model));
    return json;
}

/* The names, where they stand nowhere else; what an earlier save left would be others'. */
static sp_status write_label_names(const sp_model *model, const char *file) {
    if (model->task != SP_TASK_SEQ_CLS || names_are_known(model)) return spi_file_remove(model->ctx, file);
    json_t *json = json_object();
    if (!json) return spi_fail_memory(model->ctx, 64, "label names");
    spi_labels_write(json, spi_model_labels(model), false);
    const sp_status status = spi_json_save(model->ctx, file, json);
    json_decref(json);
    return status;
}

sp_status spi_peft_config_write(const sp_model *model, const char *dir) {
    spi_arena names = {0};
    const char *file = spi_path_join(&names, dir, CONFIG_FILE),
               *labels = spi_path_join(&names, dir, LABELS_FILE);
    json_t *json = config_of(model);
    sp_status status = file && labels && json ? write_label_names(model, labels)
                                              : spi_fail_memory(model->ctx, strlen(dir), "a config");
    if (status == SP_OK) status = spi_json_save(model->ctx, file, json);
    json_decref(json);
    spi_arena_free(&names);
    return status;
}
