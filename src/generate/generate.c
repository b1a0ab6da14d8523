/* Generation: prompts in, continuations out, over caches or by recomputing everything. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "generate/generate.h"
#include "generate/options.h"
#include "generate/sampling.h"

struct sp_generation {
    spi_sequence *sequences;
    size_t count;
    sp_generation_stats stats;
};

/* Tokens of prompts fed at once: bounds the memory of the first pass. */
#define PREFILL_TOKENS 4096

typedef struct run {
    sp_model *model;
    sp_context *ctx;
    const sp_generate_options *options;
    spi_ending ending;
    spi_sampling sampling;
    sp_stream_fn stream;
    void *user;
    spi_sequence *sequences;
    size_t count;
    bool stopped; /* by the stream */

    spi_decoding *decoding; /* NULL: everything is recomputed */
    spi_sampler_work work;
    double *probabilities;
    float *logits;               /* [count, vocab] */
    int32_t *slot, *start, *ids; /* of a pass; ids grows */
    size_t id_capacity;
} run;

static double clock_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* ------------------------------------------------------------------ passes */

static sp_status add_id(run *r, size_t at, int32_t id) {
    if (!spi_grow((void **)&r->ids, &r->id_capacity, at, sizeof *r->ids))
        return spi_fail_memory(r->ctx, at * sizeof *r->ids, "token ids");
    r->ids[at] = id;
    return SP_OK;
}

/* Adds the ids of sequence i from `from` on to the pass; entry `n` of it. */
static sp_status add_to_pass(run *r, size_t n, size_t i, size_t from, int32_t *tokens) {
    const spi_sequence *seq = &r->sequences[i];
    r->slot[n] = (int32_t)i;
    r->start[n] = *tokens;
    for (size_t t = from; t < seq->count; t++) SPI_TRY(add_id(r, (size_t)(*tokens)++, seq->ids[t]));
    r->start[n + 1] = *tokens;
    return SP_OK;
}

/* Logits of the last tokens without a cache: whole sequences, one after the other. */
static sp_status recompute(run *r, size_t n) {
    const int64_t vocab = r->model->base->arch.vocab_size;
    spi_batch batch = {0};
    sp_status status = SP_OK;
    for (size_t j = 0; j < n && status == SP_OK; j++) {
        const int64_t length = r->start[j + 1] - r->start[j];
        float *all = malloc((size_t)(length * vocab) * sizeof *all);
        if (!all) status = spi_fail_memory(r->ctx, (size_t)(length * vocab) * sizeof *all, "logits");
        spi_batch_clear(&batch);
        if (status == SP_OK) status = spi_batch_add(r->ctx, &batch, r->ids + r->start[j], NULL, NULL, length);
        if (status == SP_OK) status = spi_batch_check(r->model, &batch);
        if (status == SP_OK) status = spi_adapted_logits(r->model, &batch, r->options->mode, all, NULL);
        if (status == SP_OK)
            memcpy(r->logits + (int64_t)j * vocab, all + (length - 1) * vocab, (size_t)vocab * sizeof *all);
        free(all);
    }
    spi_batch_free(&batch);
    return status;
}

static sp_status pass(run *r, size_t n) {
    if (!r->decoding) return recompute(r, n);
    return spi_decoding_step(r->decoding, (int32_t)n, r->slot, r->start, r->ids, r->logits);
}

/* ------------------------------------------------------------------ tokens */

static sp_status add_token(run *r, size_t i, int32_t id) {
    const char *fresh = NULL;
    size_t length = 0;
    SPI_TRY(spi_sequence_add(r->ctx, &r->sequences[i], id, &r->ending, &fresh, &length));
    if (length && r->stream && !r->stream(r->user, i, fresh, length)) r->stopped = true;
    return SP_OK;
}

/* The next token of each sequence of the pass. */
static sp_status choose(run *r, size_t n) {
    const int64_t vocab = r->model->base->arch.vocab_size;
    for (size_t j = 0; j < n && !r->stopped; j++) {
        const size_t i = (size_t)r->slot[j];
        const spi_sequence *seq = &r->sequences[i];
        const int32_t id = spi_choose(r->logits + (int64_t)j * vocab, seq->ids, seq->count, &r->sampling, i,
                                      seq->count - seq->prompt_count, &r->work, r->probabilities);
        SPI_TRY(add_token(r, i, id));
    }
    return SP_OK;
}

/* The prompts, some at a time, and the first new token of each. */
static sp_status prefill(run *r) {
    for (size_t i = 0; i < r->count && !r->stopped;) {
        int32_t tokens = 0;
        size_t n = 0;
        while (i < r->count && (n == 0 || tokens + (int32_t)r->sequences[i].count <= PREFILL_TOKENS))
            SPI_TRY(add_to_pass(r, n++, i++, 0, &tokens));
        SPI_TRY(pass(r, n));
        SPI_TRY(choose(r, n));
    }
    return SP_OK;
}

/* One token more for each sequence that goes on; *more is false when none does. */
static sp_status advance(run *r, bool *more) {
    int32_t tokens = 0;
    size_t n = 0;
    for (size_t i = 0; i < r->count; i++) {
        const spi_sequence *seq = &r->sequences[i];
        if (seq->done) continue;
        SPI_TRY(add_to_pass(r, n++, i, r->decoding ? seq->count - 1 : 0, &tokens));
    }
    *more = n > 0;
    if (n == 0) return SP_OK;
    SPI_TRY(pass(r, n));
    return choose(r, n);
}

/* ------------------------------------------------------------------ the whole */

static sp_status open_run(run *r) {
    const size_t vocab = (size_t)r->model->base->arch.vocab_size;
    size_t longest = 0;
    for (size_t i = 0; i < r->count; i++)
        if (r->sequences[i].count > longest) longest = r->sequences[i].count;
    r->logits = malloc(r->count * vocab * sizeof *r->logits);
    r->slot = malloc((r->count + 1) * sizeof *r->slot);
    r->start = malloc((r->count + 1) * sizeof *r->start);
    r->probabilities = malloc(vocab * sizeof *r->probabilities);
    if (!r->logits || !r->slot || !r->start || !r->probabilities)
        return spi_fail_memory(r->ctx, r->count * vocab * sizeof *r->logits, "generation");
    SPI_TRY(spi_sampler_work_new(r->ctx, (int64_t)vocab, &r->work));
    const size_t capacity = longest + (size_t)r->options->max_new_tokens;
    if (capacity > INT32_MAX)
        return spi_fail(r->ctx, SP_ERR_ARGUMENT, "max_new_tokens: expected fewer, found %d",
                        r->options->max_new_tokens);
    if (!r->options->use_cache) return SP_OK;
    return spi_decoding_new(r->model, r->options->mode, (int32_t)r->count, (int32_t)capacity, &r->decoding);
}

static void close_run(run *r) {
    spi_decoding_free(r->decoding);
    spi_sampler_work_free(&r->work);
    free(r->probabilities);
    free(r->logits);
    free(r->slot);
    free(r->start);
    free(r->ids);
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
             .ending = *ending,
             .sampling = {options->do_sample, options->temperature, options->top_p, options->min_p,
                          options->repetition_penalty, options->top_k, options->seed},
             .stream = stream,
             .user = user,
             .sequences = sequences,
             .count = count};
    const double began = clock_seconds();
    double filled = began;
    bool more = true;
    sp_status status = open_run(&r);
    if (status == SP_OK) status = prefill(&r);
    filled = clock_seconds();
    while (status == SP_OK && more && !r.stopped) status = advance(&r, &more);
    if (stats) {
        stats->prefill_seconds = filled - began;
        stats->decode_seconds = clock_seconds() - filled;
        count_tokens(&r, stats);
    }
    close_run(&r);
    return status;
}

/* ------------------------------------------------------------------ the public calls */

/* EOS ids: the caller's, the model's, the tokenizer's. */
static void find_eos(const sp_model *model, const sp_tokenizer *tok, const sp_generate_options *o, int32_t *own,
                     spi_ending *ending) {
    *own = sp_tokenizer_eos_id(tok);
    if (o->ignore_eos) return;
    if (o->eos_ids) {
        ending->eos = o->eos_ids;
        ending->eos_count = o->eos_count;
    } else if (model->eos_count) {
        ending->eos = model->eos_ids;
        ending->eos_count = model->eos_count;
    } else if (*own >= 0) {
        ending->eos = own;
        ending->eos_count = 1;
    }
}

static sp_status start_prompt(sp_model *model, const sp_tokenizer *tok, const char *prompt, bool special,
                              size_t number, spi_sequence *seq) {
    int32_t *ids = NULL;
    size_t count = 0;
    SPI_TRY(sp_tokenizer_encode(tok, prompt, strlen(prompt), special, &ids, &count));
    sp_status status = SP_OK;
    if (count == 0)
        status = spi_fail(model->ctx, SP_ERR_ARGUMENT, "prompt %zu: expected text, found nothing", number + 1);
    for (size_t i = 0; i < count && status == SP_OK; i++)
        if (ids[i] >= model->base->arch.vocab_size)
            status = spi_fail(model->ctx, SP_ERR_MISMATCH,
                              "prompt %zu: token id %d is outside the model's vocabulary of %lld", number + 1,
                              ids[i], (long long)model->base->arch.vocab_size);
    if (status == SP_OK) status = spi_sequence_start(model->ctx, seq, ids, count);
    sp_ids_free(ids);
    return status;
}

void sp_generation_free(sp_generation *g) {
    if (!g) return;
    for (size_t i = 0; i < g->count; i++) spi_sequence_free(&g->sequences[i]);
    free(g->sequences);
    free(g);
}

sp_status sp_generate(sp_model *model, const sp_tokenizer *tok, const char *const *prompts, size_t count,
                      const sp_generate_options *opts, sp_stream_fn stream, void *user, sp_generation **out) {
    sp_generate_options o;
    int32_t own_eos;
    *out = NULL;
    SPI_TRY(spi_generate_options_read(model->ctx, opts, &o));
    SPI_TRY(spi_mode_check(model, o.mode));
    spi_ending ending = {.tok = tok,
                         .stop = o.stop,
                         .max_new_tokens = o.max_new_tokens,
                         .skip_special_tokens = o.skip_special_tokens};
    find_eos(model, tok, &o, &own_eos, &ending);
    sp_generation *g = calloc(1, sizeof *g);
    if (g) g->sequences = calloc(count + 1, sizeof *g->sequences);
    if (!g || !g->sequences) {
        sp_generation_free(g);
        return spi_fail_memory(model->ctx, count * sizeof(spi_sequence), "generation");
    }
    sp_status status = SP_OK;
    for (size_t i = 0; i < count && status == SP_OK; i++, g->count = i)
        status = start_prompt(model, tok, prompts[i], o.add_special_tokens, i, &g->sequences[i]);
    if (status == SP_OK && count)
        status = spi_generate_run(model, &o, &ending, g->sequences, count, stream, user, &g->stats);
    if (status != SP_OK) {
        sp_generation_free(g);
        return status;
    }
    *out = g;
    return SP_OK;
}

size_t sp_generation_count(const sp_generation *g) {
    return g->count;
}

void sp_generation_get(const sp_generation *g, size_t index, sp_generated *out) {
    const spi_sequence *seq = &g->sequences[index];
    *out = (sp_generated){.text = seq->text.data ? seq->text.data : "",
                          .length = seq->text.length,
                          .ids = seq->ids + seq->prompt_count,
                          .count = seq->count - seq->prompt_count,
                          .prompt_count = seq->prompt_count,
                          .finish = seq->finish};
}

void sp_generation_get_stats(const sp_generation *g, sp_generation_stats *stats) {
    sp_generation_stats all = g->stats;
    all.size = stats->size;
    memcpy(stats, &all, stats->size < sizeof all ? stats->size : sizeof all);
}
