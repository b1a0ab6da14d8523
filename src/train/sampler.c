#include "train/sampler.h"

#include <math.h>
#include <stdlib.h>

#include "base/rng.h"
#include "text/packing.h"

sp_status spi_sampler_new(sp_context *ctx, const sp_dataset *data, const sp_train_options *options,
                          spi_sampler **out) {
    const int64_t n = sp_dataset_count(data);
    *out = NULL;
    spi_sampler *s = calloc(1, sizeof *s);
    if (!s) return spi_fail_memory(ctx, sizeof *s, "a sampler");
    *s = (spi_sampler){.ctx = ctx, .data = data, .options = *options, .examples = n, .epoch = -1};
    s->lengths = malloc(((size_t)n + 1) * sizeof *s->lengths);
    s->order = malloc(((size_t)n + 1) * sizeof *s->order);
    s->starts = malloc(((size_t)n + 1) * sizeof *s->starts);
    if (!s->lengths || !s->order || !s->starts) {
        spi_sampler_free(s);
        return spi_fail_memory(ctx, ((size_t)n + 1) * 3 * sizeof *s->order, "a sampler");
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
    free(s->lengths);
    free(s->order);
    free(s->starts);
    free(s);
}

/* ------------------------------------------------------------------ epochs */

static void plan_epoch(spi_sampler *s, int64_t epoch, int64_t before) {
    s->epoch = epoch;
    s->before = before;
    if (s->options.shuffle) spi_permutation(s->order, s->examples, s->options.seed, (uint64_t)epoch);
    else
        for (int64_t i = 0; i < s->examples; i++) s->order[i] = i;
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

/* Micro-batches and steps of the planned epoch. */
static int64_t micro_batches(const spi_sampler *s) {
    return divide_up(s->rows, s->options.per_device_train_batch_size);
}

static int64_t steps(const spi_sampler *s) {
    return divide_up(micro_batches(s), s->options.gradient_accumulation_steps);
}

int64_t spi_sampler_total(spi_sampler *s) {
    if (s->options.max_steps > 0) return s->options.max_steps;
    const double epochs = s->options.num_train_epochs;
    plan_epoch(s, 0, 0);
    if (!s->options.packing) return (int64_t)ceil(epochs * (double)steps(s));
    while ((double)(s->epoch + 1) < epochs) plan_epoch(s, s->epoch + 1, s->before + steps(s));
    return s->before + (int64_t)ceil((epochs - (double)s->epoch) * (double)steps(s));
}

/* ------------------------------------------------------------------ steps */

/* Plans the epoch that a step lies in. */
static void find_epoch(spi_sampler *s, int64_t step) {
    if (s->epoch < 0 || step < s->before) plan_epoch(s, 0, 0);
    if (!s->options.packing) { /* all epochs are alike: straight there */
        const int64_t each = steps(s), epoch = step / each;
        if (epoch != s->epoch) plan_epoch(s, epoch, epoch * each);
        return;
    }
    while (step >= s->before + steps(s)) plan_epoch(s, s->epoch + 1, s->before + steps(s));
}

spi_step_plan spi_sampler_step(spi_sampler *s, int64_t step) {
    find_epoch(s, step);
    const int64_t all = micro_batches(s), each = s->options.gradient_accumulation_steps;
    const int64_t first = (step - s->before) * each;
    const int64_t end = first + each < all ? first + each : all;
    return (spi_step_plan){.first = first,
                           .count = end - first,
                           .epoch = (double)s->epoch + (double)end / (double)all,
                           .ends_epoch = end == all};
}

sp_status spi_sampler_fill(const spi_sampler *s, int64_t micro, spi_batch *batch) {
    const int64_t first = micro * s->options.per_device_train_batch_size;
    const int64_t most = first + s->options.per_device_train_batch_size;
    const int64_t end = most < s->rows ? most : s->rows;
    spi_batch_clear(batch);
    for (int64_t i = s->starts[first]; i < s->starts[end]; i++)
        SPI_TRY(spi_batch_add_example(s->ctx, batch, s->data, s->order[i]));
    return SP_OK;
}
