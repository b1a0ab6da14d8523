#include "shadow/step.h"

/* ------------------------------------------------------------------ the batch */

const int32_t *spi_upload_i32(sp_model *model, const int32_t *host, int64_t n) {
    int32_t *data = spi_pool_alloc(model->pool, (size_t)n * sizeof *host + sizeof *host);
    if (data) model->dev->op->upload(model->dev, data, host, (size_t)n * sizeof *host);
    return data;
}

sp_status spi_batch_upload(sp_model *model, const spi_batch *batch, spi_device_batch *out) {
    SPI_TRY(spi_batch_check(model, batch));
    SPI_TRY(spi_decoder_prepare(model->base, batch->max_position));
    if (model->adapter) SPI_TRY(spi_decoder_prepare(model->adapter->shadow, batch->max_position));
    out->seqs = (spi_seqs){.count = batch->count,
                           .max_length = batch->max_length,
                           .start = spi_upload_i32(model, batch->start, batch->count + 1),
                           .host_start = batch->start};
    out->pass = (spi_pass){.tokens = batch->tokens,
                           .ids = spi_upload_i32(model, batch->ids, batch->tokens),
                           .positions = spi_upload_i32(model, batch->positions, batch->tokens),
                           .seqs = &out->seqs};
    out->labels = batch->labels;
    out->label_row = spi_upload_i32(model, batch->label_row, batch->labels);
    out->label_id = spi_upload_i32(model, batch->label_id, batch->labels);
    return model->dev->status;
}

/* ------------------------------------------------------------------ injection and update at a layer */

/* Every dropout site of a run has a stream of its own: 2^16 sites for each of the run's streams. */
static spi_dropout dropout_at(const spi_adapter *a, int64_t site, const spi_run *run) {
    if (!run || !run->dropout) return (spi_dropout){0};
    return (spi_dropout){
        .p = (float)a->config.dropout, .seed = run->seed, .stream = (run->stream << 16) + (uint64_t)site};
}

bool spi_injects(const spi_adapter *a, int64_t l) {
    return a && l >= a->first && l < a->first + a->count;
}

bool spi_updates(const spi_adapter *a, int64_t l) {
    return spi_injects(a, l) && l < a->first + a->count - 1;
}

/* The part of base layer l in the values or gradients of a stacked tensor, or all of an unstacked one. */
static float *part_at(const spi_adapter *a, const spi_param *p, float *data, int64_t l) {
    return p->ndim == 3 ? data + (l - a->first) * p->shape[1] * p->shape[2] : data;
}

spi_inject spi_inject_at(const spi_adapter *a, int64_t l, const spi_run *run) {
    const spi_adapter_layer *layer = &a->layers[l - a->first];
    return (spi_inject){.k = a->config.injection_hidden_size,
                        .alpha = (float)a->config.alpha,
                        .down = part_at(a, layer->down, layer->down->f32, l),
                        .up = part_at(a, layer->up, layer->up->f32, l),
                        .dropout = dropout_at(a, 2 * (l - a->first), run),
                        .drop_delta = a->dialect->drop_delta};
}

static const float *values_of(const spi_param *p) {
    return p ? p->f32 : NULL;
}

static float *grad_of(const spi_param *p) {
    return p ? p->grad : NULL;
}

spi_update spi_update_at(const spi_adapter *a, int64_t l, const spi_run *run) {
    const spi_adapter_layer *layer = &a->layers[l - a->first];
    return (spi_update){.g = a->config.gate_hidden_size,
                        .eps = 1e-5f,
                        .act = a->dialect->update_act,
                        .norm_weight = values_of(a->norm_weight),
                        .norm_bias = values_of(a->norm_bias),
                        .w0 = layer->w0->f32,
                        .w3 = layer->w3->f32,
                        .v0 = layer->v0->f32,
                        .v2 = layer->v2->f32,
                        .b0 = values_of(layer->b0),
                        .b3 = values_of(layer->b3),
                        .c0 = values_of(layer->c0),
                        .c2 = values_of(layer->c2),
                        .dropout = a->dialect->drop_update ? dropout_at(a, 2 * (l - a->first) + 1, run)
                                                           : (spi_dropout){0}};
}

float *spi_down_grad_at(const spi_adapter *a, int64_t l) {
    const spi_param *p = a->layers[l - a->first].down;
    return part_at(a, p, p->grad, l);
}

float *spi_up_grad_at(const spi_adapter *a, int64_t l) {
    const spi_param *p = a->layers[l - a->first].up;
    return part_at(a, p, p->grad, l);
}

spi_update_grads spi_update_grads_at(const spi_adapter *a, int64_t l) {
    const spi_adapter_layer *layer = &a->layers[l - a->first];
    return (spi_update_grads){.norm_weight = grad_of(a->norm_weight),
                              .norm_bias = grad_of(a->norm_bias),
                              .w0 = layer->w0->grad,
                              .w3 = layer->w3->grad,
                              .v0 = layer->v0->grad,
                              .v2 = layer->v2->grad,
                              .b0 = grad_of(layer->b0),
                              .b3 = grad_of(layer->b3),
                              .c0 = grad_of(layer->c0),
                              .c2 = grad_of(layer->c2)};
}

/* ------------------------------------------------------------------ heads */

void spi_head(sp_model *model, spi_decoder *norm, const spi_device_batch *b, spi_mat h, spi_mat dh,
              double scale, double *acc) {
    const spi_ops *op = model->dev->op;
    const spi_param *head = norm ? spi_base_head(model) : spi_shadow_head(model);
    const bool backward = dh.data != NULL;
    if (backward) op->zero(model->dev, dh.data, (size_t)(dh.rows * dh.ld) * spi_dtype_size(dh.dtype));
    if (b->labels == 0) return;
    const spi_pool_mark mark = spi_pool_save(model->pool);
    const spi_mat x = spi_pool_mat(model->pool, h.dtype, b->labels, h.cols);
    op->gather_rows(model->dev, x, h, b->label_row);
    const int64_t width = norm ? spi_arch_out_size(&norm->arch) : h.cols;
    const spi_mat n = norm ? spi_pool_mat(model->pool, h.dtype, b->labels, width) : x;
    if (norm) spi_decoder_finish(norm, n, x, model->pool);
    const spi_mat dn = backward ? spi_pool_mat(model->pool, h.dtype, b->labels, width) : (spi_mat){0};
    op->head_loss(model->dev, &(spi_head_loss){.x = n,
                                               .dx = dn,
                                               .weight = &head->w,
                                               .labels = b->label_id,
                                               .softcap = norm ? norm->arch.logit_softcap : 0,
                                               .grad_scale = (float)scale,
                                               .dw = backward ? head->grad : NULL,
                                               .acc = acc});
    if (backward) {
        const spi_mat dx = width == h.cols ? dn : spi_pool_mat(model->pool, h.dtype, b->labels, h.cols);
        if (norm) spi_decoder_finish_backward(norm, dx, dn, x, model->pool);
        op->scatter_rows(model->dev, dh, dx, b->label_row);
    }
    spi_pool_restore(model->pool, mark);
}

void spi_logits(sp_model *model, spi_decoder *norm, spi_mat out, spi_mat x) {
    const spi_ops *op = model->dev->op;
    const spi_param *head = norm ? spi_base_head(model) : spi_shadow_head(model);
    const spi_pool_mark mark = spi_pool_save(model->pool);
    const spi_mat n = norm ? spi_pool_mat(model->pool, x.dtype, x.rows, spi_arch_out_size(&norm->arch)) : x;
    if (norm) spi_decoder_finish(norm, n, x, model->pool);
    op->linear(model->dev, out, n, &head->w, NULL, NULL);
    if (norm && norm->arch.logit_softcap > 0) op->softcap(model->dev, out, norm->arch.logit_softcap);
    spi_pool_restore(model->pool, mark);
}

sp_status spi_collect_sums(sp_model *model, const double *acc, spi_loss_sums *sums) {
    double host[SPI_ACC_COUNT] = {0};
    model->dev->op->download(model->dev, host, acc, sizeof host);
    SPI_TRY(model->dev->status);
    sums->base += host[SPI_ACC_BASE];
    sums->base_correct += (int64_t)host[SPI_ACC_BASE + 1];
    sums->shadow += host[SPI_ACC_SHADOW];
    sums->shadow_correct += (int64_t)host[SPI_ACC_SHADOW + 1];
    return SP_OK;
}

sp_status spi_mode_check(const sp_model *model, sp_mode mode) {
    if (!spi_base_head(model))
        return spi_fail(model->ctx, SP_ERR_ARGUMENT,
                        "%s: task seq-cls: neither the base nor an adapter on it has a head over labels",
                        model->files.dir);
    if (mode == SP_MODE_SHADOW_ONLY && !model->adapter)
        return spi_fail(model->ctx, SP_ERR_ARGUMENT,
                        "mode shadow_only: expected a model with an adapter, found none");
    return SP_OK;
}

/* ------------------------------------------------------------------ inference */

spi_decoder *spi_shadow_embedder(const sp_model *model) {
    return model->adapter->shadow->embed ? model->adapter->shadow : model->base;
}

void spi_shadow_finish(sp_model *model, spi_mat s0, spi_mat x) {
    spi_decoder *shadow = model->adapter->shadow;
    const spi_param *w = model->adapter->projection;
    if (!w) {
        spi_decoder_finish(shadow, s0, x, model->pool);
        return;
    }
    const spi_pool_mark mark = spi_pool_save(model->pool);
    const spi_mat n = spi_pool_mat(model->pool, x.dtype, x.rows, x.cols);
    spi_decoder_finish(shadow, n, x, model->pool);
    model->dev->op->linear(model->dev, s0, n, &w->w, NULL, NULL);
    spi_pool_restore(model->pool, mark);
}

static void infer_shadow(sp_model *model, const spi_pass *pass, const spi_kv *kv, spi_mat s0) {
    spi_decoder *shadow = model->adapter->shadow;
    const spi_pool_mark mark = spi_pool_save(model->pool);
    const spi_mat s = model->adapter->projection
                          ? spi_pool_mat(model->pool, s0.dtype, pass->tokens, shadow->arch.hidden_size)
                          : s0;
    spi_layer_acts acts = spi_layer_acts_new(shadow, pass->tokens, model->pool);
    spi_decoder_embed(shadow, spi_shadow_embedder(model), pass, s, model->pool);
    for (int64_t l = 0; l < shadow->arch.num_layers; l++)
        spi_layer_forward(shadow, l, pass, s, s, &acts, kv ? &kv[l] : NULL, model->pool);
    spi_shadow_finish(model, s0, s);
    spi_pool_restore(model->pool, mark);
}

void spi_infer(sp_model *model, const spi_pass *pass, sp_mode mode, const spi_kv *base_kv,
               const spi_kv *shadow_kv, spi_mat h, spi_mat s0) {
    const spi_ops *op = model->dev->op;
    spi_decoder *base = model->base;
    const spi_adapter *a = model->adapter;
    const spi_pool_mark mark = spi_pool_save(model->pool);
    const int64_t layers = base->arch.num_layers, d = base->arch.hidden_size;
    spi_mat s = s0;
    if (a) {
        if (!s.data) s = spi_pool_mat(model->pool, base->dtype, pass->tokens, d);
        infer_shadow(model, pass, shadow_kv, s);
        if (s0.data && mode == SP_MODE_BASE_SHADOW) { /* the state moves on, the caller keeps its beginning */
            s = spi_pool_mat(model->pool, base->dtype, pass->tokens, d);
            op->convert(model->dev, s, s0);
        }
    }
    if (mode == SP_MODE_BASE_SHADOW) {
        spi_layer_acts acts = spi_layer_acts_new(base, pass->tokens, model->pool);
        float *p = a ? spi_pool_alloc(model->pool,
                                      (size_t)(pass->tokens * a->config.injection_hidden_size) * sizeof *p)
                     : NULL;
        spi_decoder_embed(base, base, pass, h, model->pool);
        for (int64_t l = 0; l < layers; l++) {
            if (spi_injects(a, l)) {
                const spi_inject inject = spi_inject_at(a, l, NULL);
                op->inject(model->dev, h, p, h, s, &inject);
            }
            spi_layer_forward(base, l, pass, h, h, &acts, base_kv ? &base_kv[l] : NULL, model->pool);
            if (spi_updates(a, l)) {
                const spi_update update = spi_update_at(a, l, NULL);
                op->update(model->dev, s, NULL, h, s, &update);
            }
        }
    }
    spi_pool_restore(model->pool, mark);
}
