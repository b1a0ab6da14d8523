#include "shadow/batch.h"

#include <stdlib.h>
#include <string.h>

#define LABEL_IGNORED (-100)

void spi_batch_clear(spi_batch *b) {
    b->tokens = b->labels = 0;
    b->count = b->max_length = b->max_position = 0;
}

void spi_batch_free(spi_batch *b) {
    free(b->ids);
    free(b->positions);
    free(b->start);
    free(b->label_row);
    free(b->label_id);
    *b = (spi_batch){0};
}

/* Grows two arrays that share a capacity. */
static bool reserve(int32_t **first, int32_t **second, int64_t *capacity, int64_t needed) {
    if (needed <= *capacity) return true;
    int64_t wanted = *capacity ? *capacity : 1024;
    while (wanted < needed) wanted *= 2;
    int32_t *a = realloc(*first, (size_t)wanted * sizeof *a);
    if (a) *first = a;
    int32_t *b = second ? realloc(*second, (size_t)wanted * sizeof *b) : a;
    if (b && second) *second = b;
    if (!a || !b) return false;
    *capacity = wanted;
    return true;
}

/* Room for a sequence of `length` more tokens. */
static sp_status make_room(sp_context *ctx, spi_batch *b, int64_t length) {
    if (length < 1 || b->tokens + length > INT32_MAX)
        return spi_fail(ctx, SP_ERR_ARGUMENT, "a sequence of a batch: expected 1 to %lld tokens, found %lld",
                        (long long)(INT32_MAX - b->tokens), (long long)length);
    if (reserve(&b->ids, &b->positions, &b->token_capacity, b->tokens + length) &&
        reserve(&b->start, NULL, &b->seq_capacity, b->count + 2) &&
        reserve(&b->label_row, &b->label_id, &b->label_capacity, b->labels + length))
        return SP_OK;
    return spi_fail_memory(ctx, (size_t)length * 16, "a batch");
}

static void add_token(spi_batch *b, int64_t row, int32_t id, int32_t position) {
    b->ids[row] = id;
    b->positions[row] = position;
    if (position >= b->max_position) b->max_position = position + 1;
}

static void add_label(spi_batch *b, int64_t row, int32_t id) {
    b->label_row[b->labels] = (int32_t)row;
    b->label_id[b->labels++] = id;
}

static void close_sequence(spi_batch *b, int64_t length) {
    b->start[b->count] = (int32_t)b->tokens;
    b->tokens += length;
    b->start[++b->count] = (int32_t)b->tokens;
    if (length > b->max_length) b->max_length = (int32_t)length;
}

sp_status spi_batch_add(sp_context *ctx, spi_batch *b, const int32_t *ids, const int32_t *labels,
                        const int32_t *positions, int64_t length) {
    SPI_TRY(make_room(ctx, b, length));
    for (int64_t t = 0; t < length; t++) {
        add_token(b, b->tokens + t, ids[t], positions ? positions[t] : (int32_t)t);
        if (t > 0 && labels && labels[t] != LABEL_IGNORED) add_label(b, b->tokens + t - 1, labels[t]);
    }
    close_sequence(b, length);
    return SP_OK;
}

sp_status spi_batch_add_labelled(sp_context *ctx, spi_batch *b, const int32_t *ids, const int32_t *positions,
                                 int64_t length, int32_t label) {
    SPI_TRY(spi_batch_add(ctx, b, ids, NULL, positions, length));
    if (label >= 0) add_label(b, b->tokens - 1, label);
    return SP_OK;
}

sp_status spi_batch_add_example(sp_context *ctx, spi_batch *b, const sp_dataset *data, int64_t index) {
    sp_example e;
    sp_dataset_get(data, index, &e);
    if (e.label >= 0) return spi_batch_add_labelled(ctx, b, e.ids, NULL, e.length, e.label);
    SPI_TRY(make_room(ctx, b, e.length));
    for (int64_t t = 0; t < e.length; t++) {
        add_token(b, b->tokens + t, e.ids[t], (int32_t)t);
        if (t > 0 && e.mask[t]) add_label(b, b->tokens + t - 1, e.ids[t]);
    }
    close_sequence(b, e.length);
    return SP_OK;
}

/* Ids that the base's embedding and, where it has one of its own, the shadow's know. */
static int64_t known_ids(const sp_model *model) {
    const int64_t vocab = model->base->arch.vocab_size;
    const spi_decoder *shadow = model->adapter ? model->adapter->shadow : NULL;
    return shadow && shadow->embed && shadow->arch.vocab_size < vocab ? shadow->arch.vocab_size : vocab;
}

sp_status spi_batch_check(const sp_model *model, const spi_batch *b) {
    const int64_t vocab = model->base->arch.vocab_size, known = known_ids(model);
    for (int64_t t = 0; t < b->tokens; t++)
        if (b->ids[t] < 0 || b->ids[t] >= known)
            return spi_fail(model->ctx, SP_ERR_MISMATCH,
                            "token %lld of the batch: expected an id below %lld (%s: "
                            "\"vocab_size\"), found %d",
                            (long long)t, (long long)known,
                            known < vocab ? "the explicit shadow" : model->files.config_path, b->ids[t]);
    const int64_t outputs = spi_model_outputs(model);
    for (int64_t j = 0; j < b->labels; j++)
        if (b->label_id[j] < 0 || b->label_id[j] >= outputs)
            return spi_fail(model->ctx, SP_ERR_MISMATCH,
                            "label %lld of the batch: expected an id below %lld (%s: "
                            "\"%s\"), found %d",
                            (long long)j, (long long)outputs, model->files.config_path,
                            model->task == SP_TASK_SEQ_CLS ? "num_labels" : "vocab_size", b->label_id[j]);
    return SP_OK;
}
