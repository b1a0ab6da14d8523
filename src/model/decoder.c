#include "model/decoder.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

/* ------------------------------------------------------------------ making */

static spi_param *add_param(spi_decoder *dec, const spi_decoder_spec *spec, const char *full, int64_t rows,
                            int64_t cols, bool vector, bool trainable) {
    return spi_params_add(dec->dev, &dec->params,
                          &(spi_param_spec){.name = full,
                                            .kind = vector ? SPI_PARAM_F32 : SPI_PARAM_MATRIX,
                                            .group = spec->group,
                                            .ndim = vector ? 1 : 2,
                                            .shape = {rows, cols},
                                            .trainable = trainable,
                                            .decay = !vector});
}

static sp_status add_layer(spi_decoder *dec, const spi_decoder_spec *spec, int64_t l) {
    for (int slot = 0; slot < SPI_SLOTS; slot++) {
        int64_t rows, cols;
        bool vector;
        if (!spi_arch_slot(&dec->arch, (spi_slot)slot, &rows, &cols, &vector)) continue;
        char name[256];
        spi_arch_slot_name(&dec->arch, l, (spi_slot)slot, spec->prefix, name, sizeof name);
        spi_param *p = add_param(dec, spec, name, rows, cols, vector, spec->trainable);
        if (!p) return SP_ERR_MEMORY;
        dec->layers[l].slot[slot] = p;
    }
    return SP_OK;
}

static sp_status add_params(spi_decoder *dec, const spi_decoder_spec *spec) {
    const spi_arch *a = &dec->arch;
    char name[256];
    if (spec->embed) {
        snprintf(name, sizeof name, "%s%s", spec->prefix, a->family->embed);
        dec->embed = add_param(dec, spec, name, a->vocab_size, a->hidden_size, false, spec->embed_trainable);
        if (!dec->embed) return SP_ERR_MEMORY;
    }
    dec->layers = calloc((size_t)a->num_layers, sizeof *dec->layers);
    if (!dec->layers)
        return spi_fail_memory(dec->dev->ctx, (size_t)a->num_layers * sizeof *dec->layers, "layers");
    for (int64_t l = 0; l < a->num_layers; l++) SPI_TRY(add_layer(dec, spec, l));
    snprintf(name, sizeof name, "%s%s", spec->prefix, a->family->final_norm);
    dec->final_norm = add_param(dec, spec, name, a->hidden_size, 1, true, spec->trainable);
    return dec->final_norm ? SP_OK : SP_ERR_MEMORY;
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

void spi_decoder_free(spi_decoder *dec) {
    if (!dec) return;
    spi_params_free(dec->dev, &dec->params);
    if (dec->cos) dec->dev->op->release(dec->dev, dec->cos);
    if (dec->sin) dec->dev->op->release(dec->dev, dec->sin);
    free(dec->layers);
    spi_arch_free(&dec->arch);
    free(dec);
}

static bool is_bias(const char *name) {
    const size_t length = strlen(name);
    return length > 5 && strcmp(name + length - 5, ".bias") == 0;
}

sp_status spi_decoder_init(spi_decoder *dec, uint64_t seed) {
    for (size_t i = 0; i < dec->params.count; i++) {
        spi_param *p = dec->params.items[i];
        float *values = malloc((size_t)p->count * sizeof *values);
        if (!values) return spi_fail_memory(dec->dev->ctx, (size_t)p->count * sizeof *values, p->name);
        if (p->kind == SPI_PARAM_MATRIX)
            spi_fill_normal(values, p->count, dec->arch.init_range, seed, spi_hash_name(p->name));
        else
            for (int64_t j = 0; j < p->count; j++) values[j] = is_bias(p->name) ? 0.0f : 1.0f;
        sp_status status = spi_param_set(dec->dev, p, dec->dtype, values);
        free(values);
        SPI_TRY(status);
    }
    return SP_OK;
}

/* ------------------------------------------------------------------ rotary tables */

static bool tables_serve(const spi_decoder *dec, int64_t max_position) {
    if (!dec->cos || dec->rope_count < max_position) return false;
    if (dec->arch.rope.kind != SPI_ROPE_DYNAMIC || dec->rope_length == max_position) return true;
    /* Up to the trained length the dynamic base does not move. */
    return dec->rope_length <= dec->arch.max_positions && max_position <= dec->arch.max_positions;
}

sp_status spi_decoder_prepare(spi_decoder *dec, int64_t max_position) {
    if (tables_serve(dec, max_position)) return dec->dev->status;
    spi_device *dev = dec->dev;
    int64_t count = 256;
    while (count < max_position) count *= 2;
    const size_t bytes = (size_t)(count * dec->arch.head_dim / 2) * sizeof(float);
    float *host = malloc(2 * bytes);
    if (!host) return spi_fail_memory(dev->ctx, 2 * bytes, "rotary tables");
    float *const host_sin = host + bytes / sizeof *host;
    spi_rope_tables(&dec->arch, max_position, count, host, host_sin);
    if (dec->cos && dec->rope_count < count) {
        dev->op->release(dev, dec->cos);
        dev->op->release(dev, dec->sin);
        dec->cos = dec->sin = NULL;
    }
    if (!dec->cos) {
        dec->cos = dev->op->alloc(dev, bytes);
        dec->sin = dev->op->alloc(dev, bytes);
        dec->rope_count = count;
    }
    dev->op->upload(dev, dec->cos, host, bytes);
    dev->op->upload(dev, dec->sin, host_sin, bytes);
    dev->op->sync(dev);
    free(host);
    dec->rope_length = max_position;
    return dev->status;
}

/* ------------------------------------------------------------------ ends */

void spi_decoder_embed(spi_decoder *dec, const spi_pass *pass, spi_mat h) {
    dec->dev->op->embedding(dec->dev, h, dec->embed->w.m, pass->ids, 1.0f, NULL, pass->positions);
}

static spi_norm final_norm_of(const spi_decoder *dec) {
    return (spi_norm){
        .kind = SPI_NORM_RMS, .eps = dec->arch.norm_eps, .groups = 1, .weight = dec->final_norm->f32};
}

void spi_decoder_final_norm(spi_decoder *dec, spi_mat y, spi_mat x) {
    const spi_norm norm = final_norm_of(dec);
    dec->dev->op->norm(dec->dev, y, x, &norm);
}

void spi_decoder_final_norm_backward(spi_decoder *dec, spi_mat dx, spi_mat dy, spi_mat x) {
    const spi_norm norm = final_norm_of(dec);
    dec->dev->op->norm_backward(dec->dev, dx, dy, x, &norm, dec->final_norm->grad, NULL, false);
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
