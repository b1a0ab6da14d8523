/* Decoding over caches: one for the base, one for the shadow, the shadow's state only for the new tokens. */
#include <stdlib.h>
#include <string.h>

#include "shadow/decoding.h"
#include "shadow/step.h"

static sp_status keep_tokens(spi_decoding *d) {
    const size_t tokens = (size_t)d->slots * (size_t)d->capacity;
    d->ids = calloc(tokens, sizeof *d->ids);
    d->all_ids = calloc(tokens, sizeof *d->all_ids);
    d->made_for = calloc((size_t)d->slots, sizeof *d->made_for);
    d->all_start = calloc((size_t)d->slots + 1, sizeof *d->all_start);
    if (d->ids && d->all_ids && d->made_for && d->all_start) return SP_OK;
    return spi_fail_memory(d->model->ctx, tokens * sizeof *d->ids, "decoding");
}

sp_status spi_decoding_new(sp_model *model, sp_mode mode, int32_t slots, int32_t capacity, spi_decoding **out) {
    *out = NULL;
    SPI_TRY(spi_mode_check(model, mode));
    if (model->task != SP_TASK_CAUSAL_LM)
        return spi_fail(model->ctx, SP_ERR_ARGUMENT,
                        "generation: expected a causal LM, found a sequence classifier");
    if (slots < 1 || capacity < 1)
        return spi_fail(model->ctx, SP_ERR_ARGUMENT,
                        "decoding: expected slots and capacity of at least 1, found %d, %d", slots, capacity);
    spi_decoding *d = calloc(1, sizeof *d);
    if (!d) return spi_fail_memory(model->ctx, sizeof *d, "decoding");
    *d = (spi_decoding){.model = model, .mode = mode, .slots = slots, .capacity = capacity};
    d->length = calloc((size_t)slots, sizeof *d->length);
    d->past = calloc((size_t)slots, sizeof *d->past);
    d->last_row = calloc((size_t)slots, sizeof *d->last_row);
    sp_status status = SP_OK;
    if (!d->length || !d->past || !d->last_row)
        status = spi_fail_memory(model->ctx, (size_t)slots * sizeof *d->past, "decoding");
    if (status == SP_OK && spi_arch_rope_moves(&model->base->arch)) status = keep_tokens(d);
    if (status == SP_OK && mode == SP_MODE_BASE_SHADOW)
        status = spi_kv_new(model->base, slots, capacity, &d->base_kv);
    if (status == SP_OK && model->adapter)
        status = spi_kv_new(model->adapter->shadow, slots, capacity, &d->shadow_kv);
    if (status != SP_OK) {
        spi_decoding_free(d);
        return status;
    }
    *out = d;
    return SP_OK;
}

void spi_decoding_free(spi_decoding *d) {
    if (!d) return;
    if (d->base_kv) spi_kv_free(d->model->base, d->base_kv);
    if (d->shadow_kv) spi_kv_free(d->model->adapter->shadow, d->shadow_kv);
    free(d->length);
    free(d->past);
    free(d->last_row);
    free(d->positions);
    free(d->ids);
    free(d->all_ids);
    free(d->made_for);
    free(d->all_start);
    free(d);
}

int32_t spi_decoding_length(const spi_decoding *d, int32_t slot) {
    return d->length[slot];
}

void spi_decoding_truncate(spi_decoding *d, int32_t slot, int32_t length) {
    if (length < d->length[slot]) d->length[slot] = length;
}

sp_status spi_decoding_check(const spi_decoding *d, int32_t count, const int32_t *slot, const int32_t *start,
                             const int32_t *ids) {
    sp_context *ctx = d->model->ctx;
    const int64_t vocab = d->model->base->arch.vocab_size;
    for (int32_t i = 0; i < count; i++) {
        const int32_t fresh = start[i + 1] - start[i];
        if (slot[i] < 0 || slot[i] >= d->slots || fresh < 1 || fresh > d->capacity - d->length[slot[i]])
            return spi_fail(ctx, SP_ERR_ARGUMENT,
                            "decoding: %d new tokens do not fit slot %d of %d (capacity %d)", fresh, slot[i],
                            d->slots, d->capacity);
    }
    for (int32_t t = start[0]; t < start[count]; t++)
        if (ids[t] < 0 || ids[t] >= vocab)
            return spi_fail(ctx, SP_ERR_MISMATCH,
                            "token %d: expected an id below %lld (\"vocab_size\"), found %d", t,
                            (long long)vocab, ids[t]);
    return SP_OK;
}

/* d->past: what of each sequence's cache holds in a step up to `max_position`. */
static void find_past(spi_decoding *d, int32_t count, const int32_t *slot, int32_t max_position) {
    for (int32_t i = 0; i < count; i++) {
        const bool holds =
            !d->ids || spi_arch_rope_same(&d->model->base->arch, d->made_for[slot[i]], max_position);
        d->past[i] = holds ? d->length[slot[i]] : 0;
    }
}

/* Keeps the new tokens, and makes of `start` and `ids` those of all tokens behind d->past. */
static void feed_again(spi_decoding *d, int32_t count, const int32_t *slot, const int32_t **start,
                       const int32_t **ids) {
    int32_t tokens = 0;
    for (int32_t i = 0; i < count; i++) {
        int32_t *kept = d->ids + (size_t)slot[i] * (size_t)d->capacity;
        const int32_t held = d->length[slot[i]], fresh = (*start)[i + 1] - (*start)[i];
        memcpy(kept + held, *ids + (*start)[i], (size_t)fresh * sizeof *kept);
        const int32_t all = held + fresh - d->past[i];
        memcpy(d->all_ids + tokens, kept + d->past[i], (size_t)all * sizeof *kept);
        d->all_start[i] = tokens;
        tokens += all;
    }
    d->all_start[count] = tokens;
    *start = d->all_start;
    *ids = d->all_ids;
}

/* Host arrays of a step: positions of the tokens to feed, last rows. */
static sp_status lay_out(spi_decoding *d, int32_t count, const int32_t *slot, const int32_t *start,
                         spi_cached_seqs *seqs) {
    const int64_t tokens = start[count];
    if (tokens > d->row_capacity) {
        int32_t *grown = realloc(d->positions, (size_t)tokens * sizeof *grown);
        if (!grown) return spi_fail_memory(d->model->ctx, (size_t)tokens * sizeof *grown, "decoding");
        d->positions = grown;
        d->row_capacity = tokens;
    }
    *seqs = (spi_cached_seqs){.count = count, .host_start = start, .host_slot = slot, .host_past = d->past};
    for (int32_t i = 0; i < count; i++) {
        const int32_t past = d->past[i], fresh = start[i + 1] - start[i];
        d->last_row[i] = start[i + 1] - 1;
        for (int32_t t = 0; t < fresh; t++) d->positions[start[i] + t] = past + t;
        if (fresh > seqs->max_new) seqs->max_new = fresh;
        if (past + fresh > seqs->max_total) seqs->max_total = past + fresh;
    }
    return SP_OK;
}

/* logits [count, V] to the host from the last rows of x (the base's output, or the shadow's state). */
static void last_logits(spi_decoding *d, int32_t count, spi_mat x, float *logits) {
    sp_model *m = d->model;
    const int64_t vocab = m->base->arch.vocab_size;
    const spi_mat rows = spi_pool_mat(m->pool, x.dtype, count, x.cols);
    const spi_mat out = spi_pool_mat(m->pool, SP_F32, count, vocab);
    m->dev->op->gather_rows(m->dev, rows, x, spi_upload_i32(m, d->last_row, count));
    spi_logits(m, d->mode == SP_MODE_BASE_SHADOW ? m->base : NULL, out, rows);
    m->dev->op->download(m->dev, logits, out.data, (size_t)(count * vocab) * sizeof *logits);
}

/* Tokens of sequence i after the step. */
static int32_t total_of(const spi_decoding *d, const int32_t *slot, const int32_t *start, int32_t i) {
    return d->length[slot[i]] + start[i + 1] - start[i];
}

/* A checked step of sequences that share their rotary frequencies. */
static sp_status step(spi_decoding *d, int32_t count, const int32_t *slot, const int32_t *start,
                      const int32_t *ids, float *logits) {
    sp_model *m = d->model;
    spi_cached_seqs seqs;
    int32_t max_position = 0;
    for (int32_t i = 0; i < count; i++)
        if (total_of(d, slot, start, i) > max_position) max_position = total_of(d, slot, start, i);
    find_past(d, count, slot, max_position);
    if (d->ids) feed_again(d, count, slot, &start, &ids);
    SPI_TRY(lay_out(d, count, slot, start, &seqs));
    SPI_TRY(spi_decoder_prepare(m->base, max_position));
    if (m->adapter) SPI_TRY(spi_decoder_prepare(m->adapter->shadow, max_position));
    spi_pool_restore(m->pool, (spi_pool_mark){0});
    const int64_t tokens = start[count], width = m->base->arch.hidden_size;
    seqs.start = spi_upload_i32(m, start, count + 1);
    seqs.slot = spi_upload_i32(m, slot, count);
    seqs.past = spi_upload_i32(m, d->past, count);
    const spi_pass pass = {.tokens = tokens,
                           .ids = spi_upload_i32(m, ids, tokens),
                           .positions = spi_upload_i32(m, d->positions, tokens),
                           .cached = &seqs};
    const bool only = d->mode == SP_MODE_SHADOW_ONLY;
    const spi_mat x = spi_pool_mat(m->pool, m->base->dtype, tokens, width);
    SPI_TRY(m->dev->status);
    spi_infer(m, &pass, d->mode, d->base_kv, d->shadow_kv, only ? (spi_mat){0} : x, only ? x : (spi_mat){0});
    last_logits(d, count, x, logits);
    SPI_TRY(m->dev->status);
    for (int32_t i = 0; i < count; i++) {
        d->length[slot[i]] = d->past[i] + start[i + 1] - start[i];
        if (d->made_for) d->made_for[slot[i]] = max_position;
    }
    return SP_OK;
}

sp_status spi_decoding_step(spi_decoding *d, int32_t count, const int32_t *slot, const int32_t *start,
                            const int32_t *ids, float *logits) {
    const spi_arch *a = &d->model->base->arch;
    bool together = true;
    SPI_TRY(spi_decoding_check(d, count, slot, start, ids));
    for (int32_t i = 1; d->ids && i < count; i++)
        together = together && spi_arch_rope_same(a, total_of(d, slot, start, 0), total_of(d, slot, start, i));
    if (together) return step(d, count, slot, start, ids, logits);
    for (int32_t i = 0; i < count; i++) {
        const int32_t alone[2] = {0, start[i + 1] - start[i]};
        SPI_TRY(step(d, 1, slot + i, alone, ids + start[i], logits + i * a->vocab_size));
    }
    return SP_OK;
}
