/* Datasets: ids and masks of examples from every format. The ids are those of Hugging Face `tokenizers` 0.23.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"

/* tests/data/tiny_tokenizer: <s> = 0, </s> = 1. */
#define GO_TO_THE_KITCHEN 271, 265, 260, 292
#define GO_KITCHEN 222, 271, 9, 275, 289, 10 /* " go(kitchen)" */
#define THE_CUP 281, 264

typedef struct fixture {
    sp_context *ctx;
    sp_tokenizer *tok;
    sp_dataset_options opts;
    char dir[64];
    char path[96];     /* of the file under test */
    char warning[512]; /* the last one */
    int warnings;
} fixture;

static void keep_warning(void *user, sp_log_level level, const char *message) {
    fixture *f = user;
    assert_int_equal(level, SP_LOG_WARNING);
    snprintf(f->warning, sizeof f->warning, "%s", message);
    f->warnings++;
}

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    *state = f;
    if (!f || !(f->ctx = sp_context_new())) return -1;
    sp_context_set_log(f->ctx, keep_warning, f, SP_LOG_INFO);
    sp_dataset_options_default(&f->opts);
    snprintf(f->dir, sizeof f->dir, "/tmp/test_dataset.XXXXXX");
    if (!mkdtemp(f->dir)) return -1;
    return sp_tokenizer_load(f->ctx, TEST_DATA "/tiny_tokenizer", &f->tok) == SP_OK ? 0 : -1;
}

static int teardown(void **state) {
    fixture *f = *state;
    sp_tokenizer_free(f->tok);
    const bool removed = spi_dir_remove(f->ctx, f->dir) == SP_OK;
    sp_context_free(f->ctx);
    free(f);
    return removed ? 0 : -1;
}

static sp_status load(fixture *f, const char *name, const char *text, sp_dataset **ds) {
    snprintf(f->path, sizeof f->path, "%s/%s", f->dir, name);
    assert_int_equal(spi_file_write(f->ctx, f->path, text, strlen(text)), SP_OK);
    return sp_dataset_load(f->ctx, f->tok, f->path, &f->opts, ds);
}

static sp_dataset *loaded(fixture *f, const char *name, const char *text) {
    sp_dataset *ds;
    if (load(f, name, text, &ds) != SP_OK) fail_msg("%s", sp_last_error(f->ctx));
    return ds;
}

/* The failure's message must be the file's name and then `message`. */
static void fails(fixture *f, const char *name, const char *text, const char *message) {
    sp_dataset *ds;
    assert_int_equal(load(f, name, text, &ds), SP_ERR_DATA);
    assert_null(ds);
    const size_t length = strlen(f->path);
    assert_int_equal(strncmp(sp_last_error(f->ctx), f->path, length), 0);
    assert_string_equal(sp_last_error(f->ctx) + length, message);
}

/* Example `index` has these ids, of which those from `learnt` on are learnt. */
static void check_example(const sp_dataset *ds, int64_t index, const int32_t *ids, int64_t length,
                          int64_t learnt) {
    sp_example e;
    sp_dataset_get(ds, index, &e);
    assert_int_equal(e.length, length);
    for (int64_t i = 0; i < length; i++) {
        assert_int_equal(e.ids[i], ids[i]);
        assert_int_equal(e.mask[i] != 0, i >= learnt);
    }
}

#define CHECK_EXAMPLE(ds, index, learnt, ...)                                                                  \
    check_example(ds, index, (const int32_t[]){__VA_ARGS__}, sizeof(int32_t[]){__VA_ARGS__} / sizeof(int32_t), \
                  learnt)

static const char pair[] = "{\"prompt\": \"go to the kitchen\", \"completion\": \" go(kitchen)\"}\n";

static void test_defaults(void **state) {
    const sp_dataset_options *o = &((fixture *)*state)->opts;
    assert_int_equal(o->size, sizeof *o);
    assert_int_equal(o->format, SP_DATA_AUTO);
    assert_string_equal(o->text_column, "text");
    assert_string_equal(o->prompt_column, "prompt");
    assert_string_equal(o->completion_column, "completion");
    assert_int_equal(o->max_seq_length, 1024);
    assert_true(o->append_eos);
    assert_false(o->train_on_prompt);
    assert_int_equal(o->max_samples, 0);
}

static void test_prompt_and_completion(void **state) {
    fixture *f = *state;
    sp_dataset *ds = loaded(f, "d.jsonl", pair);
    assert_int_equal(sp_dataset_count(ds), 1);
    assert_int_equal(sp_dataset_tokens(ds), 12);
    assert_int_equal(sp_dataset_label_tokens(ds), 7);
    CHECK_EXAMPLE(ds, 0, 5, 0, GO_TO_THE_KITCHEN, GO_KITCHEN, 1);
    sp_example e;
    sp_dataset_get(ds, 0, &e);
    assert_int_equal(e.prompt_length, 5);
    assert_string_equal(e.prompt, "go to the kitchen");
    assert_string_equal(e.completion, " go(kitchen)");
    assert_int_equal(f->warnings, 0);
    sp_dataset_free(ds);
    sp_dataset_free(NULL);
}

static void test_train_on_prompt_without_eos(void **state) {
    fixture *f = *state;
    f->opts.train_on_prompt = true;
    f->opts.append_eos = false;
    sp_dataset *ds = loaded(f, "d.jsonl", pair);
    CHECK_EXAMPLE(ds, 0, 1, 0, GO_TO_THE_KITCHEN, GO_KITCHEN);
    assert_int_equal(sp_dataset_label_tokens(ds), 10);
    sp_dataset_free(ds);
}

static void test_text(void **state) {
    fixture *f = *state;
    sp_dataset *ds = loaded(f, "d.json", "[{\"text\": \"the cup\"}, {\"text\": \"stop</s>\"}]");
    assert_int_equal(sp_dataset_count(ds), 2);
    assert_int_equal(sp_dataset_label_tokens(ds), 8);
    CHECK_EXAMPLE(ds, 0, 1, 0, THE_CUP, 1);
    CHECK_EXAMPLE(ds, 1, 1, 0, 84, 85, 80, 81, 1); /* it ends in EOS already */
    sp_example e;
    sp_dataset_get(ds, 0, &e);
    assert_int_equal(e.prompt_length, 0);
    assert_null(e.prompt);
    assert_null(e.completion);
    sp_dataset_free(ds);
}

static void test_tables(void **state) {
    fixture *f = *state;
    f->opts.prompt_column = "question";
    f->opts.completion_column = "answer";
    sp_dataset *ds =
        loaded(f, "d.csv", "answer,text,question\r\n\" go(kitchen)\",the cup,go to the kitchen\r\n");
    CHECK_EXAMPLE(ds, 0, 5, 0, GO_TO_THE_KITCHEN, GO_KITCHEN, 1);
    sp_dataset_free(ds);
    ds = loaded(f, "d.tsv", "id\ttext\n1\tthe cup\n");
    CHECK_EXAMPLE(ds, 0, 1, 0, THE_CUP, 1);
    sp_dataset_free(ds);
    f->opts.format = SP_DATA_TSV;
    ds = loaded(f, "d.txt", "text\nthe cup\n");
    CHECK_EXAMPLE(ds, 0, 1, 0, THE_CUP, 1);
    sp_dataset_free(ds);
}

static void test_plain_text_in_blocks(void **state) {
    fixture *f = *state;
    f->opts.max_seq_length = 4;
    sp_dataset *ds = loaded(f, "d.txt", "go to the kitchen"); /* with <s> and </s> 6 ids */
    assert_int_equal(sp_dataset_count(ds), 2);
    CHECK_EXAMPLE(ds, 0, 1, 0, 271, 265, 260);
    CHECK_EXAMPLE(ds, 1, 1, 292, 1);
    assert_int_equal(sp_dataset_label_tokens(ds), 4);
    sp_dataset_free(ds);
    f->opts.max_seq_length = 5; /* one id is left over */
    ds = loaded(f, "d.txt", "\xEF\xBB\xBFgo to the kitchen");
    assert_int_equal(sp_dataset_count(ds), 1);
    assert_int_equal(sp_dataset_tokens(ds), 5);
    CHECK_EXAMPLE(ds, 0, 1, 0, GO_TO_THE_KITCHEN);
    sp_dataset_free(ds);
    f->opts.max_seq_length = 2;
    f->opts.max_samples = 2;
    ds = loaded(f, "d.txt", "go to the kitchen");
    assert_int_equal(sp_dataset_count(ds), 2);
    assert_int_equal(sp_dataset_tokens(ds), 4);
    sp_dataset_free(ds);
    assert_int_equal(f->warnings, 0);
}

static void test_cuts_and_drops(void **state) {
    fixture *f = *state;
    char expected[512];
    const char text[] = "{\"prompt\": \"the cup\", \"completion\": \" go(kitchen)\"}\n"
                        "{\"prompt\": \"go to the kitchen\", \"completion\": \" go(kitchen)\"}\n"
                        "{\"prompt\": \"the cup\", \"completion\": \"\"}\n";
    f->opts.max_seq_length = 5;
    sp_dataset *ds = loaded(f, "d.jsonl", text);
    assert_int_equal(sp_dataset_count(ds), 2);
    CHECK_EXAMPLE(ds, 0, 3, 0, THE_CUP, 222, 271);
    CHECK_EXAMPLE(ds, 1, 3, 0, THE_CUP, 1); /* an empty answer is its end */
    assert_int_equal(sp_dataset_tokens(ds), 9);
    assert_int_equal(sp_dataset_label_tokens(ds), 3);
    sp_dataset_free(ds);
    assert_int_equal(f->warnings, 1);
    snprintf(expected, sizeof expected,
             "%s: of 3 examples 2 were cut at max_seq_length = 5 and 1 left out, having no token to learn",
             f->path);
    assert_string_equal(f->warning, expected);

    f->opts.max_seq_length = 3;
    fails(f, "d.jsonl", text, ": no token to learn in any of 3 examples (3 were cut at max_seq_length = 3)");
}

static void test_max_samples(void **state) {
    fixture *f = *state;
    f->opts.max_samples = 2;
    sp_dataset *ds = loaded(f, "d.csv", "text\nthe cup\nthe cup\n\"never read\n");
    assert_int_equal(sp_dataset_count(ds), 2);
    sp_dataset_free(ds);
}

static void test_broken_files(void **state) {
    fixture *f = *state;
    fails(f, "d.jsonl", "", ": the file is empty");
    fails(f, "d.txt", "\xEF\xBB\xBF", ": the file is empty");
    fails(f, "d.csv", "text\n", ": no examples");
    fails(f, "d.json", "[]", ": no examples");
    fails(f, "d.csv", "id,body\n1,x\n",
          ": line 2: expected \"prompt\" and \"completion\", or \"text\", or \"messages\", found the columns "
          "\"id\", \"body\"");
    fails(f, "d.jsonl", "{}\n",
          ": line 1: expected \"prompt\" and \"completion\", or \"text\", or \"messages\", found no columns");
    fails(f, "d.jsonl", "{\"text\": \"the cup\"}\n\n{\"body\": \"x\"}\n",
          ": line 3: expected \"text\", found the columns \"body\"");
    fails(f, "d.jsonl", "{\"text\": \"the cup\"}\n{\"text\": 7}\n",
          ": line 2: \"text\": expected a string, found an integer");
    fails(f, "d.jsonl", "{\"prompt\": null, \"completion\": \"the cup\"}\n",
          ": line 1: \"prompt\": expected a string, found null");
    fails(f, "d.csv", "text,id\n\"the cup\"\n", ": line 2: expected 2 fields, as the header has, found 1");
    f->opts.text_column = NULL;
    fails(f, "d.jsonl", "{\"text\": \"the cup\"}\n",
          ": line 1: expected \"prompt\" and \"completion\", or \"messages\", found the columns \"text\"");
}

static void test_bad_arguments(void **state) {
    fixture *f = *state;
    sp_dataset *ds;
    assert_int_equal(sp_dataset_load(f->ctx, f->tok, "/nonexistent/d.csv", NULL, &ds), SP_ERR_IO);
    assert_null(ds);
    f->opts.max_seq_length = 1;
    assert_int_equal(load(f, "d.jsonl", pair, &ds), SP_ERR_ARGUMENT);
    sp_dataset_options_default(&f->opts);
    f->opts.size = 0;
    assert_int_equal(load(f, "d.jsonl", pair, &ds), SP_ERR_ARGUMENT);
}

/* A program built when the struct ended earlier keeps the defaults for the rest. */
static void test_shorter_options(void **state) {
    fixture *f = *state;
    f->opts.size = offsetof(sp_dataset_options, max_seq_length);
    f->opts.max_seq_length = 1;
    f->opts.append_eos = false;
    sp_dataset *ds = loaded(f, "d.jsonl", pair);
    CHECK_EXAMPLE(ds, 0, 5, 0, GO_TO_THE_KITCHEN, GO_KITCHEN, 1);
    sp_dataset_free(ds);
}

static void test_from_ids(void **state) {
    fixture *f = *state;
    int32_t ids[] = {9, 5, 6, 7, 8, 4};
    const uint8_t mask[] = {1, 1, 0, 1, 1, 1};
    const int64_t starts[] = {1, 4, 6};
    sp_dataset *ds;
    assert_int_equal(sp_dataset_from_ids(f->ctx, ids, mask, starts, 2, &ds), SP_OK);
    ids[1] = 0; /* the dataset has its own */
    assert_int_equal(sp_dataset_count(ds), 2);
    assert_int_equal(sp_dataset_tokens(ds), 5);
    assert_int_equal(sp_dataset_label_tokens(ds), 2);
    CHECK_EXAMPLE(ds, 0, 2, 5, 6, 7);
    CHECK_EXAMPLE(ds, 1, 1, 8, 4);
    sp_dataset_free(ds);

    const int64_t backwards[] = {0, 3, 3};
    assert_int_equal(sp_dataset_from_ids(f->ctx, ids, mask, backwards, 2, &ds), SP_ERR_ARGUMENT);
    assert_null(ds);
    const int64_t alone[] = {0, 1, 2};
    assert_int_equal(sp_dataset_from_ids(f->ctx, ids, NULL, alone, 2, &ds), SP_ERR_DATA);
    ids[2] = -100;
    assert_int_equal(sp_dataset_from_ids(f->ctx, ids, mask, starts, 2, &ds), SP_ERR_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_defaults, setup, teardown),
        cmocka_unit_test_setup_teardown(test_prompt_and_completion, setup, teardown),
        cmocka_unit_test_setup_teardown(test_train_on_prompt_without_eos, setup, teardown),
        cmocka_unit_test_setup_teardown(test_text, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tables, setup, teardown),
        cmocka_unit_test_setup_teardown(test_plain_text_in_blocks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cuts_and_drops, setup, teardown),
        cmocka_unit_test_setup_teardown(test_max_samples, setup, teardown),
        cmocka_unit_test_setup_teardown(test_broken_files, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_arguments, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shorter_options, setup, teardown),
        cmocka_unit_test_setup_teardown(test_from_ids, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
