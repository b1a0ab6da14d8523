/* What training computes: step by step the numbers of PyTorch, whichever way batches are put together. */
#include <math.h>

#include "shadow/model.h"
#include "training.h"

/* PyTorch itself drifts by 4e-7 when it sums in another order (rounding_spread of case.json). */
#define LIMIT 1e-5

/* ------------------------------------------------------------------ recorded runs */

typedef struct series {
    int64_t count;
    double loss[64], rate[64], norm[64];
} series;

static sp_train_action record(void *user, const sp_train_event *e) {
    series *s = user;
    if (e->kind != SP_TRAIN_STEP) return SP_TRAIN_CONTINUE;
    assert_true(s->count < 64);
    s->loss[s->count] = e->loss;
    s->rate[s->count] = e->learning_rate;
    s->norm[s->count++] = e->grad_norm;
    return SP_TRAIN_CONTINUE;
}

/* The options of case.json. */
static sp_train_options case_options(sp_context *ctx, const char *name, const char *output) {
    char path[512];
    json_t *info = NULL;
    snprintf(path, sizeof path, TEST_DATA "/parity/%s/case.json", name);
    must(ctx, spi_json_load(ctx, path, &info));
    sp_train_options o;
    sp_train_options_default(&o);
    o.output_dir = output;
    o.adam_beta1 = json_real_value(json_object_get(info, "adam_beta1"));
    o.adam_beta2 = json_real_value(json_object_get(info, "adam_beta2"));
    o.adam_epsilon = json_real_value(json_object_get(info, "adam_epsilon"));
    o.learning_rate = json_real_value(json_object_get(info, "learning_rate"));
    o.max_grad_norm = json_real_value(json_object_get(info, "max_grad_norm"));
    o.weight_decay = json_real_value(json_object_get(info, "weight_decay"));
    o.shadow_loss_weight = json_real_value(json_object_get(info, "shadow_loss_weight"));
    o.warmup_steps = json_integer_value(json_object_get(info, "warmup_steps"));
    json_decref(info);
    o.num_train_epochs = 1;
    o.per_device_train_batch_size = 4;
    o.shuffle = false;
    o.save_steps = 5;
    o.save_total_limit = 0;
    return o;
}

static void compare_series(const spi_st_set *expected, const char *key, const double *got, int64_t count) {
    const spi_st_tensor *t = spi_st_find(expected, key);
    assert_int_equal(t->count, count);
    double worst = 0;
    for (int64_t i = 0; i < count; i++) {
        const double want = ((const float *)t->data)[i], error = fabs(got[i] - want) / fmax(fabs(want), 1e-12);
        worst = fmax(worst, error);
        if (!(error < LIMIT))
            fail_msg("%s, step %lld: %.9g, expected %.9g", key, (long long)i + 1, got[i], want);
    }
    print_message("  %s: largest relative difference %.1e\n", key, worst);
}

/* Every tensor of the adapter in `dir` against PREFIX.KEY. */
static void compare_adapter(sp_context *ctx, const spi_st_set *expected, const char *prefix, const char *dir) {
    char path[512], key[256];
    double worst = 0;
    snprintf(path, sizeof path, "%s/shadow_adapter.safetensors", dir);
    if (!spi_path_exists(path)) snprintf(path, sizeof path, "%s/adapter_model.safetensors", dir); /* PEFT's */
    spi_st_set *got = open_set(ctx, path);
    size_t compared = 0;
    for (size_t i = 0; i < spi_st_count(got); i++) {
        const spi_st_tensor *ours = spi_st_at(got, i);
        snprintf(key, sizeof key, "%s.%s", prefix, ours->name);
        const spi_st_tensor *theirs = spi_st_find(expected, key);
        if (!theirs || theirs->count != ours->count) fail_msg("%s: not in the expected results", key);
        const float *a = ours->data, *b = theirs->data;
        double error = 0, scale = 0;
        for (int64_t j = 0; j < ours->count; j++) {
            error = fmax(error, fabs((double)a[j] - b[j]));
            scale = fmax(scale, fabs((double)b[j]));
        }
        if (!(error < LIMIT * scale)) fail_msg("%s: off by %.3g of %.3g", key, error, scale);
        worst = fmax(worst, error / scale);
        compared++;
    }
    print_message("  %s: %zu tensors, largest relative difference %.1e\n", prefix, compared, worst);
    spi_st_close(got);
}

static void check_recorded(scratch *s, const char *name, int32_t accumulate) {
    char file[512], last[32], *dir = (char[64]){0};
    snprintf(dir, 64, "%s-%d", name, accumulate);
    const char *output = scratch_path(s, dir);
    snprintf(file, sizeof file, TEST_DATA "/parity/%s/train%s.safetensors", name,
             accumulate == 2 ? "_accumulate2" : "");
    spi_st_set *expected = open_set(s->ctx, file);
    const int64_t steps = spi_st_find(expected, "losses")->count;
    sp_model *model = load_case(s->ctx, name, -1, 0);
    sp_dataset *data = load_examples(s->ctx, name, 0, steps * accumulate * 4);
    sp_train_options o = case_options(s->ctx, name, output);
    o.gradient_accumulation_steps = accumulate;
    series got = {0};
    sp_train_result result = {.size = sizeof result};
    must(s->ctx, sp_train(model, data, NULL, &o, record, &got, &result));
    print_message("%s, accumulating %d:\n", name, accumulate);
    assert_int_equal(result.steps, steps);
    assert_int_equal(result.tokens, sp_dataset_tokens(data));
    compare_series(expected, "losses", got.loss, got.count);
    compare_series(expected, "learning_rates", got.rate, got.count);
    compare_series(expected, "grad_norms", got.norm, got.count);
    snprintf(file, sizeof file, "%s/checkpoint-5", output);
    compare_adapter(s->ctx, expected, "after5", file);
    snprintf(last, sizeof last, "after%lld", (long long)steps);
    compare_adapter(s->ctx, expected, last, output);
    sp_dataset_free(data);
    sp_model_free(model);
    spi_st_close(expected);
}

static void test_recorded(void **state) {
    check_recorded(*state, "train_qwen3", 1);
    check_recorded(*state, "train_gemma2", 1);
    check_recorded(*state, "train_peft_llama", 1);
}

static void test_recorded_accumulating(void **state) {
    check_recorded(*state, "train_qwen3", 2);
    check_recorded(*state, "train_gemma2", 2);
    check_recorded(*state, "train_peft_llama", 2);
}

/* ------------------------------------------------------------------ the same sums in other pieces */

static series train_fresh(scratch *s, const char *dir, const sp_dataset *data,
                          const sp_train_options *options) {
    sp_model *model = load_case(s->ctx, "train_qwen3", 0, 3);
    sp_train_options o = *options;
    o.output_dir = scratch_path(s, dir);
    series got = {0};
    must(s->ctx, sp_train(model, data, NULL, &o, record, &got, NULL));
    sp_model_free(model);
    return got;
}

static void same_series(const series *a, const series *b) {
    assert_int_equal(a->count, b->count);
    for (int64_t i = 0; i < a->count; i++) {
        assert_true(fabs(a->loss[i] - b->loss[i]) < 2e-6 * fabs(b->loss[i]));
        assert_true(fabs(a->norm[i] - b->norm[i]) < 1e-5 * fabs(b->norm[i]));
    }
}

/* Two examples to a row: batches of 4 rows are batches of 8 examples, with the same numbers. */
static void test_packed_is_unpacked(void **state) {
    scratch *s = *state;
    int32_t ids[40 * 6];
    int64_t starts[41] = {0};
    for (int i = 0; i < 40; i++) {
        starts[i + 1] = starts[i] + 6;
        for (int j = 0; j < 6; j++) ids[starts[i] + j] = 3 + (7 * i + (1 + i % 3) * j) % 90;
    }
    sp_dataset *data = NULL;
    must(s->ctx, sp_dataset_from_ids(s->ctx, ids, NULL, starts, 40, &data));
    sp_train_options o;
    sp_train_options_default(&o);
    o.learning_rate = 1e-3;
    o.num_train_epochs = 2;
    const series plain = train_fresh(s, "plain", data, &o);
    o.packing = true;
    o.max_seq_length = 12;
    o.per_device_train_batch_size = 4;
    const series packed = train_fresh(s, "packed", data, &o);
    assert_int_equal(plain.count, 10);
    same_series(&plain, &packed);
    o.packing = false;
    o.gradient_accumulation_steps = 2;
    const series accumulated = train_fresh(s, "accumulated", data, &o);
    same_series(&plain, &accumulated);
    sp_dataset_free(data);
}

/* Keeping little and recomputing changes nothing. */
static void test_gradient_checkpointing(void **state) {
    scratch *s = *state;
    sp_dataset *data = load_examples(s->ctx, "train_qwen3", 0, 40);
    sp_train_options o;
    sp_train_options_default(&o);
    o.learning_rate = 1e-3;
    o.num_train_epochs = 1;
    const series kept = train_fresh(s, "kept", data, &o);
    o.gradient_checkpointing = true;
    const series recomputed = train_fresh(s, "recomputed", data, &o);
    assert_memory_equal(&kept, &recomputed, sizeof kept);
    sp_dataset_free(data);
}

/* Examples without a label weigh nothing, alone in a step or beside others. */
static void test_without_labels(void **state) {
    scratch *s = *state;
    const int32_t ids[] = {5, 6, 7, 8, 9, 10, 11, 12};
    const uint8_t mask[] = {0, 0, 0, 1, 1, 1, 0, 0};
    const int64_t starts[] = {0, 3, 6, 8};
    sp_dataset *data = NULL;
    must(s->ctx, sp_dataset_from_ids(s->ctx, ids, mask, starts, 3, &data));
    sp_train_options o;
    sp_train_options_default(&o);
    o.num_train_epochs = 1;
    o.shuffle = false;
    o.per_device_train_batch_size = 1;
    const series alone = train_fresh(s, "alone", data, &o);
    assert_int_equal(alone.count, 3);
    assert_true(alone.loss[0] == 0 && alone.norm[0] == 0 && alone.loss[1] > 1 && alone.loss[2] == 0);
    o.gradient_accumulation_steps = 3;
    const series beside = train_fresh(s, "beside", data, &o);
    assert_int_equal(beside.count, 1);
    assert_true(beside.loss[0] == alone.loss[1] && beside.norm[0] == alone.norm[1]);
    sp_dataset_free(data);
}

/* ------------------------------------------------------------------ what moves, and how far */

/* Largest |a - b| over all tensors of two adapters whose name begins with `prefix`. */
static double distance(sp_context *ctx, const char *dir_a, const char *dir_b, const char *prefix) {
    char a[512], b[512];
    double most = 0;
    snprintf(a, sizeof a, "%s/shadow_adapter.safetensors", dir_a);
    snprintf(b, sizeof b, "%s/shadow_adapter.safetensors", dir_b);
    spi_st_set *x = open_set(ctx, a), *y = open_set(ctx, b);
    for (size_t i = 0; i < spi_st_count(x); i++) {
        const spi_st_tensor *t = spi_st_at(x, i);
        if (strncmp(t->name, prefix, strlen(prefix)) != 0) continue;
        const float *p = t->data, *q = spi_st_find(y, t->name)->data;
        for (int64_t j = 0; j < t->count; j++) most = fmax(most, fabs((double)p[j] - q[j]));
    }
    spi_st_close(x);
    spi_st_close(y);
    return most;
}

/*
 * The first step of AdamW moves every value by about the learning rate: times the multiplier in the shadow,
 * not at all in the last update, which nothing reaches, not even weight decay.
 */
static void test_groups(void **state) {
    scratch *s = *state;
    sp_model *model = load_case(s->ctx, "train_qwen3", 0, 5);
    sp_dataset *data = load_examples(s->ctx, "train_qwen3", 0, 8);
    char before[512];
    snprintf(before, sizeof before, "%s", scratch_path(s, "before"));
    must(s->ctx, sp_adapter_save(model, before));
    sp_train_options o;
    sp_train_options_default(&o);
    o.output_dir = scratch_path(s, "groups");
    o.max_steps = 1;
    o.learning_rate = 1e-3;
    o.weight_decay = 0.5;
    o.shadow_lr_multiplier = 0.1;
    o.lr_scheduler_type = SP_SCHEDULE_CONSTANT;
    must(s->ctx, sp_train(model, data, NULL, &o, NULL, NULL, NULL));
    const double ups = distance(s->ctx, o.output_dir, before, "shadow_injection_model.injection_ups");
    const double shadow = distance(s->ctx, o.output_dir, before, "shadow_model.norm");
    assert_true(ups > 0.99e-3 && ups < 1.01e-3);
    assert_true(shadow > 0.99e-4 && shadow < 1.01e-4);
    /* Fresh ups are zero: nothing behind them has a gradient yet, but decay pulls at matrices, not at norms. */
    const double gates = distance(s->ctx, o.output_dir, before, "shadow_update_model.update_gates.0");
    assert_true(gates > 1e-5 && gates < 0.5e-3);
    assert_true(distance(s->ctx, o.output_dir, before, "shadow_update_model.hidden_norm") == 0);
    assert_true(distance(s->ctx, o.output_dir, before, "shadow_update_model.update_gates.1") == 0);
    assert_true(distance(s->ctx, o.output_dir, before, "shadow_update_model.update_transforms.1") == 0);
    sp_dataset_free(data);
    sp_model_free(model);
}

/* ------------------------------------------------------------------ a whole base */

static const spi_param *param_named(const spi_params *list, const char *name) {
    for (size_t i = 0; i < list->count; i++)
        if (strcmp(list->items[i]->name, name) == 0) return list->items[i];
    fail_msg("no parameter %s", name);
    return NULL;
}

static float first_value(const char *dir, sp_context *ctx, const char *name) {
    char path[512];
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    spi_st_set *set = open_set(ctx, path);
    const float value = *(const float *)spi_st_find(set, name)->data;
    spi_st_close(set);
    return value;
}

static series pretrain(scratch *s, const char *dir, bool freeze, sp_model *model, const sp_dataset *data) {
    sp_train_options o;
    sp_train_options_default(&o);
    o.output_dir = scratch_path(s, dir);
    o.num_train_epochs = 3;
    o.learning_rate = 3e-3;
    o.freeze_embed = freeze;
    series got = {0};
    must(s->ctx, sp_train(model, data, data, &o, record, &got, NULL));
    return got;
}

static void test_pretrain(void **state) {
    scratch *s = *state;
    static const char base[] = TEST_DATA "/parity/train_qwen3/base";
    static const char embed[] = "model.embed_tokens.weight", norm[] = "model.norm.weight";
    sp_model *model = load_base(s->ctx, "train_qwen3", SP_F32, true);
    sp_dataset *data = load_examples(s->ctx, "train_qwen3", 0, 80);
    sp_model_info info = {.size = sizeof info};
    const series frozen = pretrain(s, "frozen", true, model, data);
    assert_null(param_named(&model->base->params, embed)->owned[1]);
    sp_model_get_info(model, &info);
    assert_int_equal(info.trainable_parameters, info.base_parameters - 96 * 32);
    assert_true(frozen.loss[frozen.count - 1] < 0.8 * frozen.loss[0]);
    assert_true(first_value(scratch_path(s, "frozen"), s->ctx, embed) == first_value(base, s->ctx, embed));
    assert_true(first_value(scratch_path(s, "frozen"), s->ctx, norm) != first_value(base, s->ctx, norm));
    /* Frozen for that run only. */
    const series whole = pretrain(s, "whole", false, model, data);
    assert_non_null(param_named(&model->base->params, embed)->owned[1]);
    assert_null(param_named(&model->base->params, embed)->grad); /* only while training goes on */
    assert_true(whole.loss[whole.count - 1] < frozen.loss[frozen.count - 1]);
    assert_true(first_value(scratch_path(s, "whole"), s->ctx, embed) != first_value(base, s->ctx, embed));
    sp_model_free(model);
    /* What was written is a model that goes on from there. */
    sp_model_options mo;
    sp_model_options_default(&mo);
    mo.trainable = true;
    must(s->ctx, sp_model_load(s->ctx, scratch_path(s, "whole"), &mo, &model));
    const series more = pretrain(s, "more", false, model, data);
    assert_true(more.loss[0] < 1.2 * whole.loss[whole.count - 1]);
    sp_dataset_free(data);
    sp_model_free(model);
}

/* ------------------------------------------------------------------ refused before the first step */

static void refused(scratch *s, sp_model *model, const sp_dataset *train, const sp_dataset *eval,
                    const char *dir, sp_status status, const char *word) {
    sp_train_options o;
    sp_train_options_default(&o);
    o.output_dir = scratch_path(s, dir);
    series none = {0};
    const sp_status got = sp_train(model, train, eval, &o, record, &none, NULL);
    if (got != status || !strstr(sp_last_error(s->ctx), word))
        fail_msg("%s: %s; expected \"%s\"", sp_status_name(got), sp_last_error(s->ctx), word);
    assert_int_equal(none.count, 0);
}

static void test_refused(void **state) {
    scratch *s = *state;
    sp_model *model = load_base(s->ctx, "train_qwen3", SP_DTYPE_AUTO, false);
    sp_dataset *good = load_examples(s->ctx, "train_qwen3", 0, 10), *bad = NULL;
    refused(s, model, good, NULL, "never", SP_ERR_ARGUMENT, "adapter or a trainable base, found neither");
    add_adapter(s->ctx, model, 0, 1);
    const int32_t ids[] = {1, 2, 3, 4, 95, 96};
    must(s->ctx, sp_dataset_from_ids(s->ctx, ids, NULL, (const int64_t[]){0, 3, 6}, 2, &bad));
    refused(s, model, bad, NULL, "never", SP_ERR_MISMATCH,
            "training data: example 2, token 3: expected an id below 96");
    refused(s, model, good, bad, "never", SP_ERR_MISMATCH, "evaluation data: example 2, token 3");
    assert_false(spi_path_exists(scratch_path(s, "never")));
    sp_dataset_free(bad);
    must(s->ctx, spi_file_write(s->ctx, scratch_path(s, "file"), "", 0));
    refused(s, model, good, NULL, "file/run", SP_ERR_IO, "file/run");
    sp_dataset_free(good);
    sp_model_free(model);
    /* Learned positions end somewhere; the batch that is too long may come late. */
    model = load_base(s->ctx, "gpt2", SP_DTYPE_AUTO, false);
    add_adapter(s->ctx, model, 0, 1);
    const int64_t most = model->base->arch.max_positions;
    int32_t *row = calloc((size_t)most + 3, sizeof *row);
    must(s->ctx, sp_dataset_from_ids(s->ctx, row, NULL, (const int64_t[]){0, 2, most + 3}, 2, &bad));
    refused(s, model, bad, NULL, "never", SP_ERR_ARGUMENT, "positions");
    free(row);
    sp_dataset_free(bad);
    sp_model_free(model);
}

/* ------------------------------------------------------------------ what a caller hears */

typedef struct heard {
    char kinds[64]; /* a letter for each event */
    int count;
    int64_t saved[8], checkpoints;
    double epoch[8];
    bool wrong;
} heard;

static sp_train_action listen(void *user, const sp_train_event *e) {
    heard *h = user;
    char path[600];
    h->kinds[h->count++] = "BTVSE"[e->kind];
    h->wrong |= e->total_steps != 6;
    if (e->kind == SP_TRAIN_STEP) h->epoch[e->step] = e->epoch;
    if (e->kind == SP_TRAIN_EVAL) h->wrong |= !(e->eval_loss > e->eval_base_loss && e->eval_base_loss > 1);
    if (e->kind != SP_TRAIN_SAVE) return SP_TRAIN_CONTINUE;
    snprintf(path, sizeof path, "%s/trainer_state.json", e->path);
    h->wrong |= !spi_path_exists(path);
    h->saved[h->checkpoints++] = e->step;
    return SP_TRAIN_CONTINUE;
}

/* 10 examples in batches of 4: 3 steps an epoch, evaluated at its end. */
static void test_events(void **state) {
    scratch *s = *state;
    sp_model *model = load_case(s->ctx, "train_qwen3", 0.1, 1);
    sp_dataset *data = load_examples(s->ctx, "train_qwen3", 0, 10);
    sp_train_options o;
    sp_train_options_default(&o);
    o.output_dir = scratch_path(s, "run");
    o.num_train_epochs = 2;
    o.per_device_train_batch_size = 4;
    o.save_steps = 2;
    o.learning_rate = 1e-4;
    heard h = {0};
    sp_train_result result = {.size = sizeof result};
    must(s->ctx, sp_train(model, data, data, &o, listen, &h, &result));
    assert_false(h.wrong);
    assert_string_equal(h.kinds, "BTTSTVSTSTTVSE");
    assert_memory_equal(h.saved, ((int64_t[]){2, 3, 4, 6}), 4 * sizeof(int64_t));
    assert_true(fabs(h.epoch[1] - 1.0 / 3) < 1e-12 && h.epoch[3] == 1 && h.epoch[6] == 2);
    assert_int_equal(result.tokens, 2 * sp_dataset_tokens(data));
    assert_true(result.train_loss > 1 && result.best_step == 6 && !result.stopped_early);
    sp_dataset_free(data);
    sp_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_recorded, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_recorded_accumulating, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_packed_is_unpacked, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_gradient_checkpointing, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_without_labels, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_groups, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_pretrain, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_refused, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_events, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
