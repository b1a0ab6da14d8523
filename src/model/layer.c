/*
 * One decoder layer, forward beside backward; transformers' LlamaDecoderLayer and its relatives.
 *
 * A layer is two branches, attention and MLP, each y = x + branch(x) with norms in up to three places:
 *   before the branch              y = x + branch(norm(x))              (LLaMA, GPT-2)
 *   around its output              y = x + norm(branch(norm(x)))        (Gemma 2; OLMo 2 without the inner one)
 *   of the sum                     y = norm(x + branch(x))              (OPT-350m)
 */
#include <math.h>

#include "model/decoder.h"

typedef enum branch { ATTENTION, MLP } branch;

/* Weights of the norms before a branch and behind it; NULL: there is none. */
static spi_param *in_weight(const spi_decoder *dec, const spi_layer *layer, branch b) {
    return dec->arch.norm_residual ? NULL : layer->slot[b == ATTENTION ? SPI_NORM1_W : SPI_NORM2_W];
}

static spi_param *out_weight(const spi_decoder *dec, const spi_layer *layer, branch b) {
    if (dec->arch.norm_residual) return layer->slot[b == ATTENTION ? SPI_NORM1_W : SPI_NORM2_W];
    return layer->slot[b == ATTENTION ? SPI_POST1_W : SPI_POST2_W];
}

/* The bias of the norm before a branch, or of the one of its sum: no family has both. */
static spi_param *norm_bias(const spi_layer *layer, branch b) {
    return layer->slot[b == ATTENTION ? SPI_NORM1_B : SPI_NORM2_B];
}

static const float *values_of(const spi_param *p) {
    return p ? p->f32 : NULL;
}

static float *grad_of(const spi_param *p) {
    return p ? p->grad : NULL;
}

static spi_norm norm_of(const spi_decoder *dec, const spi_param *weight, const spi_param *bias,
                        int64_t groups) {
    return (spi_norm){.kind = dec->arch.family->norm_kind,
                      .eps = dec->arch.norm_eps,
                      .offset = dec->arch.family->norm_offset,
                      .groups = groups,
                      .weight = weight->f32,
                      .bias = values_of(bias)};
}

typedef struct widths {
    int64_t q, kv, f; /* columns of queries, of keys or values, of the MLP */
} widths;

static widths widths_of(const spi_arch *a) {
    return (widths){(int64_t)a->heads * a->head_dim, (int64_t)a->kv_heads * a->head_dim, a->intermediate_size};
}

static bool is_gated(const spi_layer *layer) {
    return layer->slot[SPI_UP_W] || layer->slot[SPI_GATE_UP_W];
}

spi_layer_acts spi_layer_acts_new(const spi_decoder *dec, int64_t tokens, spi_pool *pool) {
    const widths w = widths_of(&dec->arch);
    const spi_layer *layer = &dec->layers[0];
    const int64_t d = dec->arch.hidden_size;
    spi_layer_acts a = {0};
    a.qkv = spi_pool_mat(pool, dec->dtype, tokens, w.q + 2 * w.kv);
    a.qk = dec->arch.qk_norm ? spi_pool_mat(pool, dec->dtype, tokens, w.q + w.kv)
                             : spi_mat_columns(a.qkv, 0, w.q + w.kv);
    a.o = spi_pool_mat(pool, dec->dtype, tokens, w.q);
    a.lse = spi_pool_alloc(pool, (size_t)(tokens * dec->arch.heads) * sizeof(float));
    if (out_weight(dec, layer, ATTENTION)) a.attn_out = spi_pool_mat(pool, dec->dtype, tokens, d);
    a.mid = spi_pool_mat(pool, dec->dtype, tokens, d);
    a.gate_up = spi_pool_mat(pool, dec->dtype, tokens, (is_gated(layer) ? 2 : 1) * w.f);
    if (out_weight(dec, layer, MLP)) a.mlp_out = spi_pool_mat(pool, dec->dtype, tokens, d);
    return a;
}

/* ------------------------------------------------------------------ a branch's ends */

/* The norm before a branch, and memory of the pool for what it gives. NULL: the branch reads x itself. */
static const spi_norm *in_norm(const spi_decoder *dec, const spi_layer *layer, branch b, spi_mat x,
                               spi_pool *pool, spi_norm *norm, spi_mat *room) {
    const spi_param *weight = in_weight(dec, layer, b);
    *room = (spi_mat){0};
    if (!weight) return NULL;
    *norm = norm_of(dec, weight, norm_bias(layer, b), 1);
    *room = spi_pool_mat(pool, x.dtype, x.rows, x.cols);
    return norm;
}

/* What the branch reads: x [T, d], or its norm in memory of the pool. */
static spi_mat branch_in(const spi_decoder *dec, const spi_layer *layer, branch b, spi_mat x, spi_pool *pool) {
    spi_norm memory;
    spi_mat n;
    const spi_norm *norm = in_norm(dec, layer, b, x, pool, &memory, &n);
    if (!norm) return x;
    dec->dev->op->norm(dec->dev, n, x, norm);
    return n;
}

/* Where the gradient of branch_in's result goes: dh itself, to be added to, or memory of the pool. */
static spi_mat branch_in_grad(const spi_decoder *dec, const spi_layer *layer, branch b, spi_mat dh,
                              spi_pool *pool) {
    return in_weight(dec, layer, b) ? spi_pool_mat(pool, dh.dtype, dh.rows, dh.cols) : dh;
}

/* dh += the gradient through branch_in from dn, its result's; nothing to do where dn is dh. */
static void branch_in_backward(const spi_decoder *dec, const spi_layer *layer, branch b, spi_mat dh, spi_mat dn,
                               spi_mat x) {
    const spi_param *weight = in_weight(dec, layer, b), *bias = norm_bias(layer, b);
    if (!weight) return;
    const spi_norm norm = norm_of(dec, weight, bias, 1);
    dec->dev->op->norm_backward(dec->dev, dh, dn, x, &norm, weight->grad, grad_of(bias), true);
}

/* y = x + the branch's last product of z, with the norms behind it; `kept` [T, d] is what such a norm reads. */
static void branch_out(const spi_decoder *dec, const spi_layer *layer, branch b, spi_mat y, spi_mat z,
                       spi_mat x, spi_mat kept) {
    const spi_ops *op = dec->dev->op;
    const spi_weight *w = &layer->slot[b == ATTENTION ? SPI_O_W : SPI_DOWN_W]->w;
    const float *bias = values_of(layer->slot[b == ATTENTION ? SPI_O_B : SPI_DOWN_B]);
    const spi_param *weight = out_weight(dec, layer, b);
    const bool sum = dec->arch.norm_residual;
    if (!weight) {
        op->linear(dec->dev, y, z, w, bias, &x);
        return;
    }
    const spi_norm norm = norm_of(dec, weight, sum ? norm_bias(layer, b) : NULL, 1);
    op->linear(dec->dev, kept, z, w, bias, sum ? &x : NULL);
    op->norm(dec->dev, y, kept, &norm);
    if (!sum) op->add(dec->dev, y, x, 1);
}

/* In: dh = dL/dy. Out: dh = dL/dx as far as the sum goes; returns the gradient of the last product's result. */
static spi_mat branch_out_backward(const spi_decoder *dec, const spi_layer *layer, branch b, spi_mat dh,
                                   spi_mat kept, spi_pool *pool) {
    const spi_param *weight = out_weight(dec, layer, b);
    if (!weight) return dh;
    const bool sum = dec->arch.norm_residual;
    const spi_param *bias = sum ? norm_bias(layer, b) : NULL;
    const spi_norm norm = norm_of(dec, weight, bias, 1);
    const spi_mat dy = sum ? dh : spi_pool_mat(pool, dh.dtype, dh.rows, dh.cols);
    dec->dev->op->norm_backward(dec->dev, dy, dh, kept, &norm, weight->grad, grad_of(bias), false);
    return dy;
}

/* One product backwards: dx = dy W (+= where `accumulate`; dx.data NULL: not wanted), and its weight's gradient
 * from its input x. */
static void product_backward(const spi_decoder *dec, const spi_param *weight, const spi_param *bias, spi_mat dy,
                             spi_mat x, spi_mat dx, bool accumulate) {
    const spi_ops *op = dec->dev->op;
    if (weight->grad) op->linear_dw(dec->dev, weight->grad, grad_of(bias), dy, x, weight->transposed);
    if (dx.data) op->linear_dx(dec->dev, dx, dy, &weight->w, accumulate);
}

/* ------------------------------------------------------------------ attention */

static spi_attn attn_of(const spi_decoder *dec, int64_t l) {
    const spi_arch *a = &dec->arch;
    float scale = a->attn_scale > 0 ? a->attn_scale : 1.0f / sqrtf((float)a->head_dim);
    if (a->attn_scale_by_layer) scale /= (float)(l + 1);
    return (spi_attn){.heads = a->heads,
                      .kv_heads = a->kv_heads,
                      .head_dim = a->head_dim,
                      .scale = scale,
                      .window = spi_arch_slides(a, l) ? a->sliding_window : 0,
                      .softcap = a->attn_softcap};
}

static spi_norm qk_norm_of(const spi_decoder *dec, const spi_param *weight, int32_t heads) {
    return norm_of(dec, weight, NULL, dec->arch.qk_norm == SPI_QK_NORM_HEAD ? heads : 1);
}

/* What layer l does to queries and keys between their projection and attention. */
static spi_qk qk_of(const spi_decoder *dec, int64_t l, const spi_pass *pass) {
    const spi_arch *a = &dec->arch;
    const spi_layer *layer = &dec->layers[l];
    const bool other = a->two_ropes && spi_arch_slides(a, l);
    const spi_rope_table *table = other ? &dec->sliding_rope : &dec->rope;
    spi_qk qk = {.heads = a->heads,
                 .kv_heads = a->kv_heads,
                 .head_dim = a->head_dim,
                 .rotary_dim = spi_rotary_dim(a, other ? &a->sliding_rope : &a->rope),
                 .cos = table->cos,
                 .sin = table->sin,
                 .positions = pass->positions,
                 .norms = a->qk_norm != SPI_QK_NORM_NONE,
                 .norm_last = a->qk_norm_after_rope};
    if (qk.norms) {
        qk.q_norm = qk_norm_of(dec, layer->slot[SPI_QNORM_W], a->heads);
        qk.k_norm = qk_norm_of(dec, layer->slot[SPI_KNORM_W], a->kv_heads);
    }
    return qk;
}

static spi_projection projection_of(spi_mat y, const spi_param *weight, const spi_param *bias) {
    return (spi_projection){y, &weight->w, values_of(bias)};
}

/* acts->qkv, acts->qk from the layer's input h [T, d]. */
static void project_forward(const spi_decoder *dec, int64_t l, const spi_pass *pass, spi_mat h,
                            spi_layer_acts *acts, spi_pool *pool) {
    const widths w = widths_of(&dec->arch);
    const spi_layer *layer = &dec->layers[l];
    spi_param *const *s = layer->slot;
    spi_projection list[3];
    int count = 0;
    const spi_qk qk = qk_of(dec, l, pass);
    if (s[SPI_QKV_W]) {
        list[count++] = projection_of(acts->qkv, s[SPI_QKV_W], s[SPI_QKV_B]);
    } else {
        const spi_mat q = spi_mat_columns(acts->qkv, 0, w.q), k = spi_mat_columns(acts->qkv, w.q, w.kv);
        const spi_mat v = spi_mat_columns(acts->qkv, w.q + w.kv, w.kv);
        list[count++] = projection_of(q, s[SPI_Q_W], s[SPI_Q_B]);
        list[count++] = projection_of(k, s[SPI_K_W], s[SPI_K_B]);
        list[count++] = projection_of(v, s[SPI_V_W], s[SPI_V_B]);
    }
    spi_norm memory;
    spi_mat room;
    const spi_norm *norm = in_norm(dec, layer, ATTENTION, h, pool, &memory, &room);
    dec->dev->op->project(dec->dev, list, count, h, norm, room);
    dec->dev->op->qk(dec->dev, acts->qk, spi_mat_columns(acts->qkv, 0, w.q + w.kv), &qk);
}

/*
 * dn (+)= dL/dn from d_qkv [T, (H + 2 KV) head_dim], the gradient of what attention read; n is read only where
 * weights train. dn.data NULL: not wanted.
 */
static void project_backward(const spi_decoder *dec, int64_t l, const spi_pass *pass, spi_mat d_qkv, spi_mat n,
                             spi_mat dn, bool accumulate, const spi_layer_acts *acts) {
    const widths w = widths_of(&dec->arch);
    const spi_layer *layer = &dec->layers[l];
    spi_param *const *s = layer->slot;
    const spi_param *qw = s[SPI_QNORM_W], *kw = s[SPI_KNORM_W];
    const spi_qk qk = qk_of(dec, l, pass);
    const spi_mat d_qk = spi_mat_columns(d_qkv, 0, w.q + w.kv);
    const spi_mat dq = spi_mat_columns(d_qkv, 0, w.q), dk = spi_mat_columns(d_qkv, w.q, w.kv);
    const spi_mat dv = spi_mat_columns(d_qkv, w.q + w.kv, w.kv);
    dec->dev->op->qk_backward(dec->dev, d_qk, d_qk, spi_mat_columns(acts->qkv, 0, w.q + w.kv), &qk, grad_of(qw),
                              grad_of(kw));
    if (s[SPI_QKV_W]) {
        product_backward(dec, s[SPI_QKV_W], s[SPI_QKV_B], d_qkv, n, dn, accumulate);
        return;
    }
    product_backward(dec, s[SPI_Q_W], s[SPI_Q_B], dq, n, dn, accumulate);
    product_backward(dec, s[SPI_K_W], s[SPI_K_B], dk, n, dn, true);
    product_backward(dec, s[SPI_V_W], s[SPI_V_B], dv, n, dn, true);
}

/* acts->mid from the layer's input h. */
static void attention_forward(spi_decoder *dec, int64_t l, const spi_pass *pass, spi_mat h,
                              spi_layer_acts *acts, const spi_kv *kv, spi_pool *pool) {
    const spi_ops *op = dec->dev->op;
    const spi_layer *layer = &dec->layers[l];
    const widths w = widths_of(&dec->arch);
    const spi_attn attn = attn_of(dec, l);
    project_forward(dec, l, pass, h, acts, pool);
    const spi_mat q = spi_mat_columns(acts->qk, 0, w.q), k = spi_mat_columns(acts->qk, w.q, w.kv);
    const spi_mat v = spi_mat_columns(acts->qkv, w.q + w.kv, w.kv);
    if (pass->cached) op->attention_cached(dec->dev, acts->o, q, k, v, kv, pass->cached, &attn);
    else op->attention(dec->dev, acts->o, acts->lse, q, k, v, pass->seqs, &attn);
    branch_out(dec, layer, ATTENTION, acts->mid, acts->o, h, acts->attn_out);
}

/* In: dh = dL/dmid. Out: dh = dL/dh. */
static void attention_backward(spi_decoder *dec, int64_t l, const spi_pass *pass, spi_mat dh, spi_mat h,
                               spi_layer_acts *acts, bool need_dx, spi_pool *pool) {
    const spi_ops *op = dec->dev->op;
    const spi_layer *layer = &dec->layers[l];
    const widths w = widths_of(&dec->arch);
    const spi_attn attn = attn_of(dec, l);
    const bool trains = layer->slot[SPI_O_W]->grad != NULL;
    const int64_t tokens = pass->tokens;

    const spi_mat dy = branch_out_backward(dec, layer, ATTENTION, dh, acts->attn_out, pool);
    const spi_mat d_o = spi_pool_mat(pool, dec->dtype, tokens, w.q);
    product_backward(dec, layer->slot[SPI_O_W], layer->slot[SPI_O_B], dy, acts->o, d_o, false);

    const spi_mat d_qkv = spi_pool_mat(pool, dec->dtype, tokens, w.q + 2 * w.kv);
    op->attention_backward(dec->dev, spi_mat_columns(d_qkv, 0, w.q), spi_mat_columns(d_qkv, w.q, w.kv),
                           spi_mat_columns(d_qkv, w.q + w.kv, w.kv), d_o, acts->o, acts->lse,
                           spi_mat_columns(acts->qk, 0, w.q), spi_mat_columns(acts->qk, w.q, w.kv),
                           spi_mat_columns(acts->qkv, w.q + w.kv, w.kv), pass->seqs, &attn);

    const spi_mat n = trains ? branch_in(dec, layer, ATTENTION, h, pool) : (spi_mat){0};
    /* The norm's own weight needs dn even where nobody needs dx. */
    const bool wanted = need_dx || (trains && in_weight(dec, layer, ATTENTION));
    const spi_mat dn = wanted ? branch_in_grad(dec, layer, ATTENTION, dh, pool) : (spi_mat){0};
    project_backward(dec, l, pass, d_qkv, n, dn, dn.data == dh.data, acts);
    if (wanted) branch_in_backward(dec, layer, ATTENTION, dh, dn, h);
}

/* ------------------------------------------------------------------ MLP */

static spi_mat gate_of(const spi_decoder *dec, const spi_layer_acts *acts) {
    return spi_mat_columns(acts->gate_up, 0, dec->arch.intermediate_size);
}

/* No data where there is no gate: then `gate` is all there is. */
static spi_mat up_of(const spi_decoder *dec, const spi_layer_acts *acts) {
    const int64_t f = dec->arch.intermediate_size;
    return acts->gate_up.cols > f ? spi_mat_columns(acts->gate_up, f, f) : (spi_mat){0};
}

/* h_out from acts->mid: the branch is down(act(gate(n)) * up(n)), or down(act(gate(n))). Who comes without a
 * cache may have a backward pass before it, which needs the products. */
static void mlp_forward(spi_decoder *dec, int64_t l, const spi_pass *pass, spi_mat h_out, spi_layer_acts *acts,
                        spi_pool *pool) {
    const spi_layer *layer = &dec->layers[l];
    spi_param *const *s = layer->slot;
    spi_projection list[2];
    int count = 0;
    if (s[SPI_GATE_UP_W]) list[count++] = projection_of(acts->gate_up, s[SPI_GATE_UP_W], NULL);
    if (s[SPI_GATE_W]) list[count++] = projection_of(gate_of(dec, acts), s[SPI_GATE_W], s[SPI_GATE_B]);
    if (s[SPI_UP_W]) list[count++] = projection_of(up_of(dec, acts), s[SPI_UP_W], s[SPI_UP_B]);
    spi_norm memory;
    spi_mat room;
    const spi_norm *norm = in_norm(dec, layer, MLP, acts->mid, pool, &memory, &room);
    const spi_mat y = spi_pool_mat(pool, dec->dtype, acts->mid.rows, dec->arch.intermediate_size);
    dec->dev->op->project_gated(dec->dev, y, list, count, acts->mid, norm, room, dec->arch.activation,
                                !pass->cached);
    branch_out(dec, layer, MLP, h_out, y, acts->mid, acts->mlp_out);
}

/* In: dh = dL/dh_out. Out: dh = dL/dmid. */
static void mlp_backward(spi_decoder *dec, int64_t l, spi_mat dh, spi_layer_acts *acts, spi_pool *pool) {
    const spi_ops *op = dec->dev->op;
    const spi_layer *layer = &dec->layers[l];
    spi_param *const *s = layer->slot;
    const bool trains = s[SPI_DOWN_W]->grad != NULL;
    const spi_mat gate = gate_of(dec, acts), up = up_of(dec, acts);
    const spi_mat y = spi_pool_mat(pool, dec->dtype, acts->mid.rows, dec->arch.intermediate_size);
    const spi_mat d_out = branch_out_backward(dec, layer, MLP, dh, acts->mlp_out, pool);
    if (trains) {
        op->gated(dec->dev, y, gate, up, dec->arch.activation);
        op->linear_dw(dec->dev, s[SPI_DOWN_W]->grad, grad_of(s[SPI_DOWN_B]), d_out, y,
                      s[SPI_DOWN_W]->transposed);
    }
    op->linear_dx(dec->dev, y, d_out, &s[SPI_DOWN_W]->w, false); /* y now holds dL/dy */
    op->gated_backward(dec->dev, gate, up, y, gate, up, dec->arch.activation);

    const spi_mat n = trains ? branch_in(dec, layer, MLP, acts->mid, pool) : (spi_mat){0};
    const spi_mat dn = branch_in_grad(dec, layer, MLP, dh, pool);
    bool accumulate = dn.data == dh.data;
    if (s[SPI_GATE_UP_W]) product_backward(dec, s[SPI_GATE_UP_W], NULL, acts->gate_up, n, dn, accumulate);
    if (s[SPI_GATE_W]) product_backward(dec, s[SPI_GATE_W], s[SPI_GATE_B], gate, n, dn, accumulate);
    if (s[SPI_UP_W]) product_backward(dec, s[SPI_UP_W], s[SPI_UP_B], up, n, dn, true);
    branch_in_backward(dec, layer, MLP, dh, dn, acts->mid);
}

/* ------------------------------------------------------------------ the layer */

void spi_layer_forward(spi_decoder *dec, int64_t l, const spi_pass *pass, spi_mat h_out, spi_mat h_in,
                       spi_layer_acts *acts, const spi_kv *kv, spi_pool *pool) {
    const spi_pool_mark mark = spi_pool_save(pool);
    attention_forward(dec, l, pass, h_in, acts, kv, pool);
    spi_pool_restore(pool, mark);
    mlp_forward(dec, l, pass, h_out, acts, pool);
    spi_pool_restore(pool, mark);
}

void spi_layer_backward(spi_decoder *dec, int64_t l, const spi_pass *pass, spi_mat dh, spi_mat h_in,
                        spi_layer_acts *acts, bool need_dx, spi_pool *pool) {
    const spi_pool_mark mark = spi_pool_save(pool);
    mlp_backward(dec, l, dh, acts, pool);
    spi_pool_restore(pool, mark);
    attention_backward(dec, l, pass, dh, h_in, acts, need_dx, pool);
    spi_pool_restore(pool, mark);
}
