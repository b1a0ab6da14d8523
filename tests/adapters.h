/* Small bases, shadows and adapters made on the spot, with values that are not fresh, and their logits. */
#ifndef TESTS_ADAPTERS_H
#define TESTS_ADAPTERS_H

#include <math.h>
#include <string.h>

#include "base/json.h"
#include "base/rng.h"
#include "shadow/adapter.h"
#include "training.h"

#define ADAPTERS_VOCAB 40
#define ADAPTERS_ROWS 2
#define ADAPTERS_SEQ 7
#define ADAPTERS_LOGITS (ADAPTERS_ROWS * ADAPTERS_SEQ * 200) /* of the largest vocabulary here */

/* "model_type" llama with these sizes. */
typedef struct tiny {
    int layers, hidden, vocab;
    bool untied;
    sp_dtype dtype; /* of its files; AUTO: F32 */
    int projected;  /* base_hidden_size of a causal_lm_with_hidden_projection, or 0 */
} tiny;

static const tiny tiny_base = {.layers = 2, .hidden = 16, .vocab = ADAPTERS_VOCAB};

/* Writes a random checkpoint into the scratch directory's `name`; its path. */
static inline const char *make_tiny(scratch *s, const char *name, const tiny *t) {
    char config[1024], inner[600];
    const char *path = scratch_path(s, "config.json"), *dir = scratch_path(s, name);
    snprintf(
        inner, sizeof inner,
        "{\"model_type\": \"llama\", \"vocab_size\": %d, \"hidden_size\": %d, \"intermediate_size\": 24, "
        "\"num_hidden_layers\": %d, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": 4, "
        "\"initializer_range\": 0.3, \"tie_word_embeddings\": %s}",
        t->vocab, t->hidden, t->layers, t->untied ? "false" : "true");
    if (t->projected)
        snprintf(
            config, sizeof config,
            "{\"model_type\": \"causal_lm_with_hidden_projection\", \"base_hidden_size\": %d, \"hidden_size\": "
            "%d, \"vocab_size\": %d, \"shadow_model_class\": "
            "\"transformers.models.llama.modeling_llama:LlamaModel\", \"shadow_model_config_class\": "
            "\"transformers.models.llama.configuration_llama:LlamaConfig\", \"shadow_model_config\": %s}",
            t->projected, t->projected, t->vocab, inner);
    must(s->ctx,
         spi_file_write(s->ctx, path, t->projected ? config : inner, strlen(t->projected ? config : inner)));
    must(s->ctx, sp_checkpoint_init(s->ctx, path, dir, 7, t->dtype));
    return dir;
}

/* The base of a parity case with `layers` layers and fresh values; its path. */
static inline const char *make_family(scratch *s, const char *name, const char *parity_case, int layers) {
    char from[512];
    json_t *config;
    const char *path = scratch_path(s, "config.json"), *dir = scratch_path(s, name);
    snprintf(from, sizeof from, TEST_DATA "/parity/%s/base/config.json", parity_case);
    must(s->ctx, spi_json_load(s->ctx, from, &config));
    json_object_set_new(config, json_object_get(config, "n_layer") ? "n_layer" : "num_hidden_layers",
                        json_integer(layers));
    json_t *types = json_object_get(config, "layer_types");
    while (json_array_size(types) > (size_t)layers) json_array_remove(types, json_array_size(types) - 1);
    json_object_set_new(config, "initializer_range", json_real(0.2));
    must(s->ctx, spi_json_save(s->ctx, path, config));
    json_decref(config);
    must(s->ctx, sp_checkpoint_init(s->ctx, path, dir, 7, SP_F32));
    return dir;
}

static inline sp_model *load_model(scratch *s, const char *dir, sp_task task) {
    sp_model_options o;
    sp_model *model;
    sp_model_options_default(&o);
    o.task = task;
    sp_context_set_threads(s->ctx, 1);
    must(s->ctx, sp_model_load(s->ctx, dir, &o, &model));
    return model;
}

/* Other values for all of an adapter that trains: fresh ones inject nothing, and heads are the base's. */
static inline void shake(scratch *s, sp_model *model, uint64_t seed) {
    spi_param **list;
    size_t count;
    must(s->ctx, spi_model_trainable(model, &list, &count));
    for (size_t i = 0; i < count; i++) {
        spi_param *p = list[i];
        float *values = malloc((size_t)p->count * sizeof *values);
        assert_non_null(values);
        spi_fill_uniform(values, p->count, -0.6f, 0.6f, seed, i);
        must(s->ctx, spi_param_set(model->dev, p, model->base->dtype, values));
        free(values);
    }
    free(list);
}

/* The logits of one mode for some ids, zeros behind them; row 1 is padded. */
static inline float *logits_of(scratch *s, sp_model *model, sp_mode mode) {
    int64_t ids[ADAPTERS_ROWS * ADAPTERS_SEQ], mask[ADAPTERS_ROWS * ADAPTERS_SEQ];
    float *logits = calloc(ADAPTERS_LOGITS, sizeof *logits);
    sp_forward_input in;
    sp_forward_output out = {.size = sizeof out, .logits = logits};
    assert_non_null(logits);
    for (int i = 0; i < ADAPTERS_ROWS * ADAPTERS_SEQ; i++) {
        ids[i] = (7 * i * i + 3 * i + 2) % 30; /* the smallest vocabulary here has 32 */
        mask[i] = i < ADAPTERS_ROWS * ADAPTERS_SEQ - 2;
    }
    sp_forward_input_default(&in);
    in.batch = ADAPTERS_ROWS;
    in.seq = ADAPTERS_SEQ;
    in.input_ids = ids;
    in.attention_mask = mask;
    in.mode = mode;
    must(s->ctx, sp_forward(model, &in, &out));
    return logits;
}

/* Logits of both modes. */
typedef struct both_logits {
    float *of[2];
} both_logits;

static inline both_logits keep_logits(scratch *s, sp_model *model) {
    return (both_logits){{logits_of(s, model, SP_MODE_BASE_SHADOW), logits_of(s, model, SP_MODE_SHADOW_ONLY)}};
}

static inline void free_logits(both_logits *l) {
    free(l->of[0]);
    free(l->of[1]);
}

/* Fails unless the model still gives just these. */
static inline void same_logits(scratch *s, sp_model *model, const both_logits *want) {
    both_logits got = keep_logits(s, model);
    for (int mode = 0; mode < 2; mode++)
        for (int i = 0; i < ADAPTERS_LOGITS; i++)
            if (got.of[mode][i] != want->of[mode][i])
                fail_msg("mode %d: logit %d: expected %.9g, found %.9g", mode, i, want->of[mode][i],
                         got.of[mode][i]);
    free_logits(&got);
}

static inline bool are_equal(const float *a, const float *b) {
    return memcmp(a, b, ADAPTERS_LOGITS * sizeof *a) == 0;
}

static inline sp_shadow_config config_of(sp_dialect dialect) {
    sp_shadow_config c;
    if (dialect == SP_DIALECT_PEFT) sp_peft_shadow_config_default(&c);
    else sp_shadow_config_default(&c);
    c.injection_hidden_size = 4;
    c.gate_hidden_size = 3;
    c.alpha = 0.7;
    return c;
}

static inline void create(scratch *s, sp_model *model, const sp_shadow_config *c, const char *shadow) {
    sp_adapter_options o;
    sp_adapter_options_default(&o);
    o.shadow = shadow;
    must(s->ctx, sp_adapter_create(model, c, &o));
    shake(s, model, 11);
}

#endif
