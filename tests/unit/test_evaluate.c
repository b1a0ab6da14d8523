/*
 * Evaluation: losses and accuracy against sp_forward's loss and logits on the parity models, exact match on a
 * model whose answers are known (tests/machine.h).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "machine.h"

/* ------------------------------------------------------------------ loss and accuracy */

enum { ROWS = 3, MOST = ROWS * 24 };

/* A parity case's input as a rectangle and as a dataset. */
typedef struct input {
    int64_t seq, ids[MOST], mask[MOST], labels[MOST]; /* [ROWS, seq] */
    int64_t count;                                    /* of labels */
    sp_dataset *ds;
} input;

static void read_tensor(const spi_st_set *set, const char *name, int64_t *seq, int64_t *out) {
    const spi_st_tensor *t = spi_st_find(set, name);
    assert_non_null(t);
    assert_int_equal(t->shape[0], ROWS);
    assert_in_range(t->count, ROWS, MOST);
    memcpy(out, t->data, t->bytes);
    *seq = t->shape[1];
}

static void read_input(scratch *s, const char *path, input *in) {
    spi_st_set *set;
    int32_t ids[MOST];
    uint8_t learnt[MOST];
    int64_t starts[ROWS + 1] = {0}, n = 0;
    if (spi_st_open(s->ctx, path, &set) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
    read_tensor(set, "input_ids", &in->seq, in->ids);
    read_tensor(set, "attention_mask", &in->seq, in->mask);
    read_tensor(set, "labels", &in->seq, in->labels);
    spi_st_close(set);
    in->count = 0;
    for (int64_t row = 0; row < ROWS; row++) {
        for (int64_t i = row * in->seq; i < (row + 1) * in->seq; i++) {
            if (!in->mask[i]) continue;
            learnt[n] = in->labels[i] != -100;
            in->count += learnt[n];
            ids[n++] = (int32_t)in->ids[i];
        }
        starts[row + 1] = n;
    }
    assert_int_equal(sp_dataset_from_ids(s->ctx, ids, learnt, starts, ROWS, &in->ds), SP_OK);
}

/* Loss and accuracy of one mode, by sp_forward. */
static void forward(sp_model *model, const input *in, sp_mode mode, double *loss, double *accuracy) {
    sp_model_info info = {.size = sizeof info};
    sp_model_get_info(model, &info);
    float *logits = malloc((size_t)(ROWS * in->seq * info.vocab_size) * sizeof *logits);
    sp_forward_input f;
    sp_forward_output out = {.size = sizeof out, .logits = logits};
    int64_t right = 0;
    assert_non_null(logits);
    sp_forward_input_default(&f);
    f.batch = ROWS;
    f.seq = in->seq;
    f.input_ids = in->ids;
    f.attention_mask = in->mask;
    f.labels = in->labels;
    f.mode = mode;
    assert_int_equal(sp_forward(model, &f, &out), SP_OK);
    assert_int_equal(out.label_tokens, in->count);
    for (int64_t i = 1; i < ROWS * in->seq; i++) {
        if (in->labels[i] == -100) continue;
        const float *row = logits + (i - 1) * info.vocab_size;
        int64_t best = 0;
        for (int64_t v = 1; v < info.vocab_size; v++)
            if (row[v] > row[best]) best = v;
        right += best == in->labels[i];
    }
    *loss = mode == SP_MODE_SHADOW_ONLY ? out.shadow_loss : out.base_loss;
    *accuracy = (double)right / (double)in->count;
    free(logits);
}

static void close_to(double a, double b) {
    if (!(fabs(a - b) <= 2e-6 * fabs(b))) fail_msg("%.9g, not %.9g", a, b);
}

/* Every batch size gives the same numbers. */
static void test_forward(void **state) {
    scratch *s = *state;
    static const char *const cases[] = {"llama", "qwen2_window", "gemma2"};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        char base[300], adapter[300], file[300];
        sp_model *model;
        input in;
        snprintf(base, sizeof base, "%s/parity/%s/base", TEST_DATA, cases[c]);
        snprintf(adapter, sizeof adapter, "%s/parity/%s/adapter", TEST_DATA, cases[c]);
        snprintf(file, sizeof file, "%s/parity/%s/input.safetensors", TEST_DATA, cases[c]);
        read_input(s, file, &in);
        assert_int_equal(sp_model_load(s->ctx, base, NULL, &model), SP_OK);
        assert_int_equal(sp_adapter_load(model, adapter, NULL), SP_OK);
        for (int mode = 0; mode < 2; mode++) {
            double loss, accuracy;
            forward(model, &in, (sp_mode)mode, &loss, &accuracy);
            for (int32_t batch = 1; batch <= 8; batch = batch == 3 ? 8 : batch + 1) {
                sp_eval_options o;
                sp_eval_result r = {.size = sizeof r};
                sp_eval_options_default(&o);
                o.mode = (sp_mode)mode;
                o.batch_size = batch;
                if (sp_evaluate(model, NULL, in.ds, &o, &r) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
                assert_int_equal(r.examples, ROWS);
                assert_int_equal(r.label_tokens, in.count);
                close_to(r.loss, loss);
                close_to(r.perplexity, exp(loss));
                close_to(r.token_accuracy, accuracy);
                assert_true(isnan(r.exact_match));
            }
        }
        sp_dataset_free(in.ds);
        sp_model_free(model);
    }
}

/* ------------------------------------------------------------------ exact match */

static sp_dataset *load(scratch *s, const sp_tokenizer *tok, const char *name, const char *lines) {
    const char *path = scratch_path(s, name);
    sp_dataset *ds;
    machine_write(s, path, lines);
    if (sp_dataset_load(s->ctx, tok, path, NULL, &ds) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
    return ds;
}

static machine taught(const sp_tokenizer *tok) {
    machine m = machine_new();
    machine_teach(&m, tok, "a", "\xc3\xa9\xe6\xbc\xa2!");
    machine_teach(&m, tok, "go", " to the kitchen");
    machine_teach(&m, tok, "b", "C:D;E");
    return m;
}

static const char *const examples = "{\"prompt\": \"a\", \"completion\": \"\xc3\xa9\xe6\xbc\xa2!\"}\n"
                                    "{\"prompt\": \"pick up, go\", \"completion\": \" to the kitchen \\n\"}\n"
                                    "{\"prompt\": \"b\", \"completion\": \"C:D\"}\n" /* it goes on */
                                    "{\"prompt\": \"go\", \"completion\": \"to the kitchen\"}\n"
                                    "{\"prompt\": \"turn b\", \"completion\": \"C:D;E\"}\n";

/*
 * The logits are known: a token that the machine was to say costs log(1 + 299 e^-x), x = sqrt(304 / (1 + 304
 * eps)), and every other one x more.
 */
static void test_known_loss(void **state) {
    scratch *s = *state;
    sp_tokenizer *tok = machine_tokenizer(s);
    machine m = taught(tok);
    m.scale = 0.3f;
    sp_model *model = machine_load(s, &m, "loss", "", NULL);
    sp_dataset *ds = load(s, tok, "loss.jsonl", examples);
    sp_eval_result r = {.size = sizeof r};
    assert_int_equal(sp_evaluate(model, NULL, ds, NULL, &r), SP_OK);
    /* Wrong: the EOS after "C:D"; " " and "\n" or their token; "to" without its space; what follows those. */
    int64_t labels = 0, right = 0;
    for (int64_t i = 0; i < sp_dataset_count(ds); i++) {
        sp_example e;
        sp_dataset_get(ds, i, &e);
        for (int64_t t = 1; t < e.length; t++) {
            labels += e.mask[t] != 0;
            right += e.mask[t] && m.next[e.ids[t - 1]] == e.ids[t];
        }
    }
    assert_true(right > labels / 2 && right < labels);
    const double x = 0.3f * MACHINE_NORM, sure = log1p(299 * exp(-x));
    assert_int_equal(r.examples, 5);
    assert_int_equal(r.label_tokens, labels);
    close_to(r.token_accuracy, (double)right / (double)labels);
    close_to(r.loss, sure + x * (double)(labels - right) / (double)labels);
    sp_dataset_free(ds);
    sp_model_free(model);
    sp_tokenizer_free(tok);
}

static void test_exact_match(void **state) {
    scratch *s = *state;
    sp_tokenizer *tok = machine_tokenizer(s);
    const machine m = taught(tok);
    sp_model *model = machine_load(s, &m, "match", ", \"eos_token_id\": 77", NULL);
    sp_dataset *ds = load(s, tok, "match.jsonl", examples);
    sp_shadow_config config;
    sp_shadow_config_default(&config);
    assert_int_equal(sp_adapter_create(model, &config, NULL), SP_OK);
    for (int mode = 0; mode < 2; mode++) {
        for (int32_t batch = 1; batch <= 5; batch += 2) {
            sp_eval_options o;
            sp_eval_result r = {.size = sizeof r};
            sp_eval_options_default(&o);
            o.mode = (sp_mode)mode;
            o.batch_size = batch;
            o.exact_match = true;
            if (sp_evaluate(model, tok, ds, &o, &r) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
            close_to(r.exact_match, 4.0 / 5); /* all but "C:D" */
            o.max_new_tokens = 5;             /* enough for "C:D;E", not for the first, which has six bytes */
            assert_int_equal(sp_evaluate(model, tok, ds, &o, &r), SP_OK);
            close_to(r.exact_match, 3.0 / 5);
        }
    }
    sp_dataset_free(ds);
    sp_model_free(model);
    sp_tokenizer_free(tok);
}

/* ------------------------------------------------------------------ bad input */

static void refuse(scratch *s, sp_model *model, const sp_tokenizer *tok, const sp_dataset *ds,
                   const sp_eval_options *o, sp_status status, const char *message) {
    sp_eval_result r = {.size = sizeof r};
    assert_int_equal(sp_evaluate(model, tok, ds, o, &r), status);
    assert_string_equal(sp_last_error(s->ctx), message);
}

static void test_refusals(void **state) {
    scratch *s = *state;
    sp_tokenizer *tok = machine_tokenizer(s);
    const machine m = taught(tok);
    sp_model *model = machine_load(s, &m, "refuse", "", NULL);
    sp_dataset *ds = load(s, tok, "refuse.jsonl", examples), *text = load(s, tok, "some.txt", "go to the cup");
    sp_eval_options o = {0};
    refuse(s, model, tok, ds, &o, SP_ERR_ARGUMENT, "evaluation options: not filled by sp_eval_options_default");
    sp_eval_options_default(&o);
    o.batch_size = 0;
    refuse(s, model, tok, ds, &o, SP_ERR_ARGUMENT, "batch_size: expected at least 1, found 0");
    sp_eval_options_default(&o);
    o.mode = (sp_mode)7;
    refuse(s, model, tok, ds, &o, SP_ERR_ARGUMENT, "mode: expected base_shadow or shadow_only, found number 7");
    o.mode = SP_MODE_SHADOW_ONLY;
    refuse(s, model, tok, ds, &o, SP_ERR_ARGUMENT,
           "mode shadow_only: expected a model with an adapter, found none");
    sp_eval_options_default(&o);
    o.exact_match = true;
    refuse(s, model, NULL, ds, &o, SP_ERR_ARGUMENT, "exact_match: expected a tokenizer, found none");
    refuse(s, model, tok, text, &o, SP_ERR_DATA,
           "exact_match: example 1: expected a prompt and a completion, found plain text");
    o.max_new_tokens = 0;
    refuse(s, model, tok, ds, &o, SP_ERR_ARGUMENT, "max_new_tokens: expected at least 1, found 0");
    sp_dataset_free(ds);
    sp_dataset_free(text);
    sp_model_free(model);
    sp_tokenizer_free(tok);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),
        cmocka_unit_test(test_known_loss),
        cmocka_unit_test(test_exact_match),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
