/*
 * Runs of recorded steps (spi_decoding_run) on a device that stands for a GPU (tests/recorder.h): whatever is
 * generated is what single steps generate.
 */
#include "recorder.h"

#include <dirent.h>
#include <jansson.h>
#include <math.h>

#include "base/rng.h"
#include "generate/generate.h"
#include "machine.h"
#include "shadow/adapted.h"

/* What a stream heard, and when it says stop. */
typedef struct heard {
    spi_buf text[8];
    size_t calls, stop_after;
} heard;

static bool hear(void *user, size_t index, const char *text, size_t length) {
    heard *h = user;
    spi_buf_append(&h->text[index], text, length);
    return ++h->calls != h->stop_after;
}

static const char *text_of(const spi_buf *buf) {
    return buf->data ? buf->data : "";
}

static void forget(heard *h) {
    for (int i = 0; i < 8; i++) spi_buf_free(&h->text[i]);
}

/* ------------------------------------------------------------------ models of the Python packages */

#define ROWS 5

/* Five prompts of 1 to 9 ids. */
static void start_rows(scratch *s, int64_t vocab, spi_sequence *seqs) {
    static const size_t lengths[ROWS] = {4, 1, 9, 6, 4};
    for (size_t i = 0; i < ROWS; i++) {
        int32_t ids[9];
        for (uint64_t t = 0; t < lengths[i]; t++)
            ids[t] = (int32_t)(spi_uniform(3, i, t) * (float)vocab * 0.99f);
        assert_int_equal(spi_sequence_start(s->ctx, &seqs[i], ids, lengths[i]), SP_OK);
    }
}

/* The rows end at different times: each id of `eos` ends one. */
static void generate_rows(scratch *s, sp_model *model, const sp_generate_options *o, const int32_t *eos,
                          size_t eos_count, int32_t most, spi_sequence *seqs) {
    const spi_ending ending = {.max_new_tokens = most, .eos = eos, .eos_count = eos_count};
    start_rows(s, model->base->arch.vocab_size, seqs);
    if (spi_generate_run(model, o, &ending, seqs, ROWS, NULL, NULL, NULL) != SP_OK)
        fail_msg("%s", sp_last_error(s->ctx));
}

static void compare_rows(scratch *s, const char *name, sp_model *model, const sp_generate_options *o,
                         int32_t most) {
    spi_sequence want[ROWS], found[ROWS];
    int32_t eos[2] = {0};
    size_t eos_count = 0;
    for (int round = 0; round < 2; round++) {
        generate_rows(s, model, o, eos, eos_count, most, want);
        recorder_attach(model->dev);
        const bool moves = spi_arch_rope_moves(&model->base->arch);
        generate_rows(s, model, o, eos, eos_count, most, found);
        /* All but the first token and the first step, as long as nothing ends early. */
        if (moves) assert_int_equal(rec.launched, 0);
        else if (round == 0) assert_int_equal(rec.launched, most - 2);
        else assert_in_range(rec.launched, 0, 2 * most);
        recorder_detach(model->dev);
        for (size_t i = 0; i < ROWS; i++) {
            if (found[i].count != want[i].count || found[i].finish != want[i].finish ||
                memcmp(found[i].ids, want[i].ids, want[i].count * sizeof *want[i].ids) != 0)
                fail_msg("%s: mode %d, sample %d, round %d: row %zu differs", name, o->mode, o->do_sample,
                         round, i);
        }
        /* Next, what two of the rows say early ends them, and all others that say it. */
        eos_count = 2;
        eos[0] = want[1].ids[want[1].prompt_count + 2];
        eos[1] = want[3].ids[want[3].prompt_count + 4];
        for (size_t i = 0; i < ROWS; i++) {
            spi_sequence_free(&want[i]);
            spi_sequence_free(&found[i]);
        }
    }
}

static void check_case(scratch *s, const char *name, const char *dir) {
    char path[700], shadow[700];
    sp_model *model = NULL;
    sp_model_options options;
    sp_adapter_options adapter;
    sp_model_options_default(&options);
    sp_adapter_options_default(&adapter);
    options.dtype = SP_F32;
    snprintf(path, sizeof path, "%s/base", dir);
    if (sp_model_load(s->ctx, path, &options, &model) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
    snprintf(path, sizeof path, "%s/adapter", dir);
    snprintf(shadow, sizeof shadow, "%s/shadow", dir);
    if (spi_path_exists(shadow)) adapter.shadow = shadow;
    if (sp_adapter_load(model, path, &adapter) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
    for (int mode = 0; mode < 2; mode++) {
        sp_generate_options o;
        sp_generate_options_default(&o);
        o.mode = (sp_mode)mode;
        compare_rows(s, name, model, &o, 12);
        o.repetition_penalty = 1.3;
        compare_rows(s, name, model, &o, 7);
        o.do_sample = true;
        o.top_k = 20;
        o.top_p = 0.9;
        o.min_p = 0.01;
        o.temperature = 1.5;
        compare_rows(s, name, model, &o, 12);
    }
    sp_model_free(model);
}

/* Every family, with sequences that end in the middle, with draws and with a penalty. */
static void test_families(void **state) {
    scratch *s = *state;
    DIR *dir = opendir(TEST_DATA "/parity");
    int cases = 0;
    assert_non_null(dir);
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        char path[600], file[700];
        snprintf(path, sizeof path, "%s/parity/%s", TEST_DATA, entry->d_name);
        snprintf(file, sizeof file, "%s/expected.safetensors", path);
        if (!spi_path_exists(file)) continue;
        spi_st_set *expected = NULL;
        assert_int_equal(spi_st_open(s->ctx, file, &expected), SP_OK);
        const bool generates = spi_st_find(expected, "greedy_ids_shadow_only") != NULL;
        spi_st_close(expected);
        if (!generates) continue;
        check_case(s, entry->d_name, path);
        cases++;
    }
    closedir(dir);
    assert_in_range(cases, 20, 200);
}

/* ------------------------------------------------------------------ texts */

#define PUZZLE "\xc3\xa9\xe6\xbc\xa2\xf0\x9f\x99\x82!" /* ten tokens, one a byte */

static machine taught(const sp_tokenizer *tok) {
    machine m = machine_new();
    machine_teach(&m, tok, "a", PUZZLE);
    machine_teach(&m, tok, "go", " to the kitchen");
    machine_teach(&m, tok, "b", "C:D;E");
    return m;
}

static sp_generation *generate(scratch *s, sp_model *model, const sp_tokenizer *tok, const char *const *prompts,
                               size_t count, const sp_generate_options *o, heard *h) {
    sp_generation *g = NULL;
    if (sp_generate(model, tok, prompts, count, o, hear, h, &g) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
    return g;
}

static void check(const sp_generation *g, const heard *h, size_t index, const char *text, size_t count,
                  sp_finish finish) {
    sp_generated one;
    sp_generation_get(g, index, &one);
    assert_string_equal(one.text, text);
    assert_string_equal(text_of(&h->text[index]), text);
    assert_int_equal(one.count, count);
    assert_int_equal(one.finish, finish);
}

/* Answers that end at different times: four rows go on until three have ended, then the last by itself. */
static void test_texts(void **state) {
    scratch *s = *state;
    static const char *const prompts[] = {"pick up the red a", "go", "", "turn b", "b"};
    sp_tokenizer *tok = machine_tokenizer(s);
    const machine m = taught(tok);
    sp_model *model = machine_load(s, &m, "texts", "", NULL);
    recorder_attach(model->dev);
    heard h = {0};
    sp_generation *g = generate(s, model, tok, prompts, 5, NULL, &h);
    check(g, &h, 0, PUZZLE, 11, SP_FINISH_EOS);
    check(g, &h, 1, " to the kitchen", 4, SP_FINISH_EOS);
    check(g, &h, 2, "", 1, SP_FINISH_EOS);
    check(g, &h, 3, "C:D;E", 6, SP_FINISH_EOS);
    check(g, &h, 4, "C:D;E", 6, SP_FINISH_EOS);
    assert_int_equal(rec.recorded, 2);
    forget(&h);
    sp_generation_free(g);
    recorder_detach(model->dev);
    sp_model_free(model);
    sp_tokenizer_free(tok);
}

static void test_stop_strings(void **state) {
    scratch *s = *state;
    static const char *const stop[] = {"D;", "chen", NULL}, *const prompts[] = {"b", "go", "a"};
    sp_tokenizer *tok = machine_tokenizer(s);
    const machine m = taught(tok);
    sp_model *model = machine_load(s, &m, "stop", "", NULL);
    recorder_attach(model->dev);
    sp_generate_options o;
    sp_generate_options_default(&o);
    o.stop = stop;
    heard h = {0};
    sp_generation *g = generate(s, model, tok, prompts, 3, &o, &h);
    check(g, &h, 0, "C:", 4, SP_FINISH_STOP);
    check(g, &h, 1, " to the kit", 3, SP_FINISH_STOP);
    check(g, &h, 2, PUZZLE, 11, SP_FINISH_EOS);
    assert_true(rec.launched > 5);
    forget(&h);
    sp_generation_free(g);
    recorder_detach(model->dev);
    sp_model_free(model);
    sp_tokenizer_free(tok);
}

/* A stream that says stop after any piece hears the same with runs as without. */
static void test_stop_by_stream(void **state) {
    scratch *s = *state;
    static const char *const prompts[] = {"b", "go", "a"};
    sp_tokenizer *tok = machine_tokenizer(s);
    const machine m = taught(tok);
    sp_model *model = machine_load(s, &m, "stream", "", NULL);
    for (size_t after = 1; after < 12; after++) {
        heard steps = {.stop_after = after}, runs = {.stop_after = after};
        sp_generation *want = generate(s, model, tok, prompts, 3, NULL, &steps);
        recorder_attach(model->dev);
        sp_generation *found = generate(s, model, tok, prompts, 3, NULL, &runs);
        recorder_detach(model->dev);
        assert_int_equal(runs.calls, after);
        for (size_t i = 0; i < 3; i++) {
            sp_generated one;
            sp_generation_get(want, i, &one);
            check(found, &runs, i, one.text, one.count, one.finish);
            assert_string_equal(text_of(&steps.text[i]), text_of(&runs.text[i]));
        }
        forget(&steps);
        forget(&runs);
        sp_generation_free(want);
        sp_generation_free(found);
    }
    sp_model_free(model);
    sp_tokenizer_free(tok);
}

/* ------------------------------------------------------------------ ends of what can be computed */

/* 32 positions: a sequence that has reached them is carried on beside those that have not. */
static void test_learned_positions(void **state) {
    scratch *s = *state;
    sp_model *model = NULL;
    assert_int_equal(sp_model_load(s->ctx, TEST_DATA "/parity/gpt2/base", NULL, &model), SP_OK);
    int32_t ids[33], first[3][33];
    for (int i = 0; i < 33; i++) ids[i] = 3 + i % 20;
    for (int runs = 0; runs < 2; runs++) {
        spi_sequence seqs[3];
        sp_generate_options o;
        const spi_ending ending = {.max_new_tokens = 25};
        sp_generate_options_default(&o);
        if (runs) recorder_attach(model->dev);
        static const size_t lengths[3] = {28, 6, 5};
        for (int i = 0; i < 3; i++)
            assert_int_equal(spi_sequence_start(s->ctx, &seqs[i], ids + i, lengths[i]), SP_OK);
        if (spi_generate_run(model, &o, &ending, seqs, 3, NULL, NULL, NULL) != SP_OK)
            fail_msg("%s", sp_last_error(s->ctx));
        assert_int_equal(seqs[0].count, 33);
        assert_int_equal(seqs[1].count, 31);
        assert_int_equal(seqs[2].count, 30);
        for (int i = 0; i < 3; i++) {
            if (runs) assert_memory_equal(seqs[i].ids, first[i], seqs[i].count * sizeof *ids);
            else memcpy(first[i], seqs[i].ids, seqs[i].count * sizeof *ids);
            spi_sequence_free(&seqs[i]);
        }
        if (!runs) continue;
        assert_true(rec.launched >= 23);
        recorder_detach(model->dev);
    }
    sp_model_free(model);
}

/* The message of single steps, also where the logits spoil in the middle of a run. */
static void test_not_finite(void **state) {
    scratch *s = *state;
    static const char *const prompts[] = {"go", "b"};
    sp_tokenizer *tok = machine_tokenizer(s);
    const machine m = taught(tok);
    sp_model *model = machine_load(s, &m, "diverged", "", NULL);
    const int32_t colon = sp_tokenizer_token_id(tok, ":");
    assert_true(colon >= 0);
    float *embed = model->base->embed->w.m.data;
    assert_int_equal(model->base->embed->w.m.dtype, SP_F32);
    char want[300] = "";
    sp_generate_options o;
    sp_generate_options_default(&o);
    float *copy = malloc(MACHINE_VOCAB * MACHINE_WIDTH * sizeof *copy);
    assert_non_null(copy);
    memcpy(copy, embed, MACHINE_VOCAB * MACHINE_WIDTH * sizeof *copy);
    copy[colon * MACHINE_WIDTH] = NAN;
    model->base->embed->w.m.data = copy;
    for (int runs = 0; runs < 2; runs++) {
        sp_generation *g = NULL;
        if (runs) recorder_attach(model->dev);
        assert_int_equal(sp_generate(model, tok, prompts, 2, &o, NULL, NULL, &g), SP_ERR_DIVERGED);
        if (runs) assert_string_equal(sp_last_error(s->ctx), want);
        snprintf(want, sizeof want, "%s", sp_last_error(s->ctx));
    }
    assert_true(rec.launched > 0);
    assert_non_null(strstr(want, "sequence 2: expected finite logits for token"));
    recorder_detach(model->dev);
    model->base->embed->w.m.data = embed;
    free(copy);
    sp_model_free(model);
    sp_tokenizer_free(tok);
}

/* ------------------------------------------------------------------ what slots hold afterwards */

#define NEW 6

/* Steps that were not kept are forgotten, and single steps go on from there as if there had been no run. */
static void test_lengths(void **state) {
    scratch *s = *state;
    sp_model *model = NULL;
    static const int32_t slots[2] = {1, 0}, start[3] = {0, 3, 8}, ids[8] = {3, 4, 5, 6, 7, 8, 9, 10};
    assert_int_equal(sp_model_load(s->ctx, TEST_DATA "/parity/qwen3/base", NULL, &model), SP_OK);
    recorder_attach(model->dev);
    const int64_t vocab = model->base->arch.vocab_size;
    float *logits = malloc((size_t)(4 * vocab) * sizeof *logits);
    spi_decoding *d = NULL;
    spi_decoding_run *run = NULL;
    sp_generate_options o;
    sp_generate_options_default(&o);
    assert_non_null(logits);
    assert_int_equal(spi_decoding_new(model, SP_MODE_BASE_SHADOW, 2, 9, &d), SP_OK);
    assert_int_equal(spi_decoding_step(d, 2, slots, start, ids, logits), SP_OK);
    const spi_run_sequence sequences[2] = {{.slot = 1, .id = 11}, {.slot = 0, .id = 12}};
    assert_true(spi_decoding_runs(d));
    assert_int_equal(spi_decoding_run_new(d, 2, sequences, &o, &run), SP_OK);
    int32_t chosen[NEW][2];
    for (int t = 0; t < NEW; t++) {
        assert_int_equal(spi_decoding_run_queue(run), SP_OK);
        assert_int_equal(spi_decoding_run_read(run, chosen[t]), SP_OK);
    }
    assert_int_equal(spi_decoding_run_read(run, chosen[0]), SP_ERR_ARGUMENT);
    static const int32_t kept[2] = {3, NEW};
    spi_decoding_run_free(run, kept);
    assert_int_equal(spi_decoding_length(d, 1), 3 + 3);
    assert_int_equal(spi_decoding_length(d, 0), 8); /* of 9 the last was used twice */
    for (int j = 0; j < 2; j++) {
        /* All that the slot should hold, then one more token, in a slot of its own. */
        int32_t whole[16], n = 0;
        for (int32_t t = start[j]; t < start[j + 1]; t++) whole[n++] = ids[t];
        whole[n++] = sequences[j].id;
        for (int t = 0; n < spi_decoding_length(d, slots[j]); t++) whole[n++] = chosen[t][j];
        whole[n++] = 13;
        const int32_t one[2] = {0, 1}, all[2] = {0, n}, slot = 0;
        spi_decoding *fresh = NULL;
        assert_int_equal(spi_decoding_step(d, 1, &slots[j], one, whole + n - 1, logits), SP_OK);
        assert_int_equal(spi_decoding_new(model, SP_MODE_BASE_SHADOW, 1, 16, &fresh), SP_OK);
        assert_int_equal(spi_decoding_step(fresh, 1, &slot, all, whole, logits + vocab), SP_OK);
        for (int64_t v = 0; v < vocab; v++) assert_true(fabsf(logits[v] - logits[vocab + v]) < 1e-4f);
        spi_decoding_free(fresh);
    }
    const spi_run_sequence bad = {.slot = 2, .id = 1};
    assert_int_equal(spi_decoding_run_new(d, 1, &bad, &o, &run), SP_ERR_ARGUMENT);
    assert_null(run);
    spi_decoding_free(d);
    free(logits);
    recorder_detach(model->dev);
    sp_model_free(model);
}

/* ------------------------------------------------------------------ bench */

static void test_bench(void **state) {
    scratch *s = *state;
    sp_model *model = NULL;
    sp_bench_options o;
    assert_int_equal(sp_model_load(s->ctx, TEST_DATA "/parity/qwen3/base", NULL, &model), SP_OK);
    recorder_attach(model->dev);
    sp_bench_options_default(&o);
    o.kind = SP_BENCH_DECODE;
    o.batch_size = 2;
    o.prompt_len = 7;
    o.new_tokens = 20;
    char *text = NULL;
    if (sp_bench(model, &o, &text) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
    json_t *object = json_loads(text, 0, NULL);
    assert_true(json_number_value(json_object_get(object, "ms_per_token")) > 0);
    assert_true(json_number_value(json_object_get(json_object_get(object, "breakdown_ms"), "linear")) > 0);
    assert_int_equal(rec.recorded, 1);
    assert_int_equal(rec.launched, 21); /* one of two that warm up, and 20 */
    json_decref(object);
    sp_string_free(text);
    recorder_detach(model->dev);
    sp_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_families, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_texts, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_stop_strings, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_stop_by_stream, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_learned_positions, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_not_finite, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_lengths, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_bench, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
