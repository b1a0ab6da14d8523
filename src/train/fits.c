#include "train/fits.h"

#include "train/largest.h"
#include "train/memory.h"

/* The options that decide how much memory a run takes. */
typedef struct setting {
    bool checkpointing, packing;
    int64_t batch, eval_batch, longest; /* rows, rows, tokens of an example or a packed row */
} setting;

/* ------------------------------------------------------------------ planning it */

typedef struct planned {
    spi_trainer *t;
    const setting *s;
    spi_batch batch;
} planned;

/* As spi_trainer_step goes. */
static sp_status planned_step(void *user, spi_optimizer *optimizer) {
    planned *l = user;
    spi_run run = spi_trainer_run(l->t, 0, l->batch.tokens);
    spi_loss_sums sums = {0};
    double norm;
    run.gradient_checkpointing = l->s->checkpointing;
    spi_optimizer_zero_grad(optimizer);
    SPI_TRY(spi_adapted_train(l->t->model, &l->batch, &run, &sums));
    SPI_TRY(spi_optimizer_grad_norm(optimizer, &norm));
    return spi_optimizer_step(optimizer, 1, l->t->options.learning_rate, norm);
}

static sp_status planned_eval(void *user, spi_optimizer *optimizer) {
    planned *l = user;
    const spi_run run = spi_trainer_eval_run(l->t);
    spi_loss_sums sums = {0};
    (void)optimizer;
    return spi_adapted_loss(l->t->model, &l->batch, &run, &sums);
}

typedef struct planner {
    spi_trainer *t;
    spi_sizes train, eval;
    size_t mapped; /* of the weights: pages of files that a step needs in memory like its own */
    size_t unused, total;
    size_t pool; /* of what was asked for */
} planner;

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* Of a step, and how many tokens it has. */
static sp_status plan_step(planner *p, const setting *s, spi_memory_need *need, int64_t *tokens) {
    planned l = {.t = p->t, .s = s};
    sp_status status = s->packing ? spi_fill_packed(p->t->model, &p->train, s->batch, s->longest, &l.batch)
                                  : spi_fill_rows(p->t->model, &p->train, s->batch, s->longest, &l.batch);
    if (status == SP_OK) status = spi_memory_plan(p->t->model, &p->t->options, planned_step, &l, need);
    if (tokens) *tokens = l.batch.tokens;
    spi_batch_free(&l.batch);
    return status;
}

static sp_status plan_eval(planner *p, const setting *s, spi_memory_need *need) {
    planned l = {.t = p->t, .s = s};
    *need = (spi_memory_need){0};
    if (p->eval.count == 0) return SP_OK;
    sp_status status = spi_fill_rows(p->t->model, &p->eval, s->eval_batch, s->longest, &l.batch);
    if (status == SP_OK) status = spi_memory_plan(p->t->model, &p->t->options, planned_eval, &l, need);
    spi_batch_free(&l.batch);
    return status;
}

/* ------------------------------------------------------------------ which options would make it fit */

static bool fits(const planner *p, const spi_memory_need *need) {
    return spi_memory_total(need) + p->mapped <= p->unused;
}

static sp_status step_fits(planner *p, const setting *s, bool *yes) {
    spi_memory_need need;
    SPI_TRY(plan_step(p, s, &need, NULL));
    *yes = fits(p, &need);
    return SP_OK;
}

/* The most examples of an evaluation that fit, by halves; down to one, whether that fits or not. */
static sp_status shrink_eval(planner *p, setting *s) {
    spi_memory_need need;
    SPI_TRY(plan_eval(p, s, &need));
    while (!fits(p, &need) && s->eval_batch > 1) {
        s->eval_batch = (least(s->eval_batch, p->eval.count) + 1) / 2;
        SPI_TRY(plan_eval(p, s, &need));
    }
    return SP_OK;
}

/* The most rows below those of `s` that fit and of which some make the same step; else *yes is false and one
 * row is left. */
static sp_status shrink_batch(planner *p, setting *s, bool *yes) {
    const int64_t all =
        (int64_t)p->t->options.per_device_train_batch_size * p->t->options.gradient_accumulation_steps;
    *yes = false;
    /* Rows that the data do not have make no batch larger. */
    const int64_t most = s->packing ? s->batch : least(s->batch, p->train.count);
    for (int64_t rows = most - 1; rows >= 1 && !*yes; rows--) {
        if (all % rows != 0) continue;
        s->batch = rows;
        SPI_TRY(step_fits(p, s, yes));
    }
    return SP_OK;
}

/* Lengths are tried in steps of these, and nothing shorter. */
#define LENGTH_STEP ((int64_t)64)

/* The longest sequences that fit. */
static sp_status shrink_length(planner *p, setting *s, bool *yes) {
    const int64_t whole = s->packing ? s->longest : least(s->longest, p->train.length[0]);
    int64_t low = 0, high = (whole - 1) / LENGTH_STEP + 1; /* low fits, or is 0; high does not */
    while (high - low > 1) {
        const int64_t middle = low + (high - low) / 2;
        s->longest = middle * LENGTH_STEP;
        SPI_TRY(step_fits(p, s, yes));
        if (*yes) low = middle;
        else high = middle;
    }
    s->longest = low * LENGTH_STEP;
    *yes = low > 0;
    return SP_OK;
}

/* What costs the least comes first: time, then the same step in smaller batches, then the data. */
static sp_status find_setting(planner *p, setting *s, bool *yes) {
    const setting asked = *s;
    SPI_TRY(shrink_eval(p, s));
    const int64_t eval_batch = s->eval_batch;
    SPI_TRY(step_fits(p, s, yes));
    if (*yes) return SP_OK;
    for (int tried = asked.checkpointing; tried < 2 && !*yes; tried++) {
        s->checkpointing = true;
        if (!asked.checkpointing && tried == 0) SPI_TRY(step_fits(p, s, yes));
        if (*yes) return SP_OK;
        *s = asked;
        s->eval_batch = eval_batch;
        s->checkpointing = tried == 1;
        SPI_TRY(shrink_batch(p, s, yes));
    }
    return *yes ? SP_OK : shrink_length(p, s, yes);
}

/* ------------------------------------------------------------------ what is said */

/* "12.2 GB", "3.4 MB" */
#define BYTES_SIZE 32
static const char *say_bytes(size_t bytes, char text[BYTES_SIZE]) {
    const double n = (double)bytes;
    if (n >= 1e9) snprintf(text, BYTES_SIZE, "%.1f GB", n / 1e9);
    else snprintf(text, BYTES_SIZE, "%.1f MB", n / 1e6);
    return text;
}

/* The options of the command, which are the library's with dashes. */
static void say_options(const planner *p, const setting *asked, const setting *s, spi_buf *out) {
    const int64_t all =
        (int64_t)p->t->options.per_device_train_batch_size * p->t->options.gradient_accumulation_steps;
    if (s->checkpointing && !asked->checkpointing) spi_buf_puts(out, " --gradient-checkpointing");
    if (s->batch != asked->batch)
        spi_buf_printf(out, " --per-device-train-batch-size %lld --gradient-accumulation-steps %lld",
                       (long long)s->batch, (long long)(all / s->batch));
    if (s->longest != asked->longest) spi_buf_printf(out, " --max-seq-length %lld", (long long)s->longest);
    if (s->eval_batch != asked->eval_batch)
        spi_buf_printf(out, " --per-device-eval-batch-size %lld", (long long)s->eval_batch);
}

static void say_advice(planner *p, const setting *asked, const setting *s, bool found, spi_buf *out) {
    spi_memory_need need, eval;
    char bytes[BYTES_SIZE];
    if (!found) {
        spi_buf_puts(out, "no batch is small enough; a smaller model or more memory is needed");
        return;
    }
    spi_buf_puts(out, "it would fit with");
    say_options(p, asked, s, out);
    if (plan_step(p, s, &need, NULL) != SP_OK || plan_eval(p, s, &eval) != SP_OK) return;
    if (spi_memory_total(&eval) > spi_memory_total(&need)) need = eval;
    spi_buf_printf(out, " (about %s)", say_bytes(spi_memory_total(&need) + p->mapped, bytes));
}

static void say_plan(const planner *p, const spi_memory_need *need, int64_t tokens, bool evaluates) {
    const sp_model *model = p->t->model;
    char all[BYTES_SIZE], weights[BYTES_SIZE], state[BYTES_SIZE], pass[BYTES_SIZE], unused[BYTES_SIZE];
    sp_model_info info = {.size = sizeof info};
    sp_model_get_info(model, &info);
    const size_t held = (size_t)(info.base_bytes + info.adapter_bytes);
    spi_log(
        p->t->ctx, SP_LOG_INFO,
        "Memory: about %s (weights %s, gradients and optimizer %s, one batch of %lld tokens%s %s)%s%s%s%s%s",
        say_bytes(held + spi_memory_total(need), all), say_bytes(held, weights), say_bytes(need->state, state),
        (long long)tokens, evaluates ? " or an evaluation" : "", say_bytes(need->pass, pass),
        p->total ? ", " : "", p->total ? say_bytes(p->unused, unused) : "", p->total ? " free (" : "",
        p->total ? model->dev->label : "", p->total ? ")" : "");
}

/* It does not fit: what would. */
static sp_status refuse(planner *p, const setting *asked, const spi_memory_need *need) {
    const bool swaps = p->t->model->dev->op->host_memory;
    char more[BYTES_SIZE], unused[BYTES_SIZE];
    setting s = *asked;
    spi_buf advice = {0};
    bool found = false;
    SPI_TRY(find_setting(p, &s, &found));
    say_advice(p, asked, &s, found, &advice);
    if (advice.failed) return spi_fail_memory(p->t->ctx, 256, "a message");
    say_bytes(spi_memory_total(need) + p->mapped, more);
    say_bytes(p->unused, unused);
    sp_status status = SP_OK;
    if (swaps)
        spi_log(p->t->ctx, SP_LOG_WARNING, "training needs about %s of memory, %s are free: %s", more, unused,
                advice.data);
    else
        status = spi_fail(p->t->ctx, SP_ERR_MEMORY, "training needs about %s of memory, %s are free (%s): %s",
                          more, unused, p->t->model->dev->label, advice.data);
    spi_buf_free(&advice);
    return status;
}

static sp_status check(planner *p) {
    const sp_train_options *o = &p->t->options;
    const setting asked = {.checkpointing = o->gradient_checkpointing,
                           .packing = o->packing,
                           .batch = o->per_device_train_batch_size,
                           .eval_batch = o->per_device_eval_batch_size,
                           .longest = o->packing ? o->max_seq_length : INT64_MAX};
    spi_device *dev = p->t->model->dev;
    spi_memory_need need, eval;
    int64_t tokens;
    SPI_TRY(plan_step(p, &asked, &need, &tokens));
    SPI_TRY(plan_eval(p, &asked, &eval));
    p->pool = need.pool > eval.pool ? need.pool : eval.pool;
    dev->op->memory(dev, &p->unused, &p->total);
    const bool evaluates = spi_memory_total(&eval) > spi_memory_total(&need);
    if (evaluates) need = eval;
    say_plan(p, &need, tokens, evaluates);
    if (p->total == 0 || fits(p, &need)) return dev->status;
    p->pool = 0; /* the largest batch may never come */
    return refuse(p, &asked, &need);
}

sp_status spi_trainer_fits(spi_trainer *t) {
    planner p = {.t = t, .mapped = (size_t)spi_model_mapped_bytes(t->model)};
    sp_status status = spi_sizes_of(t->ctx, t->train, &p.train);
    if (status == SP_OK) status = spi_sizes_of(t->ctx, t->eval, &p.eval);
    if (status == SP_OK) status = check(&p);
    spi_pool_restore(t->model->pool, (spi_pool_mark){0});
    if (status == SP_OK) status = spi_pool_reserve(t->model->pool, p.pool);
    spi_sizes_free(&p.train);
    spi_sizes_free(&p.eval);
    return status;
}
