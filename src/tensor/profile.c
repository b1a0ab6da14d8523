#include "tensor/profile.h"

#include <time.h>

const char *spi_profile_name(spi_profile_kind kind) {
    static const char *const names[SPI_PROFILE_KINDS] = {
        "linear",       "linear_backward", "attention", "attention_backward", "norm",      "mlp",
        "queries_keys", "shadow",          "head",      "embedding",          "optimizer", "copy"};
    return names[kind];
}

/* The operations of a device that is timed find its own table here. */
static const spi_ops *inner(const spi_device *dev) {
    return dev->profile->inner;
}

static double now(spi_device *dev) {
    struct timespec time;
    inner(dev)->sync(dev); /* queued work belongs to the operation that queued it */
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void add_time(spi_device *dev, spi_profile_kind kind, double since) {
    dev->profile->seconds[kind] += now(dev) - since;
}

static void timed_convert(spi_device *dev, spi_mat to, spi_mat from) {
    const double since = now(dev);
    inner(dev)->convert(dev, to, from);
    add_time(dev, SPI_PROFILE_COPY, since);
}

static void timed_copy(spi_device *dev, void *to, const void *from, size_t bytes) {
    const double since = now(dev);
    inner(dev)->copy(dev, to, from, bytes);
    add_time(dev, SPI_PROFILE_COPY, since);
}

static void timed_zero(spi_device *dev, void *data, size_t bytes) {
    const double since = now(dev);
    inner(dev)->zero(dev, data, bytes);
    add_time(dev, SPI_PROFILE_COPY, since);
}

static void timed_add(spi_device *dev, spi_mat y, spi_mat x, float a) {
    const double since = now(dev);
    inner(dev)->add(dev, y, x, a);
    add_time(dev, SPI_PROFILE_COPY, since);
}

static void timed_gather_rows(spi_device *dev, spi_mat y, spi_mat x, const int32_t *index) {
    const double since = now(dev);
    inner(dev)->gather_rows(dev, y, x, index);
    add_time(dev, SPI_PROFILE_COPY, since);
}

static void timed_scatter_rows(spi_device *dev, spi_mat y, spi_mat x, const int32_t *index) {
    const double since = now(dev);
    inner(dev)->scatter_rows(dev, y, x, index);
    add_time(dev, SPI_PROFILE_COPY, since);
}

static void timed_linear(spi_device *dev, spi_mat y, spi_mat x, const spi_weight *w, const float *bias,
                         const spi_mat *residual) {
    const double since = now(dev);
    inner(dev)->linear(dev, y, x, w, bias, residual);
    add_time(dev, SPI_PROFILE_LINEAR, since);
}

static void timed_linear_dx(spi_device *dev, spi_mat dx, spi_mat dy, const spi_weight *w, bool accumulate) {
    const double since = now(dev);
    inner(dev)->linear_dx(dev, dx, dy, w, accumulate);
    add_time(dev, SPI_PROFILE_LINEAR_BACKWARD, since);
}

static void timed_linear_dw(spi_device *dev, float *dw, float *dbias, spi_mat dy, spi_mat x, bool transposed) {
    const double since = now(dev);
    inner(dev)->linear_dw(dev, dw, dbias, dy, x, transposed);
    add_time(dev, SPI_PROFILE_LINEAR_BACKWARD, since);
}

/* What is made of other operations of the table leaves their time to them. */
static double all_time(const spi_device *dev) {
    double sum = 0;
    for (int i = 0; i < SPI_PROFILE_KINDS; i++) sum += dev->profile->seconds[i];
    return sum;
}

static void add_rest(spi_device *dev, spi_profile_kind kind, double since, double before) {
    const double parts = all_time(dev) - before;
    dev->profile->seconds[kind] += now(dev) - since - parts;
}

static void timed_project(spi_device *dev, const spi_projection *list, int count, spi_mat x,
                          const spi_norm *norm, spi_mat room) {
    const double since = now(dev), before = all_time(dev);
    inner(dev)->project(dev, list, count, x, norm, room);
    add_rest(dev, SPI_PROFILE_LINEAR, since, before);
}

static void timed_project_gated(spi_device *dev, spi_mat y, const spi_projection *list, int count, spi_mat x,
                                const spi_norm *norm, spi_mat room, spi_activation act, bool keep) {
    const double since = now(dev), before = all_time(dev);
    inner(dev)->project_gated(dev, y, list, count, x, norm, room, act, keep);
    add_rest(dev, SPI_PROFILE_LINEAR, since, before);
}

static void timed_quantize(spi_device *dev, float *scale, int8_t *q, const spi_weight *w) {
    const double since = now(dev);
    inner(dev)->quantize(dev, scale, q, w);
    add_time(dev, SPI_PROFILE_COPY, since);
}

static void timed_embedding(spi_device *dev, spi_mat y, const spi_weight *table, const int32_t *ids,
                            float scale, const spi_mat *position_table, const int32_t *positions) {
    const double since = now(dev);
    inner(dev)->embedding(dev, y, table, ids, scale, position_table, positions);
    add_time(dev, SPI_PROFILE_EMBEDDING, since);
}

static void timed_embedding_backward(spi_device *dev, float *dtable, spi_mat dy, const int32_t *ids,
                                     float scale) {
    const double since = now(dev);
    inner(dev)->embedding_backward(dev, dtable, dy, ids, scale);
    add_time(dev, SPI_PROFILE_EMBEDDING, since);
}

static void timed_norm(spi_device *dev, spi_mat y, spi_mat x, const spi_norm *norm) {
    const double since = now(dev);
    inner(dev)->norm(dev, y, x, norm);
    add_time(dev, SPI_PROFILE_NORM, since);
}

static void timed_norm_backward(spi_device *dev, spi_mat dx, spi_mat dy, spi_mat x, const spi_norm *norm,
                                float *dweight, float *dbias, bool accumulate) {
    const double since = now(dev);
    inner(dev)->norm_backward(dev, dx, dy, x, norm, dweight, dbias, accumulate);
    add_time(dev, SPI_PROFILE_NORM, since);
}

static void timed_qk(spi_device *dev, spi_mat y, spi_mat x, const spi_qk *qk) {
    const double since = now(dev);
    inner(dev)->qk(dev, y, x, qk);
    add_time(dev, SPI_PROFILE_QK, since);
}

static void timed_qk_backward(spi_device *dev, spi_mat dx, spi_mat dy, spi_mat x, const spi_qk *qk,
                              float *dq_weight, float *dk_weight) {
    const double since = now(dev);
    inner(dev)->qk_backward(dev, dx, dy, x, qk, dq_weight, dk_weight);
    add_time(dev, SPI_PROFILE_QK, since);
}

static void timed_attention(spi_device *dev, spi_mat o, float *lse, spi_mat q, spi_mat k, spi_mat v,
                            const spi_seqs *seqs, const spi_attn *attn) {
    const double since = now(dev);
    inner(dev)->attention(dev, o, lse, q, k, v, seqs, attn);
    add_time(dev, SPI_PROFILE_ATTENTION, since);
}

static void timed_attention_backward(spi_device *dev, spi_mat dq, spi_mat dk, spi_mat dv, spi_mat d_o,
                                     spi_mat o, const float *lse, spi_mat q, spi_mat k, spi_mat v,
                                     const spi_seqs *seqs, const spi_attn *attn) {
    const double since = now(dev);
    inner(dev)->attention_backward(dev, dq, dk, dv, d_o, o, lse, q, k, v, seqs, attn);
    add_time(dev, SPI_PROFILE_ATTENTION_BACKWARD, since);
}

static void timed_attention_cached(spi_device *dev, spi_mat o, spi_mat q, spi_mat k, spi_mat v,
                                   const spi_kv *kv, const spi_cached_seqs *seqs, const spi_attn *attn) {
    const double since = now(dev);
    inner(dev)->attention_cached(dev, o, q, k, v, kv, seqs, attn);
    add_time(dev, SPI_PROFILE_ATTENTION, since);
}

static void timed_gated(spi_device *dev, spi_mat y, spi_mat gate, spi_mat up, spi_activation act) {
    const double since = now(dev);
    inner(dev)->gated(dev, y, gate, up, act);
    add_time(dev, SPI_PROFILE_MLP, since);
}

static void timed_gated_backward(spi_device *dev, spi_mat dgate, spi_mat dup, spi_mat dy, spi_mat gate,
                                 spi_mat up, spi_activation act) {
    const double since = now(dev);
    inner(dev)->gated_backward(dev, dgate, dup, dy, gate, up, act);
    add_time(dev, SPI_PROFILE_MLP, since);
}

static void timed_inject(spi_device *dev, spi_mat h_out, float *p, spi_mat h, spi_mat s,
                         const spi_inject *inject) {
    const double since = now(dev);
    inner(dev)->inject(dev, h_out, p, h, s, inject);
    add_time(dev, SPI_PROFILE_SHADOW, since);
}

static void timed_inject_backward(spi_device *dev, spi_mat dh, spi_mat ds, float *ddown, float *dup,
                                  spi_mat h_out, spi_mat s, const float *p, const spi_inject *inject) {
    const double since = now(dev);
    inner(dev)->inject_backward(dev, dh, ds, ddown, dup, h_out, s, p, inject);
    add_time(dev, SPI_PROFILE_SHADOW, since);
}

static void timed_update(spi_device *dev, spi_mat s_out, float *z, spi_mat h, spi_mat s,
                         const spi_update *update) {
    const double since = now(dev);
    inner(dev)->update(dev, s_out, z, h, s, update);
    add_time(dev, SPI_PROFILE_SHADOW, since);
}

static void timed_update_backward(spi_device *dev, spi_mat dh, spi_mat ds, const spi_update_grads *grads,
                                  spi_mat h, spi_mat s, const float *z, const spi_update *update) {
    const double since = now(dev);
    inner(dev)->update_backward(dev, dh, ds, grads, h, s, z, update);
    add_time(dev, SPI_PROFILE_SHADOW, since);
}

static void timed_softcap(spi_device *dev, spi_mat y, float cap) {
    const double since = now(dev);
    inner(dev)->softcap(dev, y, cap);
    add_time(dev, SPI_PROFILE_HEAD, since);
}

static void timed_head_loss(spi_device *dev, const spi_head_loss *loss) {
    const double since = now(dev);
    inner(dev)->head_loss(dev, loss);
    add_time(dev, SPI_PROFILE_HEAD, since);
}

static void timed_distill_loss(spi_device *dev, const spi_distill_loss *loss) {
    const double since = now(dev);
    inner(dev)->distill_loss(dev, loss);
    add_time(dev, SPI_PROFILE_HEAD, since);
}

static void timed_sum_squares(spi_device *dev, double *acc, const spi_span *spans, size_t count) {
    const double since = now(dev);
    inner(dev)->sum_squares(dev, acc, spans, count);
    add_time(dev, SPI_PROFILE_OPTIMIZER, since);
}

static void timed_adamw(spi_device *dev, const spi_adamw_item *items, size_t count, const spi_adamw *adamw) {
    const double since = now(dev);
    inner(dev)->adamw(dev, items, count, adamw);
    add_time(dev, SPI_PROFILE_OPTIMIZER, since);
}

void spi_profile_start(spi_device *dev, spi_profile *profile) {
    *profile = (spi_profile){.inner = dev->op, .timed = *dev->op};
    spi_ops *op = &profile->timed;
    op->convert = timed_convert;
    op->copy = timed_copy;
    op->zero = timed_zero;
    op->add = timed_add;
    op->gather_rows = timed_gather_rows;
    op->scatter_rows = timed_scatter_rows;
    op->linear = timed_linear;
    op->linear_dx = timed_linear_dx;
    op->linear_dw = timed_linear_dw;
    op->project = timed_project;
    op->project_gated = timed_project_gated;
    op->quantize = timed_quantize;
    op->embedding = timed_embedding;
    op->embedding_backward = timed_embedding_backward;
    op->norm = timed_norm;
    op->norm_backward = timed_norm_backward;
    op->qk = timed_qk;
    op->qk_backward = timed_qk_backward;
    op->attention = timed_attention;
    op->attention_backward = timed_attention_backward;
    op->attention_cached = timed_attention_cached;
    op->gated = timed_gated;
    op->gated_backward = timed_gated_backward;
    op->inject = timed_inject;
    op->inject_backward = timed_inject_backward;
    op->update = timed_update;
    op->update_backward = timed_update_backward;
    op->softcap = timed_softcap;
    op->head_loss = timed_head_loss;
    op->distill_loss = timed_distill_loss;
    op->sum_squares = timed_sum_squares;
    op->adamw = timed_adamw;
    dev->profile = profile;
    dev->op = op;
}

void spi_profile_stop(spi_device *dev) {
    if (!dev->profile) return;
    dev->op = dev->profile->inner;
    dev->profile = NULL;
}
