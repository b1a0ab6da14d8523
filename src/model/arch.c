/* An architecture in memory: copies, shadows' changes, the tensors that it has. */
#include "model/arch.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

sp_status spi_arch_copy(sp_context *ctx, const spi_arch *from, spi_arch *out) {
    *out = *from;
    if (!from->sliding) return SP_OK;
    out->sliding = malloc((size_t)from->num_layers);
    if (!out->sliding) return spi_fail_memory(ctx, (size_t)from->num_layers, "an architecture");
    memcpy(out->sliding, from->sliding, (size_t)from->num_layers);
    return SP_OK;
}

void spi_arch_free(spi_arch *arch) {
    free(arch->sliding);
    arch->sliding = NULL;
}

sp_status spi_arch_set_layers(sp_context *ctx, spi_arch *arch, int64_t layers) {
    if (arch->sliding) {
        uint8_t *grown = malloc((size_t)layers);
        if (!grown) return spi_fail_memory(ctx, (size_t)layers, "an architecture");
        for (int64_t i = 0; i < layers; i++)
            grown[i] = arch->sliding[i < arch->num_layers ? i : arch->num_layers - 1];
        free(arch->sliding);
        arch->sliding = grown;
    }
    arch->num_layers = layers;
    return SP_OK;
}

static sp_status check_rope(sp_context *ctx, const char *where, const spi_arch *a, const spi_rope_spec *r) {
    const int32_t pairs = spi_rotary_dim(a, r) / 2;
    if (2 * pairs > a->head_dim)
        return spi_fail(ctx, SP_ERR_FORMAT,
                        "%s: \"head_dim\": expected an even number or a partial rotation, found %d", where,
                        a->head_dim);
    if (r->kind == SPI_ROPE_LONGROPE && r->longrope_count != pairs)
        return spi_fail(ctx, SP_ERR_FORMAT,
                        "%s: rope \"long_factor\" and \"short_factor\": expected %d numbers (half of what is "
                        "rotated of a head), found %d",
                        where, pairs, r->longrope_count);
    return SP_OK;
}

sp_status spi_arch_check(sp_context *ctx, const char *where, const spi_arch *a) {
    /* So that no product of sizes overflows. */
    if ((int64_t)a->heads * a->head_dim > INT32_MAX / 4)
        return spi_fail(ctx, SP_ERR_FORMAT,
                        "%s: \"head_dim\": expected at most %d elements in all %d heads, found %d in each",
                        where, INT32_MAX / 4, a->heads, a->head_dim);
    if (a->heads % a->kv_heads != 0)
        return spi_fail(
            ctx, SP_ERR_FORMAT, "%s: \"%s\": expected a multiple of num_key_value_heads (%d), found %d", where,
            a->family->keys[SPI_FACT_HEADS] ? a->family->keys[SPI_FACT_HEADS] : "num_attention_heads",
            a->kv_heads, a->heads);
    if (a->family->multi_head && a->hidden_size % a->heads != 0)
        return spi_fail(
            ctx, SP_ERR_FORMAT, "%s: \"%s\": expected a divisor of the hidden size (%lld), found %d", where,
            a->family->keys[SPI_FACT_HEADS] ? a->family->keys[SPI_FACT_HEADS] : "num_attention_heads",
            (long long)a->hidden_size, a->heads);
    SPI_TRY(check_rope(ctx, where, a, &a->rope));
    return a->two_ropes ? check_rope(ctx, where, a, &a->sliding_rope) : SP_OK;
}

/* ------------------------------------------------------------------ tensors */

/* A vector of `n`, present or not. */
static bool vector(spi_slot_shape *s, bool present, int64_t n, float fill) {
    *s = (spi_slot_shape){.rows = n, .cols = 1, .vector = true, .fill = fill};
    return present;
}

/* A layer's product from `in` to `out`, stored as the family stores them. */
static bool product(const spi_arch *a, spi_slot_shape *s, int64_t out, int64_t in) {
    const bool t = a->family->transposed;
    *s = (spi_slot_shape){.rows = t ? in : out, .cols = t ? out : in, .transposed = t, .std = a->init_range};
    return true;
}

static bool table(const spi_arch *a, spi_slot_shape *s, bool present, int64_t rows, int64_t cols) {
    *s = (spi_slot_shape){.rows = rows, .cols = cols, .std = a->init_range};
    return present;
}

static bool attention_slot(const spi_arch *a, spi_slot slot, spi_slot_shape *s) {
    const int64_t d = a->hidden_size, q = (int64_t)a->heads * a->head_dim,
                  kv = (int64_t)a->kv_heads * a->head_dim;
    const bool by_head = a->qk_norm == SPI_QK_NORM_HEAD, norms = a->qk_norm != SPI_QK_NORM_NONE;
    const float one = 1.0f - a->family->norm_offset;
    switch (slot) {
    case SPI_QKV_W: return product(a, s, q + 2 * kv, d);
    case SPI_QKV_B: return vector(s, a->qkv_bias, q + 2 * kv, 0);
    case SPI_Q_W: return product(a, s, q, d);
    case SPI_Q_B: return vector(s, a->qkv_bias, q, 0);
    case SPI_K_W:
    case SPI_V_W: return product(a, s, kv, d);
    case SPI_K_B:
    case SPI_V_B: return vector(s, a->qkv_bias, kv, 0);
    case SPI_QNORM_W: return vector(s, norms, by_head ? a->head_dim : q, one);
    case SPI_KNORM_W: return vector(s, norms, by_head ? a->head_dim : kv, one);
    case SPI_O_W: return product(a, s, d, q);
    default: return vector(s, a->o_bias, d, 0); /* SPI_O_B */
    }
}

static bool mlp_slot(const spi_arch *a, spi_slot slot, spi_slot_shape *s) {
    const int64_t d = a->hidden_size, f = a->intermediate_size;
    switch (slot) {
    case SPI_GATE_UP_W: return product(a, s, 2 * f, d);
    case SPI_GATE_W:
    case SPI_UP_W: return product(a, s, f, d);
    case SPI_GATE_B:
    case SPI_UP_B: return vector(s, a->mlp_bias, f, 0);
    case SPI_DOWN_W: return product(a, s, d, f);
    default: return vector(s, a->mlp_bias, d, 0); /* SPI_DOWN_B */
    }
}

static bool outer_slot(const spi_arch *a, spi_slot slot, spi_slot_shape *s) {
    const int64_t d = a->hidden_size, e = a->embed_size;
    switch (slot) {
    case SPI_EMBED: return table(a, s, true, a->vocab_size, e);
    case SPI_POSITIONS: return table(a, s, true, a->max_positions + a->family->position_offset, d);
    case SPI_PROJECT_IN: return table(a, s, e != d, d, e);
    case SPI_PROJECT_OUT: return table(a, s, e != d, e, d);
    case SPI_FINAL_NORM_W: return vector(s, !a->no_final_norm, d, 1.0f - a->family->norm_offset);
    default: return vector(s, !a->no_final_norm, d, 0); /* SPI_FINAL_NORM_B */
    }
}

bool spi_arch_slot(const spi_arch *a, spi_slot slot, spi_slot_shape *s) {
    if (slot == SPI_PROJECT_OUT && a->out_size) return table(a, s, true, a->out_size, a->hidden_size);
    if (!a->family->slots[slot]) return false;
    switch (slot) {
    case SPI_NORM1_W:
    case SPI_NORM2_W:
    case SPI_POST1_W:
    case SPI_POST2_W: return vector(s, true, a->hidden_size, 1.0f - a->family->norm_offset);
    case SPI_NORM1_B:
    case SPI_NORM2_B: return vector(s, true, a->hidden_size, 0);
    default: break;
    }
    if (slot >= SPI_LAYER_SLOTS) return outer_slot(a, slot, s);
    const bool present = slot < SPI_POST1_W ? attention_slot(a, slot, s) : mlp_slot(a, slot, s);
    if ((slot == SPI_O_W || slot == SPI_DOWN_W) && a->family->scaled_init)
        s->std /= sqrtf(2.0f * (float)a->num_layers);
    return present;
}

const char *spi_arch_prefix(const spi_arch *arch) {
    return arch->out_size ? "shadow_model." : arch->family->prefix;
}

void spi_arch_layer_name(const spi_arch *arch, int64_t layer, const char *prefix, char *name, size_t size) {
    const char *pattern = arch->family->layer, *number = strstr(pattern, "%d");
    snprintf(name, size, "%s%.*s%lld%s", prefix, (int)(number - pattern), pattern, (long long)layer,
             number + 2);
}

void spi_arch_slot_name(const spi_arch *arch, int64_t layer, spi_slot slot, const char *prefix, char *name,
                        size_t size) {
    char before[256];
    if (slot == SPI_PROJECT_OUT && arch->out_size) snprintf(name, size, "shadow_hidden_projection.weight");
    else if (slot >= SPI_LAYER_SLOTS) snprintf(name, size, "%s%s", prefix, arch->family->slots[slot]);
    else {
        spi_arch_layer_name(arch, layer, prefix, before, sizeof before);
        snprintf(name, size, "%s%s", before, arch->family->slots[slot]);
    }
}

void spi_arch_fresh_values(const spi_slot_shape *shape, const char *name, uint64_t seed, int threads,
                           float *values) {
    const int64_t count = shape->rows * shape->cols;
    if (shape->vector)
        for (int64_t i = 0; i < count; i++) values[i] = shape->fill;
    else spi_fill_normal(values, count, shape->std, seed, spi_hash_name(name), threads);
}
