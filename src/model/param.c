#include "model/param.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

spi_param *spi_params_add(spi_device *dev, spi_params *list, const spi_param_spec *spec) {
    spi_param *p = spi_arena_alloc(&list->arena, sizeof *p);
    char *name = spi_arena_strdup(&list->arena, spec->name);
    if (!p || !name || !spi_grow((void **)&list->items, &list->capacity, list->count, sizeof(spi_param *))) {
        spi_fail_memory(dev->ctx, sizeof *p, "parameters");
        return NULL;
    }
    *p = (spi_param){.name = name,
                     .kind = spec->kind,
                     .group = spec->group,
                     .ndim = spec->ndim,
                     .count = 1,
                     .transposed = spec->transposed,
                     .turned = spec->turned,
                     .quantize = spec->quantize,
                     .trainable = spec->trainable,
                     .no_grad = spec->no_grad,
                     .decay = spec->decay};
    for (int i = 0; i < spec->ndim; i++) {
        p->shape[i] = spec->shape[i];
        p->count *= spec->shape[i];
    }
    list->items[list->count++] = p;
    return p;
}

static spi_mat as_matrix(const spi_param *p, void *data, sp_dtype dtype) {
    return p->ndim == 2 ? spi_mat_of(data, dtype, p->shape[0], p->shape[1])
                        : spi_mat_of(data, dtype, 1, p->count);
}

/* Memory of the parameter's own, once. NULL after a failure, which sticks to the device. */
static void *own(spi_device *dev, spi_param *p, int place, size_t bytes) {
    if (!p->owned[place]) p->owned[place] = dev->op->alloc(dev, bytes);
    return p->owned[place];
}

/* Gives the parameter its places: f32 values where it is F32 or they are its masters, and a compute-dtype
 * matrix where it is one. */
static sp_status place(spi_device *dev, spi_param *p, sp_dtype compute, bool masters) {
    const bool matrix = p->kind == SPI_PARAM_MATRIX;
    if (!matrix || masters) p->f32 = own(dev, p, 1, (size_t)p->count * sizeof(float));
    if (matrix) {
        const bool shared = masters && compute == SP_F32;
        void *data = shared ? p->f32 : own(dev, p, 2, (size_t)p->count * spi_dtype_size(compute));
        p->w = (spi_weight){.m = as_matrix(p, data, compute), .transposed = p->transposed};
    }
    return dev->status;
}

/* ------------------------------------------------------------------ quantised values */

static bool is_quantized(const spi_param *p) {
    return p->quantize && !p->trainable;
}

/* From values in device memory, laid out as in files. */
static sp_status quantize(spi_device *dev, spi_param *p, spi_mat values) {
    const spi_weight w = {.m = values, .transposed = p->transposed};
    const int64_t rows = spi_weight_out(&w), cols = spi_weight_in(&w);
    int8_t *q = own(dev, p, 3, (size_t)p->count);
    float *scale = own(dev, p, 4, (size_t)rows * sizeof *scale);
    p->w = (spi_weight){.m = spi_mat_of(q, SP_I8, rows, cols), .scale = scale};
    if (dev->status == SP_OK) dev->op->quantize(dev, scale, q, &w);
    return dev->status;
}

/* to = the numbers that q stands for, laid out as in files. */
static void dequantize(const spi_param *p, const int8_t *q, const float *scale, float *to) {
    const int64_t rows = p->w.m.rows, cols = p->w.m.cols;
    for (int64_t n = 0; n < rows; n++)
        for (int64_t k = 0; k < cols; k++)
            to[p->transposed ? k * rows + n : n * cols + k] = scale[n] * (float)q[n * cols + k];
}

static sp_status get_quantized(spi_device *dev, const spi_param *p, float *values) {
    const size_t scales = (size_t)p->w.m.rows * sizeof(float), bytes = scales + (size_t)p->count;
    float *scale = malloc(bytes);
    if (!scale) return spi_fail_memory(dev->ctx, bytes, p->name);
    int8_t *q = (int8_t *)scale + scales;
    dev->op->download(dev, scale, p->w.scale, scales);
    dev->op->download(dev, q, p->w.m.data, (size_t)p->count);
    if (dev->status == SP_OK) dequantize(p, q, scale, values);
    free(scale);
    return dev->status;
}

/* ------------------------------------------------------------------ values */

static bool usable_in_place(const spi_device *dev, const spi_param *p, sp_dtype compute,
                            const spi_st_tensor *t) {
    if (!dev->op->host_memory || p->turned) return false;
    const sp_dtype wanted = p->kind == SPI_PARAM_MATRIX ? compute : SP_F32;
    return t->dtype == wanted && (uintptr_t)t->data % spi_dtype_size(wanted) == 0;
}

/* Values of a file as a device matrix, laid out as there: where they are mapped, or a copy in *owned. No data
 * where a copy could not be made or mapped values are not aligned. */
static spi_mat on_device(spi_device *dev, const spi_param *p, const spi_st_tensor *from, void **owned) {
    const size_t each = spi_dtype_size(from->dtype), bytes = (size_t)p->count * each;
    *owned = NULL;
    if (dev->op->host_memory) {
        const bool aligned = (uintptr_t)from->data % each == 0;
        return as_matrix(p, aligned ? (void *)(uintptr_t)from->data : NULL, from->dtype);
    }
    *owned = dev->op->alloc(dev, bytes);
    if (*owned) dev->op->upload(dev, *owned, from->data, bytes);
    return as_matrix(p, *owned, from->dtype);
}

/*
 * What only computes: as it lies in the file, or a copy on the device in the compute dtype, or in 8 bits.
 * False: none of that is possible.
 */
static bool borrow(spi_device *dev, spi_param *p, sp_dtype compute, const spi_st_tensor *from) {
    const bool matrix = p->kind == SPI_PARAM_MATRIX;
    if (!is_quantized(p) && usable_in_place(dev, p, compute, from)) {
        /* Nothing ever writes through this pointer. */
        void *data = (void *)(uintptr_t)from->data;
        if (matrix) p->w = (spi_weight){.m = as_matrix(p, data, compute), .transposed = p->transposed};
        else p->f32 = data;
        return true;
    }
    if (!matrix) return false;
    if (!dev->op->host_memory && from->dtype == compute && !is_quantized(p)) {
        if (place(dev, p, compute, false) == SP_OK)
            dev->op->upload(dev, p->w.m.data, from->data, (size_t)p->count * spi_dtype_size(compute));
        return true;
    }
    void *owned;
    const spi_mat values = on_device(dev, p, from, &owned);
    if (!values.data) return dev->status != SP_OK;
    if (is_quantized(p)) quantize(dev, p, values);
    else if (place(dev, p, compute, false) == SP_OK) dev->op->convert(dev, p->w.m, values);
    if (owned) dev->op->release(dev, owned);
    return true;
}

static sp_status load_own(spi_device *dev, spi_param *p, sp_dtype compute, const spi_st_tensor *from) {
    if (dev->plan) return place(dev, p, compute, p->trainable); /* what trains; values are not wanted */
    float *values = malloc((size_t)p->count * sizeof(float) + 1);
    if (!values) return spi_fail_memory(dev->ctx, (size_t)p->count * sizeof(float), p->name);
    spi_to_f32(values, from->data, from->dtype, p->count);
    sp_status status = spi_param_set(dev, p, compute, values);
    p->source = is_quantized(p) ? from : NULL;
    free(values);
    return status;
}

sp_status spi_param_load(spi_device *dev, spi_param *p, sp_dtype compute, const spi_st_tensor *from) {
    if (p->grad || !borrow(dev, p, compute, from)) SPI_TRY(load_own(dev, p, compute, from));
    else if (p->trainable) p->source = from;
    if (is_quantized(p)) p->source = from;
    return dev->status;
}

/* ------------------------------------------------------------------ what training adds */

static void release(spi_device *dev, spi_param *p, int place) {
    if (p->owned[place]) dev->op->release(dev, p->owned[place]);
    p->owned[place] = NULL;
}

void spi_param_train(spi_device *dev, spi_param *p, bool train) {
    p->trainable = train;
    if (!train) spi_param_end(dev, p);
}

sp_status spi_param_begin(spi_device *dev, spi_param *p, sp_dtype compute) {
    const size_t bytes = (size_t)p->count * sizeof(float);
    if (!p->trainable || p->no_grad || p->grad) return SP_OK;
    if (p->source) {
        /* Where masters are what computes, a copy that there is becomes them. */
        if (compute == SP_F32 && p->kind == SPI_PARAM_MATRIX && p->owned[2]) {
            p->owned[1] = p->owned[2];
            p->owned[2] = NULL;
        }
        SPI_TRY(load_own(dev, p, compute, p->source));
    }
    p->owned[0] = p->grad = dev->op->alloc(dev, bytes);
    if (p->grad) dev->op->zero(dev, p->grad, bytes);
    return dev->status;
}

void spi_param_end(spi_device *dev, spi_param *p) {
    release(dev, p, 0);
    p->grad = NULL;
}

/* ------------------------------------------------------------------ values of its own */

/* to [cols, rows] = from [rows, cols] transposed. */
static void transpose(float *to, const float *from, int64_t rows, int64_t cols) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) to[j * rows + i] = from[i * cols + j];
}

sp_status spi_param_set_like(spi_device *dev, const spi_param *p, float *to, const float *values) {
    const size_t bytes = (size_t)p->count * sizeof(float);
    float *turned = p->turned ? malloc(bytes) : NULL;
    if (p->turned && !turned) return spi_fail_memory(dev->ctx, bytes, p->name);
    if (turned) transpose(turned, values, p->shape[0], p->shape[1]);
    dev->op->upload(dev, to, turned ? turned : values, bytes);
    if (turned) dev->op->sync(dev);
    free(turned);
    return dev->status;
}

sp_status spi_param_get_like(spi_device *dev, const spi_param *p, const float *from, float *values) {
    const size_t bytes = (size_t)p->count * sizeof(float);
    float *turned = p->turned ? malloc(bytes) : NULL;
    if (p->turned && !turned) return spi_fail_memory(dev->ctx, bytes, p->name);
    dev->op->download(dev, turned ? turned : values, from, bytes);
    if (turned) transpose(values, turned, p->shape[1], p->shape[0]);
    free(turned);
    return dev->status;
}

sp_status spi_param_set(spi_device *dev, spi_param *p, sp_dtype compute, const float *values) {
    const size_t bytes = (size_t)p->count * sizeof(float);
    const bool quantized = is_quantized(p);
    if (!quantized) SPI_TRY(place(dev, p, compute, p->trainable));
    p->source = NULL;
    if (p->f32) {
        SPI_TRY(spi_param_set_like(dev, p, p->f32, values));
        if (p->kind == SPI_PARAM_MATRIX && p->w.m.data != p->f32)
            dev->op->convert(dev, p->w.m, as_matrix(p, p->f32, SP_F32));
        return dev->status;
    }
    void *staged = dev->op->alloc(dev, bytes);
    if (!staged) return dev->status;
    dev->op->upload(dev, staged, values, bytes);
    if (quantized) quantize(dev, p, as_matrix(p, staged, SP_F32));
    else dev->op->convert(dev, p->w.m, as_matrix(p, staged, SP_F32));
    dev->op->sync(dev);
    dev->op->release(dev, staged);
    return dev->status;
}

sp_status spi_param_get(spi_device *dev, const spi_param *p, float *values) {
    const size_t bytes = (size_t)p->count * sizeof(float);
    if (p->f32) return spi_param_get_like(dev, p, p->f32, values);
    if (p->source) {
        spi_to_f32(values, p->source->data, p->source->dtype, p->count);
        return SP_OK;
    }
    if (p->w.scale) return get_quantized(dev, p, values);
    void *staged = dev->op->alloc(dev, bytes);
    if (!staged) return dev->status;
    dev->op->convert(dev, as_matrix(p, staged, SP_F32), p->w.m);
    dev->op->download(dev, values, staged, bytes);
    dev->op->release(dev, staged);
    return dev->status;
}

sp_status spi_param_get_grad(spi_device *dev, const spi_param *p, float *values) {
    return spi_param_get_like(dev, p, p->grad, values);
}

void spi_params_free(spi_device *dev, spi_params *list) {
    for (size_t i = 0; i < list->count; i++)
        for (size_t j = 0; j < sizeof list->items[i]->owned / sizeof *list->items[i]->owned; j++)
            if (list->items[i]->owned[j]) dev->op->release(dev, list->items[i]->owned[j]);
    free(list->items);
    spi_arena_free(&list->arena);
    *list = (spi_params){0};
}

/* ------------------------------------------------------------------ loading a whole list */

static void print_shape(spi_buf *b, int ndim, const int64_t *shape) {
    spi_buf_putc(b, '[');
    for (int i = 0; i < ndim; i++) spi_buf_printf(b, "%s%lld", i ? ", " : "", (long long)shape[i]);
    spi_buf_putc(b, ']');
}

/* One line about what is wrong with the tensor for this parameter, or nothing. */
static bool complain(spi_buf *b, const spi_param *p, const spi_st_tensor *t) {
    if (!t) {
        spi_buf_printf(b, "\n  %s: missing, expected ", p->name);
        print_shape(b, p->ndim, p->shape);
        return true;
    }
    if (t->ndim != p->ndim || memcmp(t->shape, p->shape, (size_t)p->ndim * sizeof *p->shape) != 0) {
        spi_buf_printf(b, "\n  %s: expected shape ", p->name);
        print_shape(b, p->ndim, p->shape);
        spi_buf_puts(b, ", found ");
        print_shape(b, t->ndim, t->shape);
        return true;
    }
    if (t->dtype != SP_F32 && t->dtype != SP_BF16 && t->dtype != SP_F16) {
        spi_buf_printf(b, "\n  %s: expected dtype F32, BF16 or F16, found %s", p->name,
                       sp_dtype_name(t->dtype));
        return true;
    }
    return false;
}

const spi_st_tensor *spi_param_find(const spi_st_set *set, const char *name, const spi_prefix *prefix) {
    const size_t length = prefix ? strlen(prefix->ours) : 0;
    char other[512];
    if (!prefix || strncmp(name, prefix->ours, length) != 0) return spi_st_find(set, name);
    snprintf(other, sizeof other, "%s%s", prefix->theirs, name + length);
    return spi_st_find(set, other);
}

size_t spi_params_misfits(const spi_params *list, const spi_st_set *set, const spi_prefix *prefix,
                          spi_buf *lines) {
    size_t count = 0;
    for (size_t i = 0; i < list->count; i++)
        count += complain(lines, list->items[i], spi_param_find(set, list->items[i]->name, prefix));
    return count;
}

sp_status spi_params_load(spi_device *dev, spi_params *list, sp_dtype compute, const spi_st_set *set,
                          const spi_prefix *prefix, const char *what) {
    spi_buf wrong = {0};
    const size_t count = spi_params_misfits(list, set, prefix, &wrong);
    if (count > 0) {
        sp_status status = spi_fail(dev->ctx, SP_ERR_MISMATCH, "%s: %zu of %zu tensors do not fit:%s", what,
                                    count, list->count, wrong.failed ? "" : wrong.data);
        spi_buf_free(&wrong);
        return status;
    }
    for (size_t i = 0; i < list->count; i++) {
        const spi_st_tensor *from = spi_param_find(set, list->items[i]->name, prefix);
        if (!from) continue; /* never: it would be among the misfits */
        SPI_TRY(spi_param_load(dev, list->items[i], compute, from));
        if (list->items[i]->w.scale) spi_st_forget(set, from);
    }
    return SP_OK;
}

/* ------------------------------------------------------------------ saving */

static sp_status fetch_items(spi_device *dev, spi_param *const *list, size_t count, sp_dtype dtype,
                             spi_arena *arena, spi_st_item *items) {
    for (size_t i = 0; i < count; i++) {
        const spi_param *p = list[i];
        float *values = spi_arena_alloc(arena, (size_t)p->count * sizeof *values);
        if (!values) return spi_fail_memory(dev->ctx, (size_t)p->count * sizeof *values, p->name);
        SPI_TRY(spi_param_get(dev, p, values));
        items[i] = (spi_st_item){.name = p->name, .dtype = dtype, .ndim = p->ndim, .data = values};
        memcpy(items[i].shape, p->shape, (size_t)p->ndim * sizeof *p->shape);
        if (dtype == SP_F32) continue;
        void *narrow = spi_arena_alloc(arena, (size_t)p->count * spi_dtype_size(dtype));
        if (!narrow) return spi_fail_memory(dev->ctx, (size_t)p->count * spi_dtype_size(dtype), p->name);
        spi_from_f32(narrow, values, dtype, p->count);
        items[i].data = narrow;
    }
    return SP_OK;
}

sp_status spi_params_save(spi_device *dev, spi_param *const *list, size_t count, sp_dtype dtype,
                          const char *file) {
    spi_arena arena = {0};
    spi_st_item *items = spi_arena_alloc(&arena, count * sizeof *items);
    sp_status status = items ? fetch_items(dev, list, count, dtype, &arena, items)
                             : spi_fail_memory(dev->ctx, count * sizeof *items, file);
    if (status == SP_OK) status = spi_st_write(dev->ctx, file, items, count);
    spi_arena_free(&arena);
    return status;
}
