/*
 * Attention of query heads over one sequence in bf16, forward beside backward: products of bf16 pairs summed in
 * f32. Scores and the gradients of probabilities come from the inputs as they are; probabilities and the
 * gradients of scores are rounded to bf16 before they are multiplied, as PyTorch's flash attention does. Keys
 * are taken in blocks with a running maximum, so that working memory does not grow with the sequence.
 */
#ifndef SPI_TENSOR_CPU_ATTENTION_PAIRS_H
#define SPI_TENSOR_CPU_ATTENTION_PAIRS_H

#include "tensor/backend.h"
#include "tensor/cpu/block_pairs.h"
#include "tensor/cpu/split.h"

/* Query rows handled at once: where a sequence's rows are divided, it is at multiples of this. */
#define SPI_ATTN_PAIRS_ROWS ((int64_t)96)

/* Keys and values of one head, laid out once for all query heads of a group. */
typedef struct spi_attn_packed {
    int64_t total, pairs; /* keys; pairs of them */
    spi_pair *k_t, *v_t;  /* as spi_pairs_transposed; v_t for the backward pass only */
    spi_pair *k_n, *v_n;  /* as spi_pairs_rows; k_n backward, v_n forward */
} spi_attn_packed;

/* Whether the calls below take these heads, on this CPU. */
bool spi_attn_pairs_fit(sp_dtype q, sp_dtype kv, const spi_attn *attn);

/* Words that the keys and values of `total` rows take, and words of working memory. */
int64_t spi_attn_packed_words(int64_t total, int64_t head_dim, bool backward);
int64_t spi_attn_pairs_work(int64_t head_dim, bool backward);

/* Lays out the first `total` rows of k and v [total or more, head_dim] in `words`. */
spi_attn_packed spi_attn_pack(spi_pair *words, spi_mat k, spi_mat v, int64_t total, bool backward);

/*
 * The rows in `rows` of o = softmax(mask(cap(q k^T scale))) v. q and o are the rows of one sequence, the
 * columns of one head; query row i stands at position past + i. lse [rows of q] or NULL.
 */
void spi_attn_pairs_forward(spi_mat o, float *lse, spi_mat q, int64_t past, spi_range rows,
                            const spi_attn_packed *keys, const spi_attn *attn, float *work);

/* dq; dk and dv [total + 5, head_dim] +=, dk still without the scale. past is 0. */
void spi_attn_pairs_backward(spi_mat dq, float *dk, float *dv, spi_mat d_o, spi_mat o, const float *lse,
                             spi_mat q, const spi_attn_packed *keys, const spi_attn *attn, float *work);

#endif
