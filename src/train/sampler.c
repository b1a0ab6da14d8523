#include "train/sampler.h"

#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "text/packing.h"

#define LABEL_IGNORED (-100)

sp_status spi_sampler_new(sp_context *ctx, const sp_dataset *data, const sp_train_options *options,
                          spi_sampler **out) {
    const int64_t n = sp_dataset_count(data);
    spi_sampler *s = calloc(1, sizeof *s);
    *out = NULL;
    if (!s) return spi_fail_memory(ctx, sizeof *s, "a sampler");
    *s = (spi_sampler){.ctx = ctx, .data = data, .options = *options, .examples = n, .epoch = -1};
    s->order = malloc(((size_t)n + 1) * sizeof *s->order);
    s->starts = malloc(((size_t)n + 1) * sizeof *s->starts);
    s->lengths = malloc(((size_t)n + 1) * sizeof *s->lengths);
    if (!s->order || !s->starts || !s->lengths) {
        spi_sampler_free(s);
        return spi_fail_memory(ctx, (size_t)n * 24, "a sampler");
    }
    for (int64_t i = 0; i < n; i++) {
        sp_example e;
        sp_dataset_get(data, i, &e);
        s->lengths[i] = e.length;
    }
    *out = s;
    return SP_OK;
}

void spi_sampler_free(spi_sampler *s) {
    if (!s) return;
    free(s->order);
    free(s->starts);
    free(s->lengths);
    free(s);
}

static void plan(spi_sampler *s, int64_t epoch) {
    if (s->epoch == epoch) return;
    s->epoch = epoch;
    if (s->options.shuffle) {
        spi_permutation(s->order, s->examples, s->options.seed, (uint64_t)epoch);
    } else {
        for (int64_t i = 0; i < s->examples; i++) s->order[i] = i;
    }
    if (s->options.packing) {
        s->rows = spi_pack_rows(s->lengths, s->order, s->examples, s->options.max_seq_length, s->starts);
        return;
    }
    s->rows = s->examples;
    for (int64_t r = 0; r <= s->rows; r++) s->starts[r] = r;
}

static int64_t divide_up(int64_t a, int64_t b) {
    return (a + b - 1) / b;
}

static int64_t micro_batches(const spi_sampler *s) {
    return divide_up(s->rows, s->options.per_device_train_batch_size);
}

int64_t spi_sampler_steps(spi_sampler *s, int64_t epoch) {
    plan(s, epoch);
    return divide_up(micro_batches(s), s->options.gradient_accumulation_steps);
}

int64_t spi_sampler_total(spi_sampler *s) {
    if (s->options.max_steps > 0) return s->options.max_steps;
    const double epochs = s->options.num_train_epochs;
    const int64_t whole = (int64_t)floor(epochs);
    int64_t total = 0;
    for (int64_t e = 0; e < whole; e++) total += spi_sampler_steps(s, e);
    if (epochs > (double)whole)
        total += (int64_t)ceil((epochs - (double)whole) * (double)spi_sampler_steps(s, whole));
    return total;
}

spi_position spi_sampler_find(spi_sampler *s, int64_t step) {
    spi_position at = {.step_in_epoch = step};
    /* Without packing every epoch has as many steps. */
    if (!s->options.packing) {
        at.steps_in_epoch = spi_sampler_steps(s, 0);
        at.epoch = step / at.steps_in_epoch;
        at.step_in_epoch = step % at.steps_in_epoch;
    } else {
        while (at.step_in_epoch >= (at.steps_in_epoch = spi_sampler_steps(s, at.epoch))) {
            at.step_in_epoch -= at.steps_in_epoch;
            at.epoch++;
        }
    }
    plan(s, at.epoch);
    return at;
}

int64_t spi_sampler_micro_count(spi_sampler *s, const spi_position *at) {
    plan(s, at->epoch);
    const int64_t each = s->options.gradient_accumulation_steps;
    const int64_t left = micro_batches(s) - at->step_in_epoch * each;
    return left < each ? left : each;
}

sp_status spi_batch_add_example(sp_context *ctx, const sp_dataset *data, int64_t index, spi_batch *batch) {
    sp_example e;
    sp_dataset_get(data, index, &e);
    int32_t *labels = malloc(((size_t)e.length + 1) * sizeof *labels);
    if (!labels) return spi_fail_memory(ctx, (size_t)e.length * sizeof *labels, "labels");
    for (int64_t t = 0; t < e.length; t++) labels[t] = e.mask[t] ? e.ids[t] : LABEL_IGNORED;
    const sp_status status = spi_batch_add(ctx, batch, e.ids, labels, NULL, e.length);
    free(labels);
    return status;
}

sp_status spi_sampler_fill(spi_sampler *s, const spi_position *at, int64_t index, spi_batch *batch) {
    plan(s, at->epoch);
    const int64_t micro = at->step_in_epoch * s->options.gradient_accumulation_steps + index;
    const int64_t first = micro * s->options.per_device_train_batch_size;
    const int64_t most = first + s->options.per_device_train_batch_size;
    const int64_t end = most < s->rows ? most : s->rows;
    spi_batch_clear(batch);
    for (int64_t i = s->starts[first]; i < s->starts[end]; i++)
        SPI_TRY(spi_batch_add_example(s->ctx, s->data, s->order[i], batch));
    return SP_OK;
}
