/*
 * Attention: what its kernels are told, and the calls between its files.
 *
 * Query row i of sequence s is row start[s] + i of q and o. Its keys and values, one row of head_dim elements a
 * token, are rows of packed matrices (no `slot`: those of the same sequence) or of a cache, where the sequence
 * has past[s] tokens before its new ones, which have been stored already.
 */
#pragma once

#include "tensor/cuda/kernel.cuh"

struct attention_view {
    const void *q, *k, *v;
    void *o;
    float *lse; /* [heads, tokens], or NULL */
    int64_t q_ld, k_ld, v_ld, o_ld;
    int64_t head_stride;        /* elements between a key head and the next */
    int64_t slot_stride;        /* the same of a cache's slots */
    int64_t tokens;             /* rows of q */
    const int32_t *start;       /* [count + 1] */
    const int32_t *slot, *past; /* [count], or NULL */
    int count, longest;         /* sequences; the most query rows of one */
    int heads, kv_heads, head_dim, group;
    int window;
    float scale, softcap;
};

/* What a view takes over from the operation's description. */
template <typename View> static inline void describe(View &a, const spi_attn *attn) {
    a.heads = attn->heads;
    a.kv_heads = attn->kv_heads;
    a.head_dim = attn->head_dim;
    a.group = attn->heads / attn->kv_heads;
    a.window = attn->window;
    a.scale = attn->scale;
    a.softcap = attn->softcap;
}

/* The backward pass: gradients as the rows that they belong to, and sums[h, t] = d_o . o of row t and head h.
 */
struct attention_grads {
    const void *d_o;
    void *dq, *dk, *dv;
    float *sums; /* [heads, tokens], scratch */
    int64_t d_o_ld, dq_ld, dk_ld, dv_ld;
};

struct attention_seq {
    int first, rows, past;
};

__device__ __forceinline__ attention_seq sequence_of(const attention_view &a, int s) {
    const int first = a.start[s];
    return {first, a.start[s + 1] - first, a.past ? a.past[s] : 0};
}

/* Elements from k (or v, with its ld) to the sequence's first key of a head. */
__device__ __forceinline__ int64_t keys_at(const attention_view &a, int s, int first, int kv_head, int64_t ld) {
    return (a.slot ? a.slot[s] * a.slot_stride : first * ld) + kv_head * a.head_stride;
}

/* attention_plain.cu: any type (`keys`: that of a cache), any head_dim up to 512, f32 arithmetic. */
void attention_plain(spi_cuda *cuda, sp_dtype dtype, sp_dtype keys, const attention_view &a);
void attention_plain_backward(spi_cuda *cuda, sp_dtype dtype, const attention_view &a,
                              const attention_grads &g);

/*
 * attention_tensor.cu, attention_tensor_backward.cu: bf16 in the matrix units. Whether they took it on. dkv:
 * after a dq, of the sums that it left.
 */
bool attention_tensor(spi_cuda *cuda, const attention_view &a);
bool attention_tensor_dq(spi_cuda *cuda, const attention_view &a, const attention_grads &g);
bool attention_tensor_dkv(spi_cuda *cuda, const attention_view &a, const attention_grads &g);

/* attention_hopper.cu, attention_hopper_backward.cu: on cards that can (capability 9.0), head_dim 64 and 128.
 * Likewise. */
bool attention_hopper(spi_cuda *cuda, spi_mat q, spi_mat k, spi_mat v, const attention_view &a);
bool attention_hopper_dq(spi_cuda *cuda, spi_mat q, spi_mat k, spi_mat v, spi_mat d_o, const attention_view &a,
                         const attention_grads &g);
