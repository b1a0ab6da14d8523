/* A wrapped model's logits against its teacher's, from one pass through the frozen backbone. */
#include "shadow/step.h"
#include "shadow/teacher.h"

/* n [T, d] = the final norm of h, which both heads read. */
static void distill_head(sp_model *model, const spi_run *run, spi_mat n, bool backward, double *acc) {
    const spi_ops *op = model->dev->op;
    const spi_distill *d = run->distill;
    const spi_param *p = model->base->project_out;
    const spi_mat x = spi_pool_mat(model->pool, n.dtype, n.rows, p->shape[0]);
    const spi_mat dx = backward ? spi_pool_mat(model->pool, n.dtype, n.rows, p->shape[0]) : (spi_mat){0};
    op->linear(model->dev, x, n, &p->w, NULL, NULL);
    op->distill_loss(model->dev, &(spi_distill_loss){.x = x,
                                                     .dx = dx,
                                                     .teacher_x = n,
                                                     .weight = &model->head->w,
                                                     .teacher = &model->teacher->head->w,
                                                     .teacher_softcap = model->teacher->softcap,
                                                     .kl = (float)d->kl,
                                                     .mse = (float)d->mse,
                                                     .temperature = (float)d->temperature,
                                                     .grad_scale = (float)run->base_weight,
                                                     .acc = acc});
    if (backward) op->linear_dw(model->dev, p->grad, NULL, dx, n, false);
}

sp_status spi_distill_pass(sp_model *model, const spi_batch *batch, const spi_run *run, bool backward,
                           spi_loss_sums *sums) {
    spi_device_batch b;
    if (!model->teacher || model->adapter)
        return spi_fail(model->ctx, SP_ERR_ARGUMENT,
                        "%s: distillation: expected a model with a teacher and without an adapter",
                        model->files.dir);
    spi_pool_restore(model->pool, (spi_pool_mark){0});
    SPI_TRY(spi_batch_upload(model, batch, &b));
    const spi_mat h =
        spi_pool_mat(model->pool, model->base->dtype, batch->tokens, model->base->arch.hidden_size);
    double *acc = spi_pool_alloc(model->pool, SPI_ACC_COUNT * sizeof *acc);
    if (!acc) return model->dev->status;
    model->dev->op->zero(model->dev, acc, SPI_ACC_COUNT * sizeof *acc);
    spi_infer(model, &b.pass, SP_MODE_BASE_SHADOW, NULL, NULL, h, (spi_mat){0});
    spi_decoder_norm(model->base, h, h);
    distill_head(model, run, h, backward, acc + SPI_ACC_BASE);
    return spi_collect_sums(model, acc, sums);
}
