#include "model/arch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/families.h"

/* ------------------------------------------------------------------ reading */

static sp_status unsupported(sp_context *ctx, const char *file, const char *model_type) {
    spi_buf names = {0};
    for (const spi_family *const *f = spi_families(); *f; f++)
        spi_buf_printf(&names, "%s%s", names.length ? ", " : "", (*f)->model_type);
    sp_status status = spi_fail(ctx, SP_ERR_UNSUPPORTED, "%s: \"model_type\": expected one of %s, found \"%s\"",
                                file, names.data ? names.data : "", model_type);
    spi_buf_free(&names);
    return status;
}

static sp_status find_family(sp_context *ctx, const char *file, const json_t *config, const spi_family **out) {
    const char *type;
    SPI_TRY(spi_json_string(ctx, file, config, "model_type", NULL, &type));
    if (!type)
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"model_type\": expected a string, found nothing", file);
    for (const spi_family *const *f = spi_families(); *f; f++) {
        if (strcmp((*f)->model_type, type) == 0) {
            *out = *f;
            return SP_OK;
        }
    }
    return unsupported(ctx, file, type);
}

/* A size that must be there and be at least 1. */
static sp_status read_size(sp_context *ctx, const char *file, const json_t *config, const char *key,
                           int64_t *out) {
    SPI_TRY(spi_json_int(ctx, file, config, key, -1, out));
    if (*out >= 1 && *out <= INT32_MAX) return SP_OK;
    if (!json_object_get(config, key))
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"%s\": expected a positive integer, found nothing", file,
                        key);
    return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"%s\": expected a positive integer, found %lld", file, key,
                    (long long)*out);
}

static sp_status read_activation(sp_context *ctx, const char *file, const json_t *config, spi_activation *out) {
    static const struct {
        const char *name;
        spi_activation act;
    } known[] = {{"silu", SPI_ACT_SILU},
                 {"swish", SPI_ACT_SILU},
                 {"gelu", SPI_ACT_GELU_ERF},
                 {"gelu_new", SPI_ACT_GELU_TANH},
                 {"gelu_pytorch_tanh", SPI_ACT_GELU_TANH},
                 {"relu", SPI_ACT_RELU}};
    const char *name;
    SPI_TRY(spi_json_string(ctx, file, config, "hidden_act", "silu", &name));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i].name) == 0) {
            *out = known[i].act;
            return SP_OK;
        }
    }
    return spi_fail(
        ctx, SP_ERR_UNSUPPORTED,
        "%s: \"hidden_act\": expected silu, gelu, gelu_new, gelu_pytorch_tanh or relu, found \"%s\"", file,
        name);
}

static sp_status read_rope_kind(sp_context *ctx, const char *file, const char *name, spi_rope_kind *out) {
    static const char *const names[] = {"default", "linear", "dynamic", "yarn", "llama3"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(name, names[i]) == 0) {
            *out = (spi_rope_kind)i;
            return SP_OK;
        }
    }
    return spi_fail(ctx, SP_ERR_UNSUPPORTED,
                    "%s: \"rope_type\": expected default, linear, dynamic, yarn or llama3, found \"%s\"", file,
                    name);
}

static sp_status check_rope(sp_context *ctx, const char *file, const spi_rope_spec *r) {
    if (r->theta <= 0)
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"rope_theta\": expected a positive number, found %g", file,
                        r->theta);
    if (r->kind != SPI_ROPE_DEFAULT && r->factor <= 0)
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: rope \"factor\": expected a positive number, found %g", file,
                        r->factor);
    if (r->kind == SPI_ROPE_LLAMA3 && !(r->low_freq_factor > 0 && r->high_freq_factor > r->low_freq_factor))
        return spi_fail(
            ctx, SP_ERR_FORMAT,
            "%s: rope \"low_freq_factor\" and \"high_freq_factor\": expected 0 < low < high, found %g "
            "and %g",
            file, r->low_freq_factor, r->high_freq_factor);
    return SP_OK;
}

/* Transformers 5 writes rope_parameters; older files have rope_theta beside rope_scaling, with "type" for
 * "rope_type" in the oldest. */
static sp_status read_rope(sp_context *ctx, const char *file, const json_t *config, const spi_arch *arch,
                           spi_rope_spec *r) {
    const json_t *dict = json_object_get(config, "rope_parameters");
    if (!json_is_object(dict)) dict = json_object_get(config, "rope_scaling");
    const char *kind;
    double partial;
    if (dict && !json_is_object(dict) && !json_is_null(dict))
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"rope_scaling\": expected an object or null", file);
    SPI_TRY(spi_json_string(ctx, file, dict, "type", "default", &kind));
    SPI_TRY(spi_json_string(ctx, file, dict, "rope_type", kind, &kind));
    SPI_TRY(read_rope_kind(ctx, file, kind, &r->kind));
    SPI_TRY(spi_json_real(ctx, file, config, "rope_theta", 10000.0, &r->theta));
    SPI_TRY(spi_json_real(ctx, file, dict, "rope_theta", r->theta, &r->theta));
    SPI_TRY(spi_json_int(ctx, file, dict, "original_max_position_embeddings", arch->max_positions,
                         &r->original_max_positions));
    const double stretch = (double)arch->max_positions / (double)r->original_max_positions;
    SPI_TRY(spi_json_real(ctx, file, dict, "factor", r->kind == SPI_ROPE_YARN ? stretch : 1.0, &r->factor));
    SPI_TRY(spi_json_real(ctx, file, dict, "low_freq_factor", 1.0, &r->low_freq_factor));
    SPI_TRY(spi_json_real(ctx, file, dict, "high_freq_factor", 4.0, &r->high_freq_factor));
    SPI_TRY(spi_json_real(ctx, file, dict, "beta_fast", 32.0, &r->beta_fast));
    SPI_TRY(spi_json_real(ctx, file, dict, "beta_slow", 1.0, &r->beta_slow));
    SPI_TRY(spi_json_real(ctx, file, dict, "mscale", 0.0, &r->mscale));
    SPI_TRY(spi_json_real(ctx, file, dict, "mscale_all_dim", 0.0, &r->mscale_all_dim));
    SPI_TRY(spi_json_real(ctx, file, dict, "attention_factor", 0.0, &r->attention_factor));
    SPI_TRY(spi_json_bool(ctx, file, dict, "truncate", true, &r->truncate));
    SPI_TRY(spi_json_real(ctx, file, config, "partial_rotary_factor", 1.0, &partial));
    SPI_TRY(spi_json_real(ctx, file, dict, "partial_rotary_factor", partial, &partial));
    if (partial != 1.0)
        return spi_fail(ctx, SP_ERR_UNSUPPORTED, "%s: \"partial_rotary_factor\": expected 1, found %g", file,
                        partial);
    return check_rope(ctx, file, r);
}

static sp_status check_heads(sp_context *ctx, const char *file, const spi_arch *a) {
    if (a->heads % a->kv_heads != 0)
        return spi_fail(
            ctx, SP_ERR_FORMAT,
            "%s: \"num_attention_heads\": expected a multiple of num_key_value_heads (%d), found %d", file,
            a->kv_heads, a->heads);
    if (a->head_dim % 2 != 0)
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"head_dim\": expected an even number, found %d", file,
                        a->head_dim);
    return SP_OK;
}

static sp_status read_sizes(sp_context *ctx, const char *file, const json_t *config, spi_arch *a) {
    int64_t heads, kv_heads, head_dim;
    double eps, range;
    SPI_TRY(read_size(ctx, file, config, "vocab_size", &a->vocab_size));
    SPI_TRY(read_size(ctx, file, config, "hidden_size", &a->hidden_size));
    SPI_TRY(read_size(ctx, file, config, "num_hidden_layers", &a->num_layers));
    SPI_TRY(read_size(ctx, file, config, "intermediate_size", &a->intermediate_size));
    SPI_TRY(read_size(ctx, file, config, "num_attention_heads", &heads));
    SPI_TRY(spi_json_int(ctx, file, config, "num_key_value_heads", heads, &kv_heads));
    SPI_TRY(spi_json_int(ctx, file, config, "head_dim", a->hidden_size / heads, &head_dim));
    if (kv_heads < 1 || kv_heads > heads || head_dim < 1 || head_dim > 65536)
        return spi_fail(
            ctx, SP_ERR_FORMAT,
            "%s: \"num_key_value_heads\", \"head_dim\": expected 1 to %lld and 1 to 65536, found %lld and "
            "%lld",
            file, (long long)heads, (long long)kv_heads, (long long)head_dim);
    a->heads = (int32_t)heads;
    a->kv_heads = (int32_t)kv_heads;
    a->head_dim = (int32_t)head_dim;
    SPI_TRY(spi_json_int(ctx, file, config, "max_position_embeddings", 2048, &a->max_positions));
    if (a->max_positions < 1)
        return spi_fail(ctx, SP_ERR_FORMAT,
                        "%s: \"max_position_embeddings\": expected a positive integer, found %lld", file,
                        (long long)a->max_positions);
    SPI_TRY(spi_json_real(ctx, file, config, "rms_norm_eps", 1e-6, &eps));
    SPI_TRY(spi_json_real(ctx, file, config, "initializer_range", 0.02, &range));
    SPI_TRY(spi_json_bool(ctx, file, config, "tie_word_embeddings", false, &a->tie_embeddings));
    a->norm_eps = (float)eps;
    a->init_range = (float)range;
    return check_heads(ctx, file, a);
}

sp_status spi_arch_read(sp_context *ctx, const char *file, const json_t *config, spi_arch *out) {
    *out = (spi_arch){0};
    SPI_TRY(find_family(ctx, file, config, &out->family));
    SPI_TRY(read_sizes(ctx, file, config, out));
    SPI_TRY(read_activation(ctx, file, config, &out->activation));
    SPI_TRY(read_rope(ctx, file, config, out, &out->rope));
    sp_status status = out->family->read(ctx, file, config, out);
    if (status != SP_OK) spi_arch_free(out);
    return status;
}

sp_status spi_arch_copy(sp_context *ctx, const spi_arch *from, spi_arch *out) {
    *out = *from;
    if (!from->sliding) return SP_OK;
    out->sliding = malloc((size_t)from->num_layers);
    if (!out->sliding) return spi_fail_memory(ctx, (size_t)from->num_layers, "an architecture");
    memcpy(out->sliding, from->sliding, (size_t)from->num_layers);
    return SP_OK;
}

void spi_arch_free(spi_arch *arch) {
    free(arch->sliding);
    arch->sliding = NULL;
}

sp_status spi_arch_set_layers(sp_context *ctx, spi_arch *arch, int64_t layers) {
    if (arch->sliding) {
        uint8_t *grown = malloc((size_t)layers);
        if (!grown) return spi_fail_memory(ctx, (size_t)layers, "an architecture");
        for (int64_t i = 0; i < layers; i++)
            grown[i] = arch->sliding[i < arch->num_layers ? i : arch->num_layers - 1];
        free(arch->sliding);
        arch->sliding = grown;
    }
    arch->num_layers = layers;
    return SP_OK;
}

/* ------------------------------------------------------------------ shapes */

bool spi_arch_slot(const spi_arch *a, spi_slot slot, int64_t *rows, int64_t *cols, bool *vector) {
    if (!a->family->slots[slot]) return false;
    const int64_t d = a->hidden_size, f = a->intermediate_size;
    const int64_t q = (int64_t)a->heads * a->head_dim, kv = (int64_t)a->kv_heads * a->head_dim;
    const struct {
        bool present, vector;
        int64_t rows, cols;
    } shapes[SPI_SLOTS] = {
        [SPI_NORM1_W] = {true, true, d, 1},
        [SPI_NORM2_W] = {true, true, d, 1},
        [SPI_Q_W] = {true, false, q, d},
        [SPI_Q_B] = {a->qkv_bias, true, q, 1},
        [SPI_K_W] = {true, false, kv, d},
        [SPI_K_B] = {a->qkv_bias, true, kv, 1},
        [SPI_V_W] = {true, false, kv, d},
        [SPI_V_B] = {a->qkv_bias, true, kv, 1},
        [SPI_QNORM_W] = {a->qk_norm, true, a->head_dim, 1},
        [SPI_KNORM_W] = {a->qk_norm, true, a->head_dim, 1},
        [SPI_O_W] = {true, false, d, q},
        [SPI_O_B] = {a->o_bias, true, d, 1},
        [SPI_GATE_W] = {true, false, f, d},
        [SPI_GATE_B] = {a->mlp_bias, true, f, 1},
        [SPI_UP_W] = {true, false, f, d},
        [SPI_UP_B] = {a->mlp_bias, true, f, 1},
        [SPI_DOWN_W] = {true, false, d, f},
        [SPI_DOWN_B] = {a->mlp_bias, true, d, 1},
    };
    *rows = shapes[slot].rows;
    *cols = shapes[slot].cols;
    *vector = shapes[slot].vector;
    return shapes[slot].present;
}

void spi_arch_slot_name(const spi_arch *arch, int64_t layer, spi_slot slot, const char *prefix, char *name,
                        size_t size) {
    const char *pattern = arch->family->layer, *number = strstr(pattern, "%d");
    snprintf(name, size, "%s%.*s%lld%s%s", prefix, (int)(number - pattern), pattern, (long long)layer,
             number + 2, arch->family->slots[slot]);
}

int64_t spi_arch_parameters(const spi_arch *a, bool with_embedding) {
    int64_t per_layer = 0;
    for (int slot = 0; slot < SPI_SLOTS; slot++) {
        int64_t rows, cols;
        bool vector;
        if (spi_arch_slot(a, (spi_slot)slot, &rows, &cols, &vector)) per_layer += rows * cols;
    }
    return per_layer * a->num_layers + a->hidden_size + (with_embedding ? a->vocab_size * a->hidden_size : 0);
}
