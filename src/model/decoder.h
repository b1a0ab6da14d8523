/*
 * A decoder: embedding (unless it borrows another's), layers, final norm; the backbone of LlamaForCausalLM and
 * its relatives. Works on packed tokens; layers can be run one at a time, which is how the shadow adapter gets
 * between them. T tokens, d hidden size, e embed size (d, but for OPT-350m), H heads, f intermediate size.
 */
#ifndef SPI_MODEL_DECODER_H
#define SPI_MODEL_DECODER_H

#include "model/arch.h"
#include "model/param.h"

typedef struct spi_layer {
    spi_param *slot[SPI_LAYER_SLOTS]; /* NULL: this family has none */
} spi_layer;

/* Device tables of a rotation, [count, rotary_dim / 2]. */
typedef struct spi_rope_table {
    float *cos, *sin;
    int64_t count, length; /* positions in the tables, longest sequence that they were made for */
} spi_rope_table;

typedef struct spi_decoder {
    spi_device *dev;
    spi_arch arch;
    sp_dtype dtype; /* to compute in: SP_F32 or SP_BF16 */
    spi_params params;
    spi_param *embed;      /* [V, e]; NULL: driven by another's embedding */
    spi_param *idle_embed; /* spi_decoder_spec's, or NULL */
    spi_param *positions, *project_in, *project_out, *final_norm, *final_norm_bias; /* NULL: has none */
    spi_layer *layers;                                                              /* [num_layers] */
    spi_rope_table rope, sliding_rope;
} spi_decoder;

typedef struct spi_decoder_spec {
    const char *prefix; /* of parameter names: "model." or "shadow_model." */
    spi_param_group group;
    sp_dtype dtype;
    bool embed; /* has an embedding of its own */
    /* Without one: still carries the parameter, because its checkpoints do. Nothing reads it, no gradient
     * comes. */
    bool idle_embed;
    bool trainable, embed_trainable;
    bool quantize; /* matrices that products and the embedding read are held in 8 bits, if they do not train */
} spi_decoder_spec;

/* Makes the parameters without values. `arch` is copied. */
sp_status spi_decoder_new(spi_device *dev, const spi_arch *arch, const spi_decoder_spec *spec,
                          spi_decoder **out);
/* Fresh values as PyTorch gives them: matrices N(0, initializer_range), norms at their identity, biases 0. */
sp_status spi_decoder_init(spi_decoder *dec, uint64_t seed);
void spi_decoder_free(spi_decoder *dec);

/*
 * What a checkpoint says in place of the backbone's prefix: nothing where the backbone was saved by itself,
 * another name where it was part of something larger. The prefix under which layer 0 is found.
 */
const char *spi_decoder_stored_prefix(const spi_arch *a, const spi_st_set *set);

/* What one pass over packed tokens needs to know; device arrays. */
typedef struct spi_pass {
    int64_t tokens;                 /* T */
    const int32_t *ids, *positions; /* [T] */
    const spi_seqs *seqs;           /* full passes */
    const spi_cached_seqs *cached;  /* passes over a cache; then seqs is NULL */
} spi_pass;

/*
 * Readies the rotary tables for positions below `max_position`, in a pass whose longest sequence has as many.
 * Learned positions: fails where there are not as many.
 */
sp_status spi_decoder_prepare(spi_decoder *dec, int64_t max_position);

/*
 * h [T, d] = what the decoder's first layer reads: the embedding of pass->ids in `source` (the decoder itself,
 * or the one that lends its embedding), with this decoder's learned positions.
 */
void spi_decoder_embed(spi_decoder *dec, const spi_decoder *source, const spi_pass *pass, spi_mat h,
                       spi_pool *pool);
/* Gradients from dh = dL/dh of all that trains there; whether there is anything of the kind. */
void spi_decoder_embed_backward(spi_decoder *dec, const spi_decoder *source, const spi_pass *pass, spi_mat dh,
                                spi_pool *pool);
bool spi_decoder_embed_trains(const spi_decoder *dec, const spi_decoder *source);

/* What a layer's backward pass needs of its forward pass, beside its input. */
typedef struct spi_layer_acts {
    spi_mat qkv;      /* [T, (H + 2 KV) head_dim] as projected; rotated in place unless qk_norm comes before */
    spi_mat qk;       /* [T, (H + KV) head_dim] normed and rotated; a view of qkv unless qk_norm */
    spi_mat o;        /* [T, H head_dim] */
    float *lse;       /* [H, T] */
    spi_mat attn_out; /* [T, d] what the norm after attention reads; no data where there is none */
    spi_mat mid;      /* [T, d] after attention */
    spi_mat gate_up;  /* [T, 2 f], or [T, f] without a gate */
    spi_mat mlp_out;  /* [T, d] what the norm after the MLP reads; no data where there is none */
} spi_layer_acts;

spi_layer_acts spi_layer_acts_new(const spi_decoder *dec, int64_t tokens, spi_pool *pool);

/*
 * h_out [T, d] = layer l of h_in [T, d]; h_out may be h_in. Fills acts. With pass->cached, attends over `kv`
 * (one layer's cache) and leaves acts unusable for a backward pass. Working memory comes from `pool` and is
 * given back.
 */
void spi_layer_forward(spi_decoder *dec, int64_t l, const spi_pass *pass, spi_mat h_out, spi_mat h_in,
                       spi_layer_acts *acts, const spi_kv *kv, spi_pool *pool);

/*
 * In: dh = dL/dh_out. Out: dh = dL/dh_in (left undefined where !need_dx), gradients of trainable parameters +=.
 * Uses acts up: they are overwritten.
 */
void spi_layer_backward(spi_decoder *dec, int64_t l, const spi_pass *pass, spi_mat dh, spi_mat h_in,
                        spi_layer_acts *acts, bool need_dx, spi_pool *pool);

/* y [N, d] = the final norm of x [N, d], or x itself where there is none. y may be x. */
void spi_decoder_norm(spi_decoder *dec, spi_mat y, spi_mat x);

/* y [N, e] = what the head reads, from the last layer's x [N, d], any rows: the final norm and what belongs to
 * it. y may be x where e = d. And its gradient, dx [N, d] = ...; dx may be dy where e = d. */
void spi_decoder_finish(spi_decoder *dec, spi_mat y, spi_mat x, spi_pool *pool);
void spi_decoder_finish_backward(spi_decoder *dec, spi_mat dx, spi_mat dy, spi_mat x, spi_pool *pool);

/* Caches of all layers for `slots` sequences of up to `capacity` tokens. */
sp_status spi_kv_new(spi_decoder *dec, int64_t slots, int64_t capacity, spi_kv **out);
void spi_kv_free(spi_decoder *dec, spi_kv *kv);

#endif
