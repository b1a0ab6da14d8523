/* Decoding as a recorded step: everything that moves from token to token lies on the device and moves there. */
#include <stdlib.h>
#include <string.h>

#include "shadow/decoding.h"
#include "shadow/step.h"

/* The device's letter boxes. */
#define BOXES 2

struct spi_decoding_run {
    spi_decoding *d;
    int32_t count;
    int32_t queued, read; /* steps */
    int32_t *host;        /* what `state` began as */
    int32_t *begun;       /* [count] tokens that the slots held */
    int32_t *state;       /* device: the arrays of `choice`, `seqs` and `pass` */
    uint8_t *seen;        /* device: [count, V], NULL without a penalty */
    spi_choice choice;
    spi_cached_seqs seqs;
    spi_pass pass;
    spi_graph *graph; /* NULL until the second step */
};

bool spi_decoding_runs(const spi_decoding *d) {
    const sp_model *m = d->model;
    const spi_decoder *base = m->base, *shadow = m->adapter ? m->adapter->shadow : NULL;
    if (!m->dev->op->graph || m->dev->profile || d->ids) return false;
    if (base->positions && d->capacity > base->arch.max_positions) return false;
    if (!shadow) return true;
    if (shadow->positions && d->capacity > shadow->arch.max_positions) return false;
    /* What the base chooses the shadow reads, unseen by the host. */
    return !shadow->embed || shadow->arch.vocab_size >= base->arch.vocab_size;
}

/* ------------------------------------------------------------------ what is on the device */

/*
 * One upload: past, ids, chosen, slot, sequence and first, [count] each, then start [count + 1]. Where each
 * begins is the same in run->host and in run->state.
 */
static void lay_out(spi_decoding_run *run, const spi_run_sequence *sequences, const sp_generate_options *o) {
    const int32_t n = run->count;
    int32_t *host = run->host, *at = run->state;
    enum { PAST, IDS, CHOSEN, SLOT, SEQUENCE, FIRST, START };
    for (int32_t i = 0; i < n; i++) {
        const spi_run_sequence *s = &sequences[i];
        run->begun[i] = run->d->length[s->slot];
        host[PAST * n + i] = run->begun[i];
        host[IDS * n + i] = host[CHOSEN * n + i] = s->id;
        host[SLOT * n + i] = s->slot;
        host[SEQUENCE * n + i] = s->sequence;
        host[FIRST * n + i] = run->begun[i] - s->step;
    }
    for (int32_t i = 0; i <= n; i++) host[START * n + i] = i;
    run->choice = (spi_choice){.draw = o->do_sample,
                               .temperature = o->temperature,
                               .top_p = o->top_p,
                               .min_p = o->min_p,
                               .top_k = o->top_k,
                               .seed = o->seed,
                               .sequence = at + SEQUENCE * n,
                               .first = at + FIRST * n,
                               .penalty = o->repetition_penalty,
                               .seen = run->seen,
                               .chosen = at + CHOSEN * n,
                               .ids = at + IDS * n,
                               .past = at + PAST * n,
                               .last = run->d->capacity - 1};
    run->seqs = (spi_cached_seqs){.count = n,
                                  .max_new = 1,
                                  .max_total = run->d->capacity,
                                  .start = at + START * n,
                                  .slot = at + SLOT * n,
                                  .past = at + PAST * n,
                                  .host_start = host + START * n,
                                  .host_slot = host + SLOT * n,
                                  .host_past = run->d->model->dev->op->host_memory ? at + PAST * n : NULL};
    run->pass = (spi_pass){.tokens = n, .ids = at + IDS * n, .positions = at + PAST * n, .cached = &run->seqs};
}

/* run->seen: 1 for every id that a sequence has. */
static sp_status mark_seen(spi_decoding_run *run, const spi_run_sequence *sequences) {
    spi_device *dev = run->d->model->dev;
    const size_t vocab = (size_t)run->d->model->base->arch.vocab_size, bytes = (size_t)run->count * vocab;
    uint8_t *host = calloc(bytes, 1);
    if (!host) return spi_fail_memory(dev->ctx, bytes, "decoding");
    for (int32_t i = 0; i < run->count; i++)
        for (size_t t = 0; t < sequences[i].count; t++)
            host[(size_t)i * vocab + (size_t)sequences[i].ids[t]] = 1;
    dev->op->upload(dev, run->seen, host, bytes);
    dev->op->sync(dev);
    free(host);
    return dev->status;
}

static sp_status check(const spi_decoding_run *run, const spi_run_sequence *sequences) {
    for (int32_t i = 0; i < run->count; i++) {
        const int32_t alone[2] = {0, 1};
        SPI_TRY(spi_decoding_check(run->d, 1, &sequences[i].slot, alone, &sequences[i].id));
    }
    return SP_OK;
}

static sp_status fill(spi_decoding_run *run, const spi_run_sequence *sequences, const sp_generate_options *o) {
    sp_model *m = run->d->model;
    const size_t n = (size_t)run->count, numbers = 7 * n + 1;
    SPI_TRY(check(run, sequences));
    /* Tables for all positions: nothing may be uploaded once a step is recorded. */
    SPI_TRY(spi_decoder_prepare(m->base, run->d->capacity));
    if (m->adapter) SPI_TRY(spi_decoder_prepare(m->adapter->shadow, run->d->capacity));
    run->host = malloc(numbers * sizeof *run->host);
    run->begun = malloc(n * sizeof *run->begun);
    if (!run->host || !run->begun) return spi_fail_memory(m->ctx, numbers * sizeof *run->host, "decoding");
    run->state = m->dev->op->alloc(m->dev, numbers * sizeof *run->state);
    if (o->repetition_penalty != 1.0)
        run->seen = m->dev->op->alloc(m->dev, n * (size_t)m->base->arch.vocab_size);
    SPI_TRY(m->dev->status);
    if (run->seen) SPI_TRY(mark_seen(run, sequences));
    lay_out(run, sequences, o);
    m->dev->op->upload(m->dev, run->state, run->host, numbers * sizeof *run->state);
    return m->dev->status;
}

sp_status spi_decoding_run_new(spi_decoding *d, int32_t count, const spi_run_sequence *sequences,
                               const sp_generate_options *o, spi_decoding_run **out) {
    *out = NULL;
    spi_decoding_run *run = calloc(1, sizeof *run);
    if (!run) return spi_fail_memory(d->model->ctx, sizeof *run, "decoding");
    run->d = d;
    run->count = count;
    const sp_status status = fill(run, sequences, o);
    if (status == SP_OK) *out = run;
    else spi_decoding_run_free(run, NULL);
    return status;
}

void spi_decoding_run_free(spi_decoding_run *run, const int32_t *kept) {
    if (!run) return;
    spi_decoding *d = run->d;
    spi_device *dev = d->model->dev;
    for (int32_t i = 0; i < run->count && run->queued > 0; i++) {
        const int32_t held = run->begun[i] + (kept ? kept[i] : run->queued);
        /* Steps beyond a slot's end were spent on its last place. */
        const int32_t whole = run->begun[i] + run->queued > d->capacity ? d->capacity - 1 : d->capacity;
        d->length[run->pass.cached->host_slot[i]] = held < whole ? held : whole;
    }
    if (run->graph) dev->op->graph->free(dev, run->graph);
    if (run->state) dev->op->release(dev, run->state);
    if (run->seen) dev->op->release(dev, run->seen);
    free(run->host);
    free(run->begun);
    free(run);
}

/* ------------------------------------------------------------------ steps */

/* The same operations with the same arguments every time: memory of the pool is given out from its beginning.
 */
static void step(spi_decoding_run *run) {
    sp_model *m = run->d->model;
    const bool only = run->d->mode == SP_MODE_SHADOW_ONLY;
    spi_pool_restore(m->pool, (spi_pool_mark){0});
    const spi_mat x = spi_pool_mat(m->pool, m->base->dtype, run->count, m->base->arch.hidden_size);
    const spi_mat logits = spi_pool_mat(m->pool, SP_F32, run->count, m->base->arch.vocab_size);
    if (m->dev->status != SP_OK) return;
    spi_infer(m, &run->pass, run->d->mode, run->d->base_kv, run->d->shadow_kv, only ? (spi_mat){0} : x,
              only ? x : (spi_mat){0});
    spi_logits(m, only ? NULL : m->base, logits, x);
    m->dev->op->graph->choose(m->dev, logits, &run->choice);
}

/* Behind a step that ran: what it needed is there. The pool makes itself one block before, not meanwhile. */
static void record(spi_decoding_run *run) {
    spi_device *dev = run->d->model->dev;
    spi_pool_restore(run->d->model->pool, (spi_pool_mark){0});
    dev->op->graph->begin(dev);
    step(run);
    run->graph = dev->op->graph->end(dev);
}

sp_status spi_decoding_run_queue(spi_decoding_run *run) {
    spi_device *dev = run->d->model->dev;
    if (run->queued - run->read == BOXES)
        return spi_fail(dev->ctx, SP_ERR_ARGUMENT, "decoding: expected at most %d steps ahead", BOXES);
    if (run->queued == 0) {
        step(run);
    } else {
        if (!run->graph) record(run);
        if (run->graph) dev->op->graph->launch(dev, run->graph);
    }
    SPI_TRY(dev->status);
    dev->op->graph->send(dev, run->queued % BOXES, run->choice.chosen,
                         (size_t)run->count * sizeof *run->choice.chosen);
    run->queued++;
    return dev->status;
}

sp_status spi_decoding_run_read(spi_decoding_run *run, int32_t *ids) {
    spi_device *dev = run->d->model->dev;
    if (run->queued == run->read)
        return spi_fail(dev->ctx, SP_ERR_ARGUMENT, "decoding: expected a step that is queued, found none");
    dev->op->graph->receive(dev, run->read++ % BOXES, ids, (size_t)run->count * sizeof *ids);
    return dev->status;
}
