#include "train/optimizer.h"

#include <math.h>
#include <stdlib.h>

static float *zeros(spi_device *dev, int64_t n) {
    float *data = dev->op->alloc(dev, (size_t)n * sizeof *data);
    if (data) dev->op->zero(dev, data, (size_t)n * sizeof *data);
    return data;
}

/* PyTorch's optimizer makes no state either for a parameter whose grad stays None, and never touches it. */
static sp_status make_state(spi_optimizer *o) {
    spi_device *dev = o->model->dev;
    size_t reached = 0;
    o->m = calloc(o->count + 1, sizeof *o->m);
    o->v = calloc(o->count + 1, sizeof *o->v);
    o->items = calloc(o->count + 1, sizeof *o->items);
    o->spans = calloc(o->count + 1, sizeof *o->spans);
    o->sum = dev->op->alloc(dev, sizeof *o->sum);
    if (!o->m || !o->v || !o->items || !o->spans)
        return spi_fail_memory(dev->ctx, o->count * 64, "optimizer state");
    for (size_t i = 0; i < o->count && dev->status == SP_OK; i++) {
        if (!o->params[i]->grad) continue;
        o->m[i] = zeros(dev, o->params[i]->count);
        o->v[i] = zeros(dev, o->params[i]->count);
        reached++;
    }
    if (reached == 0)
        return spi_fail(dev->ctx, SP_ERR_ARGUMENT, "training: expected trainable parameters, found none");
    return dev->status;
}

sp_status spi_optimizer_new(sp_model *model, const sp_train_options *options, spi_optimizer **out) {
    *out = NULL;
    spi_optimizer *o = calloc(1, sizeof *o);
    if (!o) return spi_fail_memory(model->ctx, sizeof *o, "an optimizer");
    o->model = model;
    o->options = *options;
    sp_status status = spi_model_trainable(model, &o->params, &o->count);
    if (status == SP_OK) status = spi_model_begin(model, o->params, o->count);
    if (status == SP_OK) status = make_state(o);
    if (status != SP_OK) {
        spi_optimizer_free(o);
        return status;
    }
    *out = o;
    return SP_OK;
}

static void release(spi_device *dev, void *data) {
    if (data) dev->op->release(dev, data);
}

void spi_optimizer_free(spi_optimizer *o) {
    if (!o) return;
    spi_device *dev = o->model->dev;
    for (size_t i = 0; i < o->count; i++) {
        if (o->m) release(dev, o->m[i]);
        if (o->v) release(dev, o->v[i]);
        spi_param_end(dev, o->params[i]);
    }
    release(dev, o->sum);
    free(o->m);
    free(o->v);
    free(o->items);
    free(o->spans);
    free(o->params);
    free(o);
}

void spi_optimizer_zero_grad(spi_optimizer *o) {
    spi_device *dev = o->model->dev;
    for (size_t i = 0; i < o->count; i++)
        if (o->m[i]) dev->op->zero(dev, o->params[i]->grad, (size_t)o->params[i]->count * sizeof(float));
}

/* Of the gradients, or of the values that they move. */
static sp_status norm_of(spi_optimizer *o, bool grads, double *norm) {
    spi_device *dev = o->model->dev;
    double squares = 0;
    size_t count = 0;
    for (size_t i = 0; i < o->count; i++) {
        const spi_param *p = o->params[i];
        if (o->m[i]) o->spans[count++] = (spi_span){grads ? p->grad : p->f32, p->count};
    }
    dev->op->zero(dev, o->sum, sizeof *o->sum);
    dev->op->sum_squares(dev, o->sum, o->spans, count);
    dev->op->download(dev, &squares, o->sum, sizeof squares);
    *norm = sqrt(squares);
    return dev->status;
}

sp_status spi_optimizer_grad_norm(spi_optimizer *o, double *norm) {
    return norm_of(o, true, norm);
}

sp_status spi_optimizer_param_norm(spi_optimizer *o, double *norm) {
    return norm_of(o, false, norm);
}

static spi_adamw_item item_of(const spi_optimizer *o, size_t i, double learning_rate) {
    const spi_param *p = o->params[i];
    const double factor = p->group == SPI_GROUP_SHADOW ? o->options.shadow_lr_multiplier : 1.0;
    /* A matrix in bf16 is what products read; the f32 values are what is trained. */
    const bool copied = p->kind == SPI_PARAM_MATRIX && p->w.m.data != p->f32;
    return (spi_adamw_item){.n = p->count,
                            .param = p->f32,
                            .grad = p->grad,
                            .m = o->m[i],
                            .v = o->v[i],
                            .copy = copied ? p->w.m.data : NULL,
                            .lr = (float)(learning_rate * factor),
                            .weight_decay = p->decay ? (float)o->options.weight_decay : 0.0f};
}

sp_status spi_optimizer_step(spi_optimizer *o, int64_t t, double learning_rate, double grad_norm) {
    const sp_train_options *opt = &o->options;
    spi_device *dev = o->model->dev;
    size_t count = 0;
    for (size_t i = 0; i < o->count; i++)
        if (o->m[i]) o->items[count++] = item_of(o, i, learning_rate);
    /* torch.nn.utils.clip_grad_norm_ */
    const double clip = opt->max_grad_norm > 0 ? opt->max_grad_norm / (grad_norm + 1e-6) : 1.0;
    const spi_adamw adamw = {.beta1 = opt->adam_beta1,
                             .beta2 = opt->adam_beta2,
                             .eps = opt->adam_epsilon,
                             .step = t,
                             .grad_scale = clip < 1.0 ? (float)clip : 1.0f};
    dev->op->adamw(dev, o->items, count, &adamw);
    return dev->status;
}
