/* What surrounds the steps: options, the run's directory, metrics, checkpoints, what must be alike to resume.
 */
#include <math.h>
#include <sys/stat.h>

#include "train/fingerprint.h"
#include "train/metrics.h"
#include "train/options.h"
#include "train/run_dir.h"
#include "train/state.h"
#include "training.h"

/* The call failed so, and its message has all of these words. */
static void failed(scratch *s, sp_status got, sp_status expected, const char *const *words) {
    if (got != expected) fail_msg("%s, expected %s", sp_status_name(got), sp_status_name(expected));
    for (; *words; words++)
        if (!strstr(sp_last_error(s->ctx), *words)) fail_msg("no \"%s\" in: %s", *words, sp_last_error(s->ctx));
}
#define FAILED(call, status, ...) failed(s, call, status, (const char *const[]){__VA_ARGS__, NULL})

/* ------------------------------------------------------------------ options */

static void test_option_values(void **state) {
    scratch *s = *state;
    sp_train_options out;
#define REFUSED(change, ...)                                                                     \
    do {                                                                                         \
        sp_train_options o;                                                                      \
        sp_train_options_default(&o);                                                            \
        o.output_dir = "x";                                                                      \
        change;                                                                                  \
        FAILED(spi_train_options_read(s->ctx, &o, &out), SP_ERR_ARGUMENT, __VA_ARGS__, "found"); \
    } while (0)
    REFUSED(o.output_dir = NULL, "output_dir");
    REFUSED(o.learning_rate = -1e-3, "learning_rate", "at least 0", "-0.001");
    REFUSED(o.learning_rate = NAN, "learning_rate");
    REFUSED(o.learning_rate = INFINITY, "learning_rate");
    REFUSED(o.adam_beta1 = 1, "adam_beta1", "below 1");
    REFUSED(o.adam_beta2 = -0.1, "adam_beta2");
    REFUSED(o.adam_epsilon = 0, "adam_epsilon", "above 0");
    REFUSED(o.warmup_ratio = 1.5, "warmup_ratio", "at most 1");
    REFUSED(o.num_train_epochs = 0, "num_train_epochs", "above 0");
    REFUSED(o.per_device_train_batch_size = 0, "per_device_train_batch_size", "at least 1");
    REFUSED(o.gradient_accumulation_steps = 0, "gradient_accumulation_steps");
    REFUSED(o.save_steps = 0, "save_steps");
    REFUSED(o.logging_steps = 0, "logging_steps");
    REFUSED(o.lr_scheduler_type = (sp_schedule)9, "lr_scheduler_type", "9");
#undef REFUSED
    sp_train_options o = {0};
    assert_int_equal(spi_train_options_read(s->ctx, &o, &out), SP_ERR_ARGUMENT);
    assert_non_null(strstr(sp_last_error(s->ctx), "sp_train_options_default"));
}

/* An older program's struct is shorter: what it does not know has its default. */
static void test_older_options(void **state) {
    scratch *s = *state;
    sp_train_options o, out;
    memset(&o, 0x7f, sizeof o);
    sp_train_options defaults;
    sp_train_options_default(&defaults);
    memcpy(&o, &defaults, offsetof(sp_train_options, shuffle));
    o.size = offsetof(sp_train_options, shuffle);
    o.output_dir = "x";
    o.learning_rate = 0.25;
    must(s->ctx, spi_train_options_read(s->ctx, &o, &out));
    assert_true(out.learning_rate == 0.25 && out.shuffle && out.seed == 42 && !out.freeze_head);
}

/* ------------------------------------------------------------------ the run's directory */

static void make_checkpoints(scratch *s, const char *dir, const int *steps, size_t count) {
    char path[600];
    for (size_t i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/checkpoint-%d", dir, steps[i]);
        must(s->ctx, spi_make_dirs(s->ctx, path));
        snprintf(path, sizeof path, "%s/checkpoint-%d/file", dir, steps[i]);
        must(s->ctx, spi_file_write(s->ctx, path, "x", 1));
    }
}

static bool there(scratch *s, const char *name) {
    return spi_path_exists(scratch_path(s, name));
}

static void test_newest(void **state) {
    scratch *s = *state;
    int64_t step;
    must(s->ctx, spi_run_dir_newest(s->ctx, s->dir, &step));
    assert_int_equal(step, -1);
    make_checkpoints(s, s->dir, (int[]){5, 100, 20}, 3);
    static const char *const others[] = {"checkpoint-300.partial", "checkpoint-",
                                         "checkpoint-0400",        "checkpoint-500x",
                                         "checkpoint-+600",        "checkpoint-99999999999999999999",
                                         "checkpoint--7"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        must(s->ctx, spi_make_dirs(s->ctx, scratch_path(s, others[i])));
    must(s->ctx, spi_run_dir_newest(s->ctx, s->dir, &step));
    assert_int_equal(step, 100);
    FAILED(spi_run_dir_newest(s->ctx, scratch_path(s, "nowhere"), &step), SP_ERR_IO, "nowhere");
}

static void test_rotation(void **state) {
    scratch *s = *state;
    make_checkpoints(s, s->dir, (int[]){9, 10, 20, 100, 30}, 5);
    must(s->ctx, spi_make_dirs(s->ctx, scratch_path(s, "checkpoint-300.partial/deep")));
    must(s->ctx, spi_run_dir_rotate(s->ctx, s->dir, 0, -1));
    assert_false(there(s, "checkpoint-300.partial"));
    assert_true(there(s, "checkpoint-9"));
    must(s->ctx, spi_run_dir_rotate(s->ctx, s->dir, 3, 10));
    assert_false(there(s, "checkpoint-9"));
    assert_false(there(s, "checkpoint-20"));
    assert_true(there(s, "checkpoint-10/file") && there(s, "checkpoint-30/file") &&
                there(s, "checkpoint-100/file"));
    /* The newest stays even where the best alone would fill the limit. */
    must(s->ctx, spi_run_dir_rotate(s->ctx, s->dir, 1, 10));
    assert_false(there(s, "checkpoint-30"));
    assert_true(there(s, "checkpoint-10") && there(s, "checkpoint-100"));
    must(s->ctx, spi_run_dir_rotate(s->ctx, s->dir, 1, -1));
    assert_false(there(s, "checkpoint-10"));
    assert_false(there(s, "checkpoint-10.partial"));
    assert_true(there(s, "checkpoint-100/file"));
}

static void test_unwritable(void **state) {
    scratch *s = *state;
    must(s->ctx, spi_file_write(s->ctx, scratch_path(s, "file"), "x", 1));
    FAILED(spi_run_dir_prepare(s->ctx, scratch_path(s, "file/run")), SP_ERR_IO, "file");
    must(s->ctx, spi_run_dir_prepare(s->ctx, scratch_path(s, "a/b/run")));
    must(s->ctx, spi_run_dir_prepare(s->ctx, scratch_path(s, "a/b/run")));
}

/* ------------------------------------------------------------------ metrics */

static void test_metrics(void **state) {
    scratch *s = *state;
    const char *path = scratch_path(s, "metrics.jsonl");
    must(s->ctx, spi_metrics_start(s->ctx, path, 0));
    for (int i = 1; i < 5; i++)
        must(s->ctx, spi_metrics_append(s->ctx, path, json_pack("{s:i,s:f}", "step", 10 * i, "loss", 1.0 / 3)));
    must(s->ctx, spi_metrics_flush(s->ctx, path));
    FILE *file = fopen(path, "a");
    fputs("{\"step\": 20, \"lo", file); /* cut short */
    fclose(file);
    must(s->ctx, spi_metrics_start(s->ctx, path, 20));
    spi_buf content = read_all(s->ctx, path);
    assert_string_equal(content.data,
                        "{\"step\": 10, \"loss\": 0.333333333}\n{\"step\": 20, \"loss\": 0.333333333}\n");
    spi_buf_free(&content);
    must(s->ctx, spi_metrics_start(s->ctx, path, 0));
    content = read_all(s->ctx, path);
    assert_int_equal(content.length, 0);
    spi_buf_free(&content);
    FAILED(spi_metrics_append(s->ctx, scratch_path(s, "no/metrics.jsonl"), json_object()), SP_ERR_IO,
           "metrics");
}

/* ------------------------------------------------------------------ what must be alike */

typedef struct run {
    sp_model *model;
    sp_dataset *train, *eval;
    sp_train_options options;
    spi_run_facts facts;
} run;

static run make_run(scratch *s, double dropout) {
    run r = {.model = load_case(s->ctx, "train_qwen3", dropout, 1),
             .train = load_examples(s->ctx, "train_qwen3", 0, 10),
             .eval = load_examples(s->ctx, "train_qwen3", 20, 5)};
    sp_train_options_default(&r.options);
    r.facts = (spi_run_facts){.model = r.model, .train = r.train, .eval = r.eval, .total_steps = 9};
    return r;
}

static void free_run(run *r) {
    sp_dataset_free(r->eval);
    sp_dataset_free(r->train);
    sp_model_free(r->model);
}

/* NULL where the changed facts may resume the begun run, else the key that is named. */
static void compare(scratch *s, const run *begun, const run *now, const char *key) {
    spi_run_facts a = begun->facts, b = now->facts;
    a.options = &begun->options;
    b.options = &now->options;
    json_t *was = spi_fingerprint(&a), *is = spi_fingerprint(&b);
    const sp_status status = spi_fingerprint_check(s->ctx, "DIR/trainer_state.json", is, was);
    if (!key) must(s->ctx, status);
    else FAILED(status, SP_ERR_MISMATCH, "DIR/trainer_state.json", key, "begun with");
    json_decref(was);
    json_decref(is);
}

static void test_fingerprint(void **state) {
    scratch *s = *state;
    run a = make_run(s, 0.1);
    run b = a;
    compare(s, &a, &b, NULL);
#define CHANGED(change, key)     \
    do {                         \
        b = a;                   \
        change;                  \
        compare(s, &a, &b, key); \
    } while (0)
    CHANGED(b.options.learning_rate *= 2, "\"learning_rate\"");
    CHANGED(b.options.seed++, "\"seed\"");
    CHANGED(b.options.per_device_train_batch_size++, "\"per_device_train_batch_size\"");
    CHANGED(b.options.packing = true, "\"packing\"");
    CHANGED(b.facts.total_steps++, "\"total_steps\"");
    CHANGED(b.facts.eval = NULL, "\"eval_data\"");
    CHANGED(b.facts.train = a.eval, "\"train_data\"");
    /* What changes no number, or nothing that has been computed. */
    CHANGED(b.options.max_seq_length = 7, NULL);
    CHANGED(b.options.save_steps = 3, NULL);
    CHANGED(b.options.logging_steps = 3, NULL);
    CHANGED(b.options.gradient_checkpointing = true, NULL);
    a.options.lr_scheduler_type = SP_SCHEDULE_CONSTANT_WITH_WARMUP;
    CHANGED(b.facts.total_steps++, NULL);
    CHANGED(b.facts.warmup_steps++, "\"warmup_steps\"");
#undef CHANGED
    run other = make_run(s, 0.2);
    other.options = a.options;
    compare(s, &a, &other, "\"dropout\"");
    free_run(&other);
    other = (run){.model = load_case(s->ctx, "train_gemma2", 0.1, 1), .options = a.options, .facts = a.facts};
    other.facts.model = other.model;
    compare(s, &a, &other, "\"base\"");
    free_run(&other);
    free_run(&a);
}

/* ------------------------------------------------------------------ checkpoints */

static void fill(spi_device *dev, const spi_param *p, float *to, float value) {
    float *values = malloc((size_t)p->count * sizeof *values);
    for (int64_t i = 0; i < p->count; i++) values[i] = value + (float)i;
    dev->op->upload(dev, to, values, (size_t)p->count * sizeof *values);
    free(values);
}

static void expect(const spi_param *p, const float *got, float value) {
    for (int64_t i = 0; i < p->count; i++)
        if (got[i] != value + (float)i) fail_msg("%s[%lld] is %g", p->name, (long long)i, (double)got[i]);
}

/* Everything comes back bit for bit, into another model. */
static void test_round_trip(void **state) {
    scratch *s = *state;
    run r = make_run(s, 0), other = make_run(s, 0);
    spi_optimizer *o = NULL, *into = NULL;
    must(s->ctx, spi_optimizer_new(r.model, &r.options, &o));
    must(s->ctx, spi_optimizer_new(other.model, &r.options, &into));
    int unreached = 0;
    for (size_t i = 0; i < o->count; i++) {
        fill(r.model->dev, o->params[i], o->params[i]->f32, 0.125f * (float)i);
        unreached += !o->m[i];
        if (!o->m[i]) continue;
        fill(r.model->dev, o->params[i], o->m[i], -1.0f - (float)i);
        fill(r.model->dev, o->params[i], o->v[i], 0.5f + (float)i);
    }
    assert_int_equal(unreached, 4); /* the last update's matrices */
    json_t *facts = json_pack("{s:s}", "alpha", "one"), *others = json_pack("{s:s}", "alpha", "two");
    spi_progress p = {.step = 12,
                      .loss = 1.0 / 3,
                      .base_loss = 0.1,
                      .shadow_loss = 1e-300,
                      .logged = 2,
                      .total_loss = 7.7,
                      .evaluated = true,
                      .best_eval_loss = 2.0 / 3,
                      .best_step = 8,
                      .evals_without_better = 1};
    spi_state st = {.optimizer = o, .progress = &p, .fingerprint = facts, .total_steps = 20, .epoch = 1.5};
    const char *dir = scratch_path(s, "checkpoint-12");
    must(s->ctx, spi_state_save(&st, dir));
    assert_false(there(s, "checkpoint-12.partial"));
    assert_true(there(s, "checkpoint-12/shadow_config.json"));

    spi_progress q = {0};
    spi_state back = {.optimizer = into, .progress = &q, .fingerprint = others};
    FAILED(spi_state_load(&back, dir), SP_ERR_MISMATCH, "trainer_state.json", "alpha", "one", "two");
    assert_int_equal(q.step, 0);
    back.fingerprint = facts;
    must(s->ctx, spi_state_load(&back, dir));
    assert_true(q.step == 12 && q.loss == p.loss && q.base_loss == p.base_loss);
    assert_true(q.shadow_loss == p.shadow_loss && q.logged == 2 && q.total_loss == p.total_loss && q.evaluated);
    assert_true(q.best_eval_loss == p.best_eval_loss && q.best_step == 8 && q.evals_without_better == 1);
    for (size_t i = 0; i < o->count; i++) {
        expect(into->params[i], into->params[i]->f32, 0.125f * (float)i);
        if (!o->m[i]) continue;
        expect(into->params[i], into->m[i], -1.0f - (float)i);
        expect(into->params[i], into->v[i], 0.5f + (float)i);
    }
    spi_optimizer_free(o);
    spi_optimizer_free(into);
    json_decref(facts);
    json_decref(others);
    free_run(&r);
    free_run(&other);
}

static void write_text(scratch *s, const char *path, const char *text) {
    must(s->ctx, spi_file_write(s->ctx, path, text, strlen(text)));
}

/* A checkpoint that is not ours, or was damaged. */
static void test_damaged(void **state) {
    scratch *s = *state;
    run r = make_run(s, 0);
    spi_optimizer *o = NULL;
    must(s->ctx, spi_optimizer_new(r.model, &r.options, &o));
    json_t *facts = json_object();
    spi_progress p = {.step = 1};
    const spi_state st = {.optimizer = o, .progress = &p, .fingerprint = facts};
    char dir[512];
    snprintf(dir, sizeof dir, "%s", scratch_path(s, "checkpoint-1"));
    must(s->ctx, spi_state_save(&st, dir));
    const char *tensors = scratch_path(s, "checkpoint-1/optimizer.safetensors");
    spi_buf whole = read_all(s->ctx, tensors);
    must(s->ctx, spi_file_write(s->ctx, tensors, whole.data, whole.length / 2));
    FAILED(spi_state_load(&st, dir), SP_ERR_FORMAT, "optimizer.safetensors");
    /* A tensor under another name: the first letter of one changed. */
    char *name = memmem(whole.data, whole.length, "exp_avg.shadow", 14);
    name[0] = 'E';
    must(s->ctx, spi_file_write(s->ctx, tensors, whole.data, whole.length));
    FAILED(spi_state_load(&st, dir), SP_ERR_MISMATCH, "optimizer.safetensors", "exp_avg.shadow", "no tensor");
    const char *progress = scratch_path(s, "checkpoint-1/trainer_state.json");
    write_text(s, progress, "{\"global_step\": 1}");
    FAILED(spi_state_load(&st, dir), SP_ERR_FORMAT, "trainer_state.json", "\"run\"");
    write_text(s, progress, "{\"run\": {}, \"global_step\": \"1\"}");
    FAILED(spi_state_load(&st, dir), SP_ERR_FORMAT, "trainer_state.json", "global_step");
    remove(progress);
    FAILED(spi_state_load(&st, dir), SP_ERR_IO, "trainer_state.json");
    spi_buf_free(&whole);
    json_decref(facts);
    spi_optimizer_free(o);
    free_run(&r);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_option_values, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_older_options, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_newest, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_rotation, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_unwritable, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_metrics, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_fingerprint, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_round_trip, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_damaged, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
