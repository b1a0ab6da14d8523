/* sp_wrap against what shadow_peft wrapped of the same models (tests/data/wrap), its options, and what it
 * refuses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "format/checkpoint.h"
#include "scratch.h"

#define PROJECTION "shadow_hidden_projection.weight"

static void must(scratch *s, sp_status status) {
    if (status != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
}

static float *values_of(const spi_st_tensor *t) {
    float *values = malloc((size_t)t->count * sizeof *values);
    assert_non_null(values);
    spi_to_f32(values, t->data, t->dtype, t->count);
    return values;
}

/* max|a - b| / max|b| */
static double difference(const float *a, const float *b, int64_t n) {
    double worst = 0, largest = 0;
    for (int64_t i = 0; i < n; i++) {
        assert_true(isfinite(a[i]));
        worst = fmax(worst, fabs((double)a[i] - b[i]));
        largest = fmax(largest, fabs(b[i]));
    }
    return worst / largest;
}

/* ------------------------------------------------------------------ against Python */

static void same_tensors(const spi_st_set *ours, const spi_st_set *theirs) {
    assert_int_equal(spi_st_count(ours), spi_st_count(theirs));
    for (size_t i = 0; i < spi_st_count(theirs); i++) {
        const spi_st_tensor *b = spi_st_at(theirs, i), *a = spi_st_find(ours, b->name);
        if (!a) fail_msg("no %s", b->name);
        assert_int_equal(a->dtype, b->dtype);
        assert_int_equal(a->ndim, b->ndim);
        assert_memory_equal(a->shape, b->shape, (size_t)a->ndim * sizeof *a->shape);
        if (strcmp(b->name, PROJECTION) != 0) {
            assert_memory_equal(a->data, b->data, b->bytes);
            continue;
        }
        float *x = values_of(a), *y = values_of(b);
        const double off = difference(x, y, a->count);
        if (!(off <= 1e-5)) fail_msg("the projection is off by %g", off);
        free(x);
        free(y);
    }
}

/* Every key of Python's config but the version; of the backbone's the ones that its checkpoint has. */
static void same_config(const json_t *ours, const json_t *theirs, bool backbone) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)theirs, key, value) {
        const json_t *own = json_object_get(ours, key);
        if (!strcmp(key, "shadow_model_config")) same_config(own, value, true);
        else if ((strcmp(key, "transformers_version") != 0 && !backbone) || own) {
            if (!json_equal(own, value)) fail_msg("config.json: \"%s\" differs", key);
        }
    }
}

static void same_logits(scratch *s, const char *dir, const char *expected) {
    spi_st_set *set;
    sp_model *model;
    sp_model_options opts;
    sp_forward_input in;
    must(s, spi_st_open(s->ctx, expected, &set));
    sp_model_options_default(&opts);
    must(s, sp_model_load(s->ctx, dir, &opts, &model));
    const spi_st_tensor *ids = spi_st_find(set, "input_ids"), *logits = spi_st_find(set, "logits");
    int64_t *copy = malloc(ids->bytes), *mask = malloc(ids->bytes);
    float *got = malloc(logits->bytes), *want = values_of(logits);
    assert_true(copy && mask && got);
    memcpy(copy, ids->data, ids->bytes);
    memcpy(mask, spi_st_find(set, "attention_mask")->data, ids->bytes);
    sp_forward_input_default(&in);
    in.batch = ids->shape[0];
    in.seq = ids->shape[1];
    in.input_ids = copy;
    in.attention_mask = mask;
    sp_forward_output out = {.size = sizeof out, .logits = got};
    must(s, sp_forward(model, &in, &out));
    const double off = difference(got, want, logits->count);
    if (!(off <= 1e-5)) fail_msg("logits are off by %g", off);
    free(copy);
    free(mask);
    free(got);
    free(want);
    sp_model_free(model);
    spi_st_close(set);
}

static void check_pair(scratch *s, const char *name) {
    char small[512], large[512], wrapped[512], expected[512];
    spi_checkpoint ours, theirs;
    sp_wrap_result result = {.size = sizeof result};
    const char *out = scratch_path(s, name);
    snprintf(small, sizeof small, TEST_DATA "/wrap/%s/small", name);
    snprintf(large, sizeof large, TEST_DATA "/wrap/%s/large", name);
    snprintf(wrapped, sizeof wrapped, TEST_DATA "/wrap/%s/wrapped", name);
    snprintf(expected, sizeof expected, TEST_DATA "/wrap/%s/expected.safetensors", name);
    must(s, sp_wrap(s->ctx, small, large, out, NULL, &result));
    must(s, spi_checkpoint_open(s->ctx, out, true, &ours));
    must(s, spi_checkpoint_open(s->ctx, wrapped, true, &theirs));
    same_tensors(ours.weights, theirs.weights);
    same_config(ours.config, theirs.config, false);
    assert_non_null(ours.generation);
    assert_int_equal(result.rank, json_integer_value(json_object_get(theirs.config, "base_hidden_size")));
    same_logits(s, out, expected);
    spi_checkpoint_close(&ours);
    spi_checkpoint_close(&theirs);
}

static void test_as_python(void **state) {
    check_pair(*state, "qwen3");
    check_pair(*state, "mixed");
}

/* ------------------------------------------------------------------ options */

#define SMALL TEST_DATA "/wrap/qwen3/small"
#define LARGE TEST_DATA "/wrap/qwen3/large"

static void test_dtype(void **state) {
    scratch *s = *state;
    const sp_dtype dtypes[] = {SP_BF16, SP_F16};
    const char *const names[] = {"bfloat16", "float16"};
    for (int i = 0; i < 2; i++) {
        spi_checkpoint ck;
        sp_wrap_options opts;
        sp_wrap_options_default(&opts);
        opts.dtype = dtypes[i];
        must(s, sp_wrap(s->ctx, SMALL, LARGE, scratch_path(s, names[i]), &opts, NULL));
        must(s, spi_checkpoint_open(s->ctx, scratch_path(s, names[i]), true, &ck));
        for (size_t t = 0; t < spi_st_count(ck.weights); t++)
            assert_int_equal(spi_st_at(ck.weights, t)->dtype, dtypes[i]);
        const json_t *inner = json_object_get(ck.config, "shadow_model_config");
        assert_string_equal(json_string_value(json_object_get(ck.config, "dtype")), names[i]);
        assert_string_equal(json_string_value(json_object_get(inner, "dtype")), names[i]);
        spi_checkpoint_close(&ck);
    }
}

static void test_fresh_values(void **state) {
    scratch *s = *state;
    spi_checkpoint ck;
    sp_wrap_options opts;
    sp_wrap_result result = {.size = sizeof result};
    sp_wrap_options_default(&opts);
    opts.init_optimal_projection = false;
    must(s, sp_wrap(s->ctx, SMALL, LARGE, scratch_path(s, "fresh"), &opts, &result));
    assert_int_equal(result.rank, 0);
    assert_true(isnan(result.reconstruction_error));
    must(s, spi_checkpoint_open(s->ctx, scratch_path(s, "fresh"), true, &ck));
    const spi_st_tensor *t = spi_st_find(ck.weights, PROJECTION);
    float *v = values_of(t), largest = 0;
    double sum = 0, square = 0;
    for (int64_t i = 0; i < t->count; i++) {
        largest = fmaxf(largest, fabsf(v[i]));
        sum += v[i];
        square += (double)v[i] * v[i];
    }
    /* U(+-1/4): a mean of 0 and a variance of 1/48, 512 times. */
    assert_true(largest <= 0.25f && largest > 0.24f);
    assert_true(fabs(sum / (double)t->count) < 0.02);
    assert_true(fabs(square / (double)t->count * 48 - 1) < 0.15);
    free(v);
    spi_checkpoint_close(&ck);
}

/* ------------------------------------------------------------------ refusals */

static void refused(scratch *s, const char *small, const char *large, sp_status status, const char *text) {
    const char *out = scratch_path(s, "never");
    assert_int_equal(sp_wrap(s->ctx, small, large, out, NULL, NULL), status);
    if (!strstr(sp_last_error(s->ctx), text))
        fail_msg("expected \"%s\" in \"%s\"", text, sp_last_error(s->ctx));
    assert_false(spi_path_exists(out));
}

/* A copy of a model, with a key of its config changed and a tensor left out, where not NULL. */
static const char *altered(scratch *s, const char *from, const char *key, json_t *value, const char *without) {
    spi_checkpoint ck;
    spi_st_item items[64];
    size_t count = 0;
    must(s, spi_checkpoint_open(s->ctx, from, true, &ck));
    const char *dir = scratch_path(s, "altered");
    must(s, spi_make_dirs(s->ctx, dir));
    for (size_t i = 0; i < spi_st_count(ck.weights); i++) {
        const spi_st_tensor *t = spi_st_at(ck.weights, i);
        if (without && !strcmp(t->name, without)) continue;
        items[count] = (spi_st_item){.name = t->name, .dtype = t->dtype, .ndim = t->ndim, .data = t->data};
        memcpy(items[count++].shape, t->shape, sizeof t->shape);
    }
    must(s, spi_st_write_dir(s->ctx, dir, items, count, INT64_MAX));
    if (key) json_object_set_new(ck.config, key, value);
    must(s, spi_json_save(s->ctx, scratch_path(s, "altered/config.json"), ck.config));
    spi_checkpoint_close(&ck);
    return dir;
}

static void test_refusals(void **state) {
    scratch *s = *state;
    refused(s, altered(s, SMALL, "vocab_size", json_integer(97), NULL), LARGE, SP_ERR_MISMATCH,
            "\"vocab_size\": expected 96");
    refused(s, altered(s, LARGE, NULL, NULL, "lm_head.weight"), LARGE, SP_ERR_MISMATCH,
            "lm_head.weight: expected [96, 32], found nothing");
    refused(s, SMALL, altered(s, LARGE, NULL, NULL, "lm_head.weight"), SP_ERR_MISMATCH,
            "lm_head.weight: expected [96, 32], found nothing");
    refused(s, SMALL, altered(s, LARGE, "hidden_size", json_integer(40), NULL), SP_ERR_MISMATCH,
            "lm_head.weight: expected [96, 40], found [96, 32]");
    refused(s, altered(s, SMALL, NULL, NULL, "model.layers.1.mlp.up_proj.weight"), LARGE, SP_ERR_MISMATCH,
            "shadow_model.layers.1.mlp.up_proj.weight: expected [24, 16], found nothing");
    refused(s, altered(s, SMALL, NULL, NULL, "model.embed_tokens.weight"), LARGE, SP_ERR_MISMATCH,
            "lm_head.weight (tied to the embedding): expected [96, 16], found nothing");
    refused(s, SMALL, TEST_DATA "/wrap/qwen3/wrapped", SP_ERR_UNSUPPORTED,
            "found causal_lm_with_hidden_projection");
    refused(s, TEST_DATA "/wrap/qwen3/wrapped", LARGE, SP_ERR_UNSUPPORTED,
            "found causal_lm_with_hidden_projection");
    refused(s, SMALL, scratch_path(s, "nowhere"), SP_ERR_IO, "nowhere: expected a model directory");
    refused(s, altered(s, SMALL, "model_type", json_string("distilbert"), NULL), LARGE, SP_ERR_UNSUPPORTED,
            "distilbert");
}

static void test_own_directory(void **state) {
    scratch *s = *state;
    const char *dir = altered(s, SMALL, NULL, NULL, NULL);
    spi_buf before = {0}, after = {0};
    must(s, spi_file_read(s->ctx, scratch_path(s, "altered/model.safetensors"), &before));
    must(s, symlink(dir, scratch_path(s, "link")) == 0 ? SP_OK : SP_ERR_IO);
    assert_int_equal(sp_wrap(s->ctx, dir, LARGE, dir, NULL, NULL), SP_ERR_ARGUMENT);
    assert_non_null(strstr(sp_last_error(s->ctx), "expected another output directory"));
    assert_int_equal(sp_wrap(s->ctx, SMALL, dir, scratch_path(s, "link"), NULL, NULL), SP_ERR_ARGUMENT);
    must(s, spi_file_read(s->ctx, scratch_path(s, "altered/model.safetensors"), &after));
    assert_int_equal(before.length, after.length);
    assert_memory_equal(before.data, after.data, before.length);
    spi_buf_free(&before);
    spi_buf_free(&after);
    assert_int_equal(unlink(scratch_path(s, "link")), 0);
}

static void test_options(void **state) {
    scratch *s = *state;
    sp_wrap_options opts;
    sp_wrap_options_default(&opts);
    assert_true(opts.init_optimal_projection);
    assert_int_equal(opts.seed, 42);
    opts.dtype = SP_I32;
    assert_int_equal(sp_wrap(s->ctx, SMALL, LARGE, scratch_path(s, "never"), &opts, NULL), SP_ERR_ARGUMENT);
    assert_non_null(strstr(sp_last_error(s->ctx), "expected F32, BF16 or F16, found I32"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_as_python, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_dtype, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_fresh_values, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_refusals, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_own_directory, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_options, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
