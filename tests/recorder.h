/*
 * A device that records steps, without a GPU: the table of the CPU's operations, those of a decoding step kept
 * with their arguments while it records and run at each launch, in order; spi_choose in the place of the
 * device's choice. While it records nothing may be allocated, copied from or to the host, or waited for.
 */
#ifndef TESTS_RECORDER_H
#define TESTS_RECORDER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "generate/sampling.h"
#include "tensor/backend.h"

typedef struct recorder_call {
    void (*run)(spi_device *dev, const struct recorder_call *c);
    spi_mat a, b, c, d; /* matrices in the operation's order */
    spi_weight weight;
    spi_mat extra; /* a residual or a table of positions, no data: none */
    const float *bias;
    const int32_t *ids, *positions;
    float factor;
    float *kept;
    spi_activation act;
    spi_norm norm;
    spi_qk qk;
    spi_attn attn;
    spi_kv kv;
    spi_cached_seqs seqs;
    spi_inject inject;
    spi_update update;
    spi_choice choice;
} recorder_call;

struct spi_graph {
    recorder_call *calls;
    size_t count, capacity;
};

typedef struct recorder {
    const spi_ops *inner;
    spi_ops table;
    spi_graph *at; /* what is being recorded, or NULL */
    int recorded, launched, open;
    int32_t letters[2][64];
} recorder;

static recorder rec;

/* Runs a call, or keeps it. */
static inline void recorder_take(spi_device *dev, recorder_call c) {
    if (!rec.at) {
        c.run(dev, &c);
        return;
    }
    assert_true(spi_grow((void **)&rec.at->calls, &rec.at->capacity, rec.at->count, sizeof c));
    rec.at->calls[rec.at->count++] = c;
}

/* ------------------------------------------------------------------ operations of a step */

static void run_convert(spi_device *dev, const recorder_call *c) {
    rec.inner->convert(dev, c->a, c->b);
}
static void rec_convert(spi_device *dev, spi_mat to, spi_mat from) {
    recorder_take(dev, (recorder_call){.run = run_convert, .a = to, .b = from});
}

static void run_linear(spi_device *dev, const recorder_call *c) {
    rec.inner->linear(dev, c->a, c->b, &c->weight, c->bias, c->extra.data ? &c->extra : NULL);
}
static void rec_linear(spi_device *dev, spi_mat y, spi_mat x, const spi_weight *w, const float *bias,
                       const spi_mat *residual) {
    recorder_take(dev, (recorder_call){.run = run_linear,
                                       .a = y,
                                       .b = x,
                                       .weight = *w,
                                       .bias = bias,
                                       .extra = residual ? *residual : (spi_mat){0}});
}

static void run_embedding(spi_device *dev, const recorder_call *c) {
    rec.inner->embedding(dev, c->a, &c->weight, c->ids, c->factor, c->extra.data ? &c->extra : NULL,
                         c->positions);
}
static void rec_embedding(spi_device *dev, spi_mat y, const spi_weight *table, const int32_t *ids, float scale,
                          const spi_mat *position_table, const int32_t *positions) {
    recorder_take(dev, (recorder_call){.run = run_embedding,
                                       .a = y,
                                       .weight = *table,
                                       .ids = ids,
                                       .factor = scale,
                                       .extra = position_table ? *position_table : (spi_mat){0},
                                       .positions = positions});
}

static void run_gather(spi_device *dev, const recorder_call *c) {
    rec.inner->gather_rows(dev, c->a, c->b, c->ids);
}
static void rec_gather(spi_device *dev, spi_mat y, spi_mat x, const int32_t *index) {
    recorder_take(dev, (recorder_call){.run = run_gather, .a = y, .b = x, .ids = index});
}

static void run_add(spi_device *dev, const recorder_call *c) {
    rec.inner->add(dev, c->a, c->b, c->factor);
}
static void rec_add(spi_device *dev, spi_mat y, spi_mat x, float a) {
    recorder_take(dev, (recorder_call){.run = run_add, .a = y, .b = x, .factor = a});
}

static void run_norm(spi_device *dev, const recorder_call *c) {
    rec.inner->norm(dev, c->a, c->b, &c->norm);
}
static void rec_norm(spi_device *dev, spi_mat y, spi_mat x, const spi_norm *norm) {
    recorder_take(dev, (recorder_call){.run = run_norm, .a = y, .b = x, .norm = *norm});
}

static void run_qk(spi_device *dev, const recorder_call *c) {
    rec.inner->qk(dev, c->a, c->b, &c->qk);
}
static void rec_qk(spi_device *dev, spi_mat y, spi_mat x, const spi_qk *qk) {
    recorder_take(dev, (recorder_call){.run = run_qk, .a = y, .b = x, .qk = *qk});
}

static void run_attention(spi_device *dev, const recorder_call *c) {
    rec.inner->attention_cached(dev, c->a, c->b, c->c, c->d, &c->kv, &c->seqs, &c->attn);
}
static void rec_attention(spi_device *dev, spi_mat o, spi_mat q, spi_mat k, spi_mat v, const spi_kv *kv,
                          const spi_cached_seqs *seqs, const spi_attn *attn) {
    recorder_take(
        dev,
        (recorder_call){
            .run = run_attention, .a = o, .b = q, .c = k, .d = v, .kv = *kv, .seqs = *seqs, .attn = *attn});
}

static void run_gated(spi_device *dev, const recorder_call *c) {
    rec.inner->gated(dev, c->a, c->b, c->c, c->act);
}
static void rec_gated(spi_device *dev, spi_mat y, spi_mat gate, spi_mat up, spi_activation act) {
    recorder_take(dev, (recorder_call){.run = run_gated, .a = y, .b = gate, .c = up, .act = act});
}

static void run_inject(spi_device *dev, const recorder_call *c) {
    rec.inner->inject(dev, c->a, c->kept, c->b, c->c, &c->inject);
}
static void rec_inject(spi_device *dev, spi_mat h_out, float *p, spi_mat h, spi_mat s,
                       const spi_inject *inject) {
    recorder_take(dev,
                  (recorder_call){.run = run_inject, .a = h_out, .kept = p, .b = h, .c = s, .inject = *inject});
}

static void run_update(spi_device *dev, const recorder_call *c) {
    rec.inner->update(dev, c->a, c->kept, c->b, c->c, &c->update);
}
static void rec_update(spi_device *dev, spi_mat s_out, float *z, spi_mat h, spi_mat s,
                       const spi_update *update) {
    recorder_take(dev,
                  (recorder_call){.run = run_update, .a = s_out, .kept = z, .b = h, .c = s, .update = *update});
}

static void run_softcap(spi_device *dev, const recorder_call *c) {
    rec.inner->softcap(dev, c->a, c->factor);
}
static void rec_softcap(spi_device *dev, spi_mat y, float cap) {
    recorder_take(dev, (recorder_call){.run = run_softcap, .a = y, .factor = cap});
}

/* ------------------------------------------------------------------ the choice */

/* The ids that a row has seen, each once: all that the penalty asks. */
static inline size_t recorder_seen(const spi_choice *c, int64_t row, int64_t vocab, int32_t *ids) {
    size_t count = 0;
    for (int64_t v = 0; c->seen && v < vocab; v++)
        if (c->seen[row * vocab + v]) ids[count++] = (int32_t)v;
    return count;
}

static void run_choose(spi_device *dev, const recorder_call *call) {
    const spi_choice *c = &call->choice;
    const int64_t vocab = call->a.cols;
    spi_sampling sampling;
    sp_generate_options o;
    int32_t *ids = calloc((size_t)vocab, sizeof *ids);
    sp_generate_options_default(&o);
    o.do_sample = c->draw;
    o.temperature = c->temperature;
    o.top_k = c->top_k;
    o.top_p = c->top_p;
    o.min_p = c->min_p;
    o.seed = c->seed;
    o.repetition_penalty = c->seen ? c->penalty : 1.0;
    assert_non_null(ids);
    assert_int_equal(spi_sampling_new(dev->ctx, vocab, &sampling), SP_OK);
    for (int64_t i = 0; i < call->a.rows; i++) {
        float *logits = (float *)call->a.data + i * call->a.ld;
        const size_t count = recorder_seen(c, i, vocab, ids);
        int32_t id = -1;
        assert_in_range(c->ids[i], 0, vocab - 1);
        assert_in_range(c->past[i], 0, c->last);
        if (spi_choose(dev->ctx, &sampling, logits, ids, count, &o, (uint64_t)c->sequence[i],
                       (uint64_t)(c->past[i] - c->first[i]), &id) != SP_OK)
            id = -1;
        c->chosen[i] = id;
        c->ids[i] = id < 0 ? 0 : id;
        if (c->seen && id >= 0) c->seen[i * vocab + id] = 1;
        if (c->past[i] < c->last) c->past[i]++;
    }
    spi_sampling_free(&sampling);
    free(ids);
}
static void rec_choose(spi_device *dev, spi_mat logits, const spi_choice *choice) {
    recorder_take(dev, (recorder_call){.run = run_choose, .a = logits, .choice = *choice});
}

/* ------------------------------------------------------------------ what is no part of a step */

static void *rec_alloc(spi_device *dev, size_t bytes) {
    assert_null(rec.at);
    return rec.inner->alloc(dev, bytes);
}
static void rec_release(spi_device *dev, void *data) {
    assert_null(rec.at);
    rec.inner->release(dev, data);
}
static void rec_upload(spi_device *dev, void *to, const void *from_host, size_t bytes) {
    assert_null(rec.at);
    rec.inner->upload(dev, to, from_host, bytes);
}
static void rec_download(spi_device *dev, void *to_host, const void *from, size_t bytes) {
    assert_null(rec.at);
    rec.inner->download(dev, to_host, from, bytes);
}
static void rec_sync(spi_device *dev) {
    assert_null(rec.at);
    rec.inner->sync(dev);
}

/* ------------------------------------------------------------------ recording */

static void rec_begin(spi_device *dev) {
    (void)dev;
    assert_null(rec.at);
    rec.at = calloc(1, sizeof *rec.at);
    assert_non_null(rec.at);
}

static spi_graph *rec_end(spi_device *dev) {
    (void)dev;
    spi_graph *graph = rec.at;
    rec.at = NULL;
    rec.recorded++;
    rec.open++;
    return graph;
}

static void rec_launch(spi_device *dev, spi_graph *graph) {
    rec.launched++;
    for (size_t i = 0; i < graph->count; i++) graph->calls[i].run(dev, &graph->calls[i]);
}

static void rec_free(spi_device *dev, spi_graph *graph) {
    (void)dev;
    rec.open--;
    free(graph->calls);
    free(graph);
}

static void rec_send(spi_device *dev, int box, const void *from, size_t bytes) {
    (void)dev;
    assert_null(rec.at);
    assert_true(bytes <= sizeof rec.letters[0]);
    memcpy(rec.letters[box], from, bytes);
}

static void rec_receive(spi_device *dev, int box, void *to_host, size_t bytes) {
    (void)dev;
    memcpy(to_host, rec.letters[box], bytes);
}

/* From now on the device records; the counts begin anew. One device at a time. */
static inline void recorder_attach(spi_device *dev) {
    static const spi_graph_ops graph = {rec_begin,  rec_end,  rec_launch, rec_free,
                                        rec_choose, rec_send, rec_receive};
    assert_null(dev->op->graph);
    rec = (recorder){.inner = dev->op, .table = *dev->op};
    spi_ops *op = &rec.table;
    op->convert = rec_convert;
    op->linear = rec_linear;
    op->embedding = rec_embedding;
    op->gather_rows = rec_gather;
    op->add = rec_add;
    op->norm = rec_norm;
    op->qk = rec_qk;
    op->attention_cached = rec_attention;
    op->gated = rec_gated;
    op->inject = rec_inject;
    op->update = rec_update;
    op->softcap = rec_softcap;
    op->alloc = rec_alloc;
    op->release = rec_release;
    op->upload = rec_upload;
    op->download = rec_download;
    op->sync = rec_sync;
    op->graph = &graph;
    dev->op = op;
}

static inline void recorder_detach(spi_device *dev) {
    assert_int_equal(rec.open, 0);
    dev->op = rec.inner;
}

#endif
