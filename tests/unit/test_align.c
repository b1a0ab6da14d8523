/* Learning from a teacher: the numbers of PyTorch step by step, what changes and what stays, refusals. */
#include <math.h>

#include "shadow/adapted.h"
#include "shadow/model.h"
#include "training.h"

#define PROJECTION "shadow_hidden_projection.weight"
#define LIMIT 1e-5
#define STEPS 5

static const char *const names[] = {"align_kl", "align_mse", "align_cap", "align_opt"};
#define NAMES (sizeof names / sizeof *names)

/* A recorded case, its model with its teacher. */
typedef struct recorded {
    sp_context *ctx;
    char wrapped[512], small[512];
    spi_st_set *expected;
    sp_train_options options;
    sp_model *model;
    sp_dataset *data;
} recorded;

static double number(const json_t *object, const char *key) {
    assert_non_null(json_object_get(object, key));
    return json_number_value(json_object_get(object, key));
}

static void read_options(recorded *r, const char *name, const char *output) {
    char path[512];
    json_t *info = NULL;
    snprintf(path, sizeof path, TEST_DATA "/align/%s/case.json", name);
    must(r->ctx, spi_json_load(r->ctx, path, &info));
    sp_train_options_default(&r->options);
    r->options.output_dir = output;
    r->options.distill_kl = number(info, "kl");
    r->options.distill_mse = number(info, "mse");
    r->options.distill_temperature = number(info, "temperature");
    r->options.learning_rate = number(info, "learning_rate");
    r->options.weight_decay = number(info, "weight_decay");
    r->options.adam_beta1 = number(info, "adam_beta1");
    r->options.adam_beta2 = number(info, "adam_beta2");
    r->options.adam_epsilon = number(info, "adam_epsilon");
    r->options.max_grad_norm = number(info, "max_grad_norm");
    r->options.lr_scheduler_type = SP_SCHEDULE_CONSTANT;
    r->options.num_train_epochs = 1;
    r->options.per_device_train_batch_size = 3;
    r->options.shuffle = false;
    json_decref(info);
}

/* Every row without its padding. A single token is a label: a teacher's learner does not ask for them. */
static void read_data(recorded *r) {
    const spi_st_tensor *t = spi_st_find(r->expected, "ids");
    const int64_t *all = t->data, *attended = spi_st_find(r->expected, "attention_mask")->data;
    const int64_t rows = t->shape[0] * t->shape[1], seq = t->shape[2];
    int32_t ids[256];
    uint8_t mask[256] = {0, 1};
    int64_t starts[32] = {0}, n = 0;
    assert_true(t->count <= 256 && rows < 32);
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = i * seq; j < (i + 1) * seq; j++)
            if (attended[j]) ids[n++] = (int32_t)all[j];
        starts[i + 1] = n;
    }
    must(r->ctx, sp_dataset_from_ids(r->ctx, ids, mask, starts, rows, &r->data));
    assert_int_equal(sp_dataset_label_tokens(r->data), 1);
}

static recorded open_case(scratch *s, const char *name, sp_dtype dtype, bool trainable, const char *output) {
    recorded r = {.ctx = s->ctx};
    char path[512];
    sp_model_options options;
    sp_model_options_default(&options);
    options.dtype = dtype;
    options.trainable = trainable;
    snprintf(r.wrapped, sizeof r.wrapped, TEST_DATA "/align/%s/wrapped", name);
    snprintf(r.small, sizeof r.small, TEST_DATA "/align/%s/small", name);
    snprintf(path, sizeof path, TEST_DATA "/align/%s/aligned.safetensors", name);
    r.expected = open_set(s->ctx, path);
    sp_context_set_threads(s->ctx, 1);
    must(s->ctx, sp_model_load(s->ctx, r.wrapped, &options, &r.model));
    must(s->ctx, sp_model_set_teacher(r.model, r.small));
    read_options(&r, name, output);
    read_data(&r);
    return r;
}

static void close_case(recorded *r) {
    sp_dataset_free(r->data);
    sp_model_free(r->model);
    spi_st_close(r->expected);
}

/* ------------------------------------------------------------------ PyTorch's numbers */

static void compare(const char *what, const float *got, const spi_st_tensor *want) {
    const float *b = want->data;
    double error = 0, scale = 0;
    for (int64_t i = 0; i < want->count; i++) {
        error = fmax(error, fabs((double)got[i] - (double)b[i]));
        scale = fmax(scale, fabs((double)b[i]));
    }
    print_message("  %s: largest difference %.1e\n", what, error / scale);
    if (!(error <= LIMIT * scale)) fail_msg("%s: off by %.3g of %.3g", what, error, scale);
}

static void compare_gradient(recorded *r) {
    const spi_distill distill = {r->options.distill_kl, r->options.distill_mse, r->options.distill_temperature};
    spi_batch batch = {0};
    spi_loss_sums sums = {0}, again = {0};
    for (int64_t i = 0; i < 3; i++) must(r->ctx, spi_batch_add_example(r->ctx, &batch, r->data, i));
    spi_run run = {.base_weight = 1.0 / (double)batch.tokens, .distill = &distill};
    spi_param *p = r->model->base->project_out;
    must(r->ctx, spi_model_begin(r->model, &p, 1));
    must(r->ctx, spi_adapted_train(r->model, &batch, &run, &sums));
    must(r->ctx, spi_adapted_loss(r->model, &batch, &run, &again));
    assert_memory_equal(&sums, &again, sizeof sums);
    const double agreement = (double)sums.base_correct / (double)batch.tokens;
    const float wanted = ((const float *)spi_st_find(r->expected, "agreements")->data)[0];
    assert_true(fabs(agreement - (double)wanted) < 1e-6);
    compare("grad", p->grad, spi_st_find(r->expected, "grad"));
    spi_batch_free(&batch);
}

typedef struct series {
    int64_t count;
    float loss[STEPS], norm[STEPS];
} series;

static sp_train_action record(void *user, const sp_train_event *e) {
    series *s = user;
    if (e->kind != SP_TRAIN_STEP) return SP_TRAIN_CONTINUE;
    assert_true(s->count < STEPS);
    s->loss[s->count] = (float)e->loss;
    s->norm[s->count++] = (float)e->grad_norm;
    return SP_TRAIN_CONTINUE;
}

static void compare_series(const char *what, const float *got, const spi_st_tensor *want) {
    for (int64_t i = 0; i < STEPS; i++) {
        const double b = (double)((const float *)want->data)[i];
        if (!(fabs((double)got[i] - b) <= LIMIT * fabs(b)))
            fail_msg("%s, step %lld: %.9g, expected %.9g", what, (long long)i + 1, (double)got[i], b);
    }
}

static void same_tensors_but_projection(sp_context *ctx, const char *dir_a, const char *dir_b) {
    char path[512];
    snprintf(path, sizeof path, "%s/model.safetensors", dir_a);
    spi_st_set *a = open_set(ctx, path);
    snprintf(path, sizeof path, "%s/model.safetensors", dir_b);
    spi_st_set *b = open_set(ctx, path);
    assert_int_equal(spi_st_count(a), spi_st_count(b));
    for (size_t i = 0; i < spi_st_count(a); i++) {
        const spi_st_tensor *x = spi_st_at(a, i), *y = spi_st_find(b, x->name);
        assert_non_null(y);
        assert_int_equal(x->bytes, y->bytes);
        const bool same = memcmp(x->data, y->data, x->bytes) == 0;
        if (same == (strcmp(x->name, PROJECTION) == 0)) fail_msg("%s: %s", x->name, same ? "same" : "differs");
    }
    spi_st_close(a);
    spi_st_close(b);
}

static void check_recorded(scratch *s, const char *name) {
    recorded r = open_case(s, name, SP_F32, false, scratch_path(s, name));
    char path[600];
    series got = {0};
    sp_train_result result = {.size = sizeof result};
    print_message("%s\n", name);
    compare_gradient(&r);
    must(s->ctx, sp_train(r.model, r.data, NULL, &r.options, record, &got, &result));
    assert_int_equal(result.steps, STEPS);
    compare_series("loss", got.loss, spi_st_find(r.expected, "losses"));
    compare_series("grad_norm", got.norm, spi_st_find(r.expected, "grad_norms"));
    snprintf(path, sizeof path, "%s/model.safetensors", r.options.output_dir);
    spi_st_set *saved = open_set(s->ctx, path);
    compare("projection", spi_st_find(saved, PROJECTION)->data, spi_st_find(r.expected, "projection"));
    spi_st_close(saved);
    same_tensors_but_projection(s->ctx, r.wrapped, r.options.output_dir);
    close_case(&r);
}

static void test_recorded(void **state) {
    for (size_t i = 0; i < NAMES; i++) check_recorded(*state, names[i]);
}

/* ------------------------------------------------------------------ other ways there */

static double final_loss(scratch *s, recorded *r) {
    sp_distill_result before = {.size = sizeof before}, after = {.size = sizeof after};
    must(s->ctx, sp_distill_evaluate(r->model, r->data, 0, &r->options, &before));
    assert_int_equal(before.tokens, sp_dataset_tokens(r->data));
    must(s->ctx, sp_train(r->model, r->data, r->data, &r->options, NULL, NULL, NULL));
    must(s->ctx, sp_distill_evaluate(r->model, r->data, 0, &r->options, &after));
    assert_true(after.loss < before.loss);
    return after.loss;
}

/* A model that was loaded to be trained keeps the rest as it is too, whatever the options say. */
static void test_trainable(void **state) {
    scratch *s = *state;
    recorded r = open_case(s, "align_kl", SP_F32, true, scratch_path(s, "trainable"));
    final_loss(s, &r);
    same_tensors_but_projection(s->ctx, r.wrapped, r.options.output_dir);
    sp_model_info info = {.size = sizeof info};
    sp_model_get_info(r.model, &info);
    assert_int_equal(info.trainable_parameters, 24 * 16);
    close_case(&r);
}

/* In bf16 the loss is the f32 one's to a few of its roundings. */
static void test_bf16(void **state) {
    scratch *s = *state;
    recorded narrow = open_case(s, "align_cap", SP_BF16, false, scratch_path(s, "bf16"));
    recorded wide = open_case(s, "align_cap", SP_F32, false, scratch_path(s, "f32"));
    const double a = final_loss(s, &narrow), b = final_loss(s, &wide);
    assert_true(fabs(a - b) < 0.03 * b);
    close_case(&narrow);
    close_case(&wide);
}

/* The result may go where the model came from, and metrics name the loss. */
static void test_in_place(void **state) {
    scratch *s = *state;
    recorded r = open_case(s, "align_kl", SP_F32, false, scratch_path(s, "first"));
    must(s->ctx, sp_train(r.model, r.data, r.data, &r.options, NULL, NULL, NULL));
    sp_model *again = NULL;
    must(s->ctx, sp_model_load(s->ctx, r.options.output_dir, NULL, &again));
    must(s->ctx, sp_model_set_teacher(again, r.small));
    sp_distill_result here = {.size = sizeof here}, there = {.size = sizeof there};
    must(s->ctx, sp_distill_evaluate(r.model, r.data, 0, &r.options, &here));
    must(s->ctx, sp_distill_evaluate(again, r.data, 0, &r.options, &there));
    assert_memory_equal(&here, &there, sizeof here);
    /* What is resumed from there has nothing left to do, and is not taken for another run. */
    r.options.resume = true;
    sp_train_result result = {.size = sizeof result};
    must(s->ctx, sp_train(again, r.data, r.data, &r.options, NULL, NULL, &result));
    assert_int_equal(result.steps, 0);
    char path[600];
    snprintf(path, sizeof path, "%s/metrics.jsonl", r.options.output_dir);
    spi_buf metrics = read_all(s->ctx, path);
    assert_non_null(strstr(metrics.data, "\"distill_loss\""));
    assert_non_null(strstr(metrics.data, "\"eval_distill_loss\""));
    spi_buf_free(&metrics);
    /* Another weight or another teacher is another run. */
    r.options.distill_mse = 0.5;
    assert_int_equal(sp_train(again, r.data, r.data, &r.options, NULL, NULL, NULL), SP_ERR_MISMATCH);
    assert_non_null(strstr(sp_last_error(s->ctx), "\"distill_mse\""));
    r.options.distill_mse = 0;
    must(s->ctx, sp_model_set_teacher(again, TEST_DATA "/wrap/qwen3/small"));
    assert_int_equal(sp_train(again, r.data, r.data, &r.options, NULL, NULL, NULL), SP_ERR_MISMATCH);
    assert_non_null(strstr(sp_last_error(s->ctx), "\"teacher\""));
    sp_model_free(again);
    close_case(&r);
}

/* ------------------------------------------------------------------ refusals */

static void refused(sp_context *ctx, sp_model *model, const char *dir, sp_status status, const char *text) {
    assert_int_equal(sp_model_set_teacher(model, dir), status);
    if (!strstr(sp_last_error(ctx), text)) fail_msg("expected \"%s\" in \"%s\"", text, sp_last_error(ctx));
}

static void test_refusals(void **state) {
    scratch *s = *state;
    sp_model *model = NULL, *plain = NULL;
    must(s->ctx, sp_model_load(s->ctx, TEST_DATA "/align/align_kl/wrapped", NULL, &model));
    must(s->ctx, sp_model_load(s->ctx, TEST_DATA "/align/align_kl/small", NULL, &plain));
    refused(s->ctx, plain, TEST_DATA "/align/align_kl/small", SP_ERR_ARGUMENT,
            "expected causal_lm_with_hidden_projection to have a teacher, found qwen3");
    refused(s->ctx, model, TEST_DATA "/align/align_kl/wrapped", SP_ERR_UNSUPPORTED,
            "expected a family's own causal LM");
    refused(s->ctx, model, TEST_DATA "/align/align_opt/small", SP_ERR_MISMATCH,
            "\"model_type\": expected qwen3");
    refused(s->ctx, model, TEST_DATA "/wrap/qwen3/large", SP_ERR_MISMATCH, "\"hidden_size\": expected 16");
    refused(s->ctx, model, scratch_path(s, "nowhere"), SP_ERR_IO, "nowhere: expected a model directory");
    sp_distill_result result = {.size = sizeof result};
    sp_train_options options;
    sp_train_options_default(&options);
    options.output_dir = scratch_path(s, "never");
    sp_dataset *data = NULL;
    must(s->ctx, sp_dataset_from_ids(s->ctx, (int32_t[]){3, 4}, NULL, (int64_t[]){0, 2}, 1, &data));
    assert_int_equal(sp_distill_evaluate(model, data, 0, &options, &result), SP_ERR_ARGUMENT);
    assert_int_equal(sp_train(model, data, NULL, &options, NULL, NULL, NULL), SP_ERR_ARGUMENT);
    must(s->ctx, sp_model_set_teacher(model, TEST_DATA "/align/align_kl/small"));
    options.distill_temperature = 0;
    assert_int_equal(sp_train(model, data, NULL, &options, NULL, NULL, NULL), SP_ERR_ARGUMENT);
    assert_non_null(strstr(sp_last_error(s->ctx), "distill_temperature: expected a number above 0"));
    options.distill_temperature = 1;
    options.distill_kl = 0;
    assert_int_equal(sp_train(model, data, NULL, &options, NULL, NULL, NULL), SP_ERR_ARGUMENT);
    assert_non_null(strstr(sp_last_error(s->ctx), "distill_kl, distill_mse: expected one of them above 0"));
    assert_false(spi_path_exists(options.output_dir));
    sp_dataset_free(data);
    sp_model_free(plain);
    sp_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_recorded, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_trainable, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_bf16, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_in_place, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_refusals, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
