/*
 * Runs that end early: interrupted, killed, out of disk, diverged, out of patience. What was interrupted and
 * resumed must end in the bytes of a run that never was. Every run is a process of its own: some are killed,
 * and none may leave anything but its files to the next.
 */
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/json.h"
#include "training.h"

typedef enum how { NOT = 0, ABORT, STOP, KILL, CUT_FILES, FULL_DISK } how;

/* A run, and where its process comes to harm: at the `count`-th event of a kind. */
typedef struct job {
    const char *dir;
    sp_train_options options;
    double dropout;
    sp_dtype dtype;
    bool without_eval, pretrain;
    how end;
    sp_train_event_kind at;
    int count;
    int seen;
} job;

/* What its process tells before it ends. */
typedef struct told {
    sp_status status;
    char message[1024];
    sp_train_result result;
    int events[SP_TRAIN_END + 1];
    int64_t first_step; /* of the event SP_TRAIN_BEGIN */
    sp_train_event_kind last;
} told;

/* ------------------------------------------------------------------ in the process of a run */

typedef struct watch {
    job *job;
    told *told;
} watch;

/* Files cannot grow beyond what fits an adapter but not the optimizer's state: the next checkpoint is cut. */
static void limit_files(bool die) {
    const struct rlimit limit = {.rlim_cur = 100 << 10, .rlim_max = RLIM_INFINITY};
    signal(SIGXFSZ, die ? SIG_DFL : SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &limit);
}

static sp_train_action on_event(void *user, const sp_train_event *e) {
    watch *w = user;
    told *t = w->told;
    if (e->kind == SP_TRAIN_BEGIN) t->first_step = e->step;
    t->events[e->kind]++;
    t->last = e->kind;
    if (e->kind != w->job->at || ++w->job->seen != w->job->count) return SP_TRAIN_CONTINUE;
    switch (w->job->end) {
    case ABORT: return SP_TRAIN_ABORT;
    case STOP: return SP_TRAIN_SAVE_AND_STOP;
    case KILL: raise(SIGKILL); break;
    case CUT_FILES: limit_files(true); break;
    case FULL_DISK: limit_files(false); break;
    case NOT: break;
    }
    return SP_TRAIN_CONTINUE;
}

static void train(job *j, told *t) {
    sp_context *ctx = sp_context_new();
    sp_model *model = load_base(ctx, "train_qwen3", j->dtype, j->pretrain);
    if (!j->pretrain) add_adapter(ctx, model, j->dropout, 1);
    sp_dataset *data = load_examples(ctx, "train_qwen3", 0, 30);
    sp_dataset *eval = j->without_eval ? NULL : load_examples(ctx, "train_qwen3", 100, 12);
    watch w = {.job = j, .told = t};
    j->options.output_dir = j->dir;
    t->result.size = sizeof t->result;
    t->status = sp_train(model, data, eval, &j->options, on_event, &w, &t->result);
    snprintf(t->message, sizeof t->message, "%s", sp_last_error(ctx));
    sp_dataset_free(eval);
    sp_dataset_free(data);
    sp_model_free(model);
    sp_context_free(ctx);
}

/* ------------------------------------------------------------------ in the test's */

/* Starts a run's process; its words come through *pipe. */
static pid_t start(const job *given, int *out) {
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        job j = *given;
        told t = {0};
        close(ends[0]);
        train(&j, &t);
        const bool written = write(ends[1], &t, sizeof t) == (ssize_t)sizeof t;
        _exit(written ? 0 : 1);
    }
    close(ends[1]);
    *out = ends[0];
    return pid;
}

/* Waits for it; false where it was killed. */
static bool finish(pid_t pid, int from, told *t) {
    int status;
    const bool whole = read(from, t, sizeof *t) == (ssize_t)sizeof *t;
    close(from);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (whole) return true;
    if (!WIFSIGNALED(status)) fail_msg("the run's process ended with %d", WEXITSTATUS(status));
    assert_true(WTERMSIG(status) == SIGKILL || WTERMSIG(status) == SIGXFSZ);
    return false;
}

static bool run(const job *j, told *t) {
    int from;
    const pid_t pid = start(j, &from);
    return finish(pid, from, t);
}

static told run_well(const job *j) {
    told t;
    assert_true(run(j, &t));
    if (t.status != SP_OK) fail_msg("%s: %s: %s", j->dir, sp_status_name(t.status), t.message);
    return t;
}

static void said(const told *t, sp_status status, const char *word) {
    if (t->status != status || !strstr(t->message, word))
        fail_msg("%s: %s; expected %s: %s", sp_status_name(t->status), t->message, sp_status_name(status),
                 word);
}

/* 24 steps over 3.4 epochs, with all that a resumed run has to go on with. */
static job make_job(const char *dir) {
    job j = {.dir = dir, .dropout = 0.3};
    sp_train_options *o = &j.options;
    sp_train_options_default(o);
    o->max_steps = 24;
    o->per_device_train_batch_size = 3;
    o->gradient_accumulation_steps = 2;
    o->learning_rate = 3e-3;
    o->weight_decay = 0.01;
    o->warmup_ratio = 0.2;
    o->lr_scheduler_type = SP_SCHEDULE_COSINE;
    o->logging_steps = 3;
    o->eval_steps = 8;
    o->save_steps = 7;
    o->load_best_model_at_end = true;
    o->resume = true;
    return j;
}

static void same_end(scratch *s, const char *a, const char *b) {
    static const char *const files[] = {"shadow_adapter.safetensors", "shadow_config.json", "metrics.jsonl",
                                        "checkpoint-24/optimizer.safetensors",
                                        "checkpoint-24/trainer_state.json"};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) same_file(s->ctx, a, b, files[i]);
}

static const char *keep(char buffer[512], const char *path) {
    snprintf(buffer, 512, "%s", path);
    return buffer;
}

/* ------------------------------------------------------------------ interrupted anywhere */

static void interrupt_and_resume(scratch *s, const char *whole, how end, sp_train_event_kind at, int count) {
    char dir[512], name[64];
    snprintf(name, sizeof name, "run-%d-%d-%d", end, at, count);
    job j = make_job(keep(dir, scratch_path(s, name)));
    j.end = end;
    j.at = at;
    j.count = count;
    told t;
    const bool alive = run(&j, &t);
    assert_int_equal(alive, end != KILL && end != CUT_FILES);
    if (alive && end == FULL_DISK) said(&t, SP_ERR_IO, "optimizer.safetensors");
    else if (alive) said(&t, SP_ERR_INTERRUPTED, "stopped after step");
    if (end == STOP) assert_int_equal(t.last, SP_TRAIN_SAVE);
    j.end = NOT;
    const told after = run_well(&j);
    if (end == STOP) assert_int_equal(after.first_step + after.result.steps, 24);
    same_end(s, whole, dir);
}

static void test_interrupted(void **state) {
    scratch *s = *state;
    char whole[512];
    const job j = make_job(keep(whole, scratch_path(s, "whole")));
    run_well(&j);
    static const how ends[] = {ABORT, STOP, KILL};
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        if (ends[i] != STOP) interrupt_and_resume(s, whole, ends[i], SP_TRAIN_BEGIN, 1);
        interrupt_and_resume(s, whole, ends[i], SP_TRAIN_STEP, 1);
        interrupt_and_resume(s, whole, ends[i], SP_TRAIN_STEP, 9);
        interrupt_and_resume(s, whole, ends[i], SP_TRAIN_STEP, 15);
        interrupt_and_resume(s, whole, ends[i], SP_TRAIN_EVAL, 2);
        interrupt_and_resume(s, whole, ends[i], SP_TRAIN_SAVE, 2);
    }
    interrupt_and_resume(s, whole, KILL, SP_TRAIN_STEP, 24);
    interrupt_and_resume(s, whole, KILL, SP_TRAIN_SAVE, 5);
    interrupt_and_resume(s, whole, KILL, SP_TRAIN_END, 1);
}

/* Killed in the midst of writing a checkpoint: the first, a later one. */
static void test_cut_checkpoint(void **state) {
    scratch *s = *state;
    char whole[512];
    const job j = make_job(keep(whole, scratch_path(s, "whole")));
    run_well(&j);
    for (int count = 1; count < 16; count += 7) {
        interrupt_and_resume(s, whole, CUT_FILES, SP_TRAIN_STEP, count);
        interrupt_and_resume(s, whole, FULL_DISK, SP_TRAIN_STEP, count);
    }
}

/* Killed from outside, again and again, whenever it happens. */
static void test_killed_at_any_time(void **state) {
    scratch *s = *state;
    char whole[512], parts[512];
    const job j = make_job(keep(whole, scratch_path(s, "whole"))),
              k = make_job(keep(parts, scratch_path(s, "parts")));
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    run_well(&j);
    clock_gettime(CLOCK_MONOTONIC, &after);
    const long took = (after.tv_sec - before.tv_sec) * 1000000 + (after.tv_nsec - before.tv_nsec) / 1000;
    told t;
    bool done = false;
    for (int i = 0; i < 8 && !done; i++) {
        int from;
        const pid_t pid = start(&k, &from);
        usleep((unsigned)(took * (3 + 7 * i % 5) / 10));
        kill(pid, SIGKILL);
        done = finish(pid, from, &t);
    }
    if (!done) run_well(&k);
    same_end(s, whole, parts);
}

/* With bf16 copies beside what trains; a whole base, a part of it frozen. */
static void test_kinds(void **state) {
    scratch *s = *state;
    char whole[512], parts[512];
    told t;
    for (int kind = 0; kind < 3; kind++) {
        job j = make_job(keep(whole, scratch_path(s, (const char *[]){"a", "b", "c"}[kind])));
        j.dtype = kind == 1 ? SP_F32 : SP_BF16;
        j.pretrain = kind > 0;
        j.options.freeze_embed = kind == 2;
        run_well(&j);
        j.dir = keep(parts, scratch_path(s, (const char *[]){"d", "e", "f"}[kind]));
        j.end = KILL;
        j.at = SP_TRAIN_STEP;
        j.count = 15;
        assert_false(run(&j, &t));
        j.end = NOT;
        assert_int_equal(run_well(&j).first_step, 14);
        same_file(s->ctx, whole, parts, j.pretrain ? "model.safetensors" : "shadow_adapter.safetensors");
        same_file(s->ctx, whole, parts, "metrics.jsonl");
        same_file(s->ctx, whole, parts, "checkpoint-24/optimizer.safetensors");
    }
}

/* ------------------------------------------------------------------ resuming what should not be */

static void test_other_options(void **state) {
    scratch *s = *state;
    char dir[512];
    told t;
    job j = make_job(keep(dir, scratch_path(s, "run")));
    j.end = ABORT;
    j.at = SP_TRAIN_STEP;
    j.count = 9;
    run(&j, &t);
    said(&t, SP_ERR_INTERRUPTED, "checkpoint-8");
    const job begun = j;
    j.options.learning_rate = 1e-3;
    run(&j, &t);
    said(&t, SP_ERR_MISMATCH, "checkpoint-8/trainer_state.json: \"learning_rate\"");
    j = begun;
    j.dropout = 0.1;
    run(&j, &t);
    said(&t, SP_ERR_MISMATCH, "\"dropout\"");
    /* Without resume nothing of the earlier run is lost. */
    j = begun;
    j.options.resume = false;
    run(&j, &t);
    said(&t, SP_ERR_ARGUMENT, "holds checkpoint-8 of an earlier run");
    assert_true(spi_path_exists(scratch_path(s, "run/checkpoint-8/optimizer.safetensors")));
    j = begun;
    j.end = NOT;
    assert_int_equal(run_well(&j).first_step, 8);
}

/* A finished run has nothing left to do, and does it in the same bytes. */
static void test_finished(void **state) {
    scratch *s = *state;
    char dir[512];
    const job j = make_job(keep(dir, scratch_path(s, "run")));
    const told first = run_well(&j);
    assert_int_equal(first.result.steps, 24);
    spi_buf before = read_all(s->ctx, scratch_path(s, "run/shadow_adapter.safetensors"));
    remove(scratch_path(s, "run/shadow_adapter.safetensors"));
    const told second = run_well(&j);
    assert_int_equal(second.result.steps, 0);
    assert_true(second.result.best_eval_loss == first.result.best_eval_loss);
    assert_true(second.result.train_loss == first.result.train_loss);
    spi_buf after = read_all(s->ctx, scratch_path(s, "run/shadow_adapter.safetensors"));
    assert_int_equal(before.length, after.length);
    assert_memory_equal(before.data, after.data, before.length);
    spi_buf_free(&before);
    spi_buf_free(&after);
}

/* Where the learning rate does not depend on the end, the end may be moved. */
static void test_prolonged(void **state) {
    scratch *s = *state;
    char whole[512], parts[512];
    job j = make_job(keep(whole, scratch_path(s, "whole")));
    j.options.lr_scheduler_type = SP_SCHEDULE_CONSTANT_WITH_WARMUP;
    j.options.warmup_steps = 3;
    j.options.eval_steps = 6;
    run_well(&j);
    j.dir = keep(parts, scratch_path(s, "parts"));
    j.options.max_steps = 12; /* a step with a line of metrics: the end has one anyway */
    run_well(&j);
    j.options.max_steps = 24;
    assert_int_equal(run_well(&j).first_step, 12);
    same_file(s->ctx, whole, parts, "shadow_adapter.safetensors");
    same_file(s->ctx, whole, parts, "metrics.jsonl");
}

/* ------------------------------------------------------------------ the best, and enough */

static json_t *load_json(scratch *s, const char *path) {
    json_t *top = NULL;
    must(s->ctx, spi_json_load(s->ctx, path, &top));
    return top;
}

/* A learning rate that overfits 30 examples: the other data's loss falls and rises again. */
static job overfitting(const char *dir) {
    job j = make_job(dir);
    j.dropout = 0;
    j.options.learning_rate = 3e-2;
    j.options.max_steps = 120;
    j.options.eval_steps = 3;
    j.options.save_steps = 1000;
    j.options.early_stopping_patience = 3;
    j.options.lr_scheduler_type = SP_SCHEDULE_CONSTANT;
    return j;
}

static void test_best(void **state) {
    scratch *s = *state;
    char dir[512], last[512], best[512];
    job j = overfitting(keep(dir, scratch_path(s, "run")));
    const told t = run_well(&j);
    const long long steps = t.result.steps, best_step = t.result.best_step;
    assert_true(t.result.stopped_early);
    assert_int_equal(steps, best_step + 9); /* three evaluations, each three steps */
    assert_int_equal(t.events[SP_TRAIN_EVAL], steps / 3);
    snprintf(best, sizeof best, "%s/checkpoint-%lld", dir, best_step);
    snprintf(last, sizeof last, "%s/checkpoint-%lld", dir, steps);
    assert_true(spi_path_exists(best) && spi_path_exists(last));
    same_file(s->ctx, dir, best, "shadow_adapter.safetensors");
    /* The evaluations say the same. */
    spi_buf metrics = read_all(s->ctx, scratch_path(s, "run/metrics.jsonl"));
    double lowest = 1e9;
    int64_t at = 0;
    for (char *line = strtok(metrics.data, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *o = json_loads(line, 0, NULL);
        const json_t *loss = json_object_get(o, "eval_loss");
        if (loss && json_real_value(loss) < lowest) {
            lowest = json_real_value(loss);
            at = json_integer_value(json_object_get(o, "step"));
        }
        json_decref(o);
    }
    assert_int_equal(at, best_step);
    assert_true(lowest > t.result.best_eval_loss * (1 - 1e-8) && lowest < t.result.best_eval_loss * (1 + 1e-8));
    spi_buf_free(&metrics);
    /* Without being asked for it, the last state is what a run ends with. */
    j.options.load_best_model_at_end = false;
    run_well(&j);
    same_file(s->ctx, dir, last, "shadow_adapter.safetensors");
    char state_name[64];
    snprintf(state_name, sizeof state_name, "run/checkpoint-%lld/trainer_state.json", steps);
    json_t *state_file = load_json(s, scratch_path(s, state_name));
    assert_int_equal(json_integer_value(json_object_get(state_file, "best_step")), best_step);
    json_decref(state_file);
}

/* Stopping early is remembered across an interruption. */
static void test_patience_resumed(void **state) {
    scratch *s = *state;
    char whole[512], parts[512];
    told t;
    job j = overfitting(keep(whole, scratch_path(s, "whole")));
    j.options.save_steps = 2;
    const told straight = run_well(&j);
    j.dir = keep(parts, scratch_path(s, "parts"));
    j.end = KILL;
    j.at = SP_TRAIN_STEP;
    j.count = (int)straight.result.best_step + 5;
    assert_false(run(&j, &t));
    j.end = NOT;
    const told resumed = run_well(&j);
    assert_int_equal(resumed.first_step + resumed.result.steps, straight.result.steps);
    assert_int_equal(resumed.result.best_step, straight.result.best_step);
    same_file(s->ctx, whole, parts, "shadow_adapter.safetensors");
    same_file(s->ctx, whole, parts, "metrics.jsonl");
}

static int count_checkpoints(const char *dir) {
    char path[600];
    int n = 0;
    for (int i = 0; i <= 30; i++) {
        snprintf(path, sizeof path, "%s/checkpoint-%d", dir, i);
        n += spi_path_exists(path);
        snprintf(path, sizeof path, "%s/checkpoint-%d.partial", dir, i);
        if (spi_path_exists(path)) fail_msg("%s was left", path);
    }
    return n;
}

static void test_total_limit(void **state) {
    scratch *s = *state;
    char dir[512];
    job j = make_job(keep(dir, scratch_path(s, "three")));
    j.without_eval = true;
    j.options.load_best_model_at_end = false;
    j.options.save_steps = 4;
    j.options.save_total_limit = 3;
    run_well(&j);
    assert_int_equal(count_checkpoints(dir), 3);
    assert_true(spi_path_exists(scratch_path(s, "three/checkpoint-16")));
    j.dir = keep(dir, scratch_path(s, "all"));
    j.options.save_total_limit = 0;
    run_well(&j);
    assert_int_equal(count_checkpoints(dir), 6);
}

/* ------------------------------------------------------------------ losses that are no numbers */

/* The first step's rate is 0, the second's far too large. */
static void test_diverged(void **state) {
    scratch *s = *state;
    char dir[512];
    told t;
    job j = make_job(keep(dir, scratch_path(s, "loss")));
    j.options.learning_rate = 1e30;
    j.options.save_steps = 1;
    j.options.warmup_steps = 2;
    j.without_eval = true;
    run(&j, &t);
    said(&t, SP_ERR_DIVERGED, "step 3: the ");
    said(&t, SP_ERR_DIVERGED, "loss/checkpoint-2 holds");
    assert_int_equal(t.events[SP_TRAIN_STEP], 2);
    assert_false(spi_path_exists(scratch_path(s, "loss/shadow_adapter.safetensors")));
    /* Parameters that are no numbers are never saved. */
    j.dir = keep(dir, scratch_path(s, "parameters"));
    j.options.learning_rate = 1e39;
    run(&j, &t);
    said(&t, SP_ERR_DIVERGED, "step 2: the parameters' norm is");
    said(&t, SP_ERR_DIVERGED, "parameters/checkpoint-1 holds");
    assert_false(spi_path_exists(scratch_path(s, "parameters/checkpoint-2")));
    /* The evaluation sees it too. */
    j.dir = keep(dir, scratch_path(s, "evaluation"));
    j.without_eval = false;
    j.options.save_steps = 100;
    j.options.eval_steps = 2;
    run(&j, &t);
    said(&t, SP_ERR_DIVERGED, "step 2: the evaluation loss is");
    said(&t, SP_ERR_DIVERGED, "nothing was saved");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_interrupted, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_cut_checkpoint, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_killed_at_any_time, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_kinds, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_other_options, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_finished, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_prolonged, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_best, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_patience_resumed, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_total_limit, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_diverged, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
