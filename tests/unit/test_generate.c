/*
 * Generation: greedy ids against the Python packages' (tests/data/parity), and models whose answers are known
 * (tests/machine.h) for what surrounds the choice of a token: text, ends, streams, options.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "generate/generate.h"
#include "machine.h"

/* ------------------------------------------------------------------ greedy ids of the Python packages */

static int64_t i64_at(const spi_st_tensor *t, int64_t index) {
    int64_t value;
    memcpy(&value, (const char *)t->data + index * (int64_t)sizeof value, sizeof value);
    return value;
}

/* Starts a sequence for row `row` of the input: its real tokens. */
static void start_row(scratch *s, const spi_st_set *input, int64_t row, spi_sequence *seq) {
    const spi_st_tensor *ids = spi_st_find(input, "input_ids"), *mask = spi_st_find(input, "attention_mask");
    int32_t list[64];
    size_t count = 0;
    assert_true(ids->shape[1] <= 64);
    for (int64_t i = row * ids->shape[1]; i < (row + 1) * ids->shape[1]; i++)
        if (i64_at(mask, i)) list[count++] = (int32_t)i64_at(ids, i);
    assert_int_equal(spi_sequence_start(s->ctx, seq, list, count), SP_OK);
}

/* Rows [first, first + count) of the input together, against the ids that Python gives for each alone. */
static void check_rows(scratch *s, const char *name, sp_model *model, const sp_generate_options *o,
                       const spi_st_set *input, const spi_st_tensor *want, int64_t first, size_t count) {
    spi_sequence seqs[8];
    const spi_ending ending = {.max_new_tokens = (int32_t)want->shape[1]};
    for (size_t i = 0; i < count; i++) start_row(s, input, first + (int64_t)i, &seqs[i]);
    if (spi_generate_run(model, o, &ending, seqs, count, NULL, NULL, NULL) != SP_OK)
        fail_msg("%s: %s", name, sp_last_error(s->ctx));
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(seqs[i].count - seqs[i].prompt_count, want->shape[1]);
        for (int64_t t = 0; t < want->shape[1]; t++)
            if (seqs[i].ids[seqs[i].prompt_count + (size_t)t] !=
                i64_at(want, (first + (int64_t)i) * want->shape[1] + t))
                fail_msg("%s: mode %d, cache %d, row %d of a batch of %d: new token %d differs", name, o->mode,
                         o->use_cache, (int)first + (int)i, (int)count, (int)t);
        spi_sequence_free(&seqs[i]);
    }
}

static spi_st_set *open_file(scratch *s, const char *dir, const char *file) {
    char path[700];
    spi_st_set *set = NULL;
    snprintf(path, sizeof path, "%s/%s", dir, file);
    if (spi_st_open(s->ctx, path, &set) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
    return set;
}

/* All rows as one batch, and each by itself; over caches, and all recomputed. */
static void check_case(scratch *s, const char *name, const char *dir) {
    spi_st_set *expected = open_file(s, dir, "expected.safetensors");
    spi_st_set *input = open_file(s, dir, "input.safetensors");
    char path[700];
    sp_model *model = NULL;
    sp_model_options options;
    sp_model_options_default(&options);
    options.dtype = SP_F32;
    snprintf(path, sizeof path, "%s/base", dir);
    if (sp_model_load(s->ctx, path, &options, &model) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
    snprintf(path, sizeof path, "%s/adapter", dir);
    char shadow[700];
    sp_adapter_options adapter;
    sp_adapter_options_default(&adapter);
    snprintf(shadow, sizeof shadow, "%s/shadow", dir);
    if (spi_path_exists(shadow)) adapter.shadow = shadow;
    if (sp_adapter_load(model, path, &adapter) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
    for (int mode = 0; mode < 2; mode++) {
        const spi_st_tensor *want = spi_st_find(expected, mode ? "greedy_ids_shadow_only" : "greedy_ids");
        sp_generate_options o;
        sp_generate_options_default(&o);
        o.mode = (sp_mode)mode;
        assert_in_range(want->shape[0], 2, 8);
        check_rows(s, name, model, &o, input, want, 0, (size_t)want->shape[0]);
        for (int64_t row = 0; row < want->shape[0]; row++) check_rows(s, name, model, &o, input, want, row, 1);
        o.use_cache = false;
        check_rows(s, name, model, &o, input, want, 0, (size_t)want->shape[0]);
    }
    sp_model_free(model);
    spi_st_close(expected);
    spi_st_close(input);
}

static void test_python_ids(void **state) {
    scratch *s = *state;
    DIR *dir = opendir(TEST_DATA "/parity");
    int cases = 0;
    assert_non_null(dir);
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        char path[600], file[700];
        snprintf(path, sizeof path, "%s/parity/%s", TEST_DATA, entry->d_name);
        snprintf(file, sizeof file, "%s/expected.safetensors", path);
        if (!spi_path_exists(file)) continue;
        spi_st_set *expected = open_file(s, path, "expected.safetensors");
        const bool has_ids = spi_st_find(expected, "greedy_ids_shadow_only") != NULL;
        spi_st_close(expected);
        if (!has_ids) continue;
        check_case(s, entry->d_name, path);
        cases++;
    }
    closedir(dir);
    assert_in_range(cases, 20, 200);
}

/* ------------------------------------------------------------------ machines */

/* What a stream heard, and when it says stop. */
typedef struct heard {
    spi_buf text[8];
    size_t calls, stop_after;
} heard;

static bool hear(void *user, size_t index, const char *text, size_t length) {
    heard *h = user;
    assert_in_range(index, 0, 7);
    assert_true(length > 0);
    spi_buf_append(&h->text[index], text, length);
    return ++h->calls != h->stop_after;
}

static void forget(heard *h) {
    for (int i = 0; i < 8; i++) spi_buf_free(&h->text[i]);
    *h = (heard){0};
}

static void create_adapter(sp_model *model, uint64_t seed) {
    sp_shadow_config config;
    sp_shadow_config_default(&config);
    sp_adapter_options options;
    sp_adapter_options_default(&options);
    options.seed = seed;
    assert_int_equal(sp_adapter_create(model, &config, &options), SP_OK);
}

static sp_generation *generate(scratch *s, sp_model *model, const sp_tokenizer *tok, const char *const *prompts,
                               size_t count, const sp_generate_options *o, heard *h) {
    sp_generation *g = NULL;
    if (sp_generate(model, tok, prompts, count, o, h ? hear : NULL, h, &g) != SP_OK)
        fail_msg("%s", sp_last_error(s->ctx));
    assert_int_equal(sp_generation_count(g), count);
    return g;
}

static void check(const sp_generation *g, size_t index, const char *text, size_t count, sp_finish finish) {
    sp_generated one;
    sp_generation_get(g, index, &one);
    assert_string_equal(one.text, text);
    assert_int_equal(one.length, strlen(text));
    assert_int_equal(one.count, count);
    assert_int_equal(one.finish, finish);
}

static void says(scratch *s, sp_model *model, const sp_tokenizer *tok, const char *prompt,
                 const sp_generate_options *o, const char *text, size_t count, sp_finish finish) {
    heard h = {0};
    sp_generation *g = generate(s, model, tok, &prompt, 1, o, &h);
    check(g, 0, text, count, finish);
    assert_string_equal(h.text[0].data ? h.text[0].data : "", text);
    forget(&h);
    sp_generation_free(g);
}

#define PUZZLE "\xc3\xa9\xe6\xbc\xa2\xf0\x9f\x99\x82!" /* ten tokens, one a byte */

static machine taught(const sp_tokenizer *tok) {
    machine m = machine_new();
    machine_teach(&m, tok, "a", PUZZLE);
    machine_teach(&m, tok, "go", " to the kitchen");
    machine_teach(&m, tok, "b", "C:D;E");
    return m;
}

/* Prompts of different lengths and answers that end at different times, in both modes, streamed. */
static void test_texts(void **state) {
    scratch *s = *state;
    static const char *const prompts[] = {"pick up the red a", "go", "", "turn b"};
    sp_tokenizer *tok = machine_tokenizer(s);
    const machine m = taught(tok);
    sp_model *model = machine_load(s, &m, "texts", "", NULL);
    create_adapter(model, 3);
    for (int round = 0; round < 4; round++) {
        heard h = {0};
        sp_generate_options o;
        sp_generate_options_default(&o);
        o.mode = round % 2 ? SP_MODE_SHADOW_ONLY : SP_MODE_BASE_SHADOW;
        o.use_cache = round < 2;
        sp_generation *g = generate(s, model, tok, prompts, 4, &o, &h);
        check(g, 0, PUZZLE, 11, SP_FINISH_EOS);
        check(g, 1, " to the kitchen", 4, SP_FINISH_EOS);
        check(g, 2, "", 1, SP_FINISH_EOS); /* <s> alone */
        check(g, 3, "C:D;E", 6, SP_FINISH_EOS);
        for (size_t i = 0; i < 4; i++) {
            sp_generated one;
            sp_generation_get(g, i, &one);
            assert_string_equal(h.text[i].data ? h.text[i].data : "", one.text);
            assert_int_equal(one.ids[one.count - 1], MACHINE_EOS);
        }
        sp_generation_stats stats = {.size = sizeof stats};
        sp_generation_get_stats(g, &stats);
        sp_generated first;
        sp_generation_get(g, 0, &first);
        assert_int_equal(first.prompt_count, 7);
        assert_int_equal(stats.new_tokens, 11 + 4 + 1 + 6);
        assert_true(stats.prompt_tokens > 10 && stats.prefill_seconds > 0 && stats.decode_seconds > 0);
        forget(&h);
        sp_generation_free(g);
    }
    sp_model_free(model);
    sp_tokenizer_free(tok);
}

/* No EOS before max_new_tokens: whatever half of a character is there. */
static void test_length(void **state) {
    scratch *s = *state;
    sp_tokenizer *tok = machine_tokenizer(s);
    const machine m = taught(tok);
    sp_model *model = machine_load(s, &m, "length", "", NULL);
    sp_generate_options o;
    sp_generate_options_default(&o);
    o.max_new_tokens = 2;
    says(s, model, tok, "a", &o, "\xc3\xa9", 2, SP_FINISH_LENGTH);
    o.max_new_tokens = 4;
    says(s, model, tok, "a", &o, "\xc3\xa9\xef\xbf\xbd", 4, SP_FINISH_LENGTH);
    o.max_new_tokens = 11;
    says(s, model, tok, "a", &o, PUZZLE, 11, SP_FINISH_EOS);
    o.max_new_tokens = 1;
    says(s, model, tok, "b", &o, "C", 1, SP_FINISH_LENGTH);
    sp_model_free(model);
    sp_tokenizer_free(tok);
}

static void test_stop_strings(void **state) {
    scratch *s = *state;
    static const char *const stop[] = {"D;", "chen", NULL}, *const special[] = {"</s>", NULL};
    sp_tokenizer *tok = machine_tokenizer(s);
    const machine m = taught(tok);
    sp_model *model = machine_load(s, &m, "stop", "", NULL);
    sp_generate_options o;
    sp_generate_options_default(&o);
    o.stop = stop;
    says(s, model, tok, "b", &o, "C:", 4, SP_FINISH_STOP);
    says(s, model, tok, "go", &o, " to the kit", 3, SP_FINISH_STOP);
    says(s, model, tok, "a", &o, PUZZLE, 11, SP_FINISH_EOS);
    o.stop = special;
    o.ignore_eos = true;
    says(s, model, tok, "b", &o, "C:D;E", 6, SP_FINISH_STOP); /* the text does not show it */
    o.skip_special_tokens = false;
    says(s, model, tok, "b", &o, "C:D;E", 6, SP_FINISH_STOP); /* or would */
    o.ignore_eos = false;
    o.stop = NULL;
    says(s, model, tok, "b", &o, "C:D;E</s>", 6, SP_FINISH_EOS);
    sp_model_free(model);
    sp_tokenizer_free(tok);
}

static int32_t id_of(const sp_tokenizer *tok, const char *token) {
    const int32_t id = sp_tokenizer_token_id(tok, token);
    assert_true(id >= 0);
    return id;
}

/* Which ids end a text: the caller's alone, or generation_config.json's, else config.json's, and the
 * tokenizer's. */
static void test_eos(void **state) {
    scratch *s = *state;
    sp_tokenizer *tok = machine_tokenizer(s);
    machine m = taught(tok);
    const int32_t colon = id_of(tok, ":"), semicolon = id_of(tok, ";"), d = id_of(tok, "D");
    m.next[MACHINE_EOS] = id_of(tok, "Z");
    m.next[id_of(tok, "Z")] = id_of(tok, "Z");
    char config[64], generation[64];
    snprintf(config, sizeof config, ", \"eos_token_id\": %d", colon);
    snprintf(generation, sizeof generation, "{\"eos_token_id\": [%d, %d]}", semicolon, d);
    sp_generate_options o;
    sp_generate_options_default(&o);
    o.max_new_tokens = 8;

    sp_model *model = machine_load(s, &m, "eos0", "", NULL);
    says(s, model, tok, "b", &o, "C:D;E", 6, SP_FINISH_EOS);
    o.eos_ids = &colon;
    o.eos_count = 1;
    says(s, model, tok, "b", &o, "C:", 2, SP_FINISH_EOS);
    o.eos_count = 0;
    says(s, model, tok, "b", &o, "C:D;EZZ", 8, SP_FINISH_LENGTH);
    o.eos_ids = NULL;
    o.ignore_eos = true;
    says(s, model, tok, "b", &o, "C:D;EZZ", 8, SP_FINISH_LENGTH);
    o.ignore_eos = false;
    sp_model_free(model);

    model = machine_load(s, &m, "eos1", config, NULL);
    says(s, model, tok, "b", &o, "C:", 2, SP_FINISH_EOS);
    says(s, model, tok, "go", &o, " to the kitchen", 4, SP_FINISH_EOS);
    sp_model_free(model);

    model = machine_load(s, &m, "eos2", config, generation);
    says(s, model, tok, "b", &o, "C:D", 3, SP_FINISH_EOS);
    says(s, model, tok, "go", &o, " to the kitchen", 4, SP_FINISH_EOS);
    o.eos_ids = &semicolon;
    o.eos_count = 1;
    says(s, model, tok, "b", &o, "C:D;", 4, SP_FINISH_EOS);
    sp_model_free(model);
    sp_tokenizer_free(tok);
}

/* A stream that says stop leaves what it heard. */
static void test_stop_by_stream(void **state) {
    scratch *s = *state;
    static const char *const prompts[] = {"b", "go", "a"};
    sp_tokenizer *tok = machine_tokenizer(s);
    const machine m = taught(tok);
    sp_model *model = machine_load(s, &m, "stream", "", NULL);
    for (size_t after = 1; after < 12; after++) {
        heard h = {.stop_after = after};
        sp_generate_options o;
        sp_generate_options_default(&o);
        sp_generation *g = generate(s, model, tok, prompts, 3, &o, &h);
        assert_int_equal(h.calls, after < 12 ? after : 12);
        for (size_t i = 0; i < 3; i++) {
            sp_generated one;
            sp_generation_get(g, i, &one);
            assert_string_equal(one.text, h.text[i].data ? h.text[i].data : "");
            assert_int_equal(one.length, h.text[i].length);
            if (after < 4) assert_int_equal(one.finish, SP_FINISH_LENGTH);
        }
        forget(&h);
        sp_generation_free(g);
    }
    sp_model_free(model);
    sp_tokenizer_free(tok);
}

/* ------------------------------------------------------------------ sampling */

/* A random model of wide weights with an adapter that does something. */
static sp_model *random_model(scratch *s, const char *name, const char *more) {
    char config[512], out[512], with[512];
    sp_model *model = NULL;
    snprintf(with, sizeof with, ", \"initializer_range\": 0.3%s", more);
    snprintf(config, sizeof config, "%s", scratch_path(s, name));
    snprintf(out, sizeof out, "%s.model", config);
    machine_write(s, config, machine_config(with));
    if (sp_checkpoint_init(s->ctx, config, out, 5, SP_F32) != SP_OK ||
        sp_model_load(s->ctx, out, NULL, &model) != SP_OK)
        fail_msg("%s", sp_last_error(s->ctx));
    create_adapter(model, 6);
    spi_param *ups = model->adapter->layers[0].up; /* those of all layers */
    spi_fill_normal(ups->f32, ups->count, 0.3f, 7, 8, 1);
    return model;
}

static bool same(const sp_generation *a, size_t i, const sp_generation *b, size_t j) {
    sp_generated x, y;
    sp_generation_get(a, i, &x);
    sp_generation_get(b, j, &y);
    return x.count == y.count && !memcmp(x.ids, y.ids, x.count * sizeof *x.ids) && x.length == y.length &&
           !memcmp(x.text, y.text, x.length);
}

/* The same seed gives the same text, with other prompts beside it, without a cache; another seed another. */
static void test_sampling(void **state) {
    scratch *s = *state;
    static const char *const prompts[] = {"go to the", "pick up the red cup", "turn", "turn"};
    static const char *const others[] = {"to", "pick up the red cup", "a much longer prompt in this place"};
    sp_tokenizer *tok = machine_tokenizer(s);
    sp_model *model = random_model(s, "random", "");
    for (int mode = 0; mode < 2; mode++) {
        sp_generate_options o;
        sp_generate_options_default(&o);
        o.mode = (sp_mode)mode;
        o.max_new_tokens = 24;
        o.do_sample = true;
        o.top_k = 40;
        o.top_p = 0.95;
        o.repetition_penalty = 1.1;
        o.ignore_eos = true;
        sp_generation *first = generate(s, model, tok, prompts, 4, &o, NULL);
        sp_generation *again = generate(s, model, tok, prompts, 4, &o, NULL);
        sp_generation *beside = generate(s, model, tok, others, 3, &o, NULL);
        o.use_cache = false;
        sp_generation *uncached = generate(s, model, tok, prompts, 4, &o, NULL);
        o.seed = 43;
        sp_generation *reseeded = generate(s, model, tok, prompts, 4, &o, NULL);
        for (size_t i = 0; i < 4; i++) {
            assert_true(same(first, i, again, i));
            assert_true(same(first, i, uncached, i));
            assert_false(same(first, i, reseeded, i));
        }
        assert_true(same(first, 1, beside, 1));
        assert_false(same(first, 2, first, 3)); /* a prompt given twice is answered twice */
        sp_generation_free(first);
        sp_generation_free(again);
        sp_generation_free(beside);
        sp_generation_free(uncached);
        sp_generation_free(reseeded);
    }
    sp_model_free(model);
    sp_tokenizer_free(tok);
}

/* ------------------------------------------------------------------ limits */

static void count_warnings(void *user, sp_log_level level, const char *message) {
    if (level == SP_LOG_WARNING && strstr(message, "max_position_embeddings")) ++*(int *)user;
}

/* A prompt too long to be fed at once, beside a short one: the same ids as from whole passes. */
static void test_long_prompt(void **state) {
    scratch *s = *state;
    enum { TOKENS = 4500 };
    sp_model *model = random_model(s, "long", ", \"max_position_embeddings\": 2000");
    int32_t *ids = malloc(TOKENS * sizeof *ids), found[2][2][3];
    int warnings = 0;
    assert_non_null(ids);
    for (uint64_t i = 0; i < TOKENS; i++) ids[i] = (int32_t)(spi_uniform(1, 2, i) * MACHINE_VOCAB);
    sp_context_set_log(s->ctx, count_warnings, &warnings, SP_LOG_INFO);
    for (int cached = 0; cached < 2; cached++) {
        spi_sequence seqs[2];
        sp_generate_options o;
        const spi_ending ending = {.max_new_tokens = 3};
        sp_generate_options_default(&o);
        o.use_cache = cached;
        assert_int_equal(spi_sequence_start(s->ctx, &seqs[0], ids, TOKENS), SP_OK);
        assert_int_equal(spi_sequence_start(s->ctx, &seqs[1], ids + 9, 7), SP_OK);
        assert_int_equal(spi_generate_run(model, &o, &ending, seqs, 2, NULL, NULL, NULL), SP_OK);
        for (int i = 0; i < 2; i++) {
            assert_int_equal(seqs[i].count, seqs[i].prompt_count + 3);
            memcpy(found[cached][i], seqs[i].ids + seqs[i].prompt_count, sizeof found[0][0]);
            spi_sequence_free(&seqs[i]);
        }
    }
    assert_memory_equal(found[0], found[1], sizeof found[0]);
    assert_int_equal(warnings, 2); /* once a call */
    sp_context_set_log(s->ctx, NULL, NULL, SP_LOG_INFO);
    free(ids);
    sp_model_free(model);
}

/* Learned positions end somewhere: 32 tokens can be fed, so that the 33rd is the last. */
static void test_learned_positions(void **state) {
    scratch *s = *state;
    sp_model *model = NULL;
    assert_int_equal(sp_model_load(s->ctx, TEST_DATA "/parity/gpt2/base", NULL, &model), SP_OK);
    int32_t ids[33];
    for (int i = 0; i < 33; i++) ids[i] = 3 + i % 20;
    for (int cached = 0; cached < 2; cached++) {
        spi_sequence seqs[2];
        sp_generate_options o;
        const spi_ending ending = {.max_new_tokens = 25};
        sp_generate_options_default(&o);
        o.use_cache = cached;
        assert_int_equal(spi_sequence_start(s->ctx, &seqs[0], ids, 30), SP_OK);
        assert_int_equal(spi_sequence_start(s->ctx, &seqs[1], ids, 6), SP_OK);
        if (spi_generate_run(model, &o, &ending, seqs, 2, NULL, NULL, NULL) != SP_OK)
            fail_msg("%s", sp_last_error(s->ctx));
        assert_int_equal(seqs[0].count, 33);
        assert_int_equal(seqs[0].finish, SP_FINISH_LENGTH);
        assert_int_equal(seqs[1].count, 31);
        spi_sequence_free(&seqs[0]);
        spi_sequence_free(&seqs[1]);
        assert_int_equal(spi_sequence_start(s->ctx, &seqs[0], ids, 33), SP_OK);
        assert_int_equal(spi_generate_run(model, &o, &ending, seqs, 1, NULL, NULL, NULL), SP_ERR_ARGUMENT);
        assert_string_equal(sp_last_error(s->ctx),
                            "prompt 1: expected at most 32 tokens (\"max_position_embeddings\"), found 33");
        spi_sequence_free(&seqs[0]);
    }
    sp_model_free(model);
}

/* ------------------------------------------------------------------ options and bad input */

static void test_options_for(void **state) {
    scratch *s = *state;
    const machine m = machine_new();
    sp_generate_options o;
    sp_model *model = machine_load(s, &m, "options0", "", NULL);
    sp_generate_options_for(model, &o);
    assert_false(o.do_sample);
    assert_int_equal(o.max_new_tokens, 128);
    assert_int_equal(o.top_k, 50);
    assert_true(o.temperature == 1 && o.top_p == 1 && o.min_p == 0 && o.repetition_penalty == 1);
    assert_true(o.use_cache && o.add_special_tokens && o.skip_special_tokens && !o.ignore_eos);
    assert_int_equal(o.size, sizeof o);
    sp_model_free(model);
    model = machine_load(s, &m, "options1", "",
                         "{\"do_sample\": true, \"temperature\": 0.6, \"top_k\": 20, \"top_p\": 0.95, "
                         "\"min_p\": 0.01, \"repetition_penalty\": 1.05, \"max_new_tokens\": 2048}");
    sp_generate_options_for(model, &o);
    assert_true(o.do_sample);
    assert_int_equal(o.max_new_tokens, 2048);
    assert_int_equal(o.top_k, 20);
    assert_true(o.temperature == 0.6 && o.top_p == 0.95 && o.min_p == 0.01 && o.repetition_penalty == 1.05);
    sp_model_free(model);
    model =
        machine_load(s, &m, "options2", "",
                     "{\"temperature\": null, \"top_k\": null, \"top_p\": 1, \"max_new_tokens\": 99999999999}");
    sp_generate_options_for(model, &o);
    assert_int_equal(o.max_new_tokens, INT32_MAX);
    assert_int_equal(o.top_k, 50);
    assert_true(o.temperature == 1 && o.top_p == 1);
    sp_model_free(model);
}

typedef struct refusal {
    scratch *s;
    sp_model *model;
    sp_tokenizer *tok;
    sp_generate_options o;
} refusal;

/* Refused with that message; *o is at its defaults again afterwards. */
static void refuse(refusal *r, const char *message) {
    const char *const prompt = "go";
    sp_generation *g = (sp_generation *)r;
    assert_int_equal(sp_generate(r->model, r->tok, &prompt, 1, &r->o, NULL, NULL, &g), SP_ERR_ARGUMENT);
    assert_null(g);
    assert_string_equal(sp_last_error(r->s->ctx), message);
    sp_generate_options_default(&r->o);
}

static void test_bad_options(void **state) {
    scratch *s = *state;
    static const char *const empty[] = {"x", "", NULL};
    static const int32_t ids[] = {2, 300}, negative = -1;
    const machine m = machine_new();
    refusal r = {.s = s, .model = machine_load(s, &m, "bad", "", NULL), .tok = machine_tokenizer(s)};
    sp_generate_options *o = &r.o;
    refuse(&r, "generation options: not filled by sp_generate_options_default");
    o->mode = SP_MODE_SHADOW_ONLY;
    refuse(&r, "mode shadow_only: expected a model with an adapter, found none");
    o->mode = (sp_mode)2;
    refuse(&r, "mode: expected base_shadow or shadow_only, found number 2");
    o->max_new_tokens = 0;
    refuse(&r, "max_new_tokens: expected at least 1, found 0");
    o->temperature = -1;
    refuse(&r, "temperature: expected a number above 0, found -1");
    o->temperature = (double)NAN;
    refuse(&r, "temperature: expected a number above 0, found nan");
    o->temperature = 0;
    o->do_sample = true;
    refuse(&r,
           "temperature: expected a number above 0, found 0; without do_sample the likeliest token is taken");
    o->top_k = -1;
    refuse(&r, "top_k: expected 0 (off) or more, found -1");
    o->top_p = 1.5;
    refuse(&r, "top_p: expected a number from 0 to 1 (off), found 1.5");
    o->min_p = -0.5;
    refuse(&r, "min_p: expected a number from 0 (off) to 1, found -0.5");
    o->repetition_penalty = 0;
    refuse(&r, "repetition_penalty: expected a number above 0, found 0");
    o->eos_ids = ids;
    o->eos_count = 2;
    refuse(&r, "eos_ids: expected ids below 300 (\"vocab_size\"), found 300");
    o->eos_ids = &negative;
    o->eos_count = 1;
    refuse(&r, "eos_ids: expected ids below 300 (\"vocab_size\"), found -1");
    o->stop = empty;
    refuse(&r, "stop: expected text, found an empty string");
    sp_tokenizer_free(r.tok);
    r.tok = NULL;
    refuse(&r, "generation: expected a tokenizer, found none");
    sp_model_free(r.model);
}

static void test_bad_prompts(void **state) {
    scratch *s = *state;
    static const char *const prompts[] = {"go", ""}, *const null[] = {NULL}, *const one[] = {"go"};
    const machine m = machine_new();
    sp_tokenizer *tok = machine_tokenizer(s);
    sp_model *model = machine_load(s, &m, "prompts", "", NULL);
    sp_generate_options o;
    sp_generate_options_default(&o);
    sp_generation *g;
    assert_int_equal(sp_generate(model, tok, null, 1, &o, NULL, NULL, &g), SP_ERR_ARGUMENT);
    assert_string_equal(sp_last_error(s->ctx), "prompt 1: expected text, found NULL");
    o.add_special_tokens = false;
    assert_int_equal(sp_generate(model, tok, prompts, 2, &o, NULL, NULL, &g), SP_ERR_ARGUMENT);
    assert_null(g);
    assert_string_equal(sp_last_error(s->ctx),
                        "prompt 2: expected text (the tokenizer begins with no token of its own), found none");
    g = generate(s, model, tok, NULL, 0, NULL, NULL);
    sp_generation_free(g);
    sp_model_free(model);

    assert_int_equal(sp_model_load(s->ctx, TEST_DATA "/parity/qwen3/base", NULL, &model), SP_OK);
    assert_int_equal(sp_generate(model, tok, one, 1, NULL, NULL, NULL, &g), SP_ERR_MISMATCH);
    assert_non_null(strstr(sp_last_error(s->ctx), "prompt 1: expected token ids below 96 ("));
    assert_non_null(strstr(sp_last_error(s->ctx), "config.json: \"vocab_size\"), found 271"));
    sp_model_free(model);
    sp_tokenizer_free(tok);
}

/* Weights that are no numbers make no text. */
static void test_no_numbers(void **state) {
    scratch *s = *state;
    static const char *const prompt[] = {"go"};
    machine m = machine_new();
    m.scale = (float)NAN;
    sp_tokenizer *tok = machine_tokenizer(s);
    sp_model *model = machine_load(s, &m, "nan", "", NULL);
    sp_generation *g;
    assert_int_equal(sp_generate(model, tok, prompt, 1, NULL, NULL, NULL, &g), SP_ERR_DIVERGED);
    assert_null(g);
    sp_model_free(model);
    sp_tokenizer_free(tok);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_python_ids),
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_length),
        cmocka_unit_test(test_stop_strings),
        cmocka_unit_test(test_eos),
        cmocka_unit_test(test_stop_by_stream),
        cmocka_unit_test(test_sampling),
        cmocka_unit_test(test_long_prompt),
        cmocka_unit_test(test_learned_positions),
        cmocka_unit_test(test_options_for),
        cmocka_unit_test(test_bad_options),
        cmocka_unit_test(test_bad_prompts),
        cmocka_unit_test(test_no_numbers),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
