/* Loss and logits without gradients. */
#include <stdlib.h>
#include <string.h>

#include "shadow/step.h"
#include "shadow/teacher.h"

/* Logits are computed and fetched in pieces of this many rows. */
#define LOGIT_ROWS ((int64_t)128)

sp_status spi_adapted_loss(sp_model *model, const spi_batch *batch, const spi_run *run, spi_loss_sums *sums) {
    SPI_TRY(spi_mode_check(model, run->mode));
    if (run->distill) return spi_distill_pass(model, batch, run, false, sums);
    spi_pool_restore(model->pool, (spi_pool_mark){0});
    spi_device_batch b;
    SPI_TRY(spi_batch_upload(model, batch, &b));
    const int64_t d = model->base->arch.hidden_size;
    const bool both = run->mode == SP_MODE_BASE_SHADOW;
    const bool shadow = model->adapter && (!both || run->shadow_weight > 0);
    const spi_mat h = both ? spi_pool_mat(model->pool, model->base->dtype, batch->tokens, d) : (spi_mat){0};
    const spi_mat s0 = shadow ? spi_pool_mat(model->pool, model->base->dtype, batch->tokens, d) : (spi_mat){0};
    double *acc = spi_pool_alloc(model->pool, SPI_ACC_COUNT * sizeof *acc);
    if (!acc) return model->dev->status;
    model->dev->op->zero(model->dev, acc, SPI_ACC_COUNT * sizeof *acc);
    spi_infer(model, &b.pass, run->mode, NULL, NULL, h, s0);
    if (both) spi_head(model, model->base, &b, h, (spi_mat){0}, 0, acc + SPI_ACC_BASE);
    if (shadow) spi_head(model, NULL, &b, s0, (spi_mat){0}, 0, acc + SPI_ACC_SHADOW);
    return spi_collect_sums(model, acc, sums);
}

/* out [rows of x, V] = head(norm(x)), in pieces. */
static void fetch_logits(sp_model *model, spi_decoder *norm, spi_mat x, float *out) {
    const int64_t width = spi_model_outputs(model);
    const spi_pool_mark mark = spi_pool_save(model->pool);
    const spi_mat logits = spi_pool_mat(model->pool, SP_F32, x.rows < LOGIT_ROWS ? x.rows : LOGIT_ROWS, width);
    for (int64_t r = 0; r < x.rows && logits.data; r += logits.rows) {
        const int64_t rows = x.rows - r < logits.rows ? x.rows - r : logits.rows;
        const spi_mat piece = spi_mat_rows(logits, 0, rows);
        spi_logits(model, norm, piece, spi_mat_rows(x, r, rows));
        model->dev->op->download(model->dev, out + r * width, piece.data, (size_t)(rows * width) * sizeof *out);
    }
    spi_pool_restore(model->pool, mark);
}

int64_t spi_logit_rows(const sp_model *model, const spi_batch *batch) {
    return model->task == SP_TASK_SEQ_CLS ? batch->count : batch->tokens;
}

/* The rows that have logits: all, or of a classifier the last one of each sequence. */
static spi_mat rows_of(sp_model *model, const spi_batch *batch, const int32_t *last, spi_mat x) {
    if (model->task != SP_TASK_SEQ_CLS || !x.data) return x;
    const spi_mat pooled = spi_pool_mat(model->pool, x.dtype, batch->count, x.cols);
    model->dev->op->gather_rows(model->dev, pooled, x, last);
    return pooled;
}

static const int32_t *upload_last_rows(sp_model *model, const spi_batch *batch) {
    int32_t *last = malloc((size_t)batch->count * sizeof *last);
    if (!last) {
        model->dev->status = spi_fail_memory(model->ctx, (size_t)batch->count * sizeof *last, "a batch");
        return NULL;
    }
    for (int32_t i = 0; i < batch->count; i++) last[i] = batch->start[i + 1] - 1;
    const int32_t *on_device = spi_upload_i32(model, last, batch->count);
    model->dev->op->sync(model->dev);
    free(last);
    return on_device;
}

sp_status spi_adapted_logits(sp_model *model, const spi_batch *batch, sp_mode mode, float *logits,
                             float *shadow_logits) {
    SPI_TRY(spi_mode_check(model, mode));
    if (shadow_logits) SPI_TRY(spi_mode_check(model, SP_MODE_SHADOW_ONLY));
    spi_pool_restore(model->pool, (spi_pool_mark){0});
    spi_device_batch b;
    SPI_TRY(spi_batch_upload(model, batch, &b));
    const int64_t d = model->base->arch.hidden_size;
    const bool only = mode == SP_MODE_SHADOW_ONLY;
    const spi_mat h = only ? (spi_mat){0} : spi_pool_mat(model->pool, model->base->dtype, batch->tokens, d);
    const spi_mat s0 =
        only || shadow_logits ? spi_pool_mat(model->pool, model->base->dtype, batch->tokens, d) : (spi_mat){0};
    const int32_t *last = upload_last_rows(model, batch);
    SPI_TRY(model->dev->status);
    spi_infer(model, &b.pass, mode, NULL, NULL, h, s0);
    float *from_shadow = shadow_logits ? shadow_logits : only ? logits : NULL;
    if (logits && !only) fetch_logits(model, model->base, rows_of(model, batch, last, h), logits);
    if (from_shadow) fetch_logits(model, NULL, rows_of(model, batch, last, s0), from_shadow);
    if (only && logits && logits != from_shadow)
        memcpy(logits, from_shadow,
               (size_t)(spi_logit_rows(model, batch) * spi_model_outputs(model)) * sizeof *logits);
    return model->dev->status;
}
