#include "model/decoder.h"

#include <stdlib.h>

/* ------------------------------------------------------------------ making */

static sp_status add_slot(spi_decoder *dec, const spi_decoder_spec *spec, int64_t layer, spi_slot slot,
                          spi_param **out) {
    const bool embed = slot == SPI_EMBED, idle = embed && !spec->embed;
    spi_slot_shape shape;
    char name[256];
    if (!spi_arch_slot(&dec->arch, slot, &shape) || (idle && !spec->idle_embed)) return SP_OK;
    spi_arch_slot_name(&dec->arch, layer, slot, spec->prefix, name, sizeof name);
    const spi_param_spec param = {.name = name,
                                  .kind = shape.vector || idle ? SPI_PARAM_F32 : SPI_PARAM_MATRIX,
                                  .group = spec->group,
                                  .ndim = shape.vector ? 1 : 2,
                                  .shape = {shape.rows, shape.cols},
                                  .transposed = shape.transposed,
                                  .quantize = spec->quantize && !shape.vector && slot != SPI_POSITIONS,
                                  .trainable = embed && !idle ? spec->embed_trainable : spec->trainable,
                                  .no_grad = idle,
                                  .decay = !shape.vector};
    spi_param *p = spi_params_add(dec->dev, &dec->params, &param);
    if (!p) return SP_ERR_MEMORY;
    if (idle) dec->idle_embed = p;
    else *out = p;
    return SP_OK;
}

static sp_status add_params(spi_decoder *dec, const spi_decoder_spec *spec) {
    const spi_arch *a = &dec->arch;
    SPI_TRY(add_slot(dec, spec, 0, SPI_EMBED, &dec->embed));
    SPI_TRY(add_slot(dec, spec, 0, SPI_POSITIONS, &dec->positions));
    SPI_TRY(add_slot(dec, spec, 0, SPI_PROJECT_IN, &dec->project_in));
    dec->layers = calloc((size_t)a->num_layers, sizeof *dec->layers);
    if (!dec->layers)
        return spi_fail_memory(dec->dev->ctx, (size_t)a->num_layers * sizeof *dec->layers, "layers");
    for (int64_t l = 0; l < a->num_layers; l++)
        for (int slot = 0; slot < SPI_LAYER_SLOTS; slot++)
            SPI_TRY(add_slot(dec, spec, l, (spi_slot)slot, &dec->layers[l].slot[slot]));
    SPI_TRY(add_slot(dec, spec, 0, SPI_FINAL_NORM_W, &dec->final_norm));
    SPI_TRY(add_slot(dec, spec, 0, SPI_FINAL_NORM_B, &dec->final_norm_bias));
    return add_slot(dec, spec, 0, SPI_PROJECT_OUT, &dec->project_out);
}

sp_status spi_decoder_new(spi_device *dev, const spi_arch *arch, const spi_decoder_spec *spec,
                          spi_decoder **out) {
    spi_decoder *dec = calloc(1, sizeof *dec);
    if (!dec) return spi_fail_memory(dev->ctx, sizeof *dec, "a decoder");
    dec->dev = dev;
    dec->dtype = spec->dtype;
    sp_status status = spi_arch_copy(dev->ctx, arch, &dec->arch);
    if (status == SP_OK) status = add_params(dec, spec);
    if (status != SP_OK) {
        spi_decoder_free(dec);
        return status;
    }
    *out = dec;
    return SP_OK;
}

static void free_table(spi_device *dev, spi_rope_table *table) {
    if (table->cos) dev->op->release(dev, table->cos);
    if (table->sin) dev->op->release(dev, table->sin);
    *table = (spi_rope_table){0};
}

void spi_decoder_free(spi_decoder *dec) {
    if (!dec) return;
    spi_params_free(dec->dev, &dec->params);
    free_table(dec->dev, &dec->rope);
    free_table(dec->dev, &dec->sliding_rope);
    free(dec->layers);
    spi_arch_free(&dec->arch);
    free(dec);
}

const char *spi_decoder_stored_prefix(const spi_arch *a, const spi_st_set *set) {
    static const char *const none[] = {NULL};
    const char *const *others = a->family->other_prefixes ? a->family->other_prefixes : none;
    char name[256];
    for (int i = -1;; i++) {
        const char *prefix = i < 0 ? spi_arch_prefix(a) : others[i] ? others[i] : "";
        spi_arch_slot_name(a, 0, SPI_O_W, prefix, name, sizeof name);
        if (spi_st_find(set, name)) return prefix;
        if (i >= 0 && !others[i]) return spi_arch_prefix(a);
    }
}

/* ------------------------------------------------------------------ fresh values */

static sp_status init_param(spi_decoder *dec, spi_param *p, spi_slot slot, uint64_t seed) {
    spi_slot_shape shape;
    if (!p || !spi_arch_slot(&dec->arch, slot, &shape)) return SP_OK;
    float *values = malloc((size_t)p->count * sizeof *values);
    if (!values) return spi_fail_memory(dec->dev->ctx, (size_t)p->count * sizeof *values, p->name);
    spi_arch_fresh_values(&shape, p->name, seed, spi_threads(dec->dev->ctx), values);
    sp_status status = spi_param_set(dec->dev, p, dec->dtype, values);
    free(values);
    return status;
}

sp_status spi_decoder_init(spi_decoder *dec, uint64_t seed) {
    SPI_TRY(init_param(dec, dec->embed ? dec->embed : dec->idle_embed, SPI_EMBED, seed));
    SPI_TRY(init_param(dec, dec->positions, SPI_POSITIONS, seed));
    SPI_TRY(init_param(dec, dec->project_in, SPI_PROJECT_IN, seed));
    for (int64_t l = 0; l < dec->arch.num_layers; l++)
        for (int slot = 0; slot < SPI_LAYER_SLOTS; slot++)
            SPI_TRY(init_param(dec, dec->layers[l].slot[slot], (spi_slot)slot, seed));
    SPI_TRY(init_param(dec, dec->final_norm, SPI_FINAL_NORM_W, seed));
    SPI_TRY(init_param(dec, dec->final_norm_bias, SPI_FINAL_NORM_B, seed));
    return init_param(dec, dec->project_out, SPI_PROJECT_OUT, seed);
}

/* ------------------------------------------------------------------ rotary tables */

static sp_status prepare_table(spi_decoder *dec, const spi_rope_spec *rope, spi_rope_table *table,
                               int64_t max_position) {
    spi_device *dev = dec->dev;
    const int64_t half = spi_rotary_dim(&dec->arch, rope) / 2;
    if (half == 0) return SP_OK;
    if (table->cos && table->count >= max_position &&
        spi_rope_same(&dec->arch, rope, table->length, max_position))
        return SP_OK;
    int64_t count = 256;
    while (count < max_position) count *= 2;
    if (count < table->count) count = table->count;
    const size_t bytes = (size_t)(count * half) * sizeof(float);
    float *host = malloc(2 * bytes);
    if (!host) return spi_fail_memory(dev->ctx, 2 * bytes, "rotary tables");
    float *const host_sin = host + count * half;
    spi_rope_tables(&dec->arch, rope, max_position, count, host, host_sin);
    if (table->count < count) {
        free_table(dev, table);
        *table = (spi_rope_table){
            .cos = dev->op->alloc(dev, bytes), .sin = dev->op->alloc(dev, bytes), .count = count};
    }
    dev->op->upload(dev, table->cos, host, bytes);
    dev->op->upload(dev, table->sin, host_sin, bytes);
    dev->op->sync(dev);
    free(host);
    table->length = max_position;
    return dev->status;
}

sp_status spi_decoder_prepare(spi_decoder *dec, int64_t max_position) {
    const spi_arch *a = &dec->arch;
    if (dec->positions && max_position > a->max_positions)
        return spi_fail(dec->dev->ctx, SP_ERR_ARGUMENT,
                        "%s: expected sequences of at most %lld tokens (the positions that the model learnt), "
                        "found %lld",
                        a->family->model_type, (long long)a->max_positions, (long long)max_position);
    SPI_TRY(prepare_table(dec, &a->rope, &dec->rope, max_position));
    if (a->two_ropes) SPI_TRY(prepare_table(dec, &a->sliding_rope, &dec->sliding_rope, max_position));
    return dec->dev->status;
}

/* ------------------------------------------------------------------ embedding */

/* The factor on rows of the embedding, in the precision of the table: Gemma rounds it to bf16 with the rest. */
static float embed_scale(const spi_decoder *source) {
    uint16_t narrow;
    float scale = source->arch.embed_scale;
    if (source->dtype == SP_F32) return scale;
    spi_from_f32(&narrow, &scale, source->dtype, 1);
    spi_to_f32(&scale, &narrow, source->dtype, 1);
    return scale;
}

static spi_mat position_table(const spi_decoder *dec) {
    return spi_mat_rows(dec->positions->w.m, dec->arch.family->position_offset, dec->arch.max_positions);
}

void spi_decoder_embed(spi_decoder *dec, const spi_decoder *source, const spi_pass *pass, spi_mat h,
                       spi_pool *pool) {
    const spi_ops *op = dec->dev->op;
    const float scale = embed_scale(source);
    const spi_mat positions = dec->positions ? position_table(dec) : (spi_mat){0};
    if (!dec->project_in) {
        op->embedding(dec->dev, h, &source->embed->w, pass->ids, scale, dec->positions ? &positions : NULL,
                      pass->positions);
        return;
    }
    const spi_pool_mark mark = spi_pool_save(pool);
    const spi_mat e = spi_pool_mat(pool, dec->dtype, pass->tokens, source->arch.embed_size);
    op->embedding(dec->dev, e, &source->embed->w, pass->ids, scale, NULL, NULL);
    op->linear(dec->dev, h, e, &dec->project_in->w, NULL, NULL);
    if (dec->positions) {
        const spi_mat p = spi_pool_mat(pool, dec->dtype, pass->tokens, h.cols);
        const spi_weight table = {.m = positions};
        op->embedding(dec->dev, p, &table, pass->positions, 1, NULL, NULL);
        op->add(dec->dev, h, p, 1);
    }
    spi_pool_restore(pool, mark);
}

bool spi_decoder_embed_trains(const spi_decoder *dec, const spi_decoder *source) {
    return source->embed->grad || (dec->positions && dec->positions->grad) ||
           (dec->project_in && dec->project_in->grad);
}

void spi_decoder_embed_backward(spi_decoder *dec, const spi_decoder *source, const spi_pass *pass, spi_mat dh,
                                spi_pool *pool) {
    const spi_ops *op = dec->dev->op;
    const spi_pool_mark mark = spi_pool_save(pool);
    const float scale = embed_scale(source);
    spi_mat de = dh;
    if (dec->positions && dec->positions->grad)
        op->embedding_backward(dec->dev,
                               dec->positions->grad + dec->arch.family->position_offset * dec->arch.hidden_size,
                               dh, pass->positions, 1);
    if (dec->project_in) {
        const spi_mat e = spi_pool_mat(pool, dec->dtype, pass->tokens, source->arch.embed_size);
        de = spi_pool_mat(pool, dec->dtype, pass->tokens, source->arch.embed_size);
        op->embedding(dec->dev, e, &source->embed->w, pass->ids, scale, NULL, NULL);
        if (dec->project_in->grad) op->linear_dw(dec->dev, dec->project_in->grad, NULL, dh, e, false);
        op->linear_dx(dec->dev, de, dh, &dec->project_in->w, false);
    }
    if (source->embed->grad) op->embedding_backward(dec->dev, source->embed->grad, de, pass->ids, scale);
    spi_pool_restore(pool, mark);
}

/* ------------------------------------------------------------------ final norm */

static spi_norm final_norm_of(const spi_decoder *dec) {
    return (spi_norm){.kind = dec->arch.family->norm_kind,
                      .eps = dec->arch.norm_eps,
                      .offset = dec->arch.family->norm_offset,
                      .groups = 1,
                      .weight = dec->final_norm->f32,
                      .bias = dec->final_norm_bias ? dec->final_norm_bias->f32 : NULL};
}

void spi_decoder_norm(spi_decoder *dec, spi_mat y, spi_mat x) {
    const spi_ops *op = dec->dev->op;
    if (dec->final_norm) {
        const spi_norm norm = final_norm_of(dec);
        op->norm(dec->dev, y, x, &norm);
    } else if (y.data != x.data) {
        op->convert(dec->dev, y, x);
    }
}

void spi_decoder_finish(spi_decoder *dec, spi_mat y, spi_mat x, spi_pool *pool) {
    if (!dec->project_out) {
        spi_decoder_norm(dec, y, x);
        return;
    }
    const spi_pool_mark mark = spi_pool_save(pool);
    spi_mat n = x;
    if (dec->final_norm) {
        n = spi_pool_mat(pool, x.dtype, x.rows, x.cols);
        spi_decoder_norm(dec, n, x);
    }
    dec->dev->op->linear(dec->dev, y, n, &dec->project_out->w, NULL, NULL);
    spi_pool_restore(pool, mark);
}

void spi_decoder_finish_backward(spi_decoder *dec, spi_mat dx, spi_mat dy, spi_mat x, spi_pool *pool) {
    const spi_ops *op = dec->dev->op;
    const spi_pool_mark mark = spi_pool_save(pool);
    spi_mat dn = dy;
    if (dec->project_out) {
        dn = dec->final_norm ? spi_pool_mat(pool, x.dtype, x.rows, x.cols) : dx;
        if (dec->project_out->grad) {
            spi_mat n = x;
            if (dec->final_norm) {
                const spi_norm norm = final_norm_of(dec);
                n = spi_pool_mat(pool, x.dtype, x.rows, x.cols);
                op->norm(dec->dev, n, x, &norm);
            }
            op->linear_dw(dec->dev, dec->project_out->grad, NULL, dy, n, false);
        }
        op->linear_dx(dec->dev, dn, dy, &dec->project_out->w, false);
    }
    if (dec->final_norm) {
        const spi_norm norm = final_norm_of(dec);
        op->norm_backward(dec->dev, dx, dn, x, &norm, dec->final_norm->grad,
                          dec->final_norm_bias ? dec->final_norm_bias->grad : NULL, false);
    } else if (dn.data != dx.data) {
        op->convert(dec->dev, dx, dn);
    }
    spi_pool_restore(pool, mark);
}

/* ------------------------------------------------------------------ caches */

sp_status spi_kv_new(spi_decoder *dec, int64_t slots, int64_t capacity, spi_kv **out) {
    spi_device *dev = dec->dev;
    const spi_arch *a = &dec->arch;
    spi_kv *kv = calloc((size_t)a->num_layers, sizeof *kv);
    *out = kv;
    if (!kv) return spi_fail_memory(dev->ctx, (size_t)a->num_layers * sizeof *kv, "a cache");
    const size_t bytes = (size_t)(slots * capacity * a->kv_heads * a->head_dim) * spi_dtype_size(dec->dtype);
    for (int64_t l = 0; l < a->num_layers; l++)
        kv[l] = (spi_kv){.k = dev->op->alloc(dev, bytes),
                         .v = dev->op->alloc(dev, bytes),
                         .dtype = dec->dtype,
                         .slots = slots,
                         .capacity = capacity};
    if (dev->status == SP_OK) return SP_OK;
    spi_kv_free(dec, kv);
    *out = NULL;
    return dev->status;
}

void spi_kv_free(spi_decoder *dec, spi_kv *kv) {
    if (!kv) return;
    for (int64_t l = 0; l < dec->arch.num_layers; l++) {
        if (kv[l].k) dec->dev->op->release(dec->dev, kv[l].k);
        if (kv[l].v) dec->dev->op->release(dec->dev, kv[l].v);
    }
    free(kv);
}
