#include "shadow/weights.h"

#include <stdlib.h>
#include <string.h>

sp_status spi_weights_reserve(sp_context *ctx, spi_weights *w, size_t most) {
    w->items = spi_arena_alloc(&w->arena, most * sizeof *w->items);
    return w->items ? SP_OK : spi_fail_memory(ctx, most * sizeof *w->items, "weights");
}

sp_status spi_weights_add(sp_context *ctx, spi_weights *w, const char *name, int ndim, const int64_t *shape,
                          sp_dtype dtype, const float *values, int64_t count) {
    void *data = spi_arena_alloc(&w->arena, (size_t)count * spi_dtype_size(dtype));
    char *copy = spi_arena_strdup(&w->arena, name);
    if (!data || !copy) return spi_fail_memory(ctx, (size_t)count * spi_dtype_size(dtype), name);
    spi_from_f32(data, values, dtype, count);
    spi_st_item *item = &w->items[w->count++];
    *item = (spi_st_item){.name = copy, .dtype = dtype, .ndim = ndim, .data = data};
    memcpy(item->shape, shape, (size_t)ndim * sizeof *shape);
    return SP_OK;
}

sp_status spi_weights_add_param(sp_model *model, spi_weights *w, const spi_param *p, const char *name) {
    float *values = malloc((size_t)p->count * sizeof *values);
    if (!values) return spi_fail_memory(model->ctx, (size_t)p->count * sizeof *values, p->name);
    sp_status status = spi_param_get(model->dev, p, values);
    if (status == SP_OK)
        status = spi_weights_add(model->ctx, w, name, p->ndim, p->shape, model->base->dtype, values, p->count);
    free(values);
    return status;
}
