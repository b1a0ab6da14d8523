/*
 * Attention of the query heads that share one key head, over one sequence, by whichever core takes them:
 * attention_pairs.h for bf16 where the CPU multiplies pairs of it, attention_core.h for everything else. Keys
 * are laid out once for the group.
 */
#ifndef SPI_TENSOR_CPU_ATTENTION_GROUP_H
#define SPI_TENSOR_CPU_ATTENTION_GROUP_H

#include "tensor/backend.h"
#include "tensor/cpu/split.h"

/* Rows beyond a sequence's last that sums of dk and dv must have room for. */
#define SPI_ATTN_OVERHANG ((int64_t)5)

/*
 * Heads of one sequence. q, o [rows, n head_dim]: n query heads; k, v [past + rows, head_dim]: their key head.
 * Query row i stands at position past + i. lse [n, lse_ld] or NULL.
 */
typedef struct spi_attn_heads {
    spi_mat o, q, k, v;
    int64_t past;
    float *lse;
    int64_t lse_ld;
} spi_attn_heads;

/* Floats of working memory for sequences of up to `total` keys. */
int64_t spi_attn_forward_floats(int64_t total, const spi_attn *attn);
int64_t spi_attn_backward_floats(int64_t total, const spi_attn *attn);

/* o and lse of the query rows in `rows`. */
void spi_attn_forward_heads(const spi_attn_heads *heads, spi_range rows, const spi_attn *attn, float *work);

/*
 * dq [rows, n head_dim]; dk, dv [rows + SPI_ATTN_OVERHANG, head_dim], f32, set. lse and o are read; past is 0.
 */
void spi_attn_backward_heads(spi_mat dq, float *dk, float *dv, spi_mat d_o, const spi_attn_heads *heads,
                             const spi_attn *attn, float *work);

/* How many parts to cut the query rows of a sequence into, so that `tasks` of up to `rows` rows occupy the
 * threads. */
int64_t spi_attn_parts(int64_t tasks, int threads, int64_t rows);

/* Part `index` of `parts` of a sequence's rows, of about as much work as the others; it may be empty. */
spi_range spi_attn_part(int64_t rows, int64_t index, int64_t parts);

#endif
