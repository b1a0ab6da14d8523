/*
 * Attention of one query head over one sequence, forward beside backward, for the whole-batch operations and
 * for the cache. Keys and values are f32 copies that the caller has made once for all query heads of a group.
 */
#ifndef SPI_TENSOR_CPU_ATTENTION_CORE_H
#define SPI_TENSOR_CPU_ATTENTION_CORE_H

#include "tensor/backend.h"

/* Query rows handled at once. */
#define SPI_ATTN_ROWS ((int64_t)48)

/* Keys and values of one head, padded to `ld` columns where transposed. */
typedef struct spi_attn_keys {
    int64_t total, ld; /* keys; at least total, a multiple of 16 */
    float *k, *v;      /* [total, head_dim] */
    float *k_t, *v_t;  /* [head_dim, ld]; v_t for the backward pass only */
    float *dk, *dv;    /* [total, head_dim], backward: added to */
} spi_attn_keys;

/* Floats of working memory that the calls below need for sequences of up to `total` keys. */
int64_t spi_attn_work(int64_t total, int64_t head_dim);

/*
 * o rows = softmax(mask(cap(q k^T scale))) v. q and o are the rows of one sequence, the columns of one head;
 * query row i stands at position past + i. lse [rows] or NULL.
 */
void spi_attn_forward(spi_mat o, float *lse, spi_mat q, int64_t past, const spi_attn_keys *keys,
                      const spi_attn *attn, float *work);

/* dq rows; keys->dk and dv +=. past is 0. */
void spi_attn_backward(spi_mat dq, spi_mat d_o, spi_mat o, const float *lse, spi_mat q,
                       const spi_attn_keys *keys, const spi_attn *attn, float *work);

#endif
