/* Sequences continued together: passes over caches or whole ones, and the choice of each next token. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "generate/generate.h"
#include "generate/sampling.h"
#include "shadow/adapted.h"

/* Tokens of prompts fed at once: bounds the memory of the first passes. */
#define PREFILL_TOKENS 4096

typedef struct run {
    sp_model *model;
    sp_context *ctx;
    const sp_generate_options *options;
    const spi_ending *ending;
    sp_stream_fn stream;
    void *user;
    spi_sequence *sequences;
    size_t count;
    bool stopped; /* by the stream */
    bool warned;

    spi_decoding *decoding; /* a slot for each sequence; NULL: everything is recomputed */
    spi_sampling sampler;
    float *logits;               /* [count, vocab] */
    int32_t *slot, *start, *ids; /* of a pass; ids grows */
    size_t id_capacity;
    spi_run_sequence *fed; /* [count] of a run on the device */
    int32_t *chosen, *kept;
} run;

static double clock_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* The most tokens a sequence may have when it is fed: learned positions end somewhere, others do not. */
static size_t most_tokens(const sp_model *model) {
    return model->base->positions ? (size_t)model->base->arch.max_positions : INT32_MAX;
}

/* ------------------------------------------------------------------ passes */

/* Ids [from, to) of sequence i become entry n of the pass. */
static sp_status add_to_pass(run *r, size_t n, size_t i, size_t from, size_t to) {
    size_t at = n ? (size_t)r->start[n] : 0;
    r->slot[n] = (int32_t)i;
    r->start[n] = (int32_t)at;
    for (size_t t = from; t < to; t++) {
        if (!spi_grow((void **)&r->ids, &r->id_capacity, at, sizeof *r->ids))
            return spi_fail_memory(r->ctx, at * sizeof *r->ids, "token ids");
        r->ids[at++] = r->sequences[i].ids[t];
    }
    r->start[n + 1] = (int32_t)at;
    return SP_OK;
}

/* Logits [vocab] of a whole sequence's last token. */
static sp_status recompute_one(run *r, spi_batch *batch, const int32_t *ids, int64_t length, float *logits) {
    const int64_t vocab = r->model->base->arch.vocab_size;
    const size_t bytes = (size_t)(length * vocab) * sizeof *logits;
    spi_batch_clear(batch);
    SPI_TRY(spi_batch_add(r->ctx, batch, ids, NULL, NULL, length));
    SPI_TRY(spi_batch_check(r->model, batch));
    float *all = malloc(bytes);
    if (!all) return spi_fail_memory(r->ctx, bytes, "logits");
    const sp_status status = spi_adapted_logits(r->model, batch, r->options->mode, all, NULL);
    if (status == SP_OK) memcpy(logits, all + (length - 1) * vocab, (size_t)vocab * sizeof *all);
    free(all);
    return status;
}

/* Without a cache: one whole sequence after the other, by the passes that sp_forward takes. */
static sp_status recompute(run *r, size_t n) {
    const int64_t vocab = r->model->base->arch.vocab_size;
    spi_batch batch = {0};
    sp_status status = SP_OK;
    for (size_t j = 0; j < n && status == SP_OK; j++)
        status = recompute_one(r, &batch, r->ids + r->start[j], r->start[j + 1] - r->start[j],
                               r->logits + (int64_t)j * vocab);
    spi_batch_free(&batch);
    return status;
}

/* r->logits of the n entries' last tokens. */
static sp_status pass(run *r, size_t n) {
    if (!r->decoding) return recompute(r, n);
    return spi_decoding_step(r->decoding, (int32_t)n, r->slot, r->start, r->ids, r->logits);
}

/* ------------------------------------------------------------------ tokens */

/* Ends a sequence that cannot be fed any more; says so once where the model was made for shorter ones. */
static void check_length(run *r, spi_sequence *seq) {
    if (seq->done) return;
    if (seq->count > most_tokens(r->model)) {
        seq->done = true;
        seq->finish = SP_FINISH_LENGTH;
    } else if (!r->warned && seq->count > (size_t)r->model->base->arch.max_positions) {
        r->warned = true;
        spi_log(r->ctx, SP_LOG_WARNING,
                "%s: a sequence has more tokens than \"max_position_embeddings\" (%lld)",
                r->model->files.config_path, (long long)r->model->base->arch.max_positions);
    }
}

static sp_status add_token(run *r, size_t i, int32_t id) {
    const char *fresh;
    size_t length;
    SPI_TRY(spi_sequence_add(r->ctx, &r->sequences[i], id, r->ending, &fresh, &length));
    if (length && r->stream && !r->stream(r->user, i, fresh, length)) r->stopped = true;
    return SP_OK;
}

/* The next token of each sequence of the pass. */
static sp_status choose(run *r, size_t n) {
    for (size_t j = 0; j < n && !r->stopped; j++) {
        const size_t i = (size_t)r->slot[j];
        spi_sequence *seq = &r->sequences[i];
        int32_t id;
        SPI_TRY(spi_choose(r->ctx, &r->sampler, r->logits + (int64_t)j * r->sampler.vocab, seq->ids, seq->count,
                           r->options, i, seq->count - seq->prompt_count, &id));
        SPI_TRY(add_token(r, i, id));
    }
    return SP_OK;
}

/* Feeds all of a prompt but its last PREFILL_TOKENS, in pieces; gives how many that is. */
static sp_status feed_beginning(run *r, size_t i, size_t *fed) {
    const size_t count = r->sequences[i].count;
    *fed = 0;
    while (r->decoding && count - *fed > PREFILL_TOKENS) {
        SPI_TRY(add_to_pass(r, 0, i, *fed, *fed + PREFILL_TOKENS));
        SPI_TRY(pass(r, 1));
        *fed += PREFILL_TOKENS;
    }
    return SP_OK;
}

/* The prompts, PREFILL_TOKENS at a time, and the first new token of each. */
static sp_status prefill(run *r) {
    for (size_t i = 0; i < r->count && !r->stopped;) {
        size_t fed, n = 0;
        SPI_TRY(feed_beginning(r, i, &fed));
        do {
            SPI_TRY(add_to_pass(r, n++, i, fed, r->sequences[i].count));
            fed = 0;
            i++;
        } while (i < r->count && (size_t)r->start[n] + r->sequences[i].count <= PREFILL_TOKENS);
        SPI_TRY(pass(r, n));
        SPI_TRY(choose(r, n));
    }
    return SP_OK;
}

/* ------------------------------------------------------------------ runs on the device */

/* How many tokens a sequence can still take. */
static size_t tokens_left(const run *r, const spi_sequence *seq) {
    if (seq->done) return 0;
    const size_t wanted = (size_t)r->ending->max_new_tokens - (seq->count - seq->prompt_count);
    const size_t fed = most_tokens(r->model) + 1 - seq->count;
    return wanted < fed ? wanted : fed;
}

/* The n sequences' next tokens; those that are done get none. */
static sp_status take_chosen(run *r, size_t n) {
    for (size_t j = 0; j < n && !r->stopped; j++) {
        const size_t i = (size_t)r->slot[j];
        spi_sequence *seq = &r->sequences[i];
        if (seq->done) continue;
        if (r->chosen[j] < 0) return spi_choose_failed(r->ctx, i, seq->count);
        SPI_TRY(add_token(r, i, r->chosen[j]));
        check_length(r, seq);
        r->kept[j]++;
    }
    return SP_OK;
}

/* Most that the n sequences can still take; 0 once half of them are done, so that the others go on closer
 * together. */
static size_t steps_left(const run *r, size_t n) {
    size_t live = 0, most = 0;
    for (size_t j = 0; j < n; j++) {
        const size_t left = tokens_left(r, &r->sequences[r->slot[j]]);
        live += left > 0;
        if (left > most) most = left;
    }
    return 2 * live <= n ? 0 : most;
}

/* Two steps are under way: one that is waited for, and the next one. */
static sp_status run_steps(run *r, size_t n, spi_decoding_run *steps) {
    size_t ahead = 0;
    for (;;) {
        for (const size_t left = steps_left(r, n); ahead < 2 && ahead < left; ahead++)
            SPI_TRY(spi_decoding_run_queue(steps));
        if (ahead-- == 0) return SP_OK;
        SPI_TRY(spi_decoding_run_read(steps, r->chosen));
        SPI_TRY(take_chosen(r, n));
        if (r->stopped) return SP_OK;
    }
}

/* The n sequences of the pass go on, each with its newest id, until at least half of them are done. */
static sp_status run_pass(run *r, size_t n) {
    spi_decoding_run *steps = NULL;
    for (size_t j = 0; j < n; j++) {
        const spi_sequence *seq = &r->sequences[r->slot[j]];
        r->kept[j] = 0;
        r->fed[j] = (spi_run_sequence){.slot = r->slot[j],
                                       .id = r->ids[j],
                                       .sequence = r->slot[j],
                                       .step = (int32_t)(seq->count - seq->prompt_count),
                                       .ids = seq->ids,
                                       .count = seq->count};
    }
    SPI_TRY(spi_decoding_run_new(r->decoding, (int32_t)n, r->fed, r->options, &steps));
    const sp_status status = run_steps(r, n, steps);
    spi_decoding_run_free(steps, r->kept);
    return status;
}

/* One token more, or many, for each sequence that goes on; *more is false when none does. */
static sp_status advance(run *r, bool *more) {
    size_t n = 0;
    for (size_t i = 0; i < r->count; i++) {
        spi_sequence *seq = &r->sequences[i];
        check_length(r, seq);
        if (!seq->done) SPI_TRY(add_to_pass(r, n++, i, r->decoding ? seq->count - 1 : 0, seq->count));
    }
    *more = n > 0;
    if (n == 0) return SP_OK;
    if (r->decoding && spi_decoding_runs(r->decoding)) return run_pass(r, n);
    SPI_TRY(pass(r, n));
    return choose(r, n);
}

/* ------------------------------------------------------------------ the whole */

static sp_status open_run(run *r) {
    const size_t vocab = (size_t)r->model->base->arch.vocab_size, most = most_tokens(r->model);
    size_t longest = 0;
    for (size_t i = 0; i < r->count; i++) {
        if (r->sequences[i].count > longest) longest = r->sequences[i].count;
        if (r->sequences[i].count > most)
            return spi_fail(r->ctx, SP_ERR_ARGUMENT,
                            "prompt %zu: expected at most %zu tokens (\"max_position_embeddings\"), found %zu",
                            i + 1, most, r->sequences[i].count);
    }
    size_t capacity = longest + (size_t)r->ending->max_new_tokens;
    if (capacity > most) capacity = most;
    r->logits = malloc(r->count * vocab * sizeof *r->logits);
    r->slot = malloc(r->count * sizeof *r->slot);
    r->start = malloc((r->count + 1) * sizeof *r->start);
    r->fed = malloc(r->count * sizeof *r->fed);
    r->chosen = malloc(r->count * sizeof *r->chosen);
    r->kept = malloc(r->count * sizeof *r->kept);
    if (!r->logits || !r->slot || !r->start || !r->fed || !r->chosen || !r->kept)
        return spi_fail_memory(r->ctx, r->count * vocab * sizeof *r->logits, "generation");
    SPI_TRY(spi_sampling_new(r->ctx, (int64_t)vocab, &r->sampler));
    if (!r->options->use_cache) return SP_OK;
    return spi_decoding_new(r->model, r->options->mode, (int32_t)r->count, (int32_t)capacity, &r->decoding);
}

static void close_run(run *r) {
    spi_decoding_free(r->decoding);
    spi_sampling_free(&r->sampler);
    free(r->logits);
    free(r->slot);
    free(r->start);
    free(r->ids);
    free(r->fed);
    free(r->chosen);
    free(r->kept);
}

static void count_tokens(const run *r, sp_generation_stats *stats) {
    for (size_t i = 0; i < r->count; i++) {
        stats->prompt_tokens += (int64_t)r->sequences[i].prompt_count;
        stats->new_tokens += (int64_t)(r->sequences[i].count - r->sequences[i].prompt_count);
    }
}

sp_status spi_generate_run(sp_model *model, const sp_generate_options *options, const spi_ending *ending,
                           spi_sequence *sequences, size_t count, sp_stream_fn stream, void *user,
                           sp_generation_stats *stats) {
    run r = {.model = model,
             .ctx = model->ctx,
             .options = options,
             .ending = ending,
             .stream = stream,
             .user = user,
             .sequences = sequences,
             .count = count};
    bool more = true;
    const double began = clock_seconds();
    sp_status status = open_run(&r);
    if (status == SP_OK) status = prefill(&r);
    const double filled = clock_seconds();
    while (status == SP_OK && more && !r.stopped) status = advance(&r, &more);
    if (stats) {
        stats->prefill_seconds = filled - began;
        stats->decode_seconds = clock_seconds() - filled;
        count_tokens(&r, stats);
    }
    for (size_t i = 0; r.stopped && i < count; i++)
        if (!sequences[i].done) spi_sequence_cut(&sequences[i]);
    close_run(&r);
    return status;
}
