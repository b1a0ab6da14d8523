/* sp_forward: rectangles as Python has them, packed on their way in and spread out again on their way back. */
#include <stdlib.h>
#include <string.h>

#include "task/forward.h"

void sp_forward_input_default(sp_forward_input *in) {
    *in = (sp_forward_input){.size = sizeof *in, .mode = SP_MODE_BASE_SHADOW, .shadow_loss_weight = 0.05};
}

/* The one run of attended tokens of a row: [*first, *first + *length). */
static sp_status attended_run(sp_context *ctx, const sp_forward_input *in, int64_t row, int64_t *first,
                              int64_t *length) {
    *first = 0;
    *length = in->seq;
    if (!in->attention_mask) return SP_OK;
    const int64_t *mask = in->attention_mask + row * in->seq;
    int64_t end = in->seq;
    while (*first < end && mask[*first] == 0) (*first)++;
    while (end > *first && mask[end - 1] == 0) end--;
    *length = end - *first;
    for (int64_t t = *first; t < end; t++)
        if (mask[t] != 1)
            return spi_fail(
                ctx, SP_ERR_UNSUPPORTED,
                "attention_mask, row %lld: expected 0s, one run of 1s and 0s, found %lld at column %lld",
                (long long)row, (long long)mask[t], (long long)t);
    return *length > 0 ? SP_OK
                       : spi_fail(ctx, SP_ERR_ARGUMENT, "attention_mask, row %lld: no token is attended to",
                                  (long long)row);
}

/* An int64 of the caller's as an id; anything out of range becomes one that the batch check refuses by name. */
static int32_t narrow(int64_t id) {
    return id < INT32_MIN || id > INT32_MAX ? INT32_MIN : (int32_t)id;
}

/* The same for a class, of which -100 is none. */
static int32_t label_of(int64_t label) {
    return label == -100 ? -1 : label < 0 || label > INT32_MAX ? INT32_MAX : (int32_t)label;
}

sp_status spi_batch_from_rectangle(const sp_model *model, const sp_forward_input *in, spi_batch *batch) {
    sp_context *ctx = model->ctx;
    const bool skip = model->base->arch.family->positions_count_attended;
    const bool classifier = model->task == SP_TASK_SEQ_CLS;
    if (in->batch < 1 || in->seq < 1 || !in->input_ids)
        return spi_fail(ctx, SP_ERR_ARGUMENT,
                        "input_ids: expected a [batch, seq] rectangle, found [%lld, %lld]",
                        (long long)in->batch, (long long)in->seq);
    int32_t *columns = malloc((size_t)in->seq * 3 * sizeof *columns);
    if (!columns) return spi_fail_memory(ctx, (size_t)in->seq * 3 * sizeof *columns, "a batch");
    int32_t *const ids = columns, *const labels = columns + in->seq, *const positions = columns + 2 * in->seq;
    sp_status status = SP_OK;
    spi_batch_clear(batch);
    for (int64_t row = 0; status == SP_OK && row < in->batch; row++) {
        int64_t first, length;
        SPI_GOTO(out, status, attended_run(ctx, in, row, &first, &length));
        for (int64_t t = 0; t < length; t++) {
            const int64_t at = row * in->seq + first + t;
            ids[t] = narrow(in->input_ids[at]);
            labels[t] = in->labels && !classifier ? narrow(in->labels[at]) : -100;
            positions[t] = (int32_t)(skip ? t : first + t);
        }
        status = classifier ? spi_batch_add_labelled(ctx, batch, ids, positions, length,
                                                     in->labels ? label_of(in->labels[row]) : -1)
                            : spi_batch_add(ctx, batch, ids, labels, positions, length);
    }
    /* Transformers takes a padded rectangle's positions 0 .. seq - 1 for every row, but for OPT. */
    if (!skip) batch->max_position = (int32_t)in->seq;
out:
    free(columns);
    return status;
}

/* packed [tokens, V] into its places of out [batch, seq, V]; zeros at padding. */
static void spread(sp_context *ctx, const sp_forward_input *in, const spi_batch *b, int64_t vocab,
                   const float *packed, float *out) {
    memset(out, 0, (size_t)(in->batch * in->seq * vocab) * sizeof *out);
    for (int64_t row = 0; row < b->count; row++) {
        int64_t first, length;
        if (attended_run(ctx, in, row, &first, &length) != SP_OK) return; /* cannot be: the batch was made so */
        memcpy(out + (row * in->seq + first) * vocab, packed + b->start[row] * vocab,
               (size_t)(length * vocab) * sizeof *out);
    }
}

static sp_status fill_logits(sp_model *model, const sp_forward_input *in, const spi_batch *b,
                             sp_forward_output *out) {
    const int64_t vocab = spi_model_outputs(model);
    const size_t bytes = (size_t)(spi_logit_rows(model, b) * vocab) * sizeof(float);
    if (model->task == SP_TASK_SEQ_CLS)
        return spi_adapted_logits(model, b, in->mode, out->logits, out->shadow_logits);
    float *logits = out->logits ? malloc(bytes) : NULL;
    float *shadow = out->shadow_logits ? malloc(bytes) : NULL;
    sp_status status = SP_OK;
    if ((out->logits && !logits) || (out->shadow_logits && !shadow))
        status = spi_fail_memory(model->ctx, bytes, "logits");
    if (status == SP_OK) status = spi_adapted_logits(model, b, in->mode, logits, shadow);
    if (status == SP_OK && logits) spread(model->ctx, in, b, vocab, logits, out->logits);
    if (status == SP_OK && shadow) spread(model->ctx, in, b, vocab, shadow, out->shadow_logits);
    free(logits);
    free(shadow);
    return status;
}

spi_run spi_run_of_loss(const sp_model *model, const sp_forward_input *in, const spi_batch *b) {
    const double each = b->labels ? 1.0 / (double)b->labels : 0;
    const bool only = in->mode == SP_MODE_SHADOW_ONLY;
    return (spi_run){.mode = in->mode,
                     .base_weight = each,
                     .shadow_weight = only             ? each
                                      : model->adapter ? in->shadow_loss_weight * each
                                                       : 0};
}

void spi_combine_loss(const sp_forward_input *in, const spi_batch *b, const spi_loss_sums *sums,
                      sp_forward_output *out) {
    const double count = (double)b->labels;
    out->label_tokens = b->labels;
    /* The mean over nothing is not a number, in Python too. */
    out->base_loss = sums->base / count;
    out->shadow_loss = sums->shadow / count;
    out->loss = in->mode == SP_MODE_SHADOW_ONLY ? out->shadow_loss : out->base_loss;
    if (in->mode == SP_MODE_BASE_SHADOW && in->shadow_loss_weight > 0)
        out->loss += in->shadow_loss_weight * out->shadow_loss;
}

sp_status sp_forward(sp_model *model, const sp_forward_input *in, sp_forward_output *out) {
    spi_batch batch = {0};
    sp_status status = spi_batch_from_rectangle(model, in, &batch);
    if (status == SP_OK && (out->logits || out->shadow_logits)) status = fill_logits(model, in, &batch, out);
    if (status == SP_OK && in->labels) {
        const spi_run run = spi_run_of_loss(model, in, &batch);
        spi_loss_sums sums = {0};
        status = spi_adapted_loss(model, &batch, &run, &sums);
        if (status == SP_OK) spi_combine_loss(in, &batch, &sums, out);
    }
    spi_batch_free(&batch);
    return status;
}
