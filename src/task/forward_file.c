/* sp_forward_file: the bridge for checking against any other implementation. */
#include <stdlib.h>
#include <string.h>

#include "task/forward.h"

typedef struct job {
    sp_model *model;
    spi_arena arena; /* names and values of what is written */
    spi_st_item *items;
    size_t count;
} job;

/* ------------------------------------------------------------------ input */

/* An I64 tensor of the input's [batch, seq]; the first one read sets the shape. */
static sp_status read_rectangle(sp_context *ctx, const char *file, const spi_st_set *set, const char *name,
                                bool required, spi_arena *arena, sp_forward_input *in, const int64_t **out) {
    const spi_st_tensor *t = spi_st_find(set, name);
    *out = NULL;
    if (!t && !required) return SP_OK;
    if (!t)
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"%s\": expected an I64 tensor, found nothing", file, name);
    if (t->dtype != SP_I64 || t->ndim != 2)
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"%s\": expected I64 with 2 dimensions, found %s with %d",
                        file, name, sp_dtype_name(t->dtype), t->ndim);
    if (in->batch == 0) {
        in->batch = t->shape[0];
        in->seq = t->shape[1];
    }
    if (t->shape[0] != in->batch || t->shape[1] != in->seq)
        return spi_fail(ctx, SP_ERR_MISMATCH,
                        "%s: \"%s\": expected shape [%lld, %lld] of input_ids, found [%lld, %lld]", file, name,
                        (long long)in->batch, (long long)in->seq, (long long)t->shape[0],
                        (long long)t->shape[1]);
    int64_t *copy = spi_arena_alloc(arena, t->bytes + 1);
    if (!copy) return spi_fail_memory(ctx, t->bytes, name);
    memcpy(copy, t->data, t->bytes);
    *out = copy;
    return SP_OK;
}

/* A class for every row of the rectangle. */
static sp_status read_classes(sp_context *ctx, const char *file, const spi_st_set *set, spi_arena *arena,
                              sp_forward_input *in) {
    const spi_st_tensor *t = spi_st_find(set, "labels");
    if (!t) return SP_OK;
    if (t->dtype != SP_I64 || t->ndim != 1 || t->shape[0] != in->batch)
        return spi_fail(
            ctx, SP_ERR_MISMATCH,
            "%s: \"labels\": expected I64 [%lld], one class for each row of input_ids, found %s with %d "
            "dimensions, %lld elements",
            file, (long long)in->batch, sp_dtype_name(t->dtype), t->ndim, (long long)t->count);
    int64_t *copy = spi_arena_alloc(arena, t->bytes + 1);
    if (!copy) return spi_fail_memory(ctx, t->bytes, "labels");
    memcpy(copy, t->data, t->bytes);
    in->labels = copy;
    return SP_OK;
}

static sp_status read_input(job *j, const char *file, sp_forward_input *in) {
    sp_context *ctx = j->model->ctx;
    spi_st_set *set = NULL;
    SPI_TRY(spi_st_open(ctx, file, &set));
    in->batch = in->seq = 0;
    sp_status status = read_rectangle(ctx, file, set, "input_ids", true, &j->arena, in, &in->input_ids);
    if (status == SP_OK)
        status = read_rectangle(ctx, file, set, "attention_mask", false, &j->arena, in, &in->attention_mask);
    if (status == SP_OK && j->model->task == SP_TASK_SEQ_CLS)
        status = read_classes(ctx, file, set, &j->arena, in);
    else if (status == SP_OK)
        status = read_rectangle(ctx, file, set, "labels", false, &j->arena, in, &in->labels);
    spi_st_close(set);
    return status;
}

/* ------------------------------------------------------------------ output */

/* A new F32 item of the output; returns where its values go. */
static float *add_item(job *j, const char *name, int ndim, const int64_t *shape) {
    int64_t count = 1;
    for (int i = 0; i < ndim; i++) count *= shape[i];
    float *values = spi_arena_alloc(&j->arena, (size_t)count * sizeof *values + 1);
    if (!values) return NULL;
    spi_st_item *item = &j->items[j->count++];
    *item = (spi_st_item){.name = name, .dtype = SP_F32, .ndim = ndim, .data = values};
    memcpy(item->shape, shape, (size_t)ndim * sizeof *shape);
    return values;
}

static sp_status add_gradients(job *j, spi_param *const *params, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const spi_param *p = params[i];
        if (!p->grad) continue; /* nothing reaches it: Python has None here */
        const char *name = spi_arena_printf(&j->arena, "grad.%s", p->name);
        float *values = name ? add_item(j, name, p->ndim, p->shape) : NULL;
        if (!values) return spi_fail_memory(j->model->ctx, (size_t)p->count * sizeof *values, "gradients");
        SPI_TRY(spi_param_get_grad(j->model->dev, p, values));
    }
    return SP_OK;
}

static sp_status run_gradients(job *j, const sp_forward_input *in, spi_param *const *params, size_t count) {
    sp_model *m = j->model;
    spi_batch batch = {0};
    spi_loss_sums sums = {0};
    SPI_TRY(spi_model_begin(m, params, count));
    for (size_t i = 0; i < count; i++)
        if (params[i]->grad)
            m->dev->op->zero(m->dev, params[i]->grad, (size_t)params[i]->count * sizeof(float));
    sp_status status = spi_batch_from_rectangle(m, in, &batch);
    if (status == SP_OK) {
        const spi_run run = spi_run_of_loss(m, in, &batch);
        status = spi_adapted_train(m, &batch, &run, &sums);
    }
    if (status == SP_OK) status = add_gradients(j, params, count);
    spi_batch_free(&batch);
    return status;
}

static sp_status run(job *j, const sp_forward_input *in, bool grads) {
    sp_model *m = j->model;
    const bool classifier = m->task == SP_TASK_SEQ_CLS;
    const int64_t whole[3] = {in->batch, in->seq, m->base->arch.vocab_size}, one = 1;
    const int64_t pooled[2] = {in->batch, spi_model_outputs(m)};
    const int64_t *shape = classifier ? pooled : whole;
    const int ndim = classifier ? 2 : 3;
    spi_param **params = NULL;
    size_t count = 0;
    sp_forward_output out = {.size = sizeof out};
    sp_status status = spi_model_trainable(m, &params, &count);
    if (status == SP_OK && grads && !in->labels)
        status = spi_fail(m->ctx, SP_ERR_ARGUMENT, "gradients need \"labels\" in the input, found none");
    if (status == SP_OK) {
        j->items = spi_arena_alloc(&j->arena, (count + 3) * sizeof *j->items);
        out.logits = j->items ? add_item(j, "logits", ndim, shape) : NULL;
        out.shadow_logits = out.logits && m->adapter ? add_item(j, "shadow_logits", ndim, shape) : NULL;
        float *loss = in->labels && out.logits ? add_item(j, "loss", 1, &one) : NULL;
        if (!out.logits || (m->adapter && !out.shadow_logits) || (in->labels && !loss))
            status = spi_fail_memory(m->ctx, (size_t)(shape[0] * shape[1]) * sizeof(float), "logits");
        if (status == SP_OK) status = sp_forward(m, in, &out);
        if (loss) *loss = (float)out.loss;
    }
    if (status == SP_OK && grads) status = run_gradients(j, in, params, count);
    free(params);
    return status;
}

sp_status sp_forward_file(sp_model *model, const char *input, const char *output,
                          const sp_forward_input *options, bool grads) {
    job j = {.model = model};
    sp_forward_input in;
    sp_forward_input_default(&in);
    if (options) {
        in.mode = options->mode;
        in.shadow_loss_weight = options->shadow_loss_weight;
    }
    sp_status status = read_input(&j, input, &in);
    if (status == SP_OK) status = run(&j, &in, grads);
    if (status == SP_OK) status = spi_st_write(model->ctx, output, j.items, j.count);
    spi_arena_free(&j.arena);
    return status;
}
