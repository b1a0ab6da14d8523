/* Training steps: forward, backward and optimizer over batches of one shape, every token learnt. */
#include <stdlib.h>

#include "bench/measure.h"
#include "train/memory.h"

typedef struct run {
    sp_model *model;
    const sp_bench_options *o;
    spi_batch batch;
    spi_optimizer *optimizer;
    int64_t step;
    double loss;
} run;

/* batch_size sequences of seq_len tokens. */
static sp_status fill(run *r) {
    const int64_t length = r->o->seq_len, count = r->o->batch_size * length;
    int32_t *ids = malloc((size_t)count * sizeof *ids);
    if (!ids) return spi_fail_memory(r->model->ctx, (size_t)count * sizeof *ids, "a batch");
    spi_bench_tokens(r->model, ids, count);
    sp_status status = SP_OK;
    for (int32_t i = 0; i < r->o->batch_size && status == SP_OK; i++)
        status = spi_batch_add(r->model->ctx, &r->batch, ids + i * length, ids + i * length, NULL, length);
    free(ids);
    return status;
}

static sp_status one_step(void *user) {
    run *r = user;
    const bool adapted = r->model->adapter != NULL;
    const double each = 1.0 / (double)r->batch.labels;
    const spi_run pass = {.mode = SP_MODE_BASE_SHADOW,
                          .dropout = adapted && r->model->adapter->config.dropout > 0,
                          .seed = 1,
                          .stream = (uint64_t)r->step,
                          .gradient_checkpointing = r->o->gradient_checkpointing,
                          .base_weight = each,
                          .shadow_weight = adapted ? 0.05 * each : 0};
    spi_loss_sums sums = {0};
    double norm;
    spi_optimizer_zero_grad(r->optimizer);
    SPI_TRY(spi_adapted_train(r->model, &r->batch, &pass, &sums));
    SPI_TRY(spi_optimizer_grad_norm(r->optimizer, &norm));
    SPI_TRY(spi_optimizer_step(r->optimizer, ++r->step, 1e-4, norm));
    r->loss = sums.base * each;
    return r->model->dev->status;
}

/* The step as it will be run, with an optimizer that has no memory. */
static sp_status planned_step(void *user, spi_optimizer *planned) {
    run r = *(const run *)user;
    r.optimizer = planned;
    return one_step(&r);
}

/* What was planned, and what is in use now that was not before. */
static void add_memory(const run *r, const spi_memory_need *need, int64_t before, json_t *out) {
    const int64_t now = spi_bench_memory(r->model->dev);
    json_object_set_new(out, "planned_memory_bytes", json_integer((json_int_t)spi_memory_total(need)));
    if (before > 0) json_object_set_new(out, "taken_memory_bytes", json_integer(now - before));
}

/* Timed as users run it, and then once more with each operation timed, which costs something itself. */
static sp_status measure(run *r, json_t *out) {
    const int64_t steps = r->o->steps;
    spi_device *dev = r->model->dev;
    spi_profile profile;
    double seconds, profiled;
    SPI_TRY(spi_bench_time(dev, one_step, r, r->o->warmup_steps, NULL, &seconds));
    SPI_TRY(spi_bench_time(dev, one_step, r, steps, NULL, &seconds));
    SPI_TRY(spi_bench_time(dev, one_step, r, steps, &profile, &profiled));
    json_object_set_new(out, "seq_len", json_integer(r->o->seq_len));
    json_object_set_new(out, "steps", json_integer(steps));
    json_object_set_new(out, "tokens_per_second", json_real((double)(r->batch.tokens * steps) / seconds));
    json_object_set_new(out, "ms_per_step", json_real(1000 * seconds / (double)steps));
    json_object_set_new(out, "loss", json_real(r->loss));
    json_object_set_new(out, "profiled_ms_per_step", json_real(1000 * profiled / (double)steps));
    json_object_set_new(out, "breakdown_ms", spi_bench_breakdown(&profile, profiled, steps));
    return SP_OK;
}

sp_status spi_bench_train(sp_model *model, const sp_bench_options *o, json_t *out) {
    run r = {.model = model, .o = o};
    spi_memory_need need;
    sp_train_options options;
    sp_train_options_default(&options);
    sp_status status = fill(&r);
    if (status == SP_OK) status = spi_memory_plan(model, &options, planned_step, &r, &need);
    const int64_t before = spi_bench_memory(model->dev);
    spi_pool_restore(model->pool, (spi_pool_mark){0});
    if (status == SP_OK) status = spi_pool_reserve(model->pool, need.pool);
    if (status == SP_OK) status = spi_optimizer_new(model, &options, &r.optimizer);
    if (status == SP_OK) status = measure(&r, out);
    if (status == SP_OK) add_memory(&r, &need, before, out);
    spi_optimizer_free(r.optimizer);
    spi_batch_free(&r.batch);
    return status;
}
