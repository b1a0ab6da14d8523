/* Injection and update of the shadow, in both packages' forms, with dropout. */
#include <stdlib.h>

#include "harness.h"

static const int64_t widths[] = {8, 33, 256, 1024, 1030};
#define WIDTHS (sizeof widths / sizeof *widths)

/* ------------------------------------------------------------------ injection */

typedef struct injecting {
    int64_t t, d, k;
    float drop;
    bool drop_delta, in_place, grads;
    const float *h_out, *p; /* of the backward pass: what the reference's forward pass gave */
} injecting;

static spi_inject inject_of(run *r, const injecting *p) {
    /* D such that a row of delta D is of the size of delta, and so is what is added to h. */
    const float scale = p->d < 16 ? 1 : p->d < 300 ? 0.25f : 0.1f;
    return (spi_inject){.k = p->k,
                        .alpha = 0.7f,
                        .down = in_vector(r, p->d * p->k, -scale, scale),
                        .up = in_vector(r, p->k * p->d, -0.4f, 0.4f),
                        .dropout = {p->drop, 17, 5},
                        .drop_delta = p->drop_delta};
}

static void inject(run *r, const void *params) {
    const injecting *p = params;
    const spi_inject in = inject_of(r, p);
    spi_mat h, h_out;
    const spi_mat s = in_mat(r, p->t, p->d, 1);
    if (p->in_place) h = h_out = inout_mat(r, "h_out", p->t, p->d, 1);
    else {
        h = in_mat(r, p->t, p->d, 1);
        h_out = out_mat(r, "h_out", p->t, p->d);
    }
    float *kept = out_vector(r, "p", p->t * p->k);
    r->dev->op->inject(r->dev, h_out, kept, h, s, &in);
}

static void inject_backward(run *r, const void *params) {
    const injecting *p = params;
    const spi_inject in = inject_of(r, p);
    const spi_mat s = in_mat(r, p->t, p->d, 1), h_out = in_values(r, p->h_out, p->t, p->d);
    const float *kept = in_array(r, SP_F32, p->p, p->t * p->k);
    const spi_mat dh = inout_mat(r, "dh", p->t, p->d, 1), ds = inout_mat(r, "ds", p->t, p->d, 1);
    float *ddown = NULL, *dup = NULL;
    if (p->grads) {
        ddown = inout_vector(r, "ddown", p->d * p->k, -1, 1);
        dup = inout_vector(r, "dup", p->k * p->d, -1, 1);
    }
    r->dev->op->inject_backward(r->dev, dh, ds, ddown, dup, h_out, s, kept, &in);
}

static void inject_case(checks *c, sp_dtype dtype, view v, injecting p, bool backward) {
    float *h_out = NULL, *kept = NULL;
    if (backward) {
        h_out = calloc((size_t)(p.t * p.d + 1), sizeof *h_out);
        kept = calloc((size_t)(p.t * p.k + 1), sizeof *kept);
        on_reference(c, dtype, inject, &p, (float *[]){h_out, kept}, 2);
        p.h_out = h_out;
        p.p = kept;
    }
    compare(c, dtype, v, backward ? inject_backward : inject, &p, "T=%d d=%d k=%d%s%s%s%s", (int)p.t, (int)p.d,
            (int)p.k, p.drop > 0 ? " dropout" : "", p.drop_delta ? " of delta" : "",
            p.in_place ? " in place" : "", p.grads || !backward ? "" : " no gradients");
    free(h_out);
    free(kept);
}

static void over_injections(checks *c, bool backward) {
    static const int64_t ranks[] = {1, 8, 16, 24};
    for (int d = 0; d < 2; d++)
        for (int t = 0; t < TOKEN_COUNTS; t++)
            for (size_t w = 0; w < WIDTHS; w++)
                for (int form = 0; form < 4; form++) {
                    injecting p = {.t = token_counts[t], .d = widths[w], .k = ranks[(w + (size_t)t) % 4]};
                    p.drop = form & 1 ? 0.2f : 0;
                    p.drop_delta = form >> 1;
                    p.in_place = !backward && (t + form) % 2;
                    p.grads = (t + (int)w + form) % 4 != 0;
                    inject_case(c, dtypes[d], (view)(((size_t)t + w) % VIEWS), p, backward);
                }
    for (int d = 0; d < 2; d++)
        for (int few = 0; few < 2; few++)
            inject_case(c, dtypes[d], VIEW_PLAIN,
                        (injecting){.t = few ? 2 : 512, .d = 4096, .k = 16, .grads = true}, backward);
}

static void check_inject(checks *c) {
    over_injections(c, false);
}

static void check_inject_backward(checks *c) {
    over_injections(c, true);
}

/* ------------------------------------------------------------------ update */

typedef struct updating {
    int64_t t, d, g;
    bool peft, in_place, no_z, grads;
    float drop;
    const float *z; /* of the backward pass */
} updating;

static spi_update update_of(run *r, const updating *p) {
    const int64_t d = p->d, g = p->g;
    const float in = 2.0f / (float)(d < 16 ? 4 : d < 300 ? 12 : 32), out = 0.5f;
    spi_update u = {.g = g, .eps = 1e-5f, .act = p->peft ? SPI_ACT_GELU_ERF : SPI_ACT_SILU};
    u.w0 = in_vector(r, g * d, -in, in);
    u.v0 = in_vector(r, g * d, -in, in);
    u.w3 = in_vector(r, d * g, -out, out);
    u.v2 = in_vector(r, d * g, -out, out);
    if (p->peft) {
        u.b0 = in_vector(r, g, -1, 1);
        u.c0 = in_vector(r, g, -1, 1);
        u.b3 = in_vector(r, d, -1, 1);
        u.c2 = in_vector(r, d, -1, 1);
    } else {
        u.norm_weight = in_vector(r, d, 0.5f, 1.5f);
        u.norm_bias = in_vector(r, d, -0.5f, 0.5f);
    }
    u.dropout = (spi_dropout){p->drop, 23, 9};
    return u;
}

static void update(run *r, const void *params) {
    const updating *p = params;
    const spi_update u = update_of(r, p);
    const spi_mat h = in_mat(r, p->t, p->d, 2);
    spi_mat s, s_out;
    if (p->in_place) s = s_out = inout_mat(r, "s_out", p->t, p->d, 1);
    else {
        s = in_mat(r, p->t, p->d, 1);
        s_out = out_mat(r, "s_out", p->t, p->d);
    }
    float *z = p->no_z ? NULL : out_vector(r, "z", p->t * 2 * p->g);
    r->dev->op->update(r->dev, s_out, z, h, s, &u);
}

static void update_backward(run *r, const void *params) {
    const updating *p = params;
    const int64_t d = p->d, g = p->g;
    const spi_update u = update_of(r, p);
    const spi_mat h = in_mat(r, p->t, d, 2), s = in_mat(r, p->t, d, 1);
    const float *z = in_array(r, SP_F32, p->z, p->t * 2 * g);
    const spi_mat ds = inout_mat(r, "ds", p->t, d, 1), dh = inout_mat(r, "dh", p->t, d, 1);
    spi_update_grads grads = {0};
    if (p->grads) {
        grads.w0 = inout_vector(r, "dw0", g * d, -1, 1);
        grads.v0 = inout_vector(r, "dv0", g * d, -1, 1);
        grads.w3 = inout_vector(r, "dw3", d * g, -1, 1);
        grads.v2 = inout_vector(r, "dv2", d * g, -1, 1);
        if (p->peft) {
            grads.b0 = inout_vector(r, "db0", g, -1, 1);
            grads.c0 = inout_vector(r, "dc0", g, -1, 1);
            grads.b3 = inout_vector(r, "db3", d, -1, 1);
            grads.c2 = inout_vector(r, "dc2", d, -1, 1);
        } else {
            grads.norm_weight = inout_vector(r, "norm weight's", d, -1, 1);
            grads.norm_bias = inout_vector(r, "norm bias's", d, -1, 1);
        }
    }
    r->dev->op->update_backward(r->dev, dh, ds, &grads, h, s, z, &u);
}

static void update_case(checks *c, sp_dtype dtype, view v, updating p, bool backward) {
    float *s_out = NULL, *z = NULL;
    if (backward) {
        s_out = calloc((size_t)(p.t * p.d + 1), sizeof *s_out);
        z = calloc((size_t)(p.t * 2 * p.g + 1), sizeof *z);
        on_reference(c, dtype, update, &p, (float *[]){s_out, z}, 2);
        p.z = z;
    }
    compare(c, dtype, v, backward ? update_backward : update, &p, "T=%d d=%d g=%d %s%s%s%s%s", (int)p.t,
            (int)p.d, (int)p.g, p.peft ? "peft" : "shadow_peft", p.drop > 0 ? " dropout" : "",
            p.in_place ? " in place" : "", p.no_z ? " no z" : "", p.grads || !backward ? "" : " no gradients");
    free(s_out);
    free(z);
}

static void over_updates(checks *c, bool backward) {
    static const int64_t gates[] = {2, 10, 16, 33, 64};
    for (int d = 0; d < 2; d++)
        for (int t = 0; t < TOKEN_COUNTS; t++)
            for (size_t w = 0; w < WIDTHS; w++)
                for (int form = 0; form < 4; form++) {
                    updating p = {.t = token_counts[t], .d = widths[w], .g = gates[(w + (size_t)t) % 5]};
                    p.peft = form >> 1;
                    p.drop = form & 1 ? 0.2f : 0;
                    p.in_place = !backward && (t + form) % 2;
                    p.no_z = !backward && (t + form) % 4 == 3;
                    p.grads = (t + (int)w + form) % 4 != 0;
                    update_case(c, dtypes[d], (view)(((size_t)t + w) % VIEWS), p, backward);
                }
    for (int d = 0; d < 2; d++)
        for (int form = 0; form < 4; form++)
            update_case(
                c, dtypes[d], VIEW_PLAIN,
                (updating){.t = form & 2 ? 2 : 512, .d = 4096, .g = 10, .peft = form & 1, .grads = true},
                backward);
}

static void check_update(checks *c) {
    over_updates(c, false);
}

static void check_update_backward(checks *c) {
    over_updates(c, true);
}

/* Rows enough that a block of a card with one processor goes on through its copies again and again. */
static void check_shadow_long(checks *c) {
    for (int form = 0; form < 2; form++) {
        update_case(c, SP_BF16, VIEW_PLAIN,
                    (updating){.t = 187, .d = 200, .g = 10, .peft = form, .grads = true}, true);
        inject_case(c, SP_BF16, VIEW_PLAIN,
                    (injecting){.t = 187, .d = 200, .k = 16, .drop = form ? 0.2f : 0, .grads = true}, true);
    }
}

const check shadow_checks[] = {{"inject", check_inject},           {"inject_backward", check_inject_backward},
                               {"update", check_update},           {"update_backward", check_update_backward},
                               {"shadow_long", check_shadow_long}, {0}};
