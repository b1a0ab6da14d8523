#include "train/largest.h"

#include <stdlib.h>

static int descending(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

static int64_t labels_of(const sp_example *e) {
    int64_t n = 0;
    if (e->label >= 0) return 1;
    for (int64_t i = 1; i < e->length; i++) n += e->mask[i] != 0;
    return n;
}

sp_status spi_sizes_of(sp_context *ctx, const sp_dataset *data, spi_sizes *out) {
    const int64_t n = data ? sp_dataset_count(data) : 0;
    *out = (spi_sizes){.count = n,
                       .length = malloc(((size_t)n + 1) * sizeof(int64_t)),
                       .learnt = malloc(((size_t)n + 1) * sizeof(int64_t))};
    if (!out->length || !out->learnt) return spi_fail_memory(ctx, (size_t)n * 16, "planning memory");
    for (int64_t i = 0; i < n; i++) {
        sp_example e;
        sp_dataset_get(data, i, &e);
        out->tokens += out->length[i] = e.length;
        out->labels += out->learnt[i] = labels_of(&e);
    }
    qsort(out->length, (size_t)n, sizeof *out->length, descending);
    qsort(out->learnt, (size_t)n, sizeof *out->learnt, descending);
    return SP_OK;
}

void spi_sizes_free(spi_sizes *s) {
    free(s->length);
    free(s->learnt);
}

/* A sequence of `length` tokens, of which as many as are left of *labels are learnt. */
static sp_status add_sequence(const sp_model *model, spi_batch *batch, int64_t length, int64_t *labels) {
    if (model->task == SP_TASK_SEQ_CLS) {
        int32_t *ids = calloc((size_t)length, sizeof *ids);
        const sp_status status = ids ? spi_batch_add_labelled(model->ctx, batch, ids, NULL, length, 0)
                                     : spi_fail_memory(model->ctx, (size_t)length * sizeof *ids, "a batch");
        free(ids);
        return status;
    }
    int32_t *ids = calloc((size_t)length * 2, sizeof *ids), *learnt = ids + length;
    if (!ids) return spi_fail_memory(model->ctx, (size_t)length * 2 * sizeof *ids, "a batch");
    const int64_t taken = *labels < length - 1 ? *labels : length - 1;
    for (int64_t i = 0; i < length; i++) learnt[i] = i >= 1 && i <= taken ? 0 : -100;
    const sp_status status = spi_batch_add(model->ctx, batch, ids, learnt, NULL, length);
    *labels -= taken;
    free(ids);
    return status;
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

sp_status spi_fill_rows(const sp_model *model, const spi_sizes *s, int64_t rows, int64_t longest,
                        spi_batch *batch) {
    int64_t labels = 0;
    for (int64_t i = 0; i < least(rows, s->count); i++) labels += s->learnt[i];
    for (int64_t i = 0; i < least(rows, s->count); i++)
        SPI_TRY(add_sequence(model, batch, least(s->length[i], longest), &labels));
    return SP_OK;
}

sp_status spi_fill_packed(const sp_model *model, const spi_sizes *s, int64_t rows, int64_t longest,
                          spi_batch *batch) {
    const int64_t each = least(s->length[0], longest);
    int64_t labels = s->labels;
    int64_t tokens = rows <= s->tokens / longest ? rows * longest : s->tokens;
    for (; tokens > 0; tokens -= each) SPI_TRY(add_sequence(model, batch, least(each, tokens), &labels));
    return SP_OK;
}
