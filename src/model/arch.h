/*
 * What a decoder is, as data: read from config.json through a table of families, so that the forward pass
 * asks for facts and never for a family's name.
 */
#ifndef SPI_MODEL_ARCH_H
#define SPI_MODEL_ARCH_H

#include "base/json.h"
#include "tensor/backend.h"

/* Every tensor that a decoder layer of some family has. */
typedef enum spi_slot {
    SPI_NORM1_W, /* input_layernorm */
    SPI_Q_W,
    SPI_Q_B,
    SPI_K_W,
    SPI_K_B,
    SPI_V_W,
    SPI_V_B,
    SPI_QNORM_W,
    SPI_KNORM_W,
    SPI_O_W,
    SPI_O_B,
    SPI_NORM2_W, /* post_attention_layernorm */
    SPI_GATE_W,
    SPI_GATE_B,
    SPI_UP_W,
    SPI_UP_B,
    SPI_DOWN_W,
    SPI_DOWN_B,
    SPI_SLOTS
} spi_slot;

typedef enum spi_rope_kind {
    SPI_ROPE_DEFAULT,
    SPI_ROPE_LINEAR,
    SPI_ROPE_DYNAMIC,
    SPI_ROPE_YARN,
    SPI_ROPE_LLAMA3
} spi_rope_kind;

/* config.json's rope_parameters (or rope_theta and rope_scaling of older files). */
typedef struct spi_rope_spec {
    spi_rope_kind kind;
    double theta, factor;
    double low_freq_factor, high_freq_factor; /* llama3 */
    double beta_fast, beta_slow;              /* yarn */
    double mscale, mscale_all_dim;            /* yarn; 0: not given */
    double attention_factor;                  /* yarn; 0: not given */
    bool truncate;                            /* yarn */
    int64_t original_max_positions;
} spi_rope_spec;

typedef struct spi_arch spi_arch;

/* One family: how its config is read and what its checkpoints call things. */
typedef struct spi_family {
    const char *model_type;       /* config.json's "model_type" */
    const char *causal_lm;        /* the class in "architectures" */
    const char *prefix;           /* of the backbone in the task model's checkpoint: "model." */
    const char *embed;            /* below the backbone: "embed_tokens.weight" */
    const char *final_norm;       /* "norm.weight" */
    const char *layer;            /* "layers.%d." */
    const char *head;             /* of the task model: "lm_head.weight" */
    const char *slots[SPI_SLOTS]; /* below the layer; NULL: never there */
    /* Reads what is particular to the family into an arch that holds the common facts. */
    sp_status (*read)(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch);
} spi_family;

struct spi_arch {
    const spi_family *family;
    int64_t vocab_size, hidden_size, num_layers, intermediate_size, max_positions;
    int32_t heads, kv_heads, head_dim;
    float norm_eps;
    bool qkv_bias, o_bias, mlp_bias, qk_norm, tie_embeddings;
    spi_activation activation;
    spi_rope_spec rope;
    int32_t sliding_window; /* 0: none */
    uint8_t *sliding;       /* [num_layers] which layers slide; owned; NULL: none does */
    float init_range;       /* initializer_range */
    bool head_dim_derived;  /* head_dim is hidden_size / heads and follows when heads change */
};

/* The families, NULL-ended, for messages and lookups. */
const spi_family *const *spi_families(void);

/* Reads config.json. `file` names it in messages. Free with spi_arch_free. */
sp_status spi_arch_read(sp_context *ctx, const char *file, const json_t *config, spi_arch *out);
sp_status spi_arch_copy(sp_context *ctx, const spi_arch *from, spi_arch *out);
void spi_arch_free(spi_arch *arch);

/* Changes the number of layers, keeping the first ones' kinds (the last kind repeats). */
sp_status spi_arch_set_layers(sp_context *ctx, spi_arch *arch, int64_t layers);

/* Whether layers of this arch have the slot, and its shape [rows, cols] (vectors: cols = 1, *vector set). */
bool spi_arch_slot(const spi_arch *arch, spi_slot slot, int64_t *rows, int64_t *cols, bool *vector);

/* The checkpoint key of a layer's slot, such as "model.layers.3.mlp.up_proj.weight". */
void spi_arch_slot_name(const spi_arch *arch, int64_t layer, spi_slot slot, const char *prefix, char *name,
                        size_t size);

/* Parameters of the backbone with its embedding, without the head. */
int64_t spi_arch_parameters(const spi_arch *arch, bool with_embedding);

/* cos and sin for positions 0..count-1, each [count, head_dim / 2], for a call whose longest sequence has
 * `length` tokens (which matters to dynamic scaling only). */
void spi_rope_tables(const spi_arch *arch, int64_t length, int64_t count, float *cos, float *sin);

#endif
