/*
 * A Llama checkpoint whose answer is known: after token t it says next[t], whatever came before. Embeddings are
 * unit vectors, attention and MLP add nothing, and the head is the table. The vocabulary is
 * tests/data/tiny_tokenizer's.
 */
#ifndef TESTS_MACHINE_H
#define TESTS_MACHINE_H

#include <string.h>

#include "format/safetensors.h"
#include "scratch.h"

#define MACHINE_VOCAB 300
#define MACHINE_WIDTH 304
#define MACHINE_BOS 0 /* <s>, which the tokenizer puts before a text */
#define MACHINE_EOS 1 /* </s> */

/* The logit of next[t] is `scale` * this, all others' are 0: RMSNorm makes a unit vector as long. */
#define MACHINE_NORM 17.4355957742 /* sqrt(304) */

typedef struct machine {
    int32_t next[MACHINE_VOCAB];
    float scale;
} machine;

/* Says EOS after everything. */
static inline machine machine_new(void) {
    machine m = {.scale = 1};
    for (int t = 0; t < MACHINE_VOCAB; t++) m.next[t] = MACHINE_EOS;
    return m;
}

static inline sp_tokenizer *machine_tokenizer(scratch *s) {
    sp_tokenizer *tok = NULL;
    if (sp_tokenizer_load(s->ctx, TEST_DATA "/tiny_tokenizer", &tok) != SP_OK)
        fail_msg("%s", sp_last_error(s->ctx));
    return tok;
}

/* Teaches it to answer `prompt` with `text` and then EOS. No token may be followed by two different ones. */
static inline void machine_teach(machine *m, const sp_tokenizer *tok, const char *prompt, const char *text) {
    int32_t *before, *ids;
    size_t n, count;
    assert_int_equal(sp_tokenizer_encode(tok, prompt, strlen(prompt), true, &before, &n), SP_OK);
    assert_int_equal(sp_tokenizer_encode(tok, text, strlen(text), false, &ids, &count), SP_OK);
    int32_t last = before[n - 1];
    for (size_t i = 0; i <= count; i++) {
        const int32_t id = i < count ? ids[i] : MACHINE_EOS;
        if (m->next[last] != MACHINE_EOS && m->next[last] != id)
            fail_msg("\"%s\": token %d has another successor already", text, (int)last);
        m->next[last] = id;
        last = id;
    }
    sp_ids_free(before);
    sp_ids_free(ids);
}

typedef struct machine_weights {
    spi_st_item items[32];
    char names[32][64];
    size_t count;
} machine_weights;

static inline void machine_add(machine_weights *w, const char *name, int layer, int64_t rows, int64_t cols,
                               const float *data) {
    char *full = w->names[w->count];
    if (layer < 0) snprintf(full, sizeof w->names[0], "%s", name);
    else snprintf(full, sizeof w->names[0], "model.layers.%d.%s.weight", layer, name);
    w->items[w->count++] =
        (spi_st_item){.name = full, .dtype = SP_F32, .ndim = cols ? 2 : 1, .shape = {rows, cols}, .data = data};
}

static inline void machine_write(scratch *s, const char *path, const char *text) {
    if (spi_file_write(s->ctx, path, text, strlen(text)) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
}

/* Writes DIR/model.safetensors. */
static inline void machine_write_weights(scratch *s, const machine *m, const char *dir) {
    static machine_weights w;
    float *embed = calloc(MACHINE_VOCAB * MACHINE_WIDTH, sizeof *embed);
    float *head = calloc(MACHINE_VOCAB * MACHINE_WIDTH, sizeof *head);
    float *zeros = calloc(MACHINE_VOCAB * MACHINE_WIDTH, sizeof *zeros), ones[MACHINE_WIDTH];
    assert_true(embed && head && zeros);
    for (int i = 0; i < MACHINE_WIDTH; i++) ones[i] = 1;
    for (int t = 0; t < MACHINE_VOCAB; t++) {
        embed[t * MACHINE_WIDTH + t] = 1;
        head[m->next[t] * MACHINE_WIDTH + t] = m->scale;
    }
    w.count = 0;
    machine_add(&w, "model.embed_tokens.weight", -1, MACHINE_VOCAB, MACHINE_WIDTH, embed);
    machine_add(&w, "lm_head.weight", -1, MACHINE_VOCAB, MACHINE_WIDTH, head);
    machine_add(&w, "model.norm.weight", -1, MACHINE_WIDTH, 0, ones);
    for (int l = 0; l < 2; l++) {
        machine_add(&w, "input_layernorm", l, MACHINE_WIDTH, 0, ones);
        machine_add(&w, "post_attention_layernorm", l, MACHINE_WIDTH, 0, ones);
        machine_add(&w, "self_attn.q_proj", l, 32, MACHINE_WIDTH, zeros);
        machine_add(&w, "self_attn.k_proj", l, 16, MACHINE_WIDTH, zeros);
        machine_add(&w, "self_attn.v_proj", l, 16, MACHINE_WIDTH, zeros);
        machine_add(&w, "self_attn.o_proj", l, MACHINE_WIDTH, 32, zeros);
        machine_add(&w, "mlp.gate_proj", l, 16, MACHINE_WIDTH, zeros);
        machine_add(&w, "mlp.up_proj", l, 16, MACHINE_WIDTH, zeros);
        machine_add(&w, "mlp.down_proj", l, MACHINE_WIDTH, 16, zeros);
    }
    char path[600];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    if (spi_st_write(s->ctx, path, w.items, w.count) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
    free(embed);
    free(head);
    free(zeros);
}

/* config.json, with `more` (", \"key\": value ...") at its end. */
static inline const char *machine_config(const char *more) {
    static char config[2048];
    snprintf(config, sizeof config,
             "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"], \"vocab_size\": %d, "
             "\"hidden_size\": %d, \"intermediate_size\": 16, \"num_hidden_layers\": 2, "
             "\"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": 8, "
             "\"rms_norm_eps\": 1e-9, \"tie_word_embeddings\": false%s}",
             MACHINE_VOCAB, MACHINE_WIDTH, more);
    return config;
}

/* Loads the machine from the directory `name`; `generation` is its generation_config.json, or NULL. */
static inline sp_model *machine_load(scratch *s, const machine *m, const char *name, const char *more,
                                     const char *generation) {
    char dir[512], path[600];
    sp_model *model = NULL;
    snprintf(dir, sizeof dir, "%s", scratch_path(s, name));
    if (spi_make_dirs(s->ctx, dir) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
    machine_write_weights(s, m, dir);
    snprintf(path, sizeof path, "%s/config.json", dir);
    machine_write(s, path, machine_config(more));
    snprintf(path, sizeof path, "%s/generation_config.json", dir);
    if (generation) machine_write(s, path, generation);
    if (sp_model_load(s->ctx, dir, NULL, &model) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
    return model;
}

#endif
