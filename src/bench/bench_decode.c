/* Prompts read at once, and tokens one after the other over caches. */
#include <stdlib.h>

#include "bench/measure.h"

typedef struct run {
    int32_t prompt; /* tokens that a prefill reads */
    sp_model *model;
    const sp_bench_options *o;
    spi_decoding *decoding;
    int32_t *ids, *slot, *start; /* [batch * prompt], [batch], [batch + 1] */
    int32_t *next;               /* [batch], each sequence's newest token */
    float *logits;               /* [batch, V] */
    spi_decoding_run *steps;     /* on a device that records steps */
} run;

/* Tokens before those that are timed: recording a step takes two. */
static int32_t warmup_of(const sp_bench_options *o) {
    return o->warmup_steps > 2 ? o->warmup_steps : 2;
}

static void run_free(run *r) {
    spi_decoding_free(r->decoding);
    free(r->ids);
    free(r->slot);
    free(r->start);
    free(r->next);
    free(r->logits);
}

static sp_status run_new(run *r, int32_t capacity) {
    const int32_t prompt = r->prompt;
    const size_t batch = (size_t)r->o->batch_size, vocab = (size_t)r->model->base->arch.vocab_size;
    r->ids = malloc(batch * (size_t)prompt * sizeof *r->ids);
    r->slot = malloc(batch * sizeof *r->slot);
    r->start = malloc((batch + 1) * sizeof *r->start);
    r->next = malloc(batch * sizeof *r->next);
    r->logits = malloc(batch * vocab * sizeof *r->logits);
    if (!r->ids || !r->slot || !r->start || !r->next || !r->logits)
        return spi_fail_memory(r->model->ctx, batch * vocab * sizeof *r->logits, "a benchmark");
    for (size_t i = 0; i < batch; i++) r->slot[i] = (int32_t)i;
    spi_bench_tokens(r->model, r->ids, (int64_t)batch * prompt);
    return spi_decoding_new(r->model, r->o->mode, r->o->batch_size, capacity, &r->decoding);
}

static void forget_behind(run *r, int32_t length) {
    for (int32_t i = 0; i < r->o->batch_size; i++) spi_decoding_truncate(r->decoding, i, length);
}

/* Every slot forgets what it holds and reads a prompt. */
static sp_status prefill(void *user) {
    run *r = user;
    forget_behind(r, 0);
    for (int32_t i = 0; i <= r->o->batch_size; i++) r->start[i] = i * r->prompt;
    return spi_decoding_step(r->decoding, r->o->batch_size, r->slot, r->start, r->ids, r->logits);
}

static int32_t argmax(const float *x, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return (int32_t)best;
}

/* The likeliest token behind each sequence. */
static void choose(run *r) {
    const int64_t vocab = r->model->base->arch.vocab_size;
    for (int32_t i = 0; i < r->o->batch_size; i++) r->next[i] = argmax(r->logits + i * vocab, vocab);
}

/* Every sequence reads its newest token, which gives it one more. */
static sp_status decode(void *user) {
    run *r = user;
    for (int32_t i = 0; i <= r->o->batch_size; i++) r->start[i] = i;
    SPI_TRY(spi_decoding_step(r->decoding, r->o->batch_size, r->slot, r->start, r->next, r->logits));
    choose(r);
    return SP_OK;
}

sp_status spi_bench_prefill(sp_model *model, const sp_bench_options *o, json_t *out) {
    run r = {.model = model, .o = o, .prompt = o->seq_len};
    spi_profile profile;
    double seconds = 0, profiled = 0;
    sp_status status = run_new(&r, o->seq_len);
    if (status == SP_OK) status = spi_bench_time(model->dev, prefill, &r, o->warmup_steps, NULL, &seconds);
    if (status == SP_OK) status = spi_bench_time(model->dev, prefill, &r, o->steps, NULL, &seconds);
    if (status == SP_OK) status = spi_bench_time(model->dev, prefill, &r, 1, &profile, &profiled);
    seconds /= o->steps;
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

/* The prompt, and which token it ends in: the first new one. */
static sp_status first_token(void *user) {
    run *r = user;
    SPI_TRY(prefill(r));
    choose(r);
    return SP_OK;
}

/* `steps` steps of a run on the device, the next one always queued before the one before is read. */
static sp_status decode_run(run *r, int32_t steps) {
    for (int32_t queued = 0, read = 0; read < steps; read++) {
        for (; queued < steps && queued - read < 2; queued++) SPI_TRY(spi_decoding_run_queue(r->steps));
        SPI_TRY(spi_decoding_run_read(r->steps, r->next));
    }
    return SP_OK;
}

static sp_status decode_run_all(void *user) {
    run *r = user;
    return decode_run(r, r->o->new_tokens);
}

static sp_status open_run(run *r) {
    sp_generate_options greedy;
    sp_generate_options_default(&greedy);
    spi_run_sequence *sequences = calloc((size_t)r->o->batch_size, sizeof *sequences);
    if (!sequences) return spi_fail_memory(r->model->ctx, sizeof *sequences, "a benchmark");
    for (int32_t i = 0; i < r->o->batch_size; i++)
        sequences[i] = (spi_run_sequence){.slot = i, .id = r->next[i], .sequence = i};
    const sp_status status = spi_decoding_run_new(r->decoding, r->o->batch_size, sequences, &greedy, &r->steps);
    free(sequences);
    return status;
}

/* Recorded steps, behind those that warm up: the first runs as it is, the second is recorded. */
static sp_status time_run(run *r, double *seconds) {
    SPI_TRY(open_run(r));
    sp_status status = decode_run(r, warmup_of(r->o));
    if (status == SP_OK) status = spi_bench_time(r->model->dev, decode_run_all, r, 1, NULL, seconds);
    spi_decoding_run_free(r->steps, NULL);
    r->steps = NULL;
    return status;
}

static sp_status time_steps(run *r, double *seconds) {
    spi_device *dev = r->model->dev;
    SPI_TRY(spi_bench_time(dev, decode, r, r->o->warmup_steps, NULL, seconds));
    forget_behind(r, r->prompt);
    return spi_bench_time(dev, decode, r, r->o->new_tokens, NULL, seconds);
}

/*
 * new_tokens tokens behind the first, once timed as a whole, once with each operation timed: where a device
 * records steps, those are recorded, and these are not.
 */
static sp_status measure_decode(run *r, json_t *out) {
    const int32_t steps = r->o->new_tokens;
    spi_device *dev = r->model->dev;
    spi_profile profile;
    double seconds, profiled;
    SPI_TRY(spi_decoding_runs(r->decoding) ? time_run(r, &seconds) : time_steps(r, &seconds));
    forget_behind(r, r->prompt);
    SPI_TRY(spi_bench_time(dev, decode, r, steps, &profile, &profiled));
    json_object_set_new(out, "ms_per_token", json_real(1000 * seconds / steps));
    json_object_set_new(out, "tokens_per_second", json_real(r->o->batch_size * steps / seconds));
    json_object_set_new(out, "profiled_ms_per_token", json_real(1000 * profiled / steps));
    json_object_set_new(out, "breakdown_ms", spi_bench_breakdown(&profile, profiled, steps));
    return SP_OK;
}

sp_status spi_bench_decode(sp_model *model, const sp_bench_options *o, json_t *out) {
    run r = {.model = model, .o = o, .prompt = o->prompt_len};
    double first = 0;
    sp_status status = run_new(&r, o->prompt_len + o->new_tokens + warmup_of(o));
    if (status == SP_OK) status = spi_bench_time(model->dev, first_token, &r, 1, NULL, &first);
    if (status == SP_OK) {
        json_object_set_new(out, "prompt_len", json_integer(o->prompt_len));
        json_object_set_new(out, "new_tokens", json_integer(o->new_tokens));
        json_object_set_new(out, "prefill_ms", json_real(1000 * first));
        if (o->new_tokens > 0) status = measure_decode(&r, out);
    }
    run_free(&r);
    return status;
}
