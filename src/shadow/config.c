#include "shadow/config.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"

void sp_shadow_config_default(sp_shadow_config *cfg) {
    *cfg = (sp_shadow_config){.size = sizeof *cfg,
                              .num_shadow_layers = 1,
                              .injection_hidden_size = 16,
                              .gate_hidden_size = 10,
                              .alpha = 0.1,
                              .dropout = 0.2,
                              .share_embeddings = true,
                              .auxiliary_loss_weight = 0.05};
}

void sp_peft_shadow_config_default(sp_shadow_config *cfg) {
    sp_shadow_config_default(cfg);
    cfg->dialect = SP_DIALECT_PEFT;
    cfg->injection_hidden_size = 8;
    cfg->gate_hidden_size = 0;
}

/* One integer field: its key, where it is, the least value. The optional ones may also be null (0 here). */
typedef struct field {
    const char *key;
    size_t offset;
    int32_t least;
    bool optional;
} field;

static const field fields[] = {
    {"num_shadow_layers", offsetof(sp_shadow_config, num_shadow_layers), 1, false},
    {"injection_hidden_size", offsetof(sp_shadow_config, injection_hidden_size), 1, false},
    {"gate_hidden_size", offsetof(sp_shadow_config, gate_hidden_size), 2, false},
    {"shadow_intermediate_size", offsetof(sp_shadow_config, shadow_intermediate_size), 1, true},
    {"shadow_num_attention_heads", offsetof(sp_shadow_config, shadow_num_attention_heads), 1, true},
    {"shadow_num_key_value_heads", offsetof(sp_shadow_config, shadow_num_key_value_heads), 1, true},
    {"shadow_head_dim", offsetof(sp_shadow_config, shadow_head_dim), 1, true},
};

#define FIELD_COUNT (sizeof fields / sizeof *fields)

static int32_t *field_of(sp_shadow_config *cfg, const field *f) {
    return (int32_t *)(void *)((char *)cfg + f->offset);
}

static int32_t field_value(const sp_shadow_config *cfg, const field *f) {
    int32_t value;
    memcpy(&value, (const char *)cfg + f->offset, sizeof value);
    return value;
}

/* What only one of the dialects has. */
static sp_status check_dialect(sp_context *ctx, const char *where, const sp_shadow_config *cfg) {
    const bool peft = cfg->dialect == SP_DIALECT_PEFT;
    if (!spi_dialect_of(cfg->dialect))
        return spi_fail(ctx, SP_ERR_ARGUMENT, "%s: no such dialect: %d", where, (int)cfg->dialect);
    if (peft && (cfg->shadow_num_key_value_heads || cfg->shadow_head_dim))
        return spi_fail(ctx, SP_ERR_ARGUMENT,
                        "%s: \"shadow_num_key_value_heads\", \"shadow_head_dim\": PEFT's dialect has neither",
                        where);
    if (!peft && (cfg->shadow_hidden_size || cfg->layers_to_transform || !cfg->share_embeddings))
        return spi_fail(
            ctx, SP_ERR_ARGUMENT,
            "%s: \"shadow_hidden_size\", \"layers_to_transform\", \"share_embeddings\": only PEFT's "
            "dialect has them",
            where);
    if (cfg->shadow_hidden_size >= 0 && cfg->modules_to_save <= (SP_MODULE_HEAD | SP_MODULE_SHADOW_HEAD))
        return SP_OK;
    return spi_fail(ctx, SP_ERR_ARGUMENT, "%s: \"shadow_hidden_size\" or \"modules_to_save\": no such value",
                    where);
}

sp_status spi_shadow_config_check(sp_context *ctx, const char *where, const sp_shadow_config *cfg) {
    SPI_TRY(check_dialect(ctx, where, cfg));
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        const int32_t value = field_value(cfg, &fields[i]);
        if (value < fields[i].least && !(fields[i].optional && value == 0) &&
            !(cfg->dialect == SP_DIALECT_PEFT && value >= 1))
            return spi_fail(ctx, SP_ERR_ARGUMENT, "%s: \"%s\": expected at least %d, found %d", where,
                            fields[i].key, fields[i].least, value);
    }
    if (!(cfg->dropout >= 0 && cfg->dropout < 1))
        return spi_fail(ctx, SP_ERR_ARGUMENT, "%s: \"dropout\": expected 0 <= dropout < 1, found %g", where,
                        cfg->dropout);
    if (!(cfg->alpha > -1e30 && cfg->alpha < 1e30))
        return spi_fail(ctx, SP_ERR_ARGUMENT, "%s: \"alpha\": expected a finite number, found %g", where,
                        cfg->alpha);
    return SP_OK;
}

/* ------------------------------------------------------------------ shadow_config.json */

static const struct {
    const char *name;
    uint32_t module;
    bool classifier;
} modules[] = {{"lm_head", SP_MODULE_HEAD, false},
               {"shadow_lm_head", SP_MODULE_SHADOW_HEAD, false},
               {"classifier_head", SP_MODULE_HEAD, true},
               {"shadow_classifier_head", SP_MODULE_SHADOW_HEAD, true}};

#define MODULE_COUNT (sizeof modules / sizeof *modules)

/* Those of another task mean nothing to this one, as in Python. */
static sp_status read_modules(sp_context *ctx, const char *file, const json_t *json, bool classifier,
                              sp_shadow_config *cfg) {
    const json_t *list = json_object_get(json, "modules_to_save");
    if (list && !json_is_null(list) && !json_is_array(list))
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"modules_to_save\": expected a list of names, found %s", file,
                        spi_json_kind(list));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        size_t j = 0;
        while (name && j < MODULE_COUNT && strcmp(name, modules[j].name) != 0) j++;
        if (!name || j == MODULE_COUNT)
            return spi_fail(ctx, SP_ERR_UNSUPPORTED,
                            "%s: \"modules_to_save\": expected lm_head, shadow_lm_head, classifier_head or "
                            "shadow_classifier_head, found %s",
                            file, name ? name : "no string");
        if (modules[j].classifier == classifier) cfg->modules_to_save |= modules[j].module;
    }
    return SP_OK;
}

static json_t *modules_json(const sp_shadow_config *cfg, bool classifier) {
    json_t *list = json_array();
    for (size_t j = 0; list && j < MODULE_COUNT; j++)
        if (modules[j].classifier == classifier && cfg->modules_to_save & modules[j].module)
            json_array_append_new(list, json_string(modules[j].name));
    return list;
}

static sp_status read_fields(sp_context *ctx, const char *file, const json_t *json, bool classifier,
                             sp_shadow_config *cfg) {
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        int32_t *target = field_of(cfg, &fields[i]);
        int64_t value;
        SPI_TRY(spi_json_int(ctx, file, json, fields[i].key, *target, &value));
        const bool given = json_is_integer(json_object_get(json, fields[i].key));
        if (value > INT32_MAX || (given && value < fields[i].least))
            return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"%s\": expected %d to %d, found %lld", file,
                            fields[i].key, fields[i].least, INT32_MAX, (long long)value);
        *target = (int32_t)value;
    }
    SPI_TRY(spi_json_real(ctx, file, json, "alpha", cfg->alpha, &cfg->alpha));
    SPI_TRY(spi_json_real(ctx, file, json, "dropout", cfg->dropout, &cfg->dropout));
    SPI_TRY(read_modules(ctx, file, json, classifier, cfg));
    return spi_shadow_config_check(ctx, file, cfg);
}

sp_status spi_shadow_config_read(sp_context *ctx, const char *dir, sp_task task, sp_shadow_config *out,
                                 spi_labels *labels) {
    sp_shadow_config_default(out);
    spi_arena names = {0};
    const char *file = spi_path_join(&names, dir, "shadow_config.json");
    json_t *json = NULL;
    sp_status status = file ? spi_json_load(ctx, file, &json) : spi_fail_memory(ctx, strlen(dir), "a path");
    if (status == SP_OK) status = read_fields(ctx, file, json, task == SP_TASK_SEQ_CLS, out);
    if (status == SP_OK && labels) status = spi_labels_read(ctx, file, json, labels);
    json_decref(json);
    spi_arena_free(&names);
    return status;
}

sp_status spi_shadow_config_write(sp_context *ctx, const char *dir, sp_task task, const sp_shadow_config *cfg,
                                  const spi_labels *labels) {
    spi_arena names = {0};
    const char *file = spi_path_join(&names, dir, "shadow_config.json");
    json_t *json = json_object();
    json_object_set_new(json, "alpha", json_real(cfg->alpha));
    json_object_set_new(json, "dropout", json_real(cfg->dropout));
    json_object_set_new(json, "modules_to_save", modules_json(cfg, task == SP_TASK_SEQ_CLS));
    if (labels) spi_labels_write(json, labels, false);
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        const int32_t value = field_value(cfg, &fields[i]);
        json_object_set_new(json, fields[i].key,
                            fields[i].optional && value == 0 ? json_null() : json_integer(value));
    }
    sp_status status = file ? spi_json_save(ctx, file, json) : spi_fail_memory(ctx, strlen(dir), "a path");
    json_decref(json);
    spi_arena_free(&names);
    return status;
}

/* ------------------------------------------------------------------ the implicit shadow */

/* A size that the family's config does not hold cannot be another in the shadow's. */
static sp_status refuse_size(sp_context *ctx, const spi_arch *base, const char *key, const char *missing,
                             int32_t value) {
    return spi_fail(ctx, SP_ERR_ARGUMENT,
                    "ShadowConfig: \"%s\": %s has no %s in its config, so it cannot be set (found %d)", key,
                    base->family->model_type, missing, value);
}

sp_status spi_shadow_arch(sp_context *ctx, const spi_arch *base, const sp_shadow_config *cfg, spi_arch *out) {
    if (cfg->shadow_head_dim && base->head_dim_derived)
        return refuse_size(ctx, base, "shadow_head_dim", "head_dim", cfg->shadow_head_dim);
    if (cfg->shadow_num_key_value_heads && base->family->multi_head)
        return refuse_size(ctx, base, "shadow_num_key_value_heads", "num_key_value_heads",
                           cfg->shadow_num_key_value_heads);
    SPI_TRY(spi_arch_copy(ctx, base, out));
    sp_status status = spi_arch_set_layers(ctx, out, cfg->num_shadow_layers);
    if (status != SP_OK) {
        spi_arch_free(out);
        return status;
    }
    if (cfg->shadow_intermediate_size) out->intermediate_size = cfg->shadow_intermediate_size;
    if (cfg->shadow_num_attention_heads) out->heads = cfg->shadow_num_attention_heads;
    if (cfg->shadow_num_key_value_heads) out->kv_heads = cfg->shadow_num_key_value_heads;
    if (cfg->shadow_head_dim) out->head_dim = cfg->shadow_head_dim;
    if (out->head_dim_derived) out->head_dim = (int32_t)(out->hidden_size / out->heads);
    if (out->family->multi_head) out->kv_heads = out->heads;
    status = spi_arch_check(ctx, "ShadowConfig", out);
    if (status != SP_OK) spi_arch_free(out);
    return status;
}
