#include "generate/classify.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct run {
    sp_model *model;
    const sp_dataset *ds;
    sp_mode mode;
    int64_t labels;
    spi_batch batch;
    float *logits;                  /* [batch, labels] */
    int64_t *truly, *taken, *right; /* [labels] each: examples of a label, taken for it, and both */
    int64_t *confusion;
    spi_classified *out;
} run;

static int64_t argmax(const float *x, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/* log(sum of exp(x)) - x[label] */
static double cross_entropy(const float *x, int64_t n, int64_t label, float largest) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += exp((double)x[i] - largest);
    return log(sum) + largest - x[label];
}

static void count(run *r, const float *logits, int32_t label) {
    const int64_t taken = argmax(logits, r->labels);
    r->out->loss += cross_entropy(logits, r->labels, label, logits[taken]);
    r->out->correct += taken == label;
    r->truly[label]++;
    r->taken[taken]++;
    r->right[label] += taken == label;
    if (r->confusion) r->confusion[label * r->labels + taken]++;
}

/* Examples [first, end). */
static sp_status one_batch(run *r, int64_t first, int64_t end) {
    sp_context *ctx = r->model->ctx;
    spi_batch_clear(&r->batch);
    for (int64_t i = first; i < end; i++) SPI_TRY(spi_batch_add_example(ctx, &r->batch, r->ds, i));
    SPI_TRY(spi_batch_check(r->model, &r->batch));
    if (r->batch.labels != r->batch.count)
        return spi_fail(ctx, SP_ERR_DATA, "evaluation: a classifier needs examples with labels");
    SPI_TRY(spi_adapted_logits(r->model, &r->batch, r->mode, r->logits, NULL));
    for (int64_t i = first; i < end; i++) {
        sp_example e;
        sp_dataset_get(r->ds, i, &e);
        count(r, r->logits + (i - first) * r->labels, e.label);
    }
    return SP_OK;
}

static double macro_f1(const run *r) {
    double sum = 0;
    int64_t met = 0;
    for (int64_t c = 0; c < r->labels; c++) {
        const int64_t all = r->truly[c] + r->taken[c];
        if (all == 0) continue;
        sum += 2.0 * (double)r->right[c] / (double)all;
        met++;
    }
    return met ? sum / (double)met : NAN;
}

sp_status spi_classify(sp_model *model, const sp_dataset *ds, sp_mode mode, int32_t batch_size,
                       int64_t *confusion, spi_classified *out) {
    const int64_t n = sp_dataset_count(ds), labels = spi_model_outputs(model);
    *out = (spi_classified){0};
    run r = {.model = model, .ds = ds, .mode = mode, .labels = labels, .confusion = confusion, .out = out};
    r.logits = malloc((size_t)(batch_size * labels) * sizeof *r.logits);
    r.truly = calloc((size_t)labels * 3, sizeof *r.truly);
    sp_status status = r.logits && r.truly ? SP_OK : spi_fail_memory(model->ctx, (size_t)labels * 24, "labels");
    r.taken = r.truly + labels;
    r.right = r.truly + 2 * labels;
    if (status == SP_OK && confusion) memset(confusion, 0, (size_t)(labels * labels) * sizeof *confusion);
    for (int64_t first = 0; first < n && status == SP_OK; first += batch_size)
        status = one_batch(&r, first, first + batch_size < n ? first + batch_size : n);
    if (status == SP_OK) out->macro_f1 = macro_f1(&r);
    spi_batch_free(&r.batch);
    free(r.logits);
    free(r.truly);
    return status;
}
