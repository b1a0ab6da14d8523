/* Labelled datasets: texts with classes, from every format. Ids are those of Hugging Face `tokenizers` 0.23. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "scratch.h"

/* tests/data/tiny_tokenizer: <s> = 0; "the cup" and "go to the kitchen" without it. */
static const int32_t the_cup[] = {0, 281, 264};
static const int32_t kitchen[] = {0, 271, 265, 260, 292};

typedef struct fixture {
    scratch *s;
    sp_tokenizer *tok;
    sp_dataset_options opts;
} fixture;

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    if (!f || scratch_setup((void **)&f->s)) return -1;
    *state = f;
    sp_dataset_options_default(&f->opts);
    f->opts.label_column = "label";
    return sp_tokenizer_load(f->s->ctx, TEST_DATA "/tiny_tokenizer", &f->tok) != SP_OK;
}

static int teardown(void **state) {
    fixture *f = *state;
    sp_tokenizer_free(f->tok);
    const int failed = scratch_teardown((void **)&f->s);
    free(f);
    return failed;
}

static sp_status load(fixture *f, const char *name, const char *text, sp_dataset **ds) {
    const char *path = scratch_path(f->s, name);
    assert_int_equal(spi_file_write(f->s->ctx, path, text, strlen(text)), SP_OK);
    return sp_dataset_load(f->s->ctx, f->tok, path, &f->opts, ds);
}

static sp_dataset *loaded(fixture *f, const char *name, const char *text) {
    sp_dataset *ds;
    if (load(f, name, text, &ds) != SP_OK) fail_msg("%s", sp_last_error(f->s->ctx));
    return ds;
}

/* The message is the file's path and then this. */
static void fails(fixture *f, const char *name, const char *text, const char *message) {
    sp_dataset *ds;
    char expected[1024];
    assert_int_equal(load(f, name, text, &ds), SP_ERR_DATA);
    assert_null(ds);
    snprintf(expected, sizeof expected, "%s/%s%s", f->s->dir, name, message);
    assert_string_equal(sp_last_error(f->s->ctx), expected);
}

/* The classes of all examples, and the names of the classes ("|" between them). */
static void check(const sp_dataset *ds, int64_t count, const int32_t *labels, const char *names) {
    char found[256] = "";
    assert_int_equal(sp_dataset_count(ds), count);
    assert_int_equal(sp_dataset_label_tokens(ds), count);
    for (int64_t i = 0; i < count; i++) {
        sp_example e;
        sp_dataset_get(ds, i, &e);
        assert_int_equal(e.label, labels[i]);
        for (int64_t t = 0; t < e.length; t++) assert_int_equal(e.mask[t], 0);
    }
    for (int32_t i = 0; i < sp_dataset_label_count(ds); i++)
        snprintf(found + strlen(found), sizeof found - strlen(found), "%s%s", i ? "|" : "",
                 sp_dataset_label(ds, i));
    assert_string_equal(found, names);
    assert_null(sp_dataset_label(ds, -1));
    assert_null(sp_dataset_label(ds, sp_dataset_label_count(ds)));
}

#define LABELS(...) sizeof((const int32_t[]){__VA_ARGS__}) / sizeof(int32_t), ((const int32_t[]){__VA_ARGS__})

static void check_ids(const sp_dataset *ds, int64_t index, const int32_t *ids, int64_t length) {
    sp_example e;
    sp_dataset_get(ds, index, &e);
    assert_int_equal(e.length, length);
    assert_memory_equal(e.ids, ids, (size_t)length * sizeof *ids);
    assert_int_equal(e.prompt_length, 0);
    assert_null(e.completion);
}

static void test_strings(void **state) {
    fixture *f = *state;
    sp_dataset *ds = loaded(f, "d.jsonl",
                            "{\"text\": \"the cup\", \"label\": \"thing\"}\n"
                            "{\"label\": \"go\", \"text\": \"go to the kitchen\", \"x\": [1]}\n"
                            "{\"text\": \"the cup\", \"label\": \"thing\"}\n");
    check(ds, LABELS(1, 0, 1), "go|thing");
    check_ids(ds, 0, the_cup, 3); /* no EOS behind it */
    check_ids(ds, 1, kitchen, 5);
    assert_int_equal(sp_dataset_tokens(ds), 11);
    sp_dataset_free(ds);
}

static void test_integers(void **state) {
    fixture *f = *state;
    sp_dataset *ds = loaded(f, "d.jsonl",
                            "{\"text\": \"the cup\", \"label\": 3}\n"
                            "{\"text\": \"the cup\", \"label\": \"0\"}\n");
    check(ds, LABELS(3, 0), "LABEL_0|LABEL_1|LABEL_2|LABEL_3");
    sp_dataset_free(ds);
    ds = loaded(f, "d.json", "[{\"text\": \"the cup\", \"label\": -1}, {\"text\": \"the cup\", \"label\": 1}]");
    check(ds, LABELS(0, 1), "-1|1");
    sp_dataset_free(ds);
}

static void test_tables(void **state) {
    fixture *f = *state;
    f->opts.text_column = "sentence";
    f->opts.label_column = "class";
    sp_dataset *ds = loaded(f, "d.csv", "class,sentence\n1,the cup\n0,\"go to the kitchen\"\n1,the cup\n");
    check(ds, LABELS(1, 0, 1), "LABEL_0|LABEL_1");
    check_ids(ds, 1, kitchen, 5);
    sp_dataset_free(ds);
    ds = loaded(f, "d.tsv", "sentence\tclass\nthe cup\tbig, red\nthe cup\t007\nthe cup\t7\n");
    check(ds, LABELS(2, 0, 1), "007|7|big, red");
    sp_dataset_free(ds);
}

static void test_given(void **state) {
    fixture *f = *state;
    f->opts.labels = (const char *const[]){"neg", "pos", "none"};
    f->opts.label_count = 3;
    sp_dataset *ds = loaded(f, "d.csv", "text,label\nthe cup,pos\nthe cup,0\n");
    check(ds, LABELS(1, 0), "neg|pos|none"); /* one does not occur */
    sp_dataset_free(ds);
    ds = loaded(f, "one.csv", "text,label\nthe cup,pos\n"); /* of given labels one may be enough */
    check(ds, LABELS(1), "neg|pos|none");
    sp_dataset_free(ds);
    fails(
        f, "d.csv", "text,label\nthe cup,pos\nthe cup,good\n",
        ": line 3: \"label\": expected one of 3 labels (\"neg\", \"pos\", ...) or its number, found \"good\"");
    fails(f, "d.jsonl", "{\"text\": \"the cup\", \"label\": 3}\n",
          ": line 1: \"label\": expected one of 3 labels (\"neg\", \"pos\", ...) or its number, found \"3\"");
}

static void test_cut_and_counted(void **state) {
    fixture *f = *state;
    f->opts.max_seq_length = 3;
    f->opts.max_samples = 2;
    sp_dataset *ds = loaded(f, "d.csv", "text,label\ngo to the kitchen,b\nthe cup,a\nthe cup,never read\n");
    check(ds, LABELS(1, 0), "a|b");
    check_ids(ds, 0, kitchen, 3); /* its end is cut, its label stays */
    sp_dataset_free(ds);
}

static void test_refusals(void **state) {
    fixture *f = *state;
    fails(f, "d.jsonl", "{\"text\": \"the cup\"}\n",
          ": line 1: expected \"label\", found the columns \"text\"");
    fails(f, "d.jsonl", "{\"text\": \"the cup\", \"label\": 1}\n{\"text\": \"the cup\"}\n",
          ": line 2: expected \"label\", found the columns \"text\"");
    fails(f, "d.csv", "words,label\nx,y\n",
          ": line 2: expected \"text\", found the columns \"words\", \"label\"");
    fails(f, "d.jsonl", "{\"text\": \"the cup\", \"label\": 1.5}\n",
          ": line 1: \"label\": expected a string or an integer, found a real number");
    fails(f, "d.jsonl", "{\"text\": \"the cup\", \"label\": null}\n",
          ": line 1: \"label\": expected a string or an integer, found null");
    fails(f, "d.jsonl", "{\"text\": \"the cup\", \"label\": true}\n",
          ": line 1: \"label\": expected a string or an integer, found a boolean");
    fails(f, "d.jsonl", "{\"text\": 1, \"label\": 1}\n",
          ": line 1: \"text\": expected a string, found an integer");
    fails(f, "d.jsonl", "{\"text\": \"the cup\", \"label\": \"a\\u0000b\"}\n",
          ": line 1: \"label\": expected a label, found one with a NUL character");
    fails(f, "d.csv", "text,label\nthe cup,a\nthe cup,\n",
          ": line 3: \"label\": expected a label, found an empty text");
    fails(f, "d.csv", "text,label\nthe cup,a\nthe cup,a\n",
          ": labels: expected at least 2 that differ, found only \"a\"");
    fails(f, "d.csv", "text,label\nthe cup,0\nthe cup,99999999999999999999\n",
          ": labels: expected numbers below 1000000, found 99999999999999999999");
    fails(f, "d.txt", "the cup", ": plain text has no column of labels: expected JSONL, CSV or TSV");
    fails(f, "e.csv", "text,label\n", ": no examples");
}

/* Datasets without labels say so. */
static void test_none(void **state) {
    fixture *f = *state;
    f->opts.label_column = NULL;
    sp_dataset *ds = loaded(f, "d.csv", "text,label\nthe cup,1\n");
    sp_example e;
    sp_dataset_get(ds, 0, &e);
    assert_int_equal(e.label, -1);
    assert_int_equal(sp_dataset_label_count(ds), 0);
    sp_dataset_free(ds);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_strings, setup, teardown),
        cmocka_unit_test_setup_teardown(test_integers, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tables, setup, teardown),
        cmocka_unit_test_setup_teardown(test_given, setup, teardown),
        cmocka_unit_test_setup_teardown(test_cut_and_counted, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_none, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
