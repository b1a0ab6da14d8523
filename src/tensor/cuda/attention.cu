/* Attention over packed sequences: which kernels take it on. */
#include "tensor/cuda/attention.cuh"

/* Whether the matrix units' kernels can read and write m: bf16, 16 bytes at a time. */
static bool suits(spi_mat m) {
    return m.dtype == SP_BF16 && packs(m);
}

static attention_view view_of(spi_mat o, const float *lse, spi_mat q, spi_mat k, spi_mat v,
                              const spi_seqs *seqs, const spi_attn *attn) {
    attention_view a = {};
    a.q = q.data, a.q_ld = q.ld;
    a.k = k.data, a.k_ld = k.ld;
    a.v = v.data, a.v_ld = v.ld;
    a.o = o.data, a.o_ld = o.ld;
    a.lse = const_cast<float *>(lse);
    a.head_stride = attn->head_dim;
    a.tokens = q.rows;
    a.start = seqs->start;
    a.count = seqs->count;
    a.longest = seqs->max_length;
    describe(a, attn);
    return a;
}

void spi_cuda_attention(spi_device *dev, spi_mat o, float *lse, spi_mat q, spi_mat k, spi_mat v,
                        const spi_seqs *seqs, const spi_attn *attn) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK || q.rows == 0 || seqs->max_length == 0) return;
    const attention_view a = view_of(o, lse, q, k, v, seqs, attn);
    const bool all = suits(q) && suits(k) && suits(v) && suits(o) && attn->head_dim % 8 == 0;
    if (all && (attention_hopper(cuda, q, k, v, a) || attention_tensor(cuda, a))) return;
    attention_plain(cuda, q.dtype, k.dtype, a);
}

void spi_cuda_attention_backward(spi_device *dev, spi_mat dq, spi_mat dk, spi_mat dv, spi_mat d_o, spi_mat o,
                                 const float *lse, spi_mat q, spi_mat k, spi_mat v, const spi_seqs *seqs,
                                 const spi_attn *attn) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK || q.rows == 0 || seqs->max_length == 0) return;
    const attention_view a = view_of(o, lse, q, k, v, seqs, attn);
    attention_grads g = {};
    g.d_o = d_o.data, g.d_o_ld = d_o.ld;
    g.dq = dq.data, g.dq_ld = dq.ld;
    g.dk = dk.data, g.dk_ld = dk.ld;
    g.dv = dv.data, g.dv_ld = dv.ld;
    g.sums = static_cast<float *>(spi_cuda_scratch(cuda, (size_t)(attn->heads * q.rows) * sizeof(float)));
    if (!g.sums) return;
    const bool all = suits(q) && suits(k) && suits(v) && suits(o) && suits(d_o) && suits(dq) && suits(dk) &&
                     suits(dv) && attn->head_dim % 8 == 0;
    if (all && (attention_hopper_dq(cuda, q, k, v, d_o, a, g) || attention_tensor_dq(cuda, a, g)) &&
        attention_tensor_dkv(cuda, a, g))
        return;
    attention_plain_backward(cuda, q.dtype, a, g);
}
