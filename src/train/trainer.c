/* sp_train: the run from its beginning, or from where it was interrupted, to its end. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "train/metrics.h"
#include "train/options.h"
#include "train/run_dir.h"
#include "train/trainer.h"

double spi_trainer_clock(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void spi_trainer_tell(spi_trainer *t, sp_train_event_kind kind) {
    const double seconds = spi_trainer_clock() - t->started;
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
                       .options = &t->options,
                       .data = t->train,
                       .progress = &t->progress,
                       .total_steps = t->total_steps,
                       .epoch = t->event.epoch};
}

static sp_status save(spi_trainer *t) {
    if (t->saved_step == t->progress.step) return SP_OK;
    const spi_state state = state_of(t);
    const char *dir = spi_run_dir_checkpoint(&t->names, t->options.output_dir, t->progress.step);
    if (!dir) return spi_fail_memory(t->ctx, strlen(t->options.output_dir), "a path");
    SPI_TRY(spi_state_save(&state, dir));
    t->saved_step = t->progress.step;
    SPI_TRY(spi_run_dir_rotate(t->ctx, t->options.output_dir, t->options.save_total_limit,
                               t->progress.evaluated ? t->progress.best_step : -1));
    t->event.path = dir;
    spi_trainer_tell(t, SP_TRAIN_SAVE);
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
    return spi_metrics_append(t->ctx, t->metrics, line);
}

/* ------------------------------------------------------------------ beginning */

static sp_status check_data(spi_trainer *t) {
    if (sp_dataset_count(t->train) == 0 || sp_dataset_label_tokens(t->train) == 0)
        return spi_fail(t->ctx, SP_ERR_DATA, "training data: expected tokens to learn, found none");
    if (t->eval && sp_dataset_label_tokens(t->eval) == 0)
        return spi_fail(t->ctx, SP_ERR_DATA, "evaluation data: expected tokens to predict, found none");
    return SP_OK;
}

/* From the newest checkpoint when resuming; else a clean directory. */
static sp_status begin(spi_trainer *t) {
    int64_t newest;
    t->saved_step = -1;
    SPI_TRY(spi_run_dir_newest(t->ctx, t->options.output_dir, &newest));
    if (t->options.resume && newest >= 0) {
        const spi_state state = state_of(t);
        const char *dir = spi_run_dir_checkpoint(&t->names, t->options.output_dir, newest);
        if (!dir) return spi_fail_memory(t->ctx, strlen(t->options.output_dir), "a path");
        SPI_TRY(spi_state_load(&state, dir));
        spi_log(t->ctx, SP_LOG_INFO, "resuming from %s", dir);
        t->saved_step = t->progress.step;
    } else {
        SPI_TRY(spi_run_dir_clear(t->ctx, t->options.output_dir));
    }
    t->first_step = t->progress.step;
    return spi_metrics_start(t->ctx, t->metrics, t->progress.step);
}

static sp_status open_run(spi_trainer *t) {
    SPI_TRY(check_data(t));
    SPI_TRY(spi_run_dir_prepare(t->ctx, t->options.output_dir));
    t->metrics = spi_path_join(&t->names, t->options.output_dir, "metrics.jsonl");
    t->micro = calloc((size_t)t->options.gradient_accumulation_steps, sizeof *t->micro);
    if (!t->metrics || !t->micro) return spi_fail_memory(t->ctx, sizeof *t->micro, "a training run");
    if (!t->model->adapter) spi_model_freeze(t->model, t->options.freeze_embed, t->options.freeze_head);
    SPI_TRY(spi_sampler_new(t->ctx, t->train, &t->options, &t->sampler));
    SPI_TRY(spi_optimizer_new(t->model, &t->options, &t->optimizer));
    t->total_steps = spi_sampler_total(t->sampler);
    t->warmup_steps = t->options.warmup_steps > 0
                          ? t->options.warmup_steps
                          : (int64_t)ceil((double)t->total_steps * t->options.warmup_ratio);
    return begin(t);
}

static void close_run(spi_trainer *t) {
    for (int32_t i = 0; t->micro && i < t->options.gradient_accumulation_steps; i++)
        spi_batch_free(&t->micro[i]);
    free(t->micro);
    spi_batch_free(&t->eval_batch);
    spi_sampler_free(t->sampler);
    spi_optimizer_free(t->optimizer);
    spi_arena_free(&t->names);
}

/* ------------------------------------------------------------------ going on */

static bool eval_is_due(spi_trainer *t) {
    if (!t->eval) return false;
    if (t->progress.step == t->total_steps) return true;
    if (t->options.eval_steps > 0) return t->progress.step % t->options.eval_steps == 0;
    const spi_position done = spi_sampler_find(t->sampler, t->progress.step - 1);
    return done.step_in_epoch + 1 == done.steps_in_epoch;
}

/* What follows a step: metrics, evaluation, checkpoint. */
static sp_status after_step(spi_trainer *t) {
    const bool last = t->progress.step == t->total_steps;
    bool better = false;
    if (t->progress.step % t->options.logging_steps == 0 || last) SPI_TRY(log_step(t));
    spi_trainer_tell(t, SP_TRAIN_STEP);
    if (t->abort) return SP_OK;
    if (eval_is_due(t)) {
        SPI_TRY(spi_trainer_evaluate(t, &better));
        SPI_TRY(log_eval(t));
        spi_trainer_tell(t, SP_TRAIN_EVAL);
    }
    if (t->progress.step % t->options.save_steps == 0 || better || last || t->stop) SPI_TRY(save(t));
    return SP_OK;
}

static bool out_of_patience(const spi_trainer *t) {
    return t->options.early_stopping_patience > 0 &&
           t->progress.evals_without_better >= t->options.early_stopping_patience;
}

static sp_status loop(spi_trainer *t) {
    while (t->progress.step < t->total_steps && !t->abort && !t->stop && !out_of_patience(t)) {
        SPI_TRY(spi_trainer_step(t));
        SPI_TRY(after_step(t));
    }
    if (t->abort || (t->stop && t->progress.step < t->total_steps)) {
        if (t->saved_step < 0)
            return spi_fail(t->ctx, SP_ERR_INTERRUPTED, "stopped after step %lld of %lld; nothing was saved",
                            (long long)t->progress.step, (long long)t->total_steps);
        return spi_fail(t->ctx, SP_ERR_INTERRUPTED,
                        "stopped after step %lld of %lld; resume from %s/checkpoint-%lld",
                        (long long)t->progress.step, (long long)t->total_steps, t->options.output_dir,
                        (long long)t->saved_step);
    }
    return save(t);
}

/* The final files, from the last step or the best one. */
static sp_status finish(spi_trainer *t) {
    const spi_progress *p = &t->progress;
    if (t->options.load_best_model_at_end && p->evaluated && p->best_step != p->step) {
        const spi_state state = state_of(t);
        const char *best = spi_run_dir_checkpoint(&t->names, t->options.output_dir, p->best_step);
        if (!best) return spi_fail_memory(t->ctx, strlen(t->options.output_dir), "a path");
        SPI_TRY(spi_state_load_params(&state, best));
    }
    SPI_TRY(spi_model_save_trained(t->model, t->options.output_dir));
    spi_trainer_tell(t, SP_TRAIN_END);
    return SP_OK;
}

static void fill_result(const spi_trainer *t, sp_train_result *result) {
    const spi_progress *p = &t->progress;
    const double seconds = spi_trainer_clock() - t->started;
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

sp_status sp_train(sp_model *model, const sp_dataset *train, const sp_dataset *eval,
                   const sp_train_options *opts, sp_train_fn callback, void *user, sp_train_result *result) {
    spi_trainer t = {
        .model = model, .ctx = model->ctx, .train = train, .eval = eval, .callback = callback, .user = user};
    SPI_TRY(spi_train_options_read(t.ctx, opts, &t.options));
    sp_status status = open_run(&t);
    if (status == SP_OK) {
        t.started = spi_trainer_clock();
        spi_trainer_tell(&t, SP_TRAIN_BEGIN);
        status = loop(&t);
    }
    if (status == SP_OK) status = finish(&t);
    if (status == SP_OK && result) fill_result(&t, result);
    close_run(&t);
    return status;
}
