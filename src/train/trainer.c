/* sp_train: the run from its beginning, or from where it was interrupted, to its end. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "train/fingerprint.h"
#include "train/fits.h"
#include "train/metrics.h"
#include "train/options.h"
#include "train/run_dir.h"
#include "train/trainer.h"

/* Seconds of a clock that only goes forward. */
static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Tells the callback and remembers what it asks for. */
static void tell(spi_trainer *t, sp_train_event_kind kind) {
    const double seconds = now() - t->started;
    const int64_t done = t->progress.step - t->first_step;
    t->event.kind = kind;
    t->event.step = t->progress.step;
    t->event.total_steps = t->total_steps;
    t->event.tokens_per_second = seconds > 0 ? (double)t->tokens / seconds : 0;
    t->event.seconds_left = done > 0 ? seconds / (double)done * (double)(t->total_steps - t->progress.step) : 0;
    if (!t->callback) return;
    const sp_train_action action = t->callback(t->user, &t->event);
    t->stop |= action == SP_TRAIN_SAVE_AND_STOP;
    t->abort |= action == SP_TRAIN_ABORT;
}

/* ------------------------------------------------------------------ files */

static spi_state state_of(spi_trainer *t) {
    return (spi_state){.optimizer = t->optimizer,
                       .progress = &t->progress,
                       .fingerprint = t->fingerprint,
                       .total_steps = t->total_steps,
                       .epoch = t->event.epoch};
}

static sp_status name_checkpoint(spi_trainer *t, int64_t step, const char **out) {
    *out = spi_run_dir_checkpoint(&t->names, t->options.output_dir, step);
    return *out ? SP_OK : spi_fail_memory(t->ctx, strlen(t->options.output_dir), "a path");
}

static sp_status rotate(spi_trainer *t) {
    return spi_run_dir_rotate(t->ctx, t->options.output_dir, t->options.save_total_limit,
                              t->progress.evaluated ? t->progress.best_step : -1);
}

/* A checkpoint of the current step, unless there is one. */
static sp_status save(spi_trainer *t) {
    const spi_state state = state_of(t);
    const char *dir;
    double norm;
    if (t->saved_step == t->progress.step) return SP_OK;
    /* A step whose gradients were finite may still have been too large. */
    SPI_TRY(spi_optimizer_param_norm(t->optimizer, &norm));
    if (!isfinite(norm)) return spi_trainer_diverged(t, t->progress.step, "parameters' norm", norm);
    SPI_TRY(name_checkpoint(t, t->progress.step, &dir));
    SPI_TRY(spi_metrics_flush(t->ctx, t->metrics));
    SPI_TRY(spi_state_save(&state, dir));
    t->saved_step = t->progress.step;
    SPI_TRY(rotate(t));
    t->event.path = dir;
    tell(t, SP_TRAIN_SAVE);
    t->event.path = NULL;
    return SP_OK;
}

static sp_status log_step(spi_trainer *t) {
    spi_progress *p = &t->progress;
    const double n = (double)p->logged;
    json_t *line =
        json_pack("{s:I,s:f,s:f}", "step", (json_int_t)p->step, "epoch", t->event.epoch, "loss", p->loss / n);
    if (line && t->model->adapter) {
        json_object_set_new(line, "base_loss", json_real(p->base_loss / n));
        json_object_set_new(line, "shadow_loss", json_real(p->shadow_loss / n));
    }
    if (line && spi_model_distills(t->model)) json_object_set_new(line, "distill_loss", json_real(p->loss / n));
    json_object_set_new(line, "learning_rate", json_real(t->event.learning_rate));
    json_object_set_new(line, "grad_norm", json_real(t->event.grad_norm));
    p->loss = p->base_loss = p->shadow_loss = 0;
    p->logged = 0;
    return spi_metrics_append(t->ctx, t->metrics, line);
}

static sp_status log_eval(spi_trainer *t) {
    const sp_train_event *e = &t->event;
    json_t *line = json_pack("{s:I,s:f,s:f}", "step", (json_int_t)t->progress.step, "epoch", e->epoch,
                             "eval_loss", e->eval_loss);
    if (line && t->model->adapter) {
        json_object_set_new(line, "eval_base_loss", json_real(e->eval_base_loss));
        json_object_set_new(line, "eval_shadow_loss", json_real(e->eval_shadow_loss));
    }
    if (line && spi_model_distills(t->model))
        json_object_set_new(line, "eval_distill_loss", json_real(e->eval_loss));
    return spi_metrics_append(t->ctx, t->metrics, line);
}

/* ------------------------------------------------------------------ beginning */

/* A classifier learns labels, any other model tokens. */
static sp_status check_label(const spi_trainer *t, const char *what, int64_t i, const sp_example *e) {
    if (t->model->task != SP_TASK_SEQ_CLS && e->label < 0) return SP_OK;
    if (t->model->task == SP_TASK_SEQ_CLS && e->label >= 0 && e->label < spi_model_outputs(t->model))
        return SP_OK;
    if (t->model->task != SP_TASK_SEQ_CLS)
        return spi_fail(t->ctx, SP_ERR_MISMATCH,
                        "%s data: example %lld has a label, but the model is a causal LM", what,
                        (long long)i + 1);
    return spi_fail(t->ctx, SP_ERR_MISMATCH, "%s data: example %lld: expected a label below %lld, found %d",
                    what, (long long)i + 1, (long long)spi_model_outputs(t->model), e->label);
}

/* Everything that a batch of this data could fail for, before the first of many steps. */
static sp_status check_data(spi_trainer *t, const char *what, const sp_dataset *data) {
    const int64_t vocab = t->model->base->arch.vocab_size;
    int64_t longest = 0;
    if (sp_dataset_label_tokens(data) == 0)
        return spi_fail(t->ctx, SP_ERR_DATA, "%s data: expected tokens to learn, found none in %lld examples",
                        what, (long long)sp_dataset_count(data));
    for (int64_t i = 0; i < sp_dataset_count(data); i++) {
        sp_example e;
        sp_dataset_get(data, i, &e);
        SPI_TRY(check_label(t, what, i, &e));
        if (e.length > longest) longest = e.length;
        for (int64_t j = 0; j < e.length; j++)
            if (e.ids[j] < 0 || e.ids[j] >= vocab)
                return spi_fail(t->ctx, SP_ERR_MISMATCH,
                                "%s data: example %lld, token %lld: expected an id below %lld (%s: "
                                "\"vocab_size\"), found %d",
                                what, (long long)i + 1, (long long)j + 1, (long long)vocab,
                                t->model->files.config_path, e.ids[j]);
    }
    return t->model->base->positions ? spi_decoder_prepare(t->model->base, longest) : SP_OK;
}

/* What trains, in which order, for how long. */
static sp_status plan_run(spi_trainer *t) {
    sp_train_options *o = &t->options;
    if (t->model->task == SP_TASK_SEQ_CLS && o->packing)
        return spi_fail(t->ctx, SP_ERR_ARGUMENT,
                        "packing: not for classification, whose examples each have a label");
    if (!t->model->adapter && !t->model->teacher)
        spi_model_freeze(t->model, o->freeze_backbone, o->freeze_embed, o->freeze_head);
    SPI_TRY(spi_sampler_new(t->ctx, t->train, o, &t->sampler));
    SPI_TRY(spi_trainer_fits(t));
    SPI_TRY(spi_optimizer_new(t->model, o, &t->optimizer));
    t->total_steps = spi_sampler_total(t->sampler);
    t->warmup_steps =
        o->warmup_steps > 0 ? o->warmup_steps : (int64_t)ceil((double)t->total_steps * o->warmup_ratio);
    t->fingerprint = spi_fingerprint(&(spi_run_facts){.model = t->model,
                                                      .options = o,
                                                      .train = t->train,
                                                      .eval = t->eval,
                                                      .total_steps = t->total_steps,
                                                      .warmup_steps = t->warmup_steps});
    t->micro = calloc((size_t)o->gradient_accumulation_steps, sizeof *t->micro);
    return t->fingerprint && t->micro ? SP_OK : spi_fail_memory(t->ctx, sizeof *t->micro, "a training run");
}

static sp_status resume(spi_trainer *t, int64_t step) {
    const spi_state state = state_of(t);
    const char *dir;
    SPI_TRY(name_checkpoint(t, step, &dir));
    SPI_TRY(spi_state_load(&state, dir));
    spi_log(t->ctx, SP_LOG_INFO, "resuming from %s", dir);
    t->saved_step = t->first_step = t->progress.step;
    if (t->first_step > 0) t->event.epoch = spi_sampler_step(t->sampler, t->first_step - 1).epoch;
    return SP_OK;
}

/* The directory, and the newest checkpoint in it when resuming. What is not to be resumed is not lost either.
 */
static sp_status open_directory(spi_trainer *t) {
    const char *dir = t->options.output_dir;
    int64_t newest;
    SPI_TRY(spi_model_check_place(t->model, dir));
    SPI_TRY(spi_run_dir_prepare(t->ctx, dir));
    SPI_TRY(spi_run_dir_newest(t->ctx, dir, &newest));
    t->saved_step = -1;
    if (newest >= 0 && !t->options.resume)
        return spi_fail(t->ctx, SP_ERR_ARGUMENT,
                        "%s: holds checkpoint-%lld of an earlier run: resume goes on from it; to begin anew, "
                        "remove it or choose another output_dir",
                        dir, (long long)newest);
    if (newest >= 0) SPI_TRY(resume(t, newest));
    t->metrics = spi_path_join(&t->names, dir, "metrics.jsonl");
    if (!t->metrics) return spi_fail_memory(t->ctx, strlen(dir), "a path");
    return spi_metrics_start(t->ctx, t->metrics, t->progress.step);
}

static sp_status open_run(spi_trainer *t) {
    if (!t->model->adapter && !t->model->trainable && !t->model->teacher)
        return spi_fail(t->ctx, SP_ERR_ARGUMENT,
                        "training needs an adapter or a trainable base, found neither");
    SPI_TRY(check_data(t, "training", t->train));
    if (t->eval) SPI_TRY(check_data(t, "evaluation", t->eval));
    SPI_TRY(plan_run(t));
    return open_directory(t);
}

static void close_run(spi_trainer *t) {
    for (int32_t i = 0; t->micro && i < t->options.gradient_accumulation_steps; i++)
        spi_batch_free(&t->micro[i]);
    free(t->micro);
    spi_batch_free(&t->eval_batch);
    spi_sampler_free(t->sampler);
    spi_optimizer_free(t->optimizer);
    spi_arena_free(&t->names);
    json_decref(t->fingerprint);
}

/* ------------------------------------------------------------------ going on */

static bool eval_is_due(const spi_trainer *t) {
    if (!t->eval) return false;
    if (t->progress.step == t->total_steps) return true;
    return t->options.eval_steps > 0 ? t->progress.step % t->options.eval_steps == 0 : t->ends_epoch;
}

/* What follows a step: metrics, evaluation, checkpoint. */
static sp_status after_step(spi_trainer *t) {
    const bool last = t->progress.step == t->total_steps;
    bool better = false;
    if (t->progress.step % t->options.logging_steps == 0 || last) SPI_TRY(log_step(t));
    tell(t, SP_TRAIN_STEP);
    if (t->abort) return SP_OK;
    if (eval_is_due(t)) {
        SPI_TRY(spi_trainer_evaluate(t, &better));
        SPI_TRY(log_eval(t));
        tell(t, SP_TRAIN_EVAL);
        if (t->abort) return SP_OK;
    }
    const bool due = t->progress.step % t->options.save_steps == 0 || better || last || t->stop;
    return due ? save(t) : SP_OK;
}

static bool out_of_patience(const spi_trainer *t) {
    return t->options.early_stopping_patience > 0 &&
           t->progress.evals_without_better >= t->options.early_stopping_patience;
}

static sp_status interrupted(const spi_trainer *t) {
    const char *dir = t->options.output_dir;
    const long long step = t->progress.step, total = t->total_steps, saved = t->saved_step;
    if (saved < 0)
        return spi_fail(t->ctx, SP_ERR_INTERRUPTED, "stopped after step %lld of %lld; nothing was saved", step,
                        total);
    return spi_fail(t->ctx, SP_ERR_INTERRUPTED,
                    "stopped after step %lld of %lld; resume from %s/checkpoint-%lld", step, total, dir, saved);
}

static sp_status loop(spi_trainer *t) {
    while (t->progress.step < t->total_steps && !t->abort && !t->stop && !out_of_patience(t)) {
        SPI_TRY(spi_trainer_step(t));
        SPI_TRY(after_step(t));
    }
    if (t->abort || (t->stop && t->progress.step < t->total_steps)) return interrupted(t);
    SPI_TRY(save(t));
    return rotate(t); /* as a run that was interrupted in its last save would not have */
}

/* The final files, from the last step or the best one. */
static sp_status finish(spi_trainer *t) {
    const spi_progress *p = &t->progress;
    if (t->options.load_best_model_at_end && p->evaluated && p->best_step != p->step) {
        const spi_state state = state_of(t);
        const char *best;
        SPI_TRY(name_checkpoint(t, p->best_step, &best));
        SPI_TRY(spi_state_load_params(&state, best));
    }
    SPI_TRY(spi_model_save_trained(t->model, t->options.output_dir));
    tell(t, SP_TRAIN_END);
    return SP_OK;
}

static void fill_result(const spi_trainer *t, sp_train_result *result) {
    const spi_progress *p = &t->progress;
    const double seconds = now() - t->started;
    const sp_train_result all = {.size = result->size,
                                 .steps = p->step - t->first_step,
                                 .tokens = t->tokens,
                                 .train_loss = p->step ? p->total_loss / (double)p->step : NAN,
                                 .best_eval_loss = p->evaluated ? p->best_eval_loss : NAN,
                                 .best_step = p->best_step,
                                 .seconds = seconds,
                                 .tokens_per_second = seconds > 0 ? (double)t->tokens / seconds : 0,
                                 .stopped_early = p->step < t->total_steps};
    memcpy(result, &all, result->size < sizeof all ? result->size : sizeof all);
}

static sp_status read_options(spi_trainer *t, const sp_train_options *opts) {
    SPI_TRY(spi_train_options_read(t->ctx, opts, &t->options));
    t->distill = (spi_distill){t->options.distill_kl, t->options.distill_mse, t->options.distill_temperature};
    return SP_OK;
}

sp_status sp_train(sp_model *model, const sp_dataset *train, const sp_dataset *eval,
                   const sp_train_options *opts, sp_train_fn callback, void *user, sp_train_result *result) {
    spi_trainer t = {
        .model = model, .ctx = model->ctx, .train = train, .eval = eval, .callback = callback, .user = user};
    SPI_TRY(read_options(&t, opts));
    sp_status status = open_run(&t);
    if (status == SP_OK) {
        t.started = now();
        tell(&t, SP_TRAIN_BEGIN);
        status = loop(&t);
    }
    if (status == SP_OK) status = finish(&t);
    if (status == SP_OK && result) fill_result(&t, result);
    close_run(&t);
    return status;
}

sp_status sp_distill_evaluate(sp_model *model, const sp_dataset *ds, int64_t most, const sp_train_options *opts,
                              sp_distill_result *result) {
    spi_trainer t = {.model = model, .ctx = model->ctx};
    spi_loss_sums sums = {0};
    int64_t tokens;
    if (!spi_model_distills(model))
        return spi_fail(t.ctx, SP_ERR_ARGUMENT, "%s: expected a model with a teacher, found one without",
                        model->files.dir);
    SPI_TRY(read_options(&t, opts));
    SPI_TRY(check_data(&t, "evaluation", ds));
    sp_status status = spi_trainer_sum_losses(&t, ds, most > 0 ? most : INT64_MAX, &sums, &tokens);
    spi_batch_free(&t.eval_batch);
    SPI_TRY(status);
    const sp_distill_result all = {.size = result->size,
                                   .tokens = tokens,
                                   .loss = sums.base / (double)tokens,
                                   .agreement = (double)sums.base_correct / (double)tokens};
    memcpy(result, &all, result->size < sizeof all ? result->size : sizeof all);
    return SP_OK;
}
