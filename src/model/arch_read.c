/* config.json to an architecture: what all families share. */
#include <math.h>
#include <string.h>

#include "model/families.h"

/* ------------------------------------------------------------------ which family */

/* Types that people try and that no shadow fits: the reason says more than the list of what is supported. */
static const char *const encoders[] = {"albert",      "bert",        "camembert",      "deberta",
                                       "deberta-v2",  "distilbert",  "electra",        "ernie",
                                       "eurobert",    "esm",         "longformer",     "modernbert",
                                       "mpnet",       "nomic_bert",  "roberta",        "roberta-prelayernorm",
                                       "squeezebert", "xlm-roberta", "xlm-roberta-xl", NULL};
static const char *const encoder_decoders[] = {"bart",    "blenderbot", "led",     "m2m_100",    "marian",
                                               "mbart",   "mt5",        "pegasus", "prophetnet", "t5",
                                               "t5gemma", "umt5",       "whisper", NULL};

static bool is_one_of(const char *const *list, const char *name) {
    for (; *list; list++)
        if (strcmp(*list, name) == 0) return true;
    return false;
}

static sp_status unsupported(sp_context *ctx, const char *file, const char *model_type) {
    const char *why = is_one_of(encoders, model_type) ? " (an encoder: ShadowPEFT needs a decoder)"
                      : is_one_of(encoder_decoders, model_type)
                          ? " (it has an encoder: ShadowPEFT needs a decoder)"
                          : "";
    spi_buf names = {0};
    for (const spi_family *const *f = spi_families(); *f; f++)
        spi_buf_printf(&names, "%s%s", names.length ? ", " : "", (*f)->model_type);
    sp_status status =
        spi_fail(ctx, SP_ERR_UNSUPPORTED, "%s: \"model_type\": expected one of %s, found \"%s\"%s", file,
                 names.data ? names.data : "", model_type, why);
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

const json_t *spi_arch_config(const json_t *config) {
    const char *type = json_string_value(json_object_get(config, "model_type"));
    const json_t *text = json_object_get(config, "text_config");
    return type && strcmp(type, "gemma3") == 0 && json_is_object(text) ? text : config;
}

/* ------------------------------------------------------------------ sizes */

/* The key that this config has for a fact: the family's own name, or the usual one. */
static const char *key_of(const spi_family *family, const json_t *config, spi_fact fact) {
    static const char *const usual[SPI_FACTS] = {
        [SPI_FACT_VOCAB_SIZE] = "vocab_size",     [SPI_FACT_HIDDEN_SIZE] = "hidden_size",
        [SPI_FACT_LAYERS] = "num_hidden_layers",  [SPI_FACT_INTERMEDIATE_SIZE] = "intermediate_size",
        [SPI_FACT_HEADS] = "num_attention_heads", [SPI_FACT_KV_HEADS] = "num_key_value_heads",
        [SPI_FACT_HEAD_DIM] = "head_dim",         [SPI_FACT_MAX_POSITIONS] = "max_position_embeddings",
        [SPI_FACT_NORM_EPS] = "rms_norm_eps",     [SPI_FACT_INIT_RANGE] = "initializer_range",
        [SPI_FACT_ACTIVATION] = "hidden_act",
    };
    const char *own = family->keys[fact];
    return own && (json_object_get(config, own) || !json_object_get(config, usual[fact])) ? own : usual[fact];
}

/* Sets a size in a config: where the key is, or where the arch has another than the config would give. */
static void set_size(json_t *config, const spi_family *family, spi_fact fact, int64_t value) {
    json_object_set_new(config, key_of(family, config, fact), json_integer(value));
}

/* layer_types of the first layers; the last kind repeats. */
static void set_layer_types(json_t *config, int64_t layers) {
    json_t *types = json_object_get(config, "layer_types");
    const size_t n = (size_t)layers;
    if (!json_is_array(types) || json_array_size(types) == 0) return;
    while (json_array_size(types) > n) json_array_remove(types, json_array_size(types) - 1);
    while (json_array_size(types) < n)
        json_array_append(types, json_array_get(types, json_array_size(types) - 1));
}

void spi_arch_resize_config(json_t *config, const spi_arch *a) {
    const spi_family *family = a->family;
    const json_t *window = json_object_get(config, "max_window_layers");
    set_size(config, family, SPI_FACT_LAYERS, a->num_layers);
    set_size(config, family, SPI_FACT_INTERMEDIATE_SIZE, a->intermediate_size);
    set_size(config, family, SPI_FACT_HEADS, a->heads);
    if (!family->multi_head) {
        set_size(config, family, SPI_FACT_KV_HEADS, a->kv_heads);
        if (!a->head_dim_derived) set_size(config, family, SPI_FACT_HEAD_DIM, a->head_dim);
    }
    set_layer_types(config, a->num_layers);
    if (json_is_integer(window) && json_integer_value(window) > a->num_layers)
        json_object_set_new(config, "max_window_layers", json_integer(a->num_layers));
}

void spi_arch_mirror_config(json_t *config, const spi_arch *base, const spi_mirror_sizes *sizes) {
    const spi_family *family = base->family;
    const json_t *window = json_object_get(config, "max_window_layers");
    if (!family->multi_head) {
        set_size(config, family, SPI_FACT_KV_HEADS, base->kv_heads);
        if (!base->head_dim_derived) set_size(config, family, SPI_FACT_HEAD_DIM, base->head_dim);
    }
    set_size(config, family, SPI_FACT_LAYERS, sizes->layers);
    if (sizes->hidden_size) set_size(config, family, SPI_FACT_HIDDEN_SIZE, sizes->hidden_size);
    if (sizes->intermediate_size)
        set_size(config, family, SPI_FACT_INTERMEDIATE_SIZE, sizes->intermediate_size);
    if (sizes->heads) set_size(config, family, SPI_FACT_HEADS, sizes->heads);
    set_layer_types(config, sizes->layers);
    if (json_is_integer(window) && json_integer_value(window) > sizes->layers)
        json_object_set_new(config, "max_window_layers", json_integer(sizes->layers));
}

/* A size of at least 1. `fallback` 0: it must be there. */
static sp_status read_size(sp_context *ctx, const char *file, const json_t *config, const spi_family *family,
                           spi_fact fact, int64_t fallback, int64_t *out) {
    const char *key = key_of(family, config, fact);
    if (family->defaults[fact] > 0) fallback = (int64_t)family->defaults[fact];
    SPI_TRY(spi_json_int(ctx, file, config, key, fallback, out));
    if (*out >= 1 && *out <= INT32_MAX) return SP_OK;
    const json_t *value = json_object_get(config, key);
    if (!value || json_is_null(value))
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"%s\": expected a positive integer, found nothing", file,
                        key);
    return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"%s\": expected a positive integer, found %lld", file, key,
                    (long long)*out);
}

static sp_status read_real(sp_context *ctx, const char *file, const json_t *config, const spi_family *family,
                           spi_fact fact, double fallback, float *out) {
    double value;
    if (family->defaults[fact] > 0) fallback = family->defaults[fact];
    SPI_TRY(spi_json_real(ctx, file, config, key_of(family, config, fact), fallback, &value));
    *out = (float)value;
    return SP_OK;
}

static sp_status read_heads(sp_context *ctx, const char *file, const json_t *config, spi_arch *a) {
    const spi_family *family = a->family;
    int64_t heads, kv_heads, head_dim;
    SPI_TRY(read_size(ctx, file, config, family, SPI_FACT_HEADS, 0, &heads));
    kv_heads = heads;
    head_dim = a->hidden_size / heads;
    if (!family->multi_head) {
        SPI_TRY(read_size(ctx, file, config, family, SPI_FACT_KV_HEADS, heads, &kv_heads));
        SPI_TRY(read_size(ctx, file, config, family, SPI_FACT_HEAD_DIM, head_dim, &head_dim));
    }
    if (kv_heads > heads || head_dim < 1 || head_dim > 65536)
        return spi_fail(
            ctx, SP_ERR_FORMAT,
            "%s: \"num_key_value_heads\", \"head_dim\": expected 1 to %lld and 1 to 65536, found %lld and "
            "%lld",
            file, (long long)heads, (long long)kv_heads, (long long)head_dim);
    a->heads = (int32_t)heads;
    a->kv_heads = (int32_t)kv_heads;
    a->head_dim = (int32_t)head_dim;
    a->head_dim_derived = family->multi_head;
    return SP_OK;
}

static sp_status read_sizes(sp_context *ctx, const char *file, const json_t *config, spi_arch *a) {
    const spi_family *family = a->family;
    SPI_TRY(read_size(ctx, file, config, family, SPI_FACT_VOCAB_SIZE, 0, &a->vocab_size));
    SPI_TRY(read_size(ctx, file, config, family, SPI_FACT_HIDDEN_SIZE, 0, &a->hidden_size));
    SPI_TRY(read_size(ctx, file, config, family, SPI_FACT_LAYERS, 0, &a->num_layers));
    SPI_TRY(read_size(ctx, file, config, family, SPI_FACT_INTERMEDIATE_SIZE, family->mlp_ratio * a->hidden_size,
                      &a->intermediate_size));
    SPI_TRY(read_size(ctx, file, config, family, SPI_FACT_MAX_POSITIONS, 2048, &a->max_positions));
    SPI_TRY(read_heads(ctx, file, config, a));
    SPI_TRY(read_real(ctx, file, config, family, SPI_FACT_NORM_EPS, 1e-6, &a->norm_eps));
    SPI_TRY(read_real(ctx, file, config, family, SPI_FACT_INIT_RANGE, 0.02, &a->init_range));
    SPI_TRY(spi_json_bool(ctx, file, config, "tie_word_embeddings", family->tied, &a->tie_embeddings));
    a->embed_size = a->hidden_size;
    a->embed_scale = 1.0f;
    return SP_OK;
}

static sp_status read_activation(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    static const struct {
        const char *name;
        spi_activation act;
    } known[] = {{"silu", SPI_ACT_SILU},
                 {"swish", SPI_ACT_SILU},
                 {"gelu", SPI_ACT_GELU_ERF},
                 {"gelu_new", SPI_ACT_GELU_TANH},
                 {"gelu_pytorch_tanh", SPI_ACT_GELU_TANH},
                 {"relu", SPI_ACT_RELU}};
    const char *key = key_of(arch->family, config, SPI_FACT_ACTIVATION), *name;
    const char *fallback = arch->family->activation ? arch->family->activation : "silu";
    SPI_TRY(spi_json_string(ctx, file, config, key, fallback, &name));
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i].name) == 0) {
            arch->activation = known[i].act;
            return SP_OK;
        }
    }
    return spi_fail(ctx, SP_ERR_UNSUPPORTED,
                    "%s: \"%s\": expected silu, gelu, gelu_new, gelu_pytorch_tanh or relu, found \"%s\"", file,
                    key, name);
}

/* ------------------------------------------------------------------ rotary positions */

static sp_status read_rope_kind(sp_context *ctx, const char *file, const char *name, spi_rope_kind *out) {
    static const struct {
        const char *name;
        spi_rope_kind kind;
    } known[] = {{"default", SPI_ROPE_DEFAULT}, {"linear", SPI_ROPE_LINEAR}, {"dynamic", SPI_ROPE_DYNAMIC},
                 {"yarn", SPI_ROPE_YARN},       {"llama3", SPI_ROPE_LLAMA3}, {"longrope", SPI_ROPE_LONGROPE}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i].name) == 0) {
            *out = known[i].kind;
            return SP_OK;
        }
    }
    return spi_fail(
        ctx, SP_ERR_UNSUPPORTED,
        "%s: \"rope_type\": expected default, linear, dynamic, yarn, llama3 or longrope, found \"%s\"", file,
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
    if (!(r->partial > 0 && r->partial <= 1))
        return spi_fail(ctx, SP_ERR_FORMAT,
                        "%s: \"partial_rotary_factor\": expected more than 0 and at most 1, found %g", file,
                        r->partial);
    if (r->original_max_positions < 1)
        return spi_fail(ctx, SP_ERR_FORMAT,
                        "%s: \"original_max_position_embeddings\": expected a positive integer, found %lld",
                        file, (long long)r->original_max_positions);
    return SP_OK;
}

static sp_status read_factors(sp_context *ctx, const char *file, const json_t *dict, const char *key,
                              int32_t *count, float *out) {
    const json_t *list = json_object_get(dict, key);
    const size_t n = json_array_size(list);
    if (n < 1 || n > SPI_LONGROPE_MAX)
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: rope \"%s\": expected a list of 1 to %d numbers, found %s",
                        file, key, SPI_LONGROPE_MAX, n ? "more" : spi_json_kind(list));
    for (size_t i = 0; i < n; i++) {
        const json_t *value = json_array_get(list, i);
        out[i] = (float)json_number_value(value);
        if (!(out[i] > 0))
            return spi_fail(ctx, SP_ERR_FORMAT, "%s: rope \"%s\"[%zu]: expected a positive number, found %s",
                            file, key, i, json_is_number(value) ? "another" : spi_json_kind(value));
    }
    *count = (int32_t)n;
    return SP_OK;
}

static sp_status read_longrope(sp_context *ctx, const char *file, const json_t *dict, spi_rope_spec *r) {
    int32_t count = 0;
    SPI_TRY(read_factors(ctx, file, dict, "long_factor", &r->longrope_count, r->long_factor));
    SPI_TRY(read_factors(ctx, file, dict, "short_factor", &count, r->short_factor));
    if (count == r->longrope_count) return SP_OK;
    return spi_fail(ctx, SP_ERR_FORMAT,
                    "%s: rope \"short_factor\": expected as many numbers as long_factor has (%d), "
                    "found %d",
                    file, r->longrope_count, count);
}

sp_status spi_read_rope(sp_context *ctx, const char *file, const json_t *dict,
                        const spi_rope_defaults *defaults, const spi_arch *arch, spi_rope_spec *r) {
    const char *kind;
    SPI_TRY(spi_json_string(ctx, file, dict, "type", "default", &kind));
    SPI_TRY(spi_json_string(ctx, file, dict, "rope_type", kind, &kind));
    SPI_TRY(read_rope_kind(ctx, file, defaults->kind ? defaults->kind : kind, &r->kind));
    SPI_TRY(spi_json_real(ctx, file, dict, "rope_theta", defaults->theta, &r->theta));
    SPI_TRY(spi_json_int(ctx, file, dict, "original_max_position_embeddings", arch->max_positions,
                         &r->original_max_positions));
    if (defaults->original_max_positions) r->original_max_positions = defaults->original_max_positions;
    const bool stretches = r->kind == SPI_ROPE_YARN || r->kind == SPI_ROPE_LONGROPE;
    const double stretch = (double)arch->max_positions / (double)r->original_max_positions;
    SPI_TRY(spi_json_real(ctx, file, dict, "factor", stretches ? stretch : 1.0, &r->factor));
    SPI_TRY(spi_json_real(ctx, file, dict, "low_freq_factor", 1.0, &r->low_freq_factor));
    SPI_TRY(spi_json_real(ctx, file, dict, "high_freq_factor", 4.0, &r->high_freq_factor));
    SPI_TRY(spi_json_real(ctx, file, dict, "beta_fast", 32.0, &r->beta_fast));
    SPI_TRY(spi_json_real(ctx, file, dict, "beta_slow", 1.0, &r->beta_slow));
    SPI_TRY(spi_json_real(ctx, file, dict, "mscale", 0.0, &r->mscale));
    SPI_TRY(spi_json_real(ctx, file, dict, "mscale_all_dim", 0.0, &r->mscale_all_dim));
    SPI_TRY(spi_json_real(ctx, file, dict, "attention_factor", 0.0, &r->attention_factor));
    SPI_TRY(spi_json_bool(ctx, file, dict, "truncate", true, &r->truncate));
    SPI_TRY(spi_json_real(ctx, file, dict, "partial_rotary_factor", defaults->partial, &r->partial));
    if (r->kind == SPI_ROPE_LONGROPE) SPI_TRY(read_longrope(ctx, file, dict, r));
    return check_rope(ctx, file, r);
}

sp_status spi_rope_dict(sp_context *ctx, const char *file, const json_t *config, const json_t **out) {
    const json_t *dict = json_object_get(config, "rope_parameters");
    if (!json_is_object(dict)) dict = json_object_get(config, "rope_scaling");
    if (dict && !json_is_object(dict) && !json_is_null(dict))
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"rope_scaling\": expected an object or null", file);
    *out = json_is_object(dict) ? dict : NULL;
    return SP_OK;
}

sp_status spi_read_usual_rope(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch) {
    const json_t *dict = NULL;
    spi_rope_defaults defaults = {0};
    SPI_TRY(spi_rope_dict(ctx, file, config, &dict));
    SPI_TRY(spi_json_real(ctx, file, config, "rope_theta", 10000.0, &defaults.theta));
    SPI_TRY(spi_json_real(ctx, file, config, "partial_rotary_factor", 1.0, &defaults.partial));
    return spi_read_rope(ctx, file, dict, &defaults, arch, &arch->rope);
}

/* ------------------------------------------------------------------ all together */

sp_status spi_arch_read(sp_context *ctx, const char *file, const json_t *config, spi_arch *out) {
    *out = (spi_arch){0};
    config = spi_arch_config(config);
    SPI_TRY(find_family(ctx, file, config, &out->family));
    SPI_TRY(read_sizes(ctx, file, config, out));
    SPI_TRY(read_activation(ctx, file, config, out));
    sp_status status = out->family->read(ctx, file, config, out);
    if (status == SP_OK) status = spi_arch_check(ctx, file, out);
    if (status != SP_OK) spi_arch_free(out);
    return status;
}
