/* Planning: what it counts is what is taken, nothing changes by it, and what does not fit is said before it
 * fails. */
#include <jansson.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "adapters.h"
#include "shadow/adapted.h"
#include "tensor/plan.h"
#include "train/largest.h"
#include "train/memory.h"
#include "train/sampler.h"

/* ------------------------------------------------------------------ a device that plans */

static void test_counts(void **state) {
    sp_context *ctx = ((scratch *)*state)->ctx;
    spi_device *dev;
    spi_plan plan;
    must(ctx, spi_device_open(ctx, "cpu", &dev));
    const spi_ops *own = dev->op;
    double sum = 5;
    spi_plan_begin(dev, &plan);
    float *a = dev->op->alloc(dev, 1000), *b = dev->op->alloc(dev, 2048);
    assert_true(a && b && a != b);
    assert_int_equal(spi_plan_bytes(&plan), 1024 + 2048);
    dev->op->release(dev, a);
    assert_non_null(dev->op->alloc(dev, 10));
    assert_int_equal(spi_plan_bytes(&plan), 1024 + 2048); /* the most at once */
    /* More than any machine has, and it is not touched. */
    const size_t most = (size_t)1 << 50;
    float *c = dev->op->alloc(dev, most);
    dev->op->zero(dev, c, most);
    dev->op->add(dev, spi_mat_of(c, SP_F32, 1 << 20, 1 << 20), spi_mat_of(b, SP_F32, 1 << 20, 1 << 20), 1);
    dev->op->download(dev, &sum, c, sizeof sum);
    assert_true(sum == 0);
    assert_int_equal(spi_plan_bytes(&plan), 256 + 2048 + most);
    dev->op->release(dev, c);
    /* An operation's own memory: a double for each piece of what it sums, and one more. */
    dev->op->sum_squares(dev, &sum, &(spi_span){b, (int64_t)1 << 40}, 1);
    const size_t with = spi_plan_bytes(&plan);
    assert_true(with > 256 + 2048 + most);
    dev->op->sum_squares(dev, &sum, &(spi_span){b, 1 << 20}, 1);
    assert_int_equal(spi_plan_bytes(&plan), with);
    assert_true(sum == 0);
    dev->status = SP_ERR_DIVERGED;
    spi_plan_end(dev);
    assert_int_equal(dev->status, SP_OK);
    assert_ptr_equal(dev->op, own);
    assert_null(dev->plan);
    spi_device_close(dev);
}

/* ------------------------------------------------------------------ a step that is planned */

typedef struct stepper {
    scratch *s;
    sp_model *model;
    const sp_dataset *ds;
    spi_optimizer *optimizer;
    int64_t step;
    bool checkpointing;
    const spi_distill *distill;
    double loss, norm;
} stepper;

/* `count` examples of `length` tokens, all of them learnt. */
static sp_dataset *make_ids(scratch *s, int64_t count, int64_t length) {
    int32_t *ids = calloc((size_t)(count * length), sizeof *ids);
    uint8_t *mask = calloc((size_t)(count * length), 1);
    int64_t *starts = calloc((size_t)count + 1, sizeof *starts);
    sp_dataset *ds = NULL;
    assert_true(ids && mask && starts);
    for (int64_t i = 0; i < count * length; i++) {
        ids[i] = (int32_t)(i * i % 31);
        mask[i] = 1;
    }
    for (int64_t i = 0; i <= count; i++) starts[i] = i * length;
    must(s->ctx, sp_dataset_from_ids(s->ctx, ids, mask, starts, count, &ds));
    free(ids);
    free(mask);
    free(starts);
    return ds;
}

static sp_status one_step(stepper *st) {
    spi_batch batch = {0};
    spi_loss_sums sums = {0};
    const spi_run run = {.dropout = st->model->adapter != NULL,
                         .seed = 5,
                         .stream = (uint64_t)st->step,
                         .gradient_checkpointing = st->checkpointing,
                         .base_weight = 0.1,
                         .shadow_weight = st->model->adapter ? 0.05 : 0,
                         .distill = st->distill};
    for (int64_t i = 0; i < sp_dataset_count(st->ds); i++)
        must(st->s->ctx, spi_batch_add_example(st->s->ctx, &batch, st->ds, i));
    spi_optimizer_zero_grad(st->optimizer);
    sp_status status = spi_adapted_train(st->model, &batch, &run, &sums);
    if (status == SP_OK) status = spi_optimizer_grad_norm(st->optimizer, &st->norm);
    if (status == SP_OK) status = spi_optimizer_step(st->optimizer, ++st->step, 1e-2, st->norm);
    st->loss = sums.base + sums.shadow;
    spi_batch_free(&batch);
    return status;
}

static sp_status planned_step(void *user, spi_optimizer *planned) {
    stepper st = *(const stepper *)user;
    st.optimizer = planned;
    const sp_status status = one_step(&st);
    assert_true(st.loss == 0 && st.norm == 0); /* nothing was computed */
    return status;
}

static spi_memory_need plan_of(stepper *st) {
    sp_train_options o;
    spi_memory_need need;
    sp_train_options_default(&o);
    must(st->s->ctx, spi_memory_plan(st->model, &o, planned_step, st, &need));
    assert_int_equal(st->model->dev->status, SP_OK);
    return need;
}

/* The device's own table, counting what it gives. */
static struct counter {
    const spi_ops *inner;
    spi_ops table;
    void *data[4096];
    size_t bytes[4096], count, now;
} counter;

static void *counted_alloc(spi_device *dev, size_t bytes) {
    void *data = counter.inner->alloc(dev, bytes);
    assert_true(counter.count < 4096);
    counter.data[counter.count] = data;
    counter.bytes[counter.count++] = ((bytes ? bytes : 1) + 255) / 256 * 256;
    counter.now += ((bytes ? bytes : 1) + 255) / 256 * 256;
    return data;
}

static void counted_release(spi_device *dev, void *data) {
    for (size_t i = 0; i < counter.count; i++) {
        if (counter.data[i] != data) continue;
        counter.now -= counter.bytes[i];
        counter.data[i] = counter.data[--counter.count];
        counter.bytes[i] = counter.bytes[counter.count];
        break;
    }
    counter.inner->release(dev, data);
}

static void count_memory(spi_device *dev) {
    counter = (struct counter){.inner = dev->op, .table = *dev->op};
    counter.table.alloc = counted_alloc;
    counter.table.release = counted_release;
    dev->op = &counter.table;
}

/* What was planned is what the optimizer and the pool then take, to the byte. */
static void check_plan(stepper *st, const char *what) {
    sp_train_options o;
    sp_train_options_default(&o);
    const spi_memory_need need = plan_of(st);
    count_memory(st->model->dev);
    must(st->s->ctx, spi_optimizer_new(st->model, &o, &st->optimizer));
    if (counter.now != need.state)
        fail_msg("%s: planned %zu bytes of state, took %zu", what, need.state, counter.now);
    for (int i = 0; i < 3; i++) must(st->s->ctx, one_step(st));
    if (spi_pool_peak(st->model->pool) != need.pool)
        fail_msg("%s: planned %zu bytes of a step, took %zu", what, need.pool, spi_pool_peak(st->model->pool));
    assert_true(need.pass >= need.pool && need.pool > 0);
    spi_optimizer_free(st->optimizer);
    st->model->dev->op = counter.inner;
}

static void test_taken_as_planned(void **state) {
    scratch *s = *state;
    sp_dataset *ds = make_ids(s, 5, 9);
    for (int bf16 = 0; bf16 < 2; bf16++)
        for (int checkpointing = 0; checkpointing < 2; checkpointing++)
            for (int pretrained = 0; pretrained < 2; pretrained++) {
                sp_model *model = load_base(s->ctx, "train_qwen3", bf16 ? SP_BF16 : SP_F32, pretrained);
                if (!pretrained) add_adapter(s->ctx, model, 0.2, 3);
                stepper st = {.s = s, .model = model, .ds = ds, .checkpointing = checkpointing};
                check_plan(&st, pretrained ? "pretraining" : "an adapter");
                sp_model_free(model);
            }
    const spi_distill distill = {1, 0.5, 2};
    sp_model *model = NULL;
    must(s->ctx, sp_model_load(s->ctx, TEST_DATA "/align/align_kl/wrapped", NULL, &model));
    must(s->ctx, sp_model_set_teacher(model, TEST_DATA "/align/align_kl/small"));
    stepper st = {.s = s, .model = model, .ds = ds, .distill = &distill};
    check_plan(&st, "distillation");
    sp_model_free(model);
    sp_dataset_free(ds);
}

/* A loaded adapter has no masters yet: they come by planning as little as gradients do. */
static void test_nothing_changes(void **state) {
    scratch *s = *state;
    sp_train_options o;
    double loss[2], norm[2];
    sp_train_options_default(&o);
    sp_dataset *ds = make_ids(s, 5, 9);
    for (int plans = 0; plans < 2; plans++) {
        char path[16];
        sp_model *model = load_case(s->ctx, "train_qwen3", -1, 0);
        stepper st = {.s = s, .model = model, .ds = ds};
        const spi_pool *pool = model->pool;
        for (int i = 0; i < 2 * plans; i++) plan_of(&st);
        assert_ptr_equal(model->pool, pool);
        assert_int_equal(spi_pool_held(pool), 0);
        for (size_t i = 0; i < model->adapter->params.count; i++) {
            assert_null(model->adapter->params.items[i]->grad);
            assert_null(model->adapter->params.items[i]->owned[0]);
        }
        must(s->ctx, spi_optimizer_new(model, &o, &st.optimizer));
        for (int i = 0; i < 3; i++) must(s->ctx, one_step(&st));
        loss[plans] = st.loss;
        norm[plans] = st.norm;
        spi_optimizer_free(st.optimizer);
        snprintf(path, sizeof path, "%d", plans);
        must(s->ctx, sp_adapter_save(model, scratch_path(s, path)));
        sp_model_free(model);
    }
    assert_true(loss[0] == loss[1] && norm[0] == norm[1]);
    same_file(s->ctx, scratch_path(s, "0"), scratch_path(s, "1"), "shadow_adapter.safetensors");
    sp_dataset_free(ds);
}

/* Less memory, the same numbers. */
static void test_checkpointing(void **state) {
    scratch *s = *state;
    double loss[2], norm[2];
    spi_memory_need need[2];
    sp_train_options o;
    sp_train_options_default(&o);
    const tiny t = {.layers = 10, .hidden = 16, .vocab = 300};
    char base[512];
    snprintf(base, sizeof base, "%s", make_tiny(s, "base", &t));
    sp_dataset *ds = make_ids(s, 5, 9);
    for (int i = 0; i < 2; i++) {
        sp_model *model = load_model(s, base, SP_TASK_CAUSAL_LM);
        add_adapter(s->ctx, model, 0.2, 3);
        shake(s, model, 6);
        stepper st = {.s = s, .model = model, .ds = ds, .checkpointing = i == 1};
        need[i] = plan_of(&st);
        must(s->ctx, spi_optimizer_new(model, &o, &st.optimizer));
        for (int k = 0; k < 2; k++) must(s->ctx, one_step(&st));
        loss[i] = st.loss;
        norm[i] = st.norm;
        spi_optimizer_free(st.optimizer);
        sp_model_free(model);
    }
    assert_int_equal(need[0].state, need[1].state);
    assert_true(need[1].pool < need[0].pool / 2);
    assert_true(loss[0] == loss[1] && norm[0] == norm[1]);
    sp_dataset_free(ds);
}

/* ------------------------------------------------------------------ the largest batch */

/* No batch of any epoch is larger than the one that is planned. */
static void test_largest(void **state) {
    scratch *s = *state;
    enum { COUNT = 40, TOKENS = 40 * 23 };
    int32_t ids[TOKENS] = {0};
    uint8_t mask[TOKENS] = {0};
    int64_t starts[COUNT + 1] = {0};
    sp_dataset *ds;
    sp_model *model = load_base(s->ctx, "train_qwen3", SP_F32, false);
    for (int i = 0; i < COUNT; i++) {
        starts[i + 1] = starts[i] + 2 + i * 37 % 22;
        for (int64_t j = starts[i] + 1 + i * 11 % 7; j < starts[i + 1]; j++) mask[j] = 1;
    }
    must(s->ctx, sp_dataset_from_ids(s->ctx, ids, mask, starts, COUNT, &ds));
    spi_sizes sizes;
    must(s->ctx, spi_sizes_of(s->ctx, ds, &sizes));
    for (int packing = 0; packing < 2; packing++) {
        spi_sampler *sampler;
        spi_batch bound = {0}, batch = {0};
        sp_train_options o;
        sp_train_options_default(&o);
        o.packing = packing;
        o.max_seq_length = 50;
        o.per_device_train_batch_size = 3;
        o.num_train_epochs = 20;
        if (packing) must(s->ctx, spi_fill_packed(model, &sizes, 3, 50, &bound));
        else must(s->ctx, spi_fill_rows(model, &sizes, 3, INT64_MAX, &bound));
        assert_int_equal(bound.tokens, packing ? 150 : 23 + 22 + 22);
        must(s->ctx, spi_sampler_new(s->ctx, ds, &o, &sampler));
        const int64_t steps = spi_sampler_total(sampler);
        for (int64_t i = 0; i < steps; i++) {
            const spi_step_plan plan = spi_sampler_step(sampler, i);
            must(s->ctx, spi_sampler_fill(sampler, plan.first, &batch));
            assert_true(batch.tokens <= bound.tokens && batch.labels <= bound.labels);
            assert_true(batch.max_length <= bound.max_length && batch.max_position <= bound.max_position);
        }
        spi_sampler_free(sampler);
        spi_batch_free(&batch);
        spi_batch_free(&bound);
    }
    spi_sizes_free(&sizes);
    sp_dataset_free(ds);
    sp_model_free(model);
}

/* ------------------------------------------------------------------ what does not fit */

/* A device that says how much is free; what is a GPU has no mapped files and swaps nothing. */
static size_t limit;

static void limited_memory(spi_device *dev, size_t *unused, size_t *total) {
    (void)dev;
    *unused = limit;
    *total = (size_t)80 << 30;
}

typedef struct limited {
    scratch *s;
    sp_model *model;
    sp_dataset *ds, *eval;
    sp_train_options o;
    spi_ops table;
    char log[2048];
    int warnings;
} limited;

static void keep_log(void *user, sp_log_level level, const char *message) {
    limited *l = user;
    const size_t used = strlen(l->log);
    l->warnings += level == SP_LOG_WARNING;
    snprintf(l->log + used, sizeof l->log - used, "%s\n", message);
}

static void limited_open(limited *l, scratch *s, bool gpu) {
    const tiny t = {.layers = 4, .hidden = 16, .vocab = 300};
    *l = (limited){.s = s, .model = load_model(s, make_tiny(s, "base", &t), SP_TASK_CAUSAL_LM)};
    add_adapter(s->ctx, l->model, 0.2, 3);
    l->ds = make_ids(s, 8, 200);
    l->table = *l->model->dev->op;
    l->table.memory = limited_memory;
    l->table.host_memory = !gpu;
    l->model->dev->op = &l->table;
    snprintf(l->model->dev->label, sizeof l->model->dev->label, "A Card 80GB");
    sp_train_options_default(&l->o);
    l->o.max_steps = 1;
    sp_context_set_log(s->ctx, keep_log, l, SP_LOG_INFO);
}

static void limited_close(limited *l) {
    sp_context_set_log(l->s->ctx, NULL, NULL, SP_LOG_INFO);
    sp_dataset_free(l->ds);
    sp_dataset_free(l->eval);
    sp_model_free(l->model);
}

static sp_status run_within(limited *l, size_t bytes, const char *output) {
    limit = bytes;
    l->log[0] = 0;
    l->warnings = 0;
    l->o.output_dir = scratch_path(l->s, output);
    return sp_train(l->model, l->ds, l->eval, &l->o, NULL, NULL, NULL);
}

/* What a step over the first `rows` examples, cut to `length`, takes. */
static size_t need_of(limited *l, bool checkpointing, int64_t rows, int64_t length) {
    sp_dataset *ds = make_ids(l->s, rows, length);
    stepper st = {.s = l->s, .model = l->model, .ds = ds, .checkpointing = checkpointing};
    const spi_memory_need need = plan_of(&st);
    sp_dataset_free(ds);
    return spi_memory_total(&need) + (size_t)spi_model_mapped_bytes(l->model);
}

static void says(const char *text, const char *part) {
    if (!strstr(text, part)) fail_msg("expected '%s' in: %s", part, text);
}

/* Refused with one line that ends in this advice, and nothing is written. */
static void refused(limited *l, size_t bytes, const char *advice) {
    assert_int_equal(run_within(l, bytes, "refused"), SP_ERR_MEMORY);
    const char *text = sp_last_error(l->s->ctx);
    says(text, "training needs about ");
    says(text, " are free (A Card 80GB): ");
    says(text, advice);
    if (strchr(text, '\n')) fail_msg("expected one line: %s", text);
    assert_false(spi_path_exists(l->o.output_dir));
    assert_int_equal(l->model->dev->status, SP_OK);
}

static void test_refused(void **state) {
    limited l;
    limited_open(&l, *state, true);
    const size_t all = need_of(&l, false, 8, 200), again = need_of(&l, true, 8, 200);
    assert_true(again < all);
    refused(&l, all - 1, "it would fit with --gradient-checkpointing (about ");
    refused(&l, again, "it would fit with --gradient-checkpointing (about ");
    says(l.log, "Memory: about ");
    says(l.log, "one batch of 1600 tokens ");
    says(l.log, " free (A Card 80GB)");
    /* Recomputation is not enough; smaller batches are, and do not cost time. */
    refused(&l, again - 1,
            "it would fit with --per-device-train-batch-size 4 --gradient-accumulation-steps 2 (about ");
    refused(&l, need_of(&l, false, 1, 200) - 1,
            "it would fit with --gradient-checkpointing --per-device-train-batch-size 1 "
            "--gradient-accumulation-steps 8 (about ");
    l.o.gradient_checkpointing = true;
    l.o.gradient_accumulation_steps = 3;
    refused(&l, need_of(&l, true, 6, 200),
            "it would fit with --per-device-train-batch-size 6 --gradient-accumulation-steps 4 (about ");
    refused(&l, need_of(&l, true, 1, 200),
            "it would fit with --per-device-train-batch-size 1 --gradient-accumulation-steps 24 (about ");
    refused(&l, need_of(&l, true, 1, 200) - 1,
            "it would fit with --per-device-train-batch-size 1 --gradient-accumulation-steps 24 "
            "--max-seq-length 192 (about ");
    refused(&l, need_of(&l, true, 1, 64),
            "--per-device-train-batch-size 1 --gradient-accumulation-steps 24 --max-seq-length 64 (about ");
    refused(&l, need_of(&l, true, 1, 64) - 1, "no batch is small enough");
    /* Just enough is enough, also for the evaluation of the same examples. */
    l.eval = make_ids(l.s, 8, 200);
    must(l.s->ctx, run_within(&l, need_of(&l, true, 8, 200), "trained"));
    assert_int_equal(l.warnings, 0);
    limited_close(&l);
}

/* Short examples to learn, long ones to evaluate. */
static void test_evaluation(void **state) {
    limited l;
    limited_open(&l, *state, true);
    l.eval = l.ds;
    l.ds = make_ids(l.s, 1, 20);
    refused(&l, need_of(&l, false, 1, 20), "it would fit with --per-device-eval-batch-size ");
    says(l.log, "or an evaluation ");
    limited_close(&l);
}

/* The CPU goes on. */
static void test_warned(void **state) {
    limited l;
    limited_open(&l, *state, false);
    must(l.s->ctx, run_within(&l, need_of(&l, true, 8, 200), "trained"));
    assert_int_equal(l.warnings, 1);
    says(l.log, "training needs about ");
    says(l.log, "it would fit with --gradient-checkpointing (about ");
    must(l.s->ctx, run_within(&l, need_of(&l, false, 8, 200), "again"));
    assert_int_equal(l.warnings, 0);
    limited_close(&l);
}

/* ------------------------------------------------------------------ the machine's own word */

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0 /* else what is in memory tells more of the sanitizer than of us */
#endif

/*
 * What the process has more of in memory after two steps is what was planned, within a tenth: oneDNN's kernels
 * and the copies that it makes of operands (some 20 MB here), which are no memory of ours, lie in that, and
 * pages that were taken and never touched. glibc is told to give freed memory back, as it does with larger
 * pieces: otherwise it keeps what oneDNN gave back between its own.
 */
static void test_measured(void **state) {
    scratch *s = *state;
    static const char config[] =
        "{\"model_type\": \"llama\", \"vocab_size\": 8192, \"hidden_size\": 256, \"intermediate_size\": 768, "
        "\"num_hidden_layers\": 6, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, \"head_dim\": 64, "
        "\"tie_word_embeddings\": true}";
    const char *path = scratch_path(s, "config.json"), *dir = scratch_path(s, "base");
    char *text;
    sp_model *model;
    sp_shadow_config c;
    sp_bench_options o;
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
    must(s->ctx, spi_file_write(s->ctx, path, config, sizeof config - 1));
    must(s->ctx, sp_checkpoint_init(s->ctx, path, dir, 7, SP_F32));
    must(s->ctx, sp_model_load(s->ctx, dir, NULL, &model));
    sp_shadow_config_default(&c);
    must(s->ctx, sp_adapter_create(model, &c, NULL));
    sp_bench_options_default(&o);
    o.warmup_steps = 0;
    o.steps = 1;
    must(s->ctx, sp_bench(model, &o, &text));
    json_t *object = json_loads(text, 0, NULL);
    const double planned = json_number_value(json_object_get(object, "planned_memory_bytes"));
    const double taken = json_number_value(json_object_get(object, "taken_memory_bytes"));
    assert_true(planned > 200e6 && planned < 400e6);
    if (!SANITIZED && taken > 0 && (taken < 0.9 * planned || taken > 1.1 * planned))
        fail_msg("planned %.1f MB, took %.1f MB", planned / 1e6, taken / 1e6);
    json_decref(object);
    sp_string_free(text);
    sp_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_counts, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_taken_as_planned, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_nothing_changes, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_checkpointing, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_largest, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_refused, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_evaluation, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_warned, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_measured, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
