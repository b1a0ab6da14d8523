#include "train/memory.h"

#include <stdlib.h>

#include "tensor/plan.h"

/* What making an optimizer and running a step change of a model, apart from values: where memory is. */
typedef struct kept {
    spi_param **params;
    spi_param *copies; /* [count] */
    size_t count;
    spi_rope_table ropes[4];
    spi_pool *pool;
} kept;

/* The rotary tables, which a pass makes longer where it must; NULL: there is none. */
static spi_rope_table *rope_of(const sp_model *model, int i) {
    spi_decoder *shadow = model->adapter ? model->adapter->shadow : NULL, *dec = i < 2 ? model->base : shadow;
    if (!dec) return NULL;
    return i % 2 ? &dec->sliding_rope : &dec->rope;
}

static void kept_free(kept *k) {
    free(k->params);
    free(k->copies);
}

/* Room without end for a plan, so that no pool of several blocks, with gaps between them, is planned. */
#define ENDLESS (SIZE_MAX / 4)

/* Keeps what there is, and puts an empty pool in the place of the model's. */
static sp_status keep(sp_model *model, kept *k) {
    *k = (kept){.pool = model->pool};
    SPI_TRY(spi_model_trainable(model, &k->params, &k->count));
    k->copies = calloc(k->count + 1, sizeof *k->copies);
    spi_pool *pool = spi_pool_new(model->dev);
    if (!k->copies || !pool) {
        spi_pool_free(pool);
        kept_free(k);
        return spi_fail_memory(model->ctx, k->count * sizeof *k->copies, "planning memory");
    }
    for (size_t i = 0; i < k->count; i++) k->copies[i] = *k->params[i];
    for (int i = 0; i < 4; i++)
        if (rope_of(model, i)) k->ropes[i] = *rope_of(model, i);
    model->pool = pool;
    return SP_OK;
}

static void put_back(sp_model *model, kept *k) {
    spi_pool_free(model->pool);
    model->pool = k->pool;
    for (size_t i = 0; i < k->count; i++) *k->params[i] = k->copies[i];
    for (int i = 0; i < 4; i++)
        if (rope_of(model, i)) *rope_of(model, i) = k->ropes[i];
    kept_free(k);
}

/* A pool that holds too little gives that back before it takes one block of the right size. */
static size_t pool_growth(const spi_memory_need *need, const kept *k) {
    const size_t held = spi_pool_held(k->pool);
    return need->pool > held ? need->pool - held : 0;
}

sp_status spi_memory_plan(sp_model *model, const sp_train_options *options, spi_memory_fn *fn, void *user,
                          spi_memory_need *need) {
    spi_plan plan;
    kept k;
    spi_optimizer *optimizer = NULL;
    *need = (spi_memory_need){0};
    SPI_TRY(keep(model, &k));
    spi_plan_begin(model->dev, &plan);
    sp_status status = spi_pool_reserve(model->pool, ENDLESS);
    const size_t endless = plan.now;
    if (status == SP_OK) status = spi_optimizer_new(model, options, &optimizer);
    need->state = plan.now - endless;
    if (status == SP_OK) status = fn(user, optimizer);
    if (status == SP_OK) {
        need->pool = spi_pool_peak(model->pool);
        need->pass = spi_plan_bytes(&plan) - endless - need->state + pool_growth(need, &k);
    }
    spi_optimizer_free(optimizer);
    put_back(model, &k);
    spi_plan_end(model->dev);
    return status;
}
