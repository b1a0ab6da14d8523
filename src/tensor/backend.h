/*
 * The backend interface: the operations that the model is made of, as a table that each device fills.
 *
 * Conventions
 *   - Matrices are row-major [T, n] with a row stride; T tokens, d hidden size, V vocabulary.
 *   - Activations and weight matrices are F32 or BF16, the same within one call unless said otherwise.
 *     A weight that operations only read (linear, linear_dx, embedding, the heads of losses) may be I8 with
 *     scales, whatever the activations are: products are those with scale[n] * m[n, k] in f32 where x has few
 *     rows, and with the same rounded to the activations' dtype where it has many. Activations are never
 *     quantised.
 *     Vectors (norm weights, biases), all parameter gradients, optimizer state and saved statistics are f32.
 *     Sums are f32 or better.
 *   - "+=" in a comment means that the call adds to what is there; otherwise it overwrites. Gradients of
 *     parameters always add, and a NULL gradient pointer means that it is not wanted.
 *   - Outputs alias inputs only where the comment allows it.
 *   - Operations return nothing: the first failure sticks to the device (spi_device_status) with its message
 *     in the context, and later operations do nothing. Callers check once per step.
 *   - While a device plans (tensor/plan.h) operations compute nothing and follow no pointer into its memory:
 * they only tell the plan what working memory they would take.
 *   - On a GPU calls are queued; `download` and `sync` wait.
 *   - The same inputs give the same bits whatever the machine is doing, for a fixed number of threads.
 */
#ifndef SPI_TENSOR_BACKEND_H
#define SPI_TENSOR_BACKEND_H

#include "tensor/tensor.h"

typedef struct spi_device spi_device;

typedef enum spi_norm_kind { SPI_NORM_RMS, SPI_NORM_LAYER } spi_norm_kind;

/*
 * RMS:   y = x / sqrt(mean(x^2) + eps) * (offset + weight)                 (LlamaRMSNorm; offset 1:
 * GemmaRMSNorm) LAYER: y = (x - mean) / sqrt(var + eps) * (offset + weight) + bias       (torch.nn.LayerNorm)
 * over each of `groups` equal segments of a row: groups = 1 for hidden states, the number of heads for
 * Qwen3's q_norm and k_norm. weight (and bias or NULL) have cols / groups elements.
 */
typedef struct spi_norm {
    spi_norm_kind kind;
    float eps, offset;
    int64_t groups;
    const float *weight, *bias;
} spi_norm;

typedef enum spi_activation { SPI_ACT_SILU, SPI_ACT_GELU_TANH, SPI_ACT_GELU_ERF, SPI_ACT_RELU } spi_activation;

/* One of some products that read the same x: y = x W^T + bias; bias f32 or NULL. */
typedef struct spi_projection {
    spi_mat y;
    const spi_weight *w;
    const float *bias;
} spi_projection;

/* Causal attention of grouped heads: query head j reads key/value head j / (heads / kv_heads). */
typedef struct spi_attn {
    int32_t heads, kv_heads, head_dim;
    float scale;
    int32_t window; /* 0: all; else a query at i sees keys in (i - window, i] */
    float softcap;  /* 0: none; else scores = softcap * tanh(scores / softcap) before the mask */
} spi_attn;

/*
 * What queries and keys go through between their projection and attention, in matrices
 * [T, (heads + kv_heads) head_dim] whose first `heads` heads are queries: a norm of the queries and one of the
 * keys, of each head (groups: the heads) or of all of them (groups = 1); and the rotation of the first
 * rotary_dim elements of each head, halves paired (rotate_half). norm_last: the rotation comes before the norm.
 * Between the two, numbers are rounded to the matrices' dtype.
 */
typedef struct spi_qk {
    int32_t heads, kv_heads, head_dim;
    int32_t rotary_dim;       /* 0: no rotation */
    const float *cos, *sin;   /* [max_position, rotary_dim / 2], attention_scaling included */
    const int32_t *positions; /* [T], device */
    bool norms, norm_last;
    spi_norm q_norm, k_norm;
} spi_qk;

/*
 * One layer's keys and values of `slots` sequences of up to `capacity` tokens. The bytes' order is the
 * backend's own affair; k and v each take slots * capacity * kv_heads * head_dim elements.
 */
typedef struct spi_kv {
    void *k, *v;
    sp_dtype dtype;
    int64_t slots, capacity;
} spi_kv;

/* New rows of some sequences that have a cache: rows [start[i], start[i+1]) follow past[i] tokens of slot[i].
 */
typedef struct spi_cached_seqs {
    int32_t count;
    int32_t max_new, max_total;         /* largest new length and past + new */
    const int32_t *start, *slot, *past; /* device */
    /* The same on the host; host_past is NULL in a step that is recorded (spi_graph_ops), where every sequence
     * has one new row, `past` moves on from step to step, and max_total is the cache's capacity. */
    const int32_t *host_start, *host_slot, *host_past;
} spi_cached_seqs;

/*
 * Inverted dropout of rate p on an f32 matrix: element (t, j) of n columns is kept, times 1 / (1 - p), iff
 * spi_uniform(seed, stream, t * n + j) >= p. p = 0: nothing is dropped.
 */
typedef struct spi_dropout {
    float p;
    uint64_t seed, stream;
} spi_dropout;

/*
 * Injection: delta = h - s; h' = h + alpha p U, with D = down [d, k], U = up [k, d], both f32, and
 *   p = dropout(delta D)      shadow_peft's ShadowInjectionModel; the dropout is over the [T, k] matrix
 *   p = dropout(delta) D      PEFT's ShadowLayer.shadow_inject (drop_delta); over the [T, d] matrix
 */
typedef struct spi_inject {
    int64_t k;
    float alpha;
    const float *down, *up;
    spi_dropout dropout;
    bool drop_delta;
} spi_inject;

/*
 * Update: u = LayerNorm(h), or h itself where norm_weight is NULL; t = W3 dropout(act(W0 u + b0)) + b3;
 * q = sigmoid(V2 act(V0 u + c0) + c2); s' = s + q (t - s). W0 = w0 [g, d], W3 = w3 [d, g], V0 = v0 [g, d],
 * V2 = v2 [d, g], b0, c0 [g], b3, c2 [d] (all four or none), all f32. The dropout is over the [T, g] matrix
 * act(W0 u + b0).
 *   shadow_peft's ShadowUpdateModel: the norm, no biases, SPI_ACT_SILU
 *   PEFT's ShadowLayer.shadow_update: no norm, biases, SPI_ACT_GELU_ERF, no dropout
 */
typedef struct spi_update {
    int64_t g;
    float eps;
    spi_activation act;                   /* SPI_ACT_SILU or SPI_ACT_GELU_ERF */
    const float *norm_weight, *norm_bias; /* [d], or both NULL */
    const float *w0, *w3, *v0, *v2;
    const float *b0, *b3, *c0, *c2; /* NULL: no biases */
    spi_dropout dropout;
} spi_update;

/* All that the update has, or none at all. */
typedef struct spi_update_grads {
    float *norm_weight, *norm_bias, *w0, *w3, *v0, *v2, *b0, *b3, *c0, *c2;
} spi_update_grads;

/*
 * A head and its cross-entropy at N rows: logits = x W^T + bias (then softcap as in spi_attn), never held
 * whole: the backend goes through chunks of rows.
 *   acc[0] += sum of cross-entropy; acc[1] += rows whose argmax is the label   (device doubles)
 *   dx = grad_scale * d(sum of cross-entropy)/dx;  dw, dbias += likewise
 * Labels are in [0, V). dx.data NULL: loss only. W is [V, d].
 */
typedef struct spi_head_loss {
    spi_mat x, dx; /* [N, d] */
    const spi_weight *weight;
    const float *bias;     /* [V] or NULL */
    const int32_t *labels; /* [N], device */
    float softcap;
    float grad_scale;
    float *dw, *dbias;
    double *acc;
} spi_head_loss;

/*
 * How far a student's logits are from a teacher's at N rows: s = x W_s^T; t = x_t W_t^T, soft-capped as in
 * spi_attn; neither held whole, as in spi_head_loss. With p = softmax(t / T), q = softmax(s / T) a row's loss
 * is kl T^2 sum_v p_v log(p_v / q_v) + mse / V sum_v (s_v - t_v)^2 acc[0] += sum of losses; acc[1] += rows
 * whose argmaxes are the same   (device doubles) dx = grad_scale * d(sum of losses)/dx; neither teacher nor
 * weights get a gradient dx.data NULL: loss only. W_s is [V, d_s], W_t [V, d_t].
 */
typedef struct spi_distill_loss {
    spi_mat x, dx;                      /* [N, d_s] */
    spi_mat teacher_x;                  /* [N, d_t] */
    const spi_weight *weight, *teacher; /* W_s, W_t */
    float teacher_softcap;
    float kl, mse, temperature;
    float grad_scale;
    double *acc;
} spi_distill_loss;

/* Numbers beside each other on the device. */
typedef struct spi_span {
    const float *data;
    int64_t n;
} spi_span;

/* One tensor of the optimizer; all arrays f32 of n elements on the device. */
typedef struct spi_adamw_item {
    int64_t n;
    float *param, *grad, *m, *v;
    void *copy; /* BF16 working copy to refresh, or NULL */
    float lr, weight_decay;
} spi_adamw_item;

/*
 * torch.optim.AdamW at step t >= 1, gradients first multiplied by grad_scale:
 *   p *= 1 - lr wd; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2;
 *   p -= lr / (1-b1^t) * m / (sqrt(v) / sqrt(1-b2^t) + eps)
 */
typedef struct spi_adamw {
    double beta1, beta2, eps;
    int64_t step;
    float grad_scale;
} spi_adamw;

/*
 * The next token of N sequences from their logits, chosen where the logits are, by the rules and with the
 * random numbers of spi_choose (generate/sampling.h); and what their next step finds moved on by a token.
 * Arrays are the device's. Sums need not have the CPU's last bits.
 */
typedef struct spi_choice {
    bool draw; /* else the largest logit, of equals the smallest id */
    double temperature, top_p, min_p;
    int32_t top_k; /* 0: off */
    uint64_t seed;
    const int32_t *sequence; /* [N] the numbers that the draws of each come from */
    const int32_t *first;    /* [N] its draw number past - first is due */
    double penalty;          /* RepetitionPenaltyLogitsProcessor's, on ids that are `seen` */
    uint8_t *seen;           /* [N, V] 1: the sequence has this id; gains the chosen one. NULL: no penalty */
    int32_t *chosen;         /* [N] out: the id, or -1 where a logit is NaN or +inf, or all are -inf */
    int32_t *ids;            /* [N] out: what the next step reads: the id, or 0 for -1 */
    int32_t *past;           /* [N] += 1, but never beyond `last` */
    int32_t last;
} spi_choice;

/*
 * Steps that are recorded once and run many times, each by one call and without the host in between. Between
 * `begin` and `end` operations are recorded instead of run, with the arguments that they are given: they must
 * have run before in the same way, so that nothing is left to be allocated, and none may touch the host's
 * memory.
 */
typedef struct spi_graph spi_graph;
typedef struct spi_graph_ops {
    void (*begin)(spi_device *dev);
    spi_graph *(*end)(spi_device *dev); /* NULL and a sticky error on failure */
    void (*launch)(spi_device *dev, spi_graph *graph);
    void (*free)(spi_device *dev, spi_graph *graph);
    /* logits [N, V] f32, used up. */
    void (*choose)(spi_device *dev, spi_mat logits, const spi_choice *choice);
    /* Queues a copy of a few bytes into letter box 0 or 1; and the copy of what was last sent there to the
     * host, which waits for that alone and not for what was queued after it. */
    void (*send)(spi_device *dev, int box, const void *from, size_t bytes);
    void (*receive)(spi_device *dev, int box, void *to_host, size_t bytes);
} spi_graph_ops;

typedef struct spi_ops {
    const char *name;
    bool host_memory; /* tensors live in host memory: a mapped file is used in place */
    size_t granule;   /* pieces of memory from half of it on take a multiple of it; 0: what they ask for */

    void (*close)(spi_device *dev); /* frees the device; everything taken from it has been given back */
    /* Bytes of the device's memory, and how many of them can be had; both 0 where nobody can tell. */
    void (*memory)(spi_device *dev, size_t *free, size_t *total);

    /* ---- memory */
    void *(*alloc)(spi_device *dev, size_t bytes); /* 64-byte aligned; NULL and a sticky error on failure */
    void (*release)(spi_device *dev, void *data);
    void (*upload)(spi_device *dev, void *to, const void *from_host, size_t bytes);
    void (*download)(spi_device *dev, void *to_host, const void *from, size_t bytes);
    void (*copy)(spi_device *dev, void *to, const void *from, size_t bytes);
    void (*zero)(spi_device *dev, void *data, size_t bytes);
    void (*sync)(spi_device *dev);
    /* to = from, converting between F32, BF16 and F16; same rows and cols. */
    void (*convert)(spi_device *dev, spi_mat to, spi_mat from);

    /* ---- products. W is [N, K] (or its transpose), x [M, K], y [M, N]. */
    /* y = x W^T + bias + residual. bias [N] f32 or NULL; residual [M, N] or NULL, may be y itself.
     * y may be F32 while x and W are BF16. */
    void (*linear)(spi_device *dev, spi_mat y, spi_mat x, const spi_weight *w, const float *bias,
                   const spi_mat *residual);
    /*
     * y_i = n W_i^T + bias_i for `count` projections, at most 3, of n = norm(x), or of x itself where norm is
     * NULL; groups = 1. n is rounded to x's dtype, as `norm` leaves it. room [M, K] of x's dtype is memory that
     * the operation may use for n; no data where norm is NULL. No y may be x or room.
     */
    void (*project)(spi_device *dev, const spi_projection *list, int count, spi_mat x, const spi_norm *norm,
                    spi_mat room);
    /*
     * y [M, f] = act(gate) * up of products made as by `project`: two of f columns, gate and up; or one of 2 f,
     * gate before up; or one of f, the gate alone, and y = act(gate). Products are rounded to their dtype,
     * which is x's and y's, before anything is made of them. With `keep` they are found in the projections' y
     * afterwards, else there may be anything. y is none of them.
     */
    void (*project_gated)(spi_device *dev, spi_mat y, const spi_projection *list, int count, spi_mat x,
                          const spi_norm *norm, spi_mat room, spi_activation act, bool keep);
    /* dx = dy W, or dx += dy W. */
    void (*linear_dx)(spi_device *dev, spi_mat dx, spi_mat dy, const spi_weight *w, bool accumulate);
    /* dW += dy^T x (in W's own layout, [N, K] or, `transposed`, [K, N]); dbias[N] += column sums of dy. */
    void (*linear_dw)(spi_device *dev, float *dw, float *dbias, spi_mat dy, spi_mat x, bool transposed);

    /* Symmetric int8 of each output's row: scale[n] = max_k |W[n, k]| / 127 (1 where all are 0),
     * q[n, k] = W[n, k] / scale[n] to nearest, ties to even. W [N, K] is F32, BF16 or F16 at any address, or
     * transposed; q [N, K] never is. NaN gives anything. */
    void (*quantize)(spi_device *dev, float *scale, int8_t *q, const spi_weight *w);

    /* ---- rows */
    /* y[t] = scale * table[ids[t]] + position_table[positions[t]] (NULL: none). table [V, d], not transposed.
     */
    void (*embedding)(spi_device *dev, spi_mat y, const spi_weight *table, const int32_t *ids, float scale,
                      const spi_mat *position_table, const int32_t *positions);
    /* dtable[ids[t]] += scale * dy[t]. */
    void (*embedding_backward)(spi_device *dev, float *dtable, spi_mat dy, const int32_t *ids, float scale);
    /* y[i] = x[index[i]] for y.rows rows. */
    void (*gather_rows)(spi_device *dev, spi_mat y, spi_mat x, const int32_t *index);
    /* y[index[i]] = x[i] for x.rows rows; no index twice. Other rows of y stay. */
    void (*scatter_rows)(spi_device *dev, spi_mat y, spi_mat x, const int32_t *index);
    /* y += a x */
    void (*add)(spi_device *dev, spi_mat y, spi_mat x, float a);

    /* ---- norms: x, y, dx, dy [T, cols]. y may be x; dx may be dy. */
    void (*norm)(spi_device *dev, spi_mat y, spi_mat x, const spi_norm *norm);
    /* dx (+)= ..., dweight, dbias += ...; statistics are recomputed from x. */
    void (*norm_backward)(spi_device *dev, spi_mat dx, spi_mat dy, spi_mat x, const spi_norm *norm,
                          float *dweight, float *dbias, bool accumulate);

    /* ---- queries and keys: x, y, dx, dy [T, (heads + kv_heads) head_dim] as in spi_qk. */
    /* y from what was projected, x; y may be x. With norm_last, x itself is rotated, which the backward pass
     * reads. */
    void (*qk)(spi_device *dev, spi_mat y, spi_mat x, const spi_qk *qk);
    /* dx from dy and from x as `qk` left it (read by norms only); dx may be dy. dq_weight, dk_weight += the
     * gradients of the norms' weights; both or neither. */
    void (*qk_backward)(spi_device *dev, spi_mat dx, spi_mat dy, spi_mat x, const spi_qk *qk, float *dq_weight,
                        float *dk_weight);

    /* ---- attention. q, o [T, heads * head_dim]; k, v [T, kv_heads * head_dim]; lse [heads, T] or NULL:
     * log-sum-exp of each row of scores, kept for the backward pass. */
    void (*attention)(spi_device *dev, spi_mat o, float *lse, spi_mat q, spi_mat k, spi_mat v,
                      const spi_seqs *seqs, const spi_attn *attn);
    void (*attention_backward)(spi_device *dev, spi_mat dq, spi_mat dk, spi_mat dv, spi_mat d_o, spi_mat o,
                               const float *lse, spi_mat q, spi_mat k, spi_mat v, const spi_seqs *seqs,
                               const spi_attn *attn);
    /* Stores the new rows' k and v in the cache, then attends over past and new. q, k, v, o hold new rows. */
    void (*attention_cached)(spi_device *dev, spi_mat o, spi_mat q, spi_mat k, spi_mat v, const spi_kv *kv,
                             const spi_cached_seqs *seqs, const spi_attn *attn);

    /* ---- MLP: y = act(gate) * up, or act(gate) where up.data is NULL. [T, f]. y may be gate. */
    void (*gated)(spi_device *dev, spi_mat y, spi_mat gate, spi_mat up, spi_activation act);
    /* dgate and dup from dy; dgate may be gate, dup may be up (or both dy). */
    void (*gated_backward)(spi_device *dev, spi_mat dgate, spi_mat dup, spi_mat dy, spi_mat gate, spi_mat up,
                           spi_activation act);

    /* ---- shadow. h, s [T, d]. */
    /* h_out = h + alpha p U; h_out may be h. p [T, k] f32 is kept for the backward pass. */
    void (*inject)(spi_device *dev, spi_mat h_out, float *p, spi_mat h, spi_mat s, const spi_inject *inject);
    /*
     * In: dh = dL/dh_out. Out: dh = dL/dh, ds += dL/ds, ddown, dup +=. Takes h_out, not h: delta is recovered
     * as h_out - alpha p U - s, so that nobody has to keep h.
     */
    void (*inject_backward)(spi_device *dev, spi_mat dh, spi_mat ds, float *ddown, float *dup, spi_mat h_out,
                            spi_mat s, const float *p, const spi_inject *inject);
    /* s_out = s + q (t - s); s_out may be s. z [T, 2g] f32 keeps W0 u + b0 and V0 u + c0; NULL when not wanted.
     */
    void (*update)(spi_device *dev, spi_mat s_out, float *z, spi_mat h, spi_mat s, const spi_update *update);
    /* In: ds = dL/ds_out. Out: ds = dL/ds, dh += dL/dh, grads +=. */
    void (*update_backward)(spi_device *dev, spi_mat dh, spi_mat ds, const spi_update_grads *grads, spi_mat h,
                            spi_mat s, const float *z, const spi_update *update);

    /* ---- logits: y = cap * tanh(y / cap), f32 in place */
    void (*softcap)(spi_device *dev, spi_mat y, float cap);

    /* ---- loss and optimizer */
    void (*head_loss)(spi_device *dev, const spi_head_loss *loss);
    void (*distill_loss)(spi_device *dev, const spi_distill_loss *loss);
    /* acc[0] += sum of squares of all numbers of `count` spans, in an order that does not depend on timing. */
    void (*sum_squares)(spi_device *dev, double *acc, const spi_span *spans, size_t count);
    void (*adamw)(spi_device *dev, const spi_adamw_item *items, size_t count, const spi_adamw *adamw);

    const spi_graph_ops *graph; /* NULL: a device that gains nothing by recording */
} spi_ops;

struct spi_device {
    const spi_ops *op;
    sp_context *ctx;
    sp_status status;            /* the first failure, SP_OK until then */
    struct spi_profile *profile; /* where its operations are being timed to, or NULL */
    struct spi_plan *plan;       /* where its memory is being planned, or NULL */
    char label[64];              /* what it is to its owner: "CPU", or a card's name */
};

/* Whether an operation that needs no working memory has nothing to do: after a failure, or while planning. */
static inline bool spi_idle(const spi_device *dev) {
    return dev->status != SP_OK || dev->plan;
}

/*
 * "cpu", "cuda" (the first GPU), "cuda:N"; "auto" or NULL: the first GPU if there is one that can be used, else
 * the CPU.
 */
sp_status spi_device_open(sp_context *ctx, const char *name, spi_device **out);
void spi_device_close(spi_device *dev);
sp_status spi_device_status(const spi_device *dev);

/*
 * Memory of a step: taken from the device in blocks, handed out in order, given back all at once by going
 * back to a mark. After the first step a step of the same size allocates nothing; where the size is known
 * before, one block is reserved.
 */
typedef struct spi_pool spi_pool;
typedef struct spi_pool_mark {
    size_t block, used;
} spi_pool_mark;

spi_pool *spi_pool_new(spi_device *dev);
void spi_pool_free(spi_pool *pool);
/* 64-byte aligned, not cleared. NULL after a failure, which sticks to the device. */
void *spi_pool_alloc(spi_pool *pool, size_t bytes);
spi_mat spi_pool_mat(spi_pool *pool, sp_dtype dtype, int64_t rows, int64_t cols);
spi_pool_mark spi_pool_save(const spi_pool *pool);
void spi_pool_restore(spi_pool *pool, spi_pool_mark mark);
/* Takes one block of as many bytes, unless it holds that much already. Of an empty pool. */
sp_status spi_pool_reserve(spi_pool *pool, size_t bytes);
/* Bytes held from the device, and the most that were in use at once. */
size_t spi_pool_held(const spi_pool *pool);
size_t spi_pool_peak(const spi_pool *pool);

#endif
