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
#include "shadow/model.h"

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

/* ------------------------------------------------------------------ classification */

enum { LABELS = 6, CLASSIFIED = 10 };

/* A text's last token says what it is taken for: texts are "a", "b", ... */
static sp_model *load_classifier(scratch *s, const sp_tokenizer *tok, const int *taken) {
    const machine m = machine_new();
    char dir[512];
    sp_model_options o;
    sp_model *model;
    sp_model_free(machine_load(s, &m, "classifier", "", NULL));
    snprintf(dir, sizeof dir, "%s", scratch_path(s, "classifier"));
    sp_model_options_default(&o);
    o.task = SP_TASK_SEQ_CLS;
    if (sp_model_load(s->ctx, dir, &o, &model) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
    assert_int_equal(sp_model_set_labels(model, NULL, LABELS, 1), SP_OK);
    float *head = calloc(LABELS * MACHINE_WIDTH, sizeof *head);
    assert_non_null(head);
    for (int i = 0; i < CLASSIFIED; i++) {
        const char text[2] = {(char)('a' + i), 0};
        int32_t *ids;
        size_t n;
        assert_int_equal(sp_tokenizer_encode(tok, text, 1, true, &ids, &n), SP_OK);
        head[taken[i] * MACHINE_WIDTH + ids[n - 1]] = 1;
        sp_ids_free(ids);
    }
    assert_int_equal(spi_param_set(model->dev, model->head, SP_F32, head), SP_OK);
    free(head);
    return model;
}

/* Examples "a", "b", ... of these labels, after others of the same last token: the last one counts. */
static sp_dataset *load_labelled(scratch *s, const sp_tokenizer *tok, const int *labels, int count) {
    char text[512] = "text,label\n";
    const char *path = scratch_path(s, "labelled.csv");
    sp_dataset_options o;
    sp_dataset *ds;
    for (int i = 0; i < count; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s%c,%d\n", i % 2 ? "go j " : "", 'a' + i,
                 labels[i]);
    machine_write(s, path, text);
    sp_dataset_options_default(&o);
    o.label_column = "label";
    o.labels = (const char *const[]){"LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3", "LABEL_4", "LABEL_5"};
    o.label_count = LABELS;
    if (sp_dataset_load(s->ctx, tok, path, &o, &ds) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
    return ds;
}

/*
 * Label 3 neither occurs nor is predicted and does not count; 4 occurs only, 5 is predicted only. The scores
 * are those of a computation in Python from precision and recall, as scikit-learn defines
 * f1_score(average="macro").
 */
static void test_classification(void **state) {
    static const int truth[CLASSIFIED] = {0, 0, 0, 1, 1, 2, 2, 2, 2, 4},
                     taken[] = {0, 1, 0, 1, 1, 2, 0, 2, 5, 2};
    static const int64_t confusion[LABELS * LABELS] = {2, 1, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0, 1,
                                                       0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    scratch *s = *state;
    sp_tokenizer *tok = machine_tokenizer(s);
    sp_model *model = load_classifier(s, tok, taken);
    sp_dataset *ds = load_labelled(s, tok, truth, CLASSIFIED);
    for (int32_t batch = 1; batch < 12; batch += 3) {
        int64_t counts[LABELS * LABELS];
        sp_eval_options o;
        sp_eval_result r = {.size = sizeof r};
        sp_eval_options_default(&o);
        o.batch_size = batch;
        memset(counts, 77, sizeof counts);
        o.confusion = batch == 4 ? NULL : counts;
        if (sp_evaluate(model, NULL, ds, &o, &r) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
        assert_int_equal(r.examples, CLASSIFIED);
        assert_int_equal(r.label_tokens, CLASSIFIED);
        close_to(r.token_accuracy, 0.6);
        close_to(r.macro_f1, 0.40761904761904766);
        close_to(r.loss, log1p(5 * exp(-MACHINE_NORM)) + 0.4 * MACHINE_NORM);
        assert_true(isnan(r.exact_match));
        if (batch != 4) assert_memory_equal(counts, confusion, sizeof counts);
    }
    sp_dataset_free(ds);
    static const int ones[] = {0, 1, 0};
    ds = load_labelled(s, tok, ones, 3);
    sp_eval_result r = {.size = sizeof r};
    assert_int_equal(sp_evaluate(model, NULL, ds, NULL, &r), SP_OK);
    close_to(r.token_accuracy, 1);
    close_to(r.macro_f1, 1);
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
    static const int labels[CLASSIFIED] = {0, 1, 2, 3, 4, 5};
    sp_model *classifier = load_classifier(s, tok, labels);
    sp_dataset *labelled = load_labelled(s, tok, labels, LABELS);
    sp_eval_options_default(&o);
    refuse(s, model, tok, labelled, &o, SP_ERR_DATA,
           "evaluation: the examples have labels, but the model is a causal LM");
    refuse(s, classifier, tok, ds, &o, SP_ERR_DATA, "evaluation: a classifier needs examples with labels");
    o.exact_match = true;
    refuse(s, classifier, tok, labelled, &o, SP_ERR_ARGUMENT,
           "exact_match: a classifier gives labels, no texts");
    sp_model_free(classifier);
    sp_dataset_free(labelled);
    sp_dataset_free(ds);
    sp_dataset_free(text);
    sp_model_free(model);
    sp_tokenizer_free(tok);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),     cmocka_unit_test(test_known_loss),
        cmocka_unit_test(test_exact_match), cmocka_unit_test(test_classification),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
