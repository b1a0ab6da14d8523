/* One decoder layer, forward beside backward; transformers' LlamaDecoderLayer and its relatives. */
#include "model/decoder.h"

#include <math.h>

static spi_norm rms(const spi_decoder *dec, const spi_param *weight, int64_t groups) {
    return (spi_norm){.kind = SPI_NORM_RMS, .eps = dec->arch.norm_eps, .groups = groups, .weight = weight->f32};
}

static const float *bias_of(const spi_param *p) {
    return p ? p->f32 : NULL;
}

static float *bias_grad(const spi_param *p) {
    return p ? p->grad : NULL;
}

typedef struct widths {
    int64_t q, kv, f; /* columns of queries, of keys or values, of the MLP */
} widths;

static widths widths_of(const spi_arch *a) {
    return (widths){(int64_t)a->heads * a->head_dim, (int64_t)a->kv_heads * a->head_dim, a->intermediate_size};
}

spi_layer_acts spi_layer_acts_new(const spi_decoder *dec, int64_t tokens, spi_pool *pool) {
    const widths w = widths_of(&dec->arch);
    spi_layer_acts a;
    a.qkv = spi_pool_mat(pool, dec->dtype, tokens, w.q + 2 * w.kv);
    a.qk = dec->arch.qk_norm ? spi_pool_mat(pool, dec->dtype, tokens, w.q + w.kv)
                             : spi_mat_columns(a.qkv, 0, w.q + w.kv);
    a.o = spi_pool_mat(pool, dec->dtype, tokens, w.q);
    a.lse = spi_pool_alloc(pool, (size_t)(tokens * dec->arch.heads) * sizeof(float));
    a.mid = spi_pool_mat(pool, dec->dtype, tokens, dec->arch.hidden_size);
    a.gate_up = spi_pool_mat(pool, dec->dtype, tokens, 2 * w.f);
    return a;
}

static spi_attn attn_of(const spi_decoder *dec, int64_t l) {
    const spi_arch *a = &dec->arch;
    return (spi_attn){.heads = a->heads,
                      .kv_heads = a->kv_heads,
                      .head_dim = a->head_dim,
                      .scale = 1.0f / sqrtf((float)a->head_dim),
                      .window = a->sliding && a->sliding[l] ? a->sliding_window : 0};
}

/* Rotates the query and key columns of `qk`, forwards or back. */
static void rotate(const spi_decoder *dec, const spi_pass *pass, spi_mat qk, bool inverse) {
    const widths w = widths_of(&dec->arch);
    spi_rope rope = {.heads = dec->arch.heads,
                     .head_dim = dec->arch.head_dim,
                     .rotary_dim = dec->arch.head_dim,
                     .cos = dec->cos,
                     .sin = dec->sin,
                     .positions = pass->positions};
    dec->dev->op->rope(dec->dev, spi_mat_columns(qk, 0, w.q), &rope, inverse);
    rope.heads = dec->arch.kv_heads;
    dec->dev->op->rope(dec->dev, spi_mat_columns(qk, w.q, w.kv), &rope, inverse);
}

/* ------------------------------------------------------------------ attention */

/* acts->qkv, acts->qk from the normed input n [T, d]. */
static void project_forward(spi_decoder *dec, const spi_layer *layer, const spi_pass *pass, spi_mat n,
                            spi_layer_acts *acts) {
    const spi_ops *op = dec->dev->op;
    const widths w = widths_of(&dec->arch);
    spi_param *const *s = layer->slot;
    op->linear(dec->dev, spi_mat_columns(acts->qkv, 0, w.q), n, &s[SPI_Q_W]->w, bias_of(s[SPI_Q_B]), NULL);
    op->linear(dec->dev, spi_mat_columns(acts->qkv, w.q, w.kv), n, &s[SPI_K_W]->w, bias_of(s[SPI_K_B]), NULL);
    op->linear(dec->dev, spi_mat_columns(acts->qkv, w.q + w.kv, w.kv), n, &s[SPI_V_W]->w, bias_of(s[SPI_V_B]),
               NULL);
    if (dec->arch.qk_norm) {
        const spi_norm q_norm = rms(dec, s[SPI_QNORM_W], dec->arch.heads);
        const spi_norm k_norm = rms(dec, s[SPI_KNORM_W], dec->arch.kv_heads);
        op->norm(dec->dev, spi_mat_columns(acts->qk, 0, w.q), spi_mat_columns(acts->qkv, 0, w.q), &q_norm);
        op->norm(dec->dev, spi_mat_columns(acts->qk, w.q, w.kv), spi_mat_columns(acts->qkv, w.q, w.kv),
                 &k_norm);
    }
    rotate(dec, pass, acts->qk, false);
}

/* One of the three projections backwards: dn += dy W, and its weight's gradient. */
static void project_one_backward(spi_decoder *dec, const spi_param *weight, const spi_param *bias, spi_mat dy,
                                 spi_mat n, spi_mat dn, bool accumulate) {
    const spi_ops *op = dec->dev->op;
    if (weight->grad) op->linear_dw(dec->dev, weight->grad, bias_grad(bias), dy, n, weight->w.transposed);
    if (dn.data) op->linear_dx(dec->dev, dn, dy, &weight->w, accumulate);
}

/*
 * dn = dL/d(normed input) from d_qkv [T, (H + 2 KV) head_dim], the gradient of the rotated queries and keys and
 * of the values; n is read only where weights train. dn.data NULL: not wanted.
 */
static void project_backward(spi_decoder *dec, const spi_layer *layer, const spi_pass *pass, spi_mat d_qkv,
                             spi_mat n, spi_mat dn, const spi_layer_acts *acts) {
    const spi_ops *op = dec->dev->op;
    const widths w = widths_of(&dec->arch);
    spi_param *const *s = layer->slot;
    const spi_mat dq = spi_mat_columns(d_qkv, 0, w.q), dk = spi_mat_columns(d_qkv, w.q, w.kv);
    const spi_mat dv = spi_mat_columns(d_qkv, w.q + w.kv, w.kv);
    rotate(dec, pass, d_qkv, true);
    if (dec->arch.qk_norm) {
        const spi_norm q_norm = rms(dec, s[SPI_QNORM_W], dec->arch.heads);
        const spi_norm k_norm = rms(dec, s[SPI_KNORM_W], dec->arch.kv_heads);
        op->norm_backward(dec->dev, dq, dq, spi_mat_columns(acts->qkv, 0, w.q), &q_norm, s[SPI_QNORM_W]->grad,
                          NULL, false);
        op->norm_backward(dec->dev, dk, dk, spi_mat_columns(acts->qkv, w.q, w.kv), &k_norm,
                          s[SPI_KNORM_W]->grad, NULL, false);
    }
    project_one_backward(dec, s[SPI_Q_W], s[SPI_Q_B], dq, n, dn, false);
    project_one_backward(dec, s[SPI_K_W], s[SPI_K_B], dk, n, dn, true);
    project_one_backward(dec, s[SPI_V_W], s[SPI_V_B], dv, n, dn, true);
}

/* acts->mid = h + attention(norm1(h)) */
static void attention_forward(spi_decoder *dec, int64_t l, const spi_pass *pass, spi_mat h,
                              spi_layer_acts *acts, const spi_kv *kv, spi_pool *pool) {
    const spi_ops *op = dec->dev->op;
    const spi_layer *layer = &dec->layers[l];
    const widths w = widths_of(&dec->arch);
    const spi_attn attn = attn_of(dec, l);
    const spi_norm norm1 = rms(dec, layer->slot[SPI_NORM1_W], 1);
    const spi_mat n = spi_pool_mat(pool, dec->dtype, pass->tokens, dec->arch.hidden_size);
    op->norm(dec->dev, n, h, &norm1);
    project_forward(dec, layer, pass, n, acts);
    const spi_mat q = spi_mat_columns(acts->qk, 0, w.q), k = spi_mat_columns(acts->qk, w.q, w.kv);
    const spi_mat v = spi_mat_columns(acts->qkv, w.q + w.kv, w.kv);
    if (pass->cached) op->attention_cached(dec->dev, acts->o, q, k, v, kv, pass->cached, &attn);
    else op->attention(dec->dev, acts->o, acts->lse, q, k, v, pass->seqs, &attn);
    op->linear(dec->dev, acts->mid, acts->o, &layer->slot[SPI_O_W]->w, bias_of(layer->slot[SPI_O_B]), &h);
}

/* In: dh = dL/dmid. Out: dh = dL/dh. */
static void attention_backward(spi_decoder *dec, int64_t l, const spi_pass *pass, spi_mat dh, spi_mat h,
                               spi_layer_acts *acts, bool need_dx, spi_pool *pool) {
    const spi_ops *op = dec->dev->op;
    const spi_layer *layer = &dec->layers[l];
    const widths w = widths_of(&dec->arch);
    const spi_attn attn = attn_of(dec, l);
    const spi_norm norm1 = rms(dec, layer->slot[SPI_NORM1_W], 1);
    const bool trains = layer->slot[SPI_Q_W]->grad != NULL;
    const int64_t tokens = pass->tokens, d = dec->arch.hidden_size;

    const spi_mat d_o = spi_pool_mat(pool, dec->dtype, tokens, w.q);
    project_one_backward(dec, layer->slot[SPI_O_W], layer->slot[SPI_O_B], dh, acts->o, d_o, false);

    const spi_mat d_qkv = spi_pool_mat(pool, dec->dtype, tokens, w.q + 2 * w.kv);
    op->attention_backward(dec->dev, spi_mat_columns(d_qkv, 0, w.q), spi_mat_columns(d_qkv, w.q, w.kv),
                           spi_mat_columns(d_qkv, w.q + w.kv, w.kv), d_o, acts->o, acts->lse,
                           spi_mat_columns(acts->qk, 0, w.q), spi_mat_columns(acts->qk, w.q, w.kv),
                           spi_mat_columns(acts->qkv, w.q + w.kv, w.kv), pass->seqs, &attn);

    const spi_mat n = trains ? spi_pool_mat(pool, dec->dtype, tokens, d) : (spi_mat){0};
    if (trains) op->norm(dec->dev, n, h, &norm1);
    /* The norm's own weight needs dn even where nobody needs dx. */
    const spi_mat dn = need_dx || trains ? spi_pool_mat(pool, dec->dtype, tokens, d) : (spi_mat){0};
    project_backward(dec, layer, pass, d_qkv, n, dn, acts);
    if (dn.data) op->norm_backward(dec->dev, dh, dn, h, &norm1, layer->slot[SPI_NORM1_W]->grad, NULL, true);
}

/* ------------------------------------------------------------------ MLP */

/* h_out = mid + down(act(gate(norm2(mid))) * up(norm2(mid))) */
static void mlp_forward(spi_decoder *dec, int64_t l, spi_mat h_out, spi_layer_acts *acts, spi_pool *pool) {
    const spi_ops *op = dec->dev->op;
    spi_param *const *s = dec->layers[l].slot;
    const int64_t tokens = acts->mid.rows, f = dec->arch.intermediate_size;
    const spi_norm norm2 = rms(dec, s[SPI_NORM2_W], 1);
    const spi_mat gate = spi_mat_columns(acts->gate_up, 0, f), up = spi_mat_columns(acts->gate_up, f, f);
    const spi_mat n = spi_pool_mat(pool, dec->dtype, tokens, dec->arch.hidden_size);
    const spi_mat y = spi_pool_mat(pool, dec->dtype, tokens, f);
    op->norm(dec->dev, n, acts->mid, &norm2);
    op->linear(dec->dev, gate, n, &s[SPI_GATE_W]->w, bias_of(s[SPI_GATE_B]), NULL);
    op->linear(dec->dev, up, n, &s[SPI_UP_W]->w, bias_of(s[SPI_UP_B]), NULL);
    op->gated(dec->dev, y, gate, up, dec->arch.activation);
    op->linear(dec->dev, h_out, y, &s[SPI_DOWN_W]->w, bias_of(s[SPI_DOWN_B]), &acts->mid);
}

/* In: dh = dL/dh_out. Out: dh = dL/dmid. */
static void mlp_backward(spi_decoder *dec, int64_t l, spi_mat dh, spi_layer_acts *acts, spi_pool *pool) {
    const spi_ops *op = dec->dev->op;
    spi_param *const *s = dec->layers[l].slot;
    const int64_t tokens = acts->mid.rows, d = dec->arch.hidden_size, f = dec->arch.intermediate_size;
    const spi_norm norm2 = rms(dec, s[SPI_NORM2_W], 1);
    const bool trains = s[SPI_GATE_W]->grad != NULL;
    const spi_mat gate = spi_mat_columns(acts->gate_up, 0, f), up = spi_mat_columns(acts->gate_up, f, f);
    const spi_mat y = spi_pool_mat(pool, dec->dtype, tokens, f);
    if (trains) {
        op->gated(dec->dev, y, gate, up, dec->arch.activation);
        op->linear_dw(dec->dev, s[SPI_DOWN_W]->grad, bias_grad(s[SPI_DOWN_B]), dh, y,
                      s[SPI_DOWN_W]->w.transposed);
    }
    op->linear_dx(dec->dev, y, dh, &s[SPI_DOWN_W]->w, false); /* y now holds dL/dy */
    op->gated_backward(dec->dev, gate, up, y, gate, up, dec->arch.activation);

    const spi_mat n = trains ? spi_pool_mat(pool, dec->dtype, tokens, d) : (spi_mat){0};
    if (trains) op->norm(dec->dev, n, acts->mid, &norm2);
    const spi_mat dn = spi_pool_mat(pool, dec->dtype, tokens, d);
    project_one_backward(dec, s[SPI_GATE_W], s[SPI_GATE_B], gate, n, dn, false);
    project_one_backward(dec, s[SPI_UP_W], s[SPI_UP_B], up, n, dn, true);
    op->norm_backward(dec->dev, dh, dn, acts->mid, &norm2, s[SPI_NORM2_W]->grad, NULL, true);
}

/* ------------------------------------------------------------------ the layer */

void spi_layer_forward(spi_decoder *dec, int64_t l, const spi_pass *pass, spi_mat h_out, spi_mat h_in,
                       spi_layer_acts *acts, const spi_kv *kv, spi_pool *pool) {
    const spi_pool_mark mark = spi_pool_save(pool);
    attention_forward(dec, l, pass, h_in, acts, kv, pool);
    spi_pool_restore(pool, mark);
    mlp_forward(dec, l, h_out, acts, pool);
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
