#include "shadow/config.h"

#include <string.h>

#include "base/file.h"

void sp_shadow_config_default(sp_shadow_config *cfg) {
    *cfg = (sp_shadow_config){.size = sizeof *cfg,
                              .num_shadow_layers = 1,
                              .injection_hidden_size = 16,
                              .gate_hidden_size = 10,
                              .alpha = 0.1,
                              .dropout = 0.2};
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

sp_status spi_shadow_config_check(sp_context *ctx, const char *where, const sp_shadow_config *cfg) {
    for (size_t i = 0; i < FIELD_COUNT; i++) {
        const int32_t value = field_value(cfg, &fields[i]);
        if (value < fields[i].least && !(fields[i].optional && value == 0))
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

static sp_status read_fields(sp_context *ctx, const char *file, const json_t *json, sp_shadow_config *cfg) {
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
    const json_t *modules = json_object_get(json, "modules_to_save");
    if (modules && !json_is_null(modules) && json_array_size(modules) > 0)
        return spi_fail(ctx, SP_ERR_UNSUPPORTED, "%s: \"modules_to_save\": expected [], found %zu modules",
                        file, json_array_size(modules));
    return spi_shadow_config_check(ctx, file, cfg);
}

sp_status spi_shadow_config_read(sp_context *ctx, const char *dir, sp_shadow_config *out) {
    sp_shadow_config_default(out);
    spi_arena names = {0};
    const char *file = spi_path_join(&names, dir, "shadow_config.json");
    json_t *json = NULL;
    sp_status status = file ? spi_json_load(ctx, file, &json) : spi_fail_memory(ctx, strlen(dir), "a path");
    if (status == SP_OK) status = read_fields(ctx, file, json, out);
    json_decref(json);
    spi_arena_free(&names);
    return status;
}

sp_status spi_shadow_config_write(sp_context *ctx, const char *dir, const sp_shadow_config *cfg) {
    spi_arena names = {0};
    const char *file = spi_path_join(&names, dir, "shadow_config.json");
    json_t *json = json_object();
    json_object_set_new(json, "alpha", json_real(cfg->alpha));
    json_object_set_new(json, "dropout", json_real(cfg->dropout));
    json_object_set_new(json, "modules_to_save", json_array());
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
