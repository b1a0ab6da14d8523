/*
 * Forward and backward of a training micro-batch. What is frozen is not paid for: base layer 0 and the
 * embedding get no backward pass, base weights no gradient, and logits exist only where a label counts.
 */
#include <stdlib.h>

#include "model/tape.h"
#include "shadow/step.h"
#include "shadow/teacher.h"

/*
 * The base's part of an adapted step: what its backward pass reads. Index l is the base layer, i the adapted
 * one. Nothing below layer `lowest` trains, so the backward pass ends there.
 */
typedef struct base_tape {
    int64_t lowest;
    spi_mat *h;           /* [L + 1] of [T, d]: what comes to layer l, before any injection; [L]: the output */
    spi_mat *state;       /* [n] of [T, d]: shadow state that adapted layer i is injected with; [0] is s0 */
    float **z;            /* [n] of [T, 2 g]: kept by the update after adapted layer i */
    spi_layer_acts *acts; /* [L]; what has no backward pass, or computes them again, shares `scratch` */
    spi_layer_acts scratch;
    spi_mat in; /* [T, d]: a layer's input after injection; one for all, recomputed in the backward */
    float *p;   /* [T, k], likewise */
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
    free(t->h);
    free(t->state);
    free(t->z);
    free(t->acts);
    *t = (base_tape){0};
}

/* A layer keeps what its backward pass reads, unless there is none or it computes it again. */
static bool keeps_acts(const step *st, int64_t l) {
    return !st->run->gradient_checkpointing && l >= st->base.lowest;
}

static sp_status base_tape_new(step *st) {
    const spi_decoder *base = st->model->base;
    const spi_adapter *a = st->model->adapter;
    const int64_t layers = base->arch.num_layers, tokens = st->batch.pass.tokens;
    spi_pool *pool = st->model->pool;
    base_tape *t = &st->base;
    *t = (base_tape){.lowest = spi_decoder_embed_trains(base, base) ? 0 : a->first,
                     .h = calloc((size_t)layers + 1, sizeof *t->h),
                     .state = calloc((size_t)a->count, sizeof *t->state),
                     .z = calloc((size_t)a->count, sizeof *t->z),
                     .acts = calloc((size_t)layers, sizeof *t->acts)};
    if (!t->h || !t->state || !t->z || !t->acts)
        return spi_fail_memory(st->model->ctx, (size_t)layers * sizeof *t->acts, "a tape");
    for (int64_t l = 0; l <= layers; l++) t->h[l] = state_mat(st);
    for (int64_t i = 0; i < a->count; i++) {
        t->state[i] = state_mat(st);
        if (i < a->count - 1)
            t->z[i] = spi_pool_alloc(pool, (size_t)(2 * tokens * a->config.gate_hidden_size) * sizeof(float));
    }
    for (int64_t l = 0; l < layers; l++)
        if (keeps_acts(st, l)) t->acts[l] = spi_layer_acts_new(base, tokens, pool);
    /* Layers below the lowest are done before it begins. */
    t->scratch = st->run->gradient_checkpointing ? spi_layer_acts_new(base, tokens, pool) : t->acts[t->lowest];
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
    return keeps_acts(st, l) ? &st->base.acts[l] : &st->base.scratch;
}

/* What layer l reads: with an injection base.in, made from what comes to it, else that itself. */
static spi_mat layer_in(step *st, int64_t l) {
    const spi_adapter *a = st->model->adapter;
    if (!spi_injects(a, l)) return st->base.h[l];
    const spi_inject inject = spi_inject_at(a, l, st->run);
    st->model->dev->op->inject(st->model->dev, st->base.in, st->base.p, st->base.h[l],
                               st->base.state[l - a->first], &inject);
    return st->base.in;
}

static void base_forward(step *st) {
    sp_model *m = st->model;
    const spi_adapter *a = m->adapter;
    spi_decoder_embed(m->base, m->base, &st->batch.pass, st->base.h[0], m->pool);
    for (int64_t l = 0; l < m->base->arch.num_layers; l++) {
        const spi_mat in = layer_in(st, l), out = st->base.h[l + 1];
        spi_layer_forward(m->base, l, &st->batch.pass, out, in, acts_at(st, l), NULL, m->pool);
        if (spi_updates(a, l)) {
            const int64_t i = l - a->first;
            const spi_update update = spi_update_at(a, l, st->run);
            m->dev->op->update(m->dev, st->base.state[i + 1], st->base.z[i], out, st->base.state[i], &update);
        }
    }
}

/* In: dh = dL/d(output of layer l). Out: dh = dL/d(what comes to it); st->ds goes from the state behind it to
 * the one before it. */
static void base_layer_backward(step *st, int64_t l, spi_mat dh) {
    sp_model *m = st->model;
    const spi_ops *op = m->dev->op;
    const spi_adapter *a = m->adapter;
    const int64_t i = l - a->first;
    if (spi_updates(a, l)) {
        const spi_update update = spi_update_at(a, l, st->run);
        const spi_update_grads grads = spi_update_grads_at(a, l);
        op->update_backward(m->dev, dh, st->ds, &grads, st->base.h[l + 1], st->base.state[i], st->base.z[i],
                            &update);
    }
    const spi_mat in = layer_in(st, l);
    /* The output of layer l is not read again, so a recomputation may write it once more. */
    if (!keeps_acts(st, l))
        spi_layer_forward(m->base, l, &st->batch.pass, st->base.h[l + 1], in, acts_at(st, l), NULL, m->pool);
    spi_layer_backward(m->base, l, &st->batch.pass, dh, in, acts_at(st, l), true, m->pool);
    if (spi_injects(a, l)) {
        const spi_inject inject = spi_inject_at(a, l, st->run);
        op->inject_backward(m->dev, dh, st->ds, spi_down_grad_at(a, l), spi_up_grad_at(a, l), in,
                            st->base.state[i], st->base.p, &inject);
    }
}

/* In: dh = dL/d(output of the last layer), st->ds = 0. Out: st->ds = dL/ds0 as far as the base's loss goes. */
static void base_backward(step *st, spi_mat dh) {
    sp_model *m = st->model;
    for (int64_t l = m->base->arch.num_layers - 1; l >= st->base.lowest; l--) base_layer_backward(st, l, dh);
    if (spi_decoder_embed_trains(m->base, m->base))
        spi_decoder_embed_backward(m->base, m->base, &st->batch.pass, dh, m->pool);
}

/* ------------------------------------------------------------------ the kinds of step */

static sp_status step_adapted(step *st) {
    sp_model *m = st->model;
    const int64_t layers = m->base->arch.num_layers;
    SPI_TRY(base_tape_new(st));
    st->ds = state_mat(st);
    const spi_mat dh = state_mat(st);
    SPI_TRY(shadow_forward(st, st->base.state[0]));
    base_forward(st);
    spi_head(m, m->base, &st->batch, st->base.h[layers], dh, st->run->base_weight, st->acc + SPI_ACC_BASE);
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
    if (run->distill) return spi_distill_pass(model, batch, run, true, sums);
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
