/*
 * What a decoder is, as data: read from config.json through a table of families, so that the forward pass
 * asks for facts and never for a family's name.
 */
#ifndef SPI_MODEL_ARCH_H
#define SPI_MODEL_ARCH_H

#include "base/json.h"
#include "tensor/backend.h"

/* Every tensor that a decoder of some family has: first those of a layer, then those around the layers. */
typedef enum spi_slot {
    SPI_NORM1_W, /* before attention (input_layernorm); after its sum where arch.norm_residual */
    SPI_NORM1_B,
    SPI_QKV_W, /* queries, keys and values in one product, in this order of columns of its output */
    SPI_QKV_B,
    SPI_Q_W, /* or each by itself */
    SPI_Q_B,
    SPI_K_W,
    SPI_K_B,
    SPI_V_W,
    SPI_V_B,
    SPI_QNORM_W,
    SPI_KNORM_W,
    SPI_O_W,
    SPI_O_B,
    SPI_POST1_W, /* of attention's output, before it is added to the residual */
    SPI_NORM2_W, /* before the MLP; after its sum where arch.norm_residual */
    SPI_NORM2_B,
    SPI_GATE_UP_W, /* gate and up in one product, in this order of columns of its output */
    SPI_GATE_W,    /* what the activation is applied to: the only one where the MLP is not gated */
    SPI_GATE_B,
    SPI_UP_W,
    SPI_UP_B,
    SPI_DOWN_W,
    SPI_DOWN_B,
    SPI_POST2_W, /* of the MLP's output, before it is added to the residual */
    SPI_LAYER_SLOTS,
    SPI_EMBED = SPI_LAYER_SLOTS,
    SPI_POSITIONS,  /* learned positions */
    SPI_PROJECT_IN, /* from embed_size to hidden_size, before the first layer */
    SPI_FINAL_NORM_W,
    SPI_FINAL_NORM_B,
    SPI_PROJECT_OUT, /* from hidden_size to embed_size, or to out_size, after the final norm */
    SPI_SLOTS
} spi_slot;

typedef enum spi_rope_kind {
    SPI_ROPE_DEFAULT,
    SPI_ROPE_LINEAR,
    SPI_ROPE_DYNAMIC,
    SPI_ROPE_YARN,
    SPI_ROPE_LLAMA3,
    SPI_ROPE_LONGROPE,
    SPI_ROPE_NTK_ALPHA /* HunYuan: "dynamic" with a fixed "alpha" */
} spi_rope_kind;

#define SPI_LONGROPE_MAX 256

/* config.json's rope_parameters (or rope_theta and rope_scaling of older files). */
typedef struct spi_rope_spec {
    spi_rope_kind kind;
    double theta, factor;
    double partial; /* share of each head that is rotated, from its beginning; 0: none */
    double low_freq_factor, high_freq_factor; /* llama3 */
    double beta_fast, beta_slow;              /* yarn */
    double mscale, mscale_all_dim;            /* yarn; 0: not given */
    double attention_factor;                  /* yarn, longrope; 0: not given */
    double alpha;                             /* ntk_alpha */
    bool truncate;                            /* yarn */
    int64_t original_max_positions;
    int32_t longrope_count; /* longrope: how many factors there are, one for each frequency */
    float long_factor[SPI_LONGROPE_MAX], short_factor[SPI_LONGROPE_MAX];
} spi_rope_spec;

typedef enum spi_qk_norm {
    SPI_QK_NORM_NONE,
    SPI_QK_NORM_HEAD, /* each head by itself, one weight for all */
    SPI_QK_NORM_ROW   /* all heads of a token together */
} spi_qk_norm;

/* The common facts of config.json. */
typedef enum spi_fact {
    SPI_FACT_VOCAB_SIZE,
    SPI_FACT_HIDDEN_SIZE,
    SPI_FACT_LAYERS,
    SPI_FACT_INTERMEDIATE_SIZE,
    SPI_FACT_HEADS,
    SPI_FACT_KV_HEADS,
    SPI_FACT_HEAD_DIM,
    SPI_FACT_MAX_POSITIONS,
    SPI_FACT_NORM_EPS,
    SPI_FACT_INIT_RANGE,
    SPI_FACT_ACTIVATION,
    SPI_FACTS
} spi_fact;

typedef struct spi_arch spi_arch;

/* One family: how its config is read and what its checkpoints call things. */
typedef struct spi_family {
    const char *model_type; /* config.json's "model_type" */
    const char *causal_lm;  /* the class in "architectures" */
    const char *classifier; /* the same of sequence classification */
    const char *prefix;     /* of the backbone in the task model's checkpoint: "model." */
    /* What stands for `prefix` in other files of the family, beside nothing at all; NULL-ended, or NULL. */
    const char *const *other_prefixes;
    const char *layer;            /* "layers.%d." */
    const char *head;             /* of the task model: "lm_head.weight" */
    const char *slots[SPI_SLOTS]; /* below the layer, or below the backbone; NULL: never there */

    const char *keys[SPI_FACTS]; /* where config.json has its own name for a fact */
    double defaults[SPI_FACTS];  /* of facts that config.json may lack; 0: the usual one, or none */
    const char *activation;      /* default of SPI_FACT_ACTIVATION; NULL: silu */
    bool tied;                   /* default of tie_word_embeddings */
    int32_t mlp_ratio;           /* intermediate_size, where it is missing, in hidden sizes; 0: not known */
    bool multi_head;             /* has no num_key_value_heads and no head_dim, they follow from the heads */
    spi_norm_kind norm_kind;
    float norm_offset;             /* of spi_norm */
    bool transposed;               /* layers' matrices are [in, out] (Conv1D) */
    bool scaled_init;              /* O and DOWN start smaller by sqrt(2 layers) */
    int32_t position_offset;       /* learned positions: rows of the table before position 0 */
    bool positions_count_attended; /* positions count attended tokens, not columns of the rectangle */
    /* In Python the implicit shadow keeps a token embedding of its own, though the base's drives it. */
    bool shadow_keeps_embed;
    /* Reads what is particular to the family into an arch that holds the common facts. */
    sp_status (*read)(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch);
} spi_family;

struct spi_arch {
    const spi_family *family;
    int64_t vocab_size, hidden_size, num_layers, intermediate_size, max_positions;
    int64_t embed_size; /* width of embedding and head; hidden_size unless there are projections between */
    int64_t out_size;   /* of a hidden projection to another model's head: that head's width; 0: none */
    int32_t heads, kv_heads, head_dim;
    float norm_eps;
    bool qkv_bias, o_bias, mlp_bias, tie_embeddings;
    bool norm_residual; /* NORM1 and NORM2 norm the sums with the residual, not what goes into the branches */
    bool no_final_norm;
    spi_qk_norm qk_norm;
    bool qk_norm_after_rope;
    float attn_scale;         /* 0: 1 / sqrt(head_dim) */
    bool attn_scale_by_layer; /* divided by the layer's number, from 1 */
    float attn_softcap, logit_softcap;
    float embed_scale;
    spi_activation activation;
    spi_rope_spec rope;
    spi_rope_spec sliding_rope; /* of layers that slide, where `two_ropes` */
    bool two_ropes;
    int32_t sliding_window; /* 0: none */
    uint8_t *sliding;       /* [num_layers] which layers slide; owned; NULL: none does */
    float init_range;       /* initializer_range */
    bool head_dim_derived;  /* head_dim is hidden_size / heads and follows when heads change */
};

/* The families, NULL-ended, for messages and lookups. */
const spi_family *const *spi_families(void);

/* The part of config.json that describes the decoder: itself, or "text_config" where a text tower stands beside
 * others (Gemma 3 with images). */
const json_t *spi_arch_config(const json_t *config);

/* Reads config.json. `file` names it in messages. Free with spi_arch_free. */
sp_status spi_arch_read(sp_context *ctx, const char *file, const json_t *config, spi_arch *out);
/* Gives a copy of the config that an arch was read from the sizes that the arch has by now: layers (with the
 * lists that go by layer), MLP, heads. */
void spi_arch_resize_config(json_t *config, const spi_arch *arch);
/*
 * The same with the sizes that peft.ShadowConfig gives a mirror, 0 for those that stay as they are: facts that
 * Transformers has settled when it read the base's config, and not when its file was written, stay the base's.
 */
typedef struct spi_mirror_sizes {
    int64_t layers, hidden_size, intermediate_size, heads;
} spi_mirror_sizes;
void spi_arch_mirror_config(json_t *config, const spi_arch *base, const spi_mirror_sizes *sizes);
sp_status spi_arch_copy(sp_context *ctx, const spi_arch *from, spi_arch *out);
void spi_arch_free(spi_arch *arch);

/* Changes the number of layers, keeping the first ones' kinds (the last kind repeats). */
sp_status spi_arch_set_layers(sp_context *ctx, spi_arch *arch, int64_t layers);

/* Whether sizes fit each other; `where` names config.json or what changed them. */
sp_status spi_arch_check(sp_context *ctx, const char *where, const spi_arch *arch);

/* A slot's tensor: its shape [rows, cols] as stored (vectors: cols = 1) and how PyTorch starts it. */
typedef struct spi_slot_shape {
    int64_t rows, cols;
    bool vector, transposed;
    float fill; /* vectors: every element */
    float std;  /* matrices: N(0, std) */
} spi_slot_shape;

/* Whether this arch has the slot, and its shape. */
bool spi_arch_slot(const spi_arch *arch, spi_slot slot, spi_slot_shape *shape);

/* What stands before the names of a layer's tensors, such as "model.layers.3.". */
void spi_arch_layer_name(const spi_arch *arch, int64_t layer, const char *prefix, char *name, size_t size);

/* The checkpoint key of a slot, such as "model.layers.3.mlp.up_proj.weight"; `layer` counts for layer slots
 * only. */
void spi_arch_slot_name(const spi_arch *arch, int64_t layer, spi_slot slot, const char *prefix, char *name,
                        size_t size);

/* Fresh values of a slot's tensor; `name` makes its random numbers its own. */
void spi_arch_fresh_values(const spi_slot_shape *shape, const char *name, uint64_t seed, int threads,
                           float *values);

/* The width of what the head reads. */
static inline int64_t spi_arch_out_size(const spi_arch *arch) {
    return arch->out_size ? arch->out_size : arch->embed_size;
}

/* What stands before the backbone's names in a task model's checkpoint. */
const char *spi_arch_prefix(const spi_arch *arch);

static inline bool spi_arch_slides(const spi_arch *arch, int64_t layer) {
    return arch->sliding && arch->sliding[layer];
}

/* Elements of a head that are rotated: `partial` of head_dim, rounded up to whole pairs. */
int32_t spi_rotary_dim(const spi_arch *arch, const spi_rope_spec *rope);

/* Whether frequencies depend on the length of a call's longest sequence, and whether two such lengths give the
 * same: of one rotation, and of all that the arch has. */
bool spi_rope_same(const spi_arch *arch, const spi_rope_spec *rope, int64_t length, int64_t other);
bool spi_arch_rope_moves(const spi_arch *arch);
bool spi_arch_rope_same(const spi_arch *arch, int64_t length, int64_t other);

/* cos and sin for positions 0..count-1, each [count, rotary_dim / 2], for a call whose longest sequence has
 * `length` tokens (which matters to dynamic and longrope scaling only). */
void spi_rope_tables(const spi_arch *arch, const spi_rope_spec *rope, int64_t length, int64_t count, float *cos,
                     float *sin);

#endif
