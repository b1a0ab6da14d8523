/*
 * Forward and backward of a training micro-batch. What is frozen is not paid for: base layer 0 and the
 * embedding get no backward pass, base weights no gradient, and logits exist only where a label counts.
 */
#include <stdlib.h>

#include "model/tape.h"
#include "shadow/step.h"

/* The base's part of an adapted step: what its backward pass reads. Index l is the base layer. */
typedef struct base_tape {
    spi_mat *out;         /* [L] of [T, d]: output of layer l */
    spi_mat *state;       /* [L] of [T, d]: shadow state that layer l + 1 is injected with; [0] is s0 */
    float **z;            /* [L] of [T, 2 g]: kept by the update after layer l */
    spi_layer_acts *acts; /* [L], or [1] when layers are recomputed */
    spi_mat in;           /* [T, d]: a layer's input after injection; one for all, recomputed in the backward */
    float *p;             /* [T, k], likewise */
} base_tape;

typedef struct step {
    sp_model *model;
    const spi_run *run;
    spi_device_batch batch;
    double *acc;
    spi_tape tape; /* of the decoder that trains from its embedding on */
    spi_mat ds;    /* [T, d] dL/d(shadow state) */
    base_tape base;
} step;

static spi_mat state_mat(const step *st) {
    const spi_decoder *base = st->model->base;
    return spi_pool_mat(st->model->pool, base->dtype, st->batch.pass.tokens, base->arch.hidden_size);
}

/* ------------------------------------------------------------------ memory */

static void base_tape_free(base_tape *t) {
    free(t->out);
    free(t->state);
    free(t->z);
    free(t->acts);
    *t = (base_tape){0};
}

static sp_status base_tape_new(step *st) {
    const spi_decoder *base = st->model->base;
    const spi_adapter *a = st->model->adapter;
    const int64_t layers = base->arch.num_layers, tokens = st->batch.pass.tokens;
    const int64_t kept = st->run->gradient_checkpointing ? 1 : layers;
    spi_pool *pool = st->model->pool;
    base_tape *t = &st->base;
    *t = (base_tape){.out = calloc((size_t)layers, sizeof *t->out),
                     .state = calloc((size_t)layers, sizeof *t->state),
                     .z = calloc((size_t)layers, sizeof *t->z),
                     .acts = calloc((size_t)kept, sizeof *t->acts)};
    if (!t->out || !t->state || !t->z || !t->acts)
        return spi_fail_memory(st->model->ctx, (size_t)layers * sizeof *t->acts, "a tape");
    for (int64_t l = 0; l < layers; l++) {
        t->out[l] = state_mat(st);
        if (l == layers - 1) break;
        t->state[l] = state_mat(st);
        if (l > 0)
            t->z[l] = spi_pool_alloc(pool, (size_t)(2 * tokens * a->config.gate_hidden_size) * sizeof(float));
    }
    for (int64_t l = 0; l < kept; l++) t->acts[l] = spi_layer_acts_new(base, tokens, pool);
    t->in = state_mat(st);
    t->p = spi_pool_alloc(pool, (size_t)(tokens * a->config.injection_hidden_size) * sizeof(float));
    return st->model->dev->status;
}

/* ------------------------------------------------------------------ shadow */

/* base.state[0] = s0 */
static sp_status shadow_forward(step *st, spi_mat s0) {
    sp_model *m = st->model;
    spi_decoder *shadow = m->adapter->shadow;
    SPI_TRY(spi_tape_new(shadow, st->batch.pass.tokens, st->run->gradient_checkpointing, m->pool, &st->tape));
    spi_decoder_embed(shadow, spi_shadow_embedder(m), &st->batch.pass, st->tape.h[0], m->pool);
    spi_tape_forward(shadow, &st->tape, &st->batch.pass, m->pool);
    spi_shadow_finish(m, s0, st->tape.h[shadow->arch.num_layers]);
    return m->dev->status;
}

/* s0 = W n: in st->ds = dL/ds0; dn [T, d_shadow] = dL/dn, dW +=. n, the final norm's output, is computed again.
 */
static void projection_backward(step *st, spi_mat dn, spi_mat last) {
    sp_model *m = st->model;
    const spi_param *w = m->adapter->projection;
    if (w->grad) {
        spi_decoder_finish(m->adapter->shadow, dn, last, m->pool);
        m->dev->op->linear_dw(m->dev, w->grad, NULL, st->ds, dn, false);
    }
    m->dev->op->linear_dx(m->dev, dn, st->ds, &w->w, false);
}

/* In: st->ds = dL/ds0 */
static void shadow_backward(step *st) {
    sp_model *m = st->model;
    spi_decoder *shadow = m->adapter->shadow, *source = spi_shadow_embedder(m);
    const spi_mat last = st->tape.h[shadow->arch.num_layers];
    const bool embed = spi_decoder_embed_trains(shadow, source);
    spi_mat ds = st->ds;
    if (m->adapter->projection) {
        ds = spi_pool_mat(m->pool, shadow->dtype, last.rows, last.cols);
        projection_backward(st, ds, last);
    }
    spi_decoder_finish_backward(shadow, ds, ds, last, m->pool);
    spi_tape_backward(shadow, &st->tape, &st->batch.pass, ds, embed, m->pool);
    if (embed) spi_decoder_embed_backward(shadow, source, &st->batch.pass, ds, m->pool);
}

/* ------------------------------------------------------------------ base with the shadow injected */

static spi_layer_acts *acts_at(step *st, int64_t l) {
    return &st->base.acts[st->run->gradient_checkpointing ? 0 : l];
}

/* base.in = the input of layer l >= 1 */
static void inject_forward(step *st, int64_t l) {
    const spi_inject inject = spi_inject_at(st->model->adapter, l, st->run);
    st->model->dev->op->inject(st->model->dev, st->base.in, st->base.p, st->base.out[l - 1],
                               st->base.state[l - 1], &inject);
}

static void base_forward(step *st) {
    sp_model *m = st->model;
    const int64_t layers = m->base->arch.num_layers;
    spi_decoder_embed(m->base, m->base, &st->batch.pass, st->base.in, m->pool);
    for (int64_t l = 0; l < layers; l++) {
        if (l > 0) inject_forward(st, l);
        spi_layer_forward(m->base, l, &st->batch.pass, st->base.out[l], st->base.in, acts_at(st, l), NULL,
                          m->pool);
        if (l > 0 && l < layers - 1) {
            const spi_update update = spi_update_at(m->adapter, l, st->run);
            m->dev->op->update(m->dev, st->base.state[l], st->base.z[l], st->base.out[l], st->base.state[l - 1],
                               &update);
        }
    }
}

/* In: dh = dL/d(output of the last layer), st->ds = 0. Out: st->ds = dL/ds0 as far as the base's loss goes. */
static void base_backward(step *st, spi_mat dh) {
    sp_model *m = st->model;
    const spi_ops *op = m->dev->op;
    const int64_t layers = m->base->arch.num_layers;
    for (int64_t l = layers - 1; l >= 1; l--) {
        if (l < layers - 1) {
            const spi_update update = spi_update_at(m->adapter, l, st->run);
            const spi_update_grads grads = spi_update_grads_at(m->adapter, l);
            op->update_backward(m->dev, dh, st->ds, &grads, st->base.out[l], st->base.state[l - 1],
                                st->base.z[l], &update);
        }
        inject_forward(st, l);
        /* The output of layer l is not read again, so a recomputation may write it once more. */
        if (st->run->gradient_checkpointing)
            spi_layer_forward(m->base, l, &st->batch.pass, st->base.out[l], st->base.in, acts_at(st, l), NULL,
                              m->pool);
        spi_layer_backward(m->base, l, &st->batch.pass, dh, st->base.in, acts_at(st, l), true, m->pool);
        const spi_inject inject = spi_inject_at(m->adapter, l, st->run);
        op->inject_backward(m->dev, dh, st->ds, spi_down_grad_at(m->adapter, l), spi_up_grad_at(m->adapter, l),
                            st->base.in, st->base.state[l - 1], st->base.p, &inject);
    }
}

/* ------------------------------------------------------------------ the kinds of step */

static sp_status step_adapted(step *st) {
    sp_model *m = st->model;
    const int64_t last = m->base->arch.num_layers - 1;
    SPI_TRY(base_tape_new(st));
    st->ds = state_mat(st);
    const spi_mat dh = state_mat(st);
    SPI_TRY(shadow_forward(st, st->base.state[0]));
    base_forward(st);
    spi_head(m, m->base, &st->batch, st->base.out[last], dh, st->run->base_weight, st->acc + SPI_ACC_BASE);
    m->dev->op->zero(m->dev, st->ds.data, (size_t)(st->ds.rows * st->ds.ld) * spi_dtype_size(st->ds.dtype));
    base_backward(st, dh);
    if (st->run->shadow_weight > 0) {
        spi_head(m, NULL, &st->batch, st->base.state[0], dh, st->run->shadow_weight, st->acc + SPI_ACC_SHADOW);
        m->dev->op->add(m->dev, st->ds, dh, 1.0f);
    }
    shadow_backward(st);
    return m->dev->status;
}

static sp_status step_shadow_only(step *st) {
    sp_model *m = st->model;
    const spi_mat s0 = state_mat(st);
    st->ds = state_mat(st);
    SPI_TRY(shadow_forward(st, s0));
    spi_head(m, NULL, &st->batch, s0, st->ds, st->run->shadow_weight, st->acc + SPI_ACC_SHADOW);
    shadow_backward(st);
    return m->dev->status;
}

/* With a frozen backbone nothing below the final norm is asked for. */
static bool layers_train(const spi_decoder *base) {
    for (int slot = 0; slot < SPI_LAYER_SLOTS; slot++)
        if (base->layers[0].slot[slot] && base->layers[0].slot[slot]->grad) return true;
    return false;
}

/* The base trains by itself: pretraining. */
static sp_status step_base(step *st) {
    sp_model *m = st->model;
    spi_decoder *base = m->base;
    const bool embed = spi_decoder_embed_trains(base, base);
    const spi_mat dh = state_mat(st);
    SPI_TRY(spi_tape_new(base, st->batch.pass.tokens, st->run->gradient_checkpointing, m->pool, &st->tape));
    spi_decoder_embed(base, base, &st->batch.pass, st->tape.h[0], m->pool);
    spi_tape_forward(base, &st->tape, &st->batch.pass, m->pool);
    spi_head(m, base, &st->batch, st->tape.h[base->arch.num_layers], dh, st->run->base_weight,
             st->acc + SPI_ACC_BASE);
    if (embed || layers_train(base)) spi_tape_backward(base, &st->tape, &st->batch.pass, dh, embed, m->pool);
    if (embed) spi_decoder_embed_backward(base, base, &st->batch.pass, dh, m->pool);
    return m->dev->status;
}

sp_status spi_adapted_train(sp_model *model, const spi_batch *batch, const spi_run *run, spi_loss_sums *sums) {
    SPI_TRY(spi_mode_check(model, run->mode));
    if (!model->adapter && !model->trainable)
        return spi_fail(model->ctx, SP_ERR_ARGUMENT,
                        "training needs an adapter or a trainable base, found neither");
    spi_pool_restore(model->pool, (spi_pool_mark){0});
    step st = {.model = model, .run = run};
    SPI_TRY(spi_batch_upload(model, batch, &st.batch));
    st.acc = spi_pool_alloc(model->pool, SPI_ACC_COUNT * sizeof *st.acc);
    if (!st.acc) return model->dev->status;
    model->dev->op->zero(model->dev, st.acc, SPI_ACC_COUNT * sizeof *st.acc);
    sp_status status = !model->adapter                    ? step_base(&st)
                       : run->mode == SP_MODE_SHADOW_ONLY ? step_shadow_only(&st)
                                                          : step_adapted(&st);
    if (status == SP_OK) status = spi_collect_sums(model, st.acc, sums);
    base_tape_free(&st.base);
    spi_tape_free(&st.tape);
    return status;
}
