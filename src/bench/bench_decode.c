/* Prompts read at once, and tokens one after the other over caches. */
#include <stdlib.h>

#include "bench/measure.h"

typedef struct run {
    sp_model *model;
    const sp_bench_options *o;
    spi_decoding *decoding;
    int32_t *ids, *slot, *start; /* [batch * prompt], [batch], [batch + 1] */
    float *logits;               /* [batch, V] */
} run;

static void run_free(run *r) {
    spi_decoding_free(r->decoding);
    free(r->ids);
    free(r->slot);
    free(r->start);
    free(r->logits);
}

static sp_status run_new(run *r, int32_t prompt, int32_t capacity) {
    const size_t batch = (size_t)r->o->batch_size, vocab = (size_t)r->model->base->arch.vocab_size;
    r->ids = malloc(batch * (size_t)prompt * sizeof *r->ids);
    r->slot = malloc(batch * sizeof *r->slot);
    r->start = malloc((batch + 1) * sizeof *r->start);
    r->logits = malloc(batch * vocab * sizeof *r->logits);
    if (!r->ids || !r->slot || !r->start || !r->logits)
        return spi_fail_memory(r->model->ctx, batch * vocab * sizeof *r->logits, "a benchmark");
    for (size_t i = 0; i < batch; i++) r->slot[i] = (int32_t)i;
    spi_bench_tokens(r->model, r->ids, (int64_t)batch * prompt);
    return spi_decoding_new(r->model, r->o->mode, r->o->batch_size, capacity, &r->decoding);
}

/* Every slot forgets what it holds and reads a prompt. */
static sp_status prefill(run *r, int32_t prompt) {
    for (int32_t i = 0; i < r->o->batch_size; i++) spi_decoding_truncate(r->decoding, i, 0);
    for (int32_t i = 0; i <= r->o->batch_size; i++) r->start[i] = i * prompt;
    return spi_decoding_step(r->decoding, r->o->batch_size, r->slot, r->start, r->ids, r->logits);
}

static int32_t argmax(const float *x, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return (int32_t)best;
}

/* One more token for every sequence: the likeliest. */
static sp_status decode(run *r) {
    const int64_t vocab = r->model->base->arch.vocab_size;
    int32_t *next = r->ids; /* the prompts have been read */
    for (int32_t i = 0; i < r->o->batch_size; i++) next[i] = argmax(r->logits + i * vocab, vocab);
    for (int32_t i = 0; i <= r->o->batch_size; i++) r->start[i] = i;
    return spi_decoding_step(r->decoding, r->o->batch_size, r->slot, r->start, next, r->logits);
}

static sp_status measure_prefill(run *r, int32_t prompt, double *seconds) {
    for (int32_t i = 0; i < r->o->warmup_steps; i++) SPI_TRY(prefill(r, prompt));
    const double start = spi_bench_now();
    for (int32_t i = 0; i < r->o->steps; i++) SPI_TRY(prefill(r, prompt));
    *seconds = (spi_bench_now() - start) / r->o->steps;
    return SP_OK;
}

sp_status spi_bench_prefill(sp_model *model, const sp_bench_options *o, json_t *out) {
    run r = {.model = model, .o = o};
    spi_profile profile;
    double seconds = 0, profiled = 0;
    sp_status status = run_new(&r, o->seq_len, o->seq_len);
    if (status == SP_OK) status = measure_prefill(&r, o->seq_len, &seconds);
    if (status == SP_OK) {
        spi_profile_start(model->dev, &profile);
        const double start = spi_bench_now();
        status = prefill(&r, o->seq_len);
        profiled = spi_bench_now() - start;
        spi_profile_stop(model->dev);
    }
    if (status == SP_OK) {
        json_object_set_new(out, "seq_len", json_integer(o->seq_len));
        json_object_set_new(out, "prefill_ms", json_real(1000 * seconds));
        json_object_set_new(out, "tokens_per_second",
                            json_real((double)(o->batch_size * o->seq_len) / seconds));
        json_object_set_new(out, "breakdown_ms", spi_bench_breakdown(&profile, profiled, 1));
    }
    run_free(&r);
    return status;
}

/* new_tokens tokens behind the prompt, once timed as a whole, once with each operation timed. */
static sp_status measure_decode(run *r, json_t *out) {
    const int32_t steps = r->o->new_tokens;
    spi_profile profile;
    double start = spi_bench_now();
    SPI_TRY(prefill(r, r->o->prompt_len));
    const double first = spi_bench_now() - start;
    for (int32_t i = 0; i < r->o->warmup_steps; i++) SPI_TRY(decode(r));
    for (int32_t i = 0; i < r->o->batch_size; i++) spi_decoding_truncate(r->decoding, i, r->o->prompt_len);
    start = spi_bench_now();
    for (int32_t i = 0; i < steps; i++) SPI_TRY(decode(r));
    const double seconds = spi_bench_now() - start;
    for (int32_t i = 0; i < r->o->batch_size; i++) spi_decoding_truncate(r->decoding, i, r->o->prompt_len);
    spi_profile_start(r->model->dev, &profile);
    start = spi_bench_now();
    sp_status status = SP_OK;
    for (int32_t i = 0; i < steps && status == SP_OK; i++) status = decode(r);
    const double profiled = spi_bench_now() - start;
    spi_profile_stop(r->model->dev);
    SPI_TRY(status);
    json_object_set_new(out, "prompt_len", json_integer(r->o->prompt_len));
    json_object_set_new(out, "new_tokens", json_integer(steps));
    json_object_set_new(out, "prefill_ms", json_real(1000 * first));
    json_object_set_new(out, "ms_per_token", json_real(1000 * seconds / steps));
    json_object_set_new(out, "tokens_per_second", json_real(r->o->batch_size * steps / seconds));
    json_object_set_new(out, "profiled_ms_per_token", json_real(1000 * profiled / steps));
    json_object_set_new(out, "breakdown_ms", spi_bench_breakdown(&profile, profiled, steps));
    return SP_OK;
}

sp_status spi_bench_decode(sp_model *model, const sp_bench_options *o, json_t *out) {
    run r = {.model = model, .o = o};
    sp_status status = run_new(&r, o->prompt_len, o->prompt_len + o->new_tokens + o->warmup_steps);
    if (status == SP_OK) status = measure_decode(&r, out);
    run_free(&r);
    return status;
}
