/* One optimizer step, and one evaluation. */
#include <math.h>

#include "train/schedule.h"
#include "train/trainer.h"

/* ------------------------------------------------------------------ a step */

/* What a batch's loss is summed over: its labels, or with a teacher every row, for each has logits to compare.
 */
static int64_t counted(const spi_trainer *t, const spi_batch *batch) {
    return spi_model_distills(t->model) ? batch->tokens : batch->labels;
}

static const spi_distill *distill_of(const spi_trainer *t) {
    return spi_model_distills(t->model) ? &t->distill : NULL;
}

/* Fills the micro-batches of the step, for the mean is over the labels of all of them. */
static sp_status fill(spi_trainer *t, const spi_step_plan *plan, int64_t *labels, int64_t *tokens) {
    *labels = *tokens = 0;
    for (int64_t i = 0; i < plan->count; i++) {
        SPI_TRY(spi_sampler_fill(t->sampler, plan->first + i, &t->micro[i]));
        *labels += counted(t, &t->micro[i]);
        *tokens += t->micro[i].tokens;
    }
    return SP_OK;
}

/* The number of a micro-batch in the run gives the stream of its dropout masks, whether the run was interrupted
 * or not. */
spi_run spi_trainer_run(const spi_trainer *t, int64_t i, int64_t labels) {
    const bool adapted = t->model->adapter != NULL;
    return (spi_run){
        .mode = SP_MODE_BASE_SHADOW,
        .dropout = adapted && t->model->adapter->config.dropout > 0,
        .seed = t->options.seed,
        .stream = (uint64_t)(t->progress.step * t->options.gradient_accumulation_steps + i),
        .gradient_checkpointing = t->options.gradient_checkpointing,
        .base_weight = 1.0 / (double)labels,
        .shadow_weight = adapted ? t->options.shadow_loss_weight / (double)labels : 0,
        .distill = distill_of(t),
    };
}

/* Gradients of the mean over all labels of the step. */
static sp_status run_micro_batches(spi_trainer *t, int64_t count, int64_t labels, spi_loss_sums *sums) {
    for (int64_t i = 0; i < count; i++) {
        const spi_run run = spi_trainer_run(t, i, labels);
        if (counted(t, &t->micro[i]) == 0) continue;
        SPI_TRY(spi_adapted_train(t->model, &t->micro[i], &run, sums));
    }
    return SP_OK;
}

sp_status spi_trainer_diverged(spi_trainer *t, int64_t step, const char *what, double value) {
    if (t->saved_step < 0)
        return spi_fail(t->ctx, SP_ERR_DIVERGED, "step %lld: the %s is %g; nothing was saved before",
                        (long long)step, what, value);
    return spi_fail(t->ctx, SP_ERR_DIVERGED,
                    "step %lld: the %s is %g; %s/checkpoint-%lld holds the last good state", (long long)step,
                    what, value, t->options.output_dir, (long long)t->saved_step);
}

static void record(spi_trainer *t, const spi_loss_sums *sums, int64_t labels) {
    sp_train_event *e = &t->event;
    e->base_loss = labels ? sums->base / (double)labels : 0;
    e->shadow_loss = labels && t->model->adapter ? sums->shadow / (double)labels : 0;
    e->loss = e->base_loss + (t->model->adapter ? t->options.shadow_loss_weight * e->shadow_loss : 0);
}

static void count_step(spi_trainer *t) {
    spi_progress *p = &t->progress;
    p->step++;
    p->logged++;
    p->loss += t->event.loss;
    p->base_loss += t->event.base_loss;
    p->shadow_loss += t->event.shadow_loss;
    p->total_loss += t->event.loss;
}

sp_status spi_trainer_step(spi_trainer *t) {
    const int64_t step = t->progress.step;
    const spi_step_plan plan = spi_sampler_step(t->sampler, step);
    spi_loss_sums sums = {0};
    int64_t labels, tokens;
    double norm = 0;
    SPI_TRY(fill(t, &plan, &labels, &tokens));
    spi_optimizer_zero_grad(t->optimizer);
    SPI_TRY(run_micro_batches(t, plan.count, labels, &sums));
    record(t, &sums, labels);
    if (!isfinite(t->event.loss)) return spi_trainer_diverged(t, step + 1, "loss", t->event.loss);
    SPI_TRY(spi_optimizer_grad_norm(t->optimizer, &norm));
    if (!isfinite(norm)) return spi_trainer_diverged(t, step + 1, "gradient's norm", norm);
    t->event.learning_rate = t->options.learning_rate * spi_schedule_factor(t->options.lr_scheduler_type, step,
                                                                            t->warmup_steps, t->total_steps);
    t->event.grad_norm = norm;
    SPI_TRY(spi_optimizer_step(t->optimizer, step + 1, t->event.learning_rate, norm));
    count_step(t);
    t->tokens += tokens;
    t->event.epoch = plan.epoch;
    t->ends_epoch = plan.ends_epoch;
    return SP_OK;
}

/* ------------------------------------------------------------------ evaluation */

spi_run spi_trainer_eval_run(const spi_trainer *t) {
    return (spi_run){
        .mode = SP_MODE_BASE_SHADOW, .shadow_weight = t->model->adapter ? 1 : 0, .distill = distill_of(t)};
}

sp_status spi_trainer_sum_losses(spi_trainer *t, const sp_dataset *data, int64_t most, spi_loss_sums *sums,
                                 int64_t *labels) {
    const int64_t n = sp_dataset_count(data) < most ? sp_dataset_count(data) : most;
    const spi_run run = spi_trainer_eval_run(t);
    *labels = 0;
    for (int64_t first = 0; first < n; first += t->options.per_device_eval_batch_size) {
        const int64_t whole = first + t->options.per_device_eval_batch_size, end = whole < n ? whole : n;
        spi_batch_clear(&t->eval_batch);
        for (int64_t i = first; i < end; i++) SPI_TRY(spi_batch_add_example(t->ctx, &t->eval_batch, data, i));
        *labels += counted(t, &t->eval_batch);
        if (counted(t, &t->eval_batch)) SPI_TRY(spi_adapted_loss(t->model, &t->eval_batch, &run, sums));
    }
    return SP_OK;
}

sp_status spi_trainer_evaluate(spi_trainer *t, bool *better) {
    spi_loss_sums sums = {0};
    spi_progress *p = &t->progress;
    sp_train_event *e = &t->event;
    int64_t labels;
    SPI_TRY(spi_trainer_sum_losses(t, t->eval, INT64_MAX, &sums, &labels));
    e->eval_base_loss = sums.base / (double)labels;
    e->eval_shadow_loss = t->model->adapter ? sums.shadow / (double)labels : 0;
    e->eval_loss =
        e->eval_base_loss + (t->model->adapter ? t->options.shadow_loss_weight * e->eval_shadow_loss : 0);
    if (!isfinite(e->eval_loss)) return spi_trainer_diverged(t, p->step, "evaluation loss", e->eval_loss);
    *better = !p->evaluated || e->eval_loss < p->best_eval_loss;
    if (*better) {
        p->evaluated = true;
        p->best_eval_loss = e->eval_loss;
        p->best_step = p->step;
        p->evals_without_better = 0;
    } else {
        p->evals_without_better++;
    }
    return SP_OK;
}
