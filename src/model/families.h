/* The table of families (families*.c: one file for a group of relatives) and what their readers share. */
#ifndef SPI_MODEL_FAMILIES_H
#define SPI_MODEL_FAMILIES_H

#include "model/arch.h"

extern const spi_family spi_family_llama, spi_family_mistral, spi_family_qwen2, spi_family_qwen3;
extern const spi_family spi_family_gemma, spi_family_gemma2, spi_family_gemma3;
extern const spi_family spi_family_gpt2, spi_family_opt;
extern const spi_family spi_family_hunyuan, spi_family_phi3, spi_family_olmo2;

/* The names that LLaMA set and its relatives kept: around the layers, and in them. */
#define SPI_LLAMA_NAMES .prefix = "model.", .layer = "layers.%d.", .head = "lm_head.weight"
#define SPI_LLAMA_OUTER [SPI_EMBED] = "embed_tokens.weight", [SPI_FINAL_NORM_W] = "norm.weight"
#define SPI_LLAMA_NORMS \
    [SPI_NORM1_W] = "input_layernorm.weight", [SPI_NORM2_W] = "post_attention_layernorm.weight"
#define SPI_LLAMA_QKV                                                           \
    [SPI_Q_W] = "self_attn.q_proj.weight", [SPI_Q_B] = "self_attn.q_proj.bias", \
    [SPI_K_W] = "self_attn.k_proj.weight", [SPI_K_B] = "self_attn.k_proj.bias", \
    [SPI_V_W] = "self_attn.v_proj.weight", [SPI_V_B] = "self_attn.v_proj.bias"
#define SPI_LLAMA_ATTENTION \
    SPI_LLAMA_QKV, [SPI_O_W] = "self_attn.o_proj.weight", [SPI_O_B] = "self_attn.o_proj.bias"
#define SPI_LLAMA_MLP                                                                                          \
    [SPI_GATE_W] = "mlp.gate_proj.weight", [SPI_GATE_B] = "mlp.gate_proj.bias",                                \
    [SPI_UP_W] = "mlp.up_proj.weight", [SPI_UP_B] = "mlp.up_proj.bias", [SPI_DOWN_W] = "mlp.down_proj.weight", \
    [SPI_DOWN_B] = "mlp.down_proj.bias"

/* ------------------------------------------------------------------ rotary positions */

/* What holds where a rope dictionary is silent. */
typedef struct spi_rope_defaults {
    const char *kind; /* not NULL: whatever the file says */
    double theta, partial;
    int64_t original_max_positions; /* not 0: whatever the file says */
} spi_rope_defaults;

/* One rope dictionary (NULL: an empty one). */
sp_status spi_read_rope(sp_context *ctx, const char *file, const json_t *dict,
                        const spi_rope_defaults *defaults, const spi_arch *arch, spi_rope_spec *r);

/* "rope_parameters" as Transformers 5 writes it, or "rope_scaling" of older files; NULL where there is neither.
 */
sp_status spi_rope_dict(sp_context *ctx, const char *file, const json_t *config, const json_t **out);

/* Fills arch->rope: the dictionary, beside it "rope_theta" and "partial_rotary_factor" of older files. */
sp_status spi_read_usual_rope(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch);

/* ------------------------------------------------------------------ other parts of config.json */

/* "attention_bias" for queries, keys, values and output. */
sp_status spi_read_attention_bias(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch);

/* "sliding_window", 0 where it is null, `fallback` where it is missing. */
sp_status spi_read_window(sp_context *ctx, const char *file, const json_t *config, int64_t fallback,
                          spi_arch *arch);

/* arch->sliding, all zero. */
sp_status spi_new_sliding(sp_context *ctx, spi_arch *arch);

/* "layer_types" into arch->sliding, which is there already; *found: whether the config has them. */
sp_status spi_read_layer_types(sp_context *ctx, const char *file, const json_t *config, spi_arch *arch,
                               bool *found);

/* A flag of the config that must be false, or missing. */
sp_status spi_refuse_flag(sp_context *ctx, const char *file, const json_t *config, const char *key);

#endif
