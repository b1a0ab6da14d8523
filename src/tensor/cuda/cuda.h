/*
 * What the files of the CUDA backend share. Host code is C (open.c, product.c ...), kernels are in .cu files
 * whose operations have C names. Everything is queued on one stream, in order.
 */
#ifndef SPI_TENSOR_CUDA_CUDA_H
#define SPI_TENSOR_CUDA_CUDA_H

#include <cuda_runtime_api.h>

#include "tensor/backend.h"
#include "tensor/plugin.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct spi_cuda {
    spi_device device; /* first: a spi_device * of this backend is a spi_cuda * */
    const spi_plugin_host *host;
    int index;
    int capability; /* 80, 90 */
    int processors; /* multiprocessors */
    int shared;     /* bytes of shared memory that a block can ask for */
    size_t memory;  /* bytes of the card */
    cudaStream_t stream;
    bool recording;     /* a step, between begin and end of graph.c */
    bool after_kernel;  /* what was queued last is a kernel of launch(); of a recording: in it */
    bool records_early; /* driver and runtime can record kernels that begin early (launch.cuh) */
    void *products;     /* product.c: cuBLASLt and its plans */
    void *encode_map;   /* tensor_map.c: the driver's function, once it was asked for */
    void *scratch;      /* grows, never shrinks; spi_cuda_scratch */
    size_t scratch_bytes;
    unsigned *counters; /* [processors], zeros between operations */
    void *room;         /* of products; spi_cuda_room */
    size_t room_bytes;
    struct spi_cuda_letter { /* graph.c: page-locked memory of the host, and when it was filled */
        void *data;
        size_t bytes;
        cudaEvent_t sent;
    } letters[2];
} spi_cuda;

static inline spi_cuda *spi_cuda_of(spi_device *dev) {
    return (spi_cuda *)dev;
}

/* Makes a failure stick to the device, with a message that says what was being done. Whether all is well. */
bool spi_cuda_check(spi_cuda *cuda, cudaError_t error, const char *what);
/* Working memory of one operation, shared by all; contents do not survive. NULL and a sticky error on failure.
 * While the device plans, an address without memory: then operations go their way, and launch() and products do
 * nothing. */
void *spi_cuda_scratch(spi_cuda *cuda, size_t bytes);
/* The same of a product alone: who calls one may be holding scratch memory. */
void *spi_cuda_room(spi_cuda *cuda, size_t bytes);

/* product.c */
bool spi_cuda_products_open(spi_cuda *cuda);
void spi_cuda_products_close(spi_cuda *cuda);
void spi_cuda_linear(spi_device *dev, spi_mat y, spi_mat x, const spi_weight *w, const float *bias,
                     const spi_mat *residual);
void spi_cuda_linear_dx(spi_device *dev, spi_mat dx, spi_mat dy, const spi_weight *w, bool accumulate);
void spi_cuda_linear_dw(spi_device *dev, float *dw, float *dbias, spi_mat dy, spi_mat x, bool transposed);

/* quantize.cu. dequantize: *out = all of W in `dtype`, until the next call. Whether there was memory for it. */
void spi_cuda_quantize(spi_device *dev, float *scale, int8_t *q, const spi_weight *w);
bool spi_cuda_dequantize(spi_cuda *cuda, const spi_weight *w, sp_dtype dtype, spi_mat *out);

/* project.cu */
void spi_cuda_project(spi_device *dev, const spi_projection *list, int count, spi_mat x, const spi_norm *norm,
                      spi_mat room);
void spi_cuda_project_gated(spi_device *dev, spi_mat y, const spi_projection *list, int count, spi_mat x,
                            const spi_norm *norm, spi_mat room, spi_activation act, bool keep);

/* gemv.cu: products with few rows. Whether it took the product on. */
bool spi_cuda_gemv(spi_cuda *cuda, spi_mat y, spi_mat x, const spi_weight *w, const float *bias,
                   const spi_mat *residual);

/* rows.cu: conversions, embedding, gather, scatter, add, column sums */
void spi_cuda_convert(spi_device *dev, spi_mat to, spi_mat from);
void spi_cuda_embedding(spi_device *dev, spi_mat y, const spi_weight *table, const int32_t *ids, float scale,
                        const spi_mat *position_table, const int32_t *positions);
void spi_cuda_embedding_backward(spi_device *dev, float *dtable, spi_mat dy, const int32_t *ids, float scale);
void spi_cuda_gather_rows(spi_device *dev, spi_mat y, spi_mat x, const int32_t *index);
void spi_cuda_scatter_rows(spi_device *dev, spi_mat y, spi_mat x, const int32_t *index);
void spi_cuda_add(spi_device *dev, spi_mat y, spi_mat x, float a);
/* y[t] += bias; y[t] = bias; sums[c] += sum of column c of x, in an order that does not depend on timing. */
void spi_cuda_add_bias(spi_cuda *cuda, spi_mat y, const float *bias);
void spi_cuda_fill_bias(spi_cuda *cuda, spi_mat y, const float *bias);
void spi_cuda_column_sums(spi_cuda *cuda, float *sums, spi_mat x);

/* norm.cu, qk.cu, gated.cu */
void spi_cuda_norm(spi_device *dev, spi_mat y, spi_mat x, const spi_norm *norm);
void spi_cuda_norm_backward(spi_device *dev, spi_mat dx, spi_mat dy, spi_mat x, const spi_norm *norm,
                            float *dweight, float *dbias, bool accumulate);
void spi_cuda_qk(spi_device *dev, spi_mat y, spi_mat x, const spi_qk *qk);
void spi_cuda_qk_backward(spi_device *dev, spi_mat dx, spi_mat dy, spi_mat x, const spi_qk *qk,
                          float *dq_weight, float *dk_weight);
void spi_cuda_gated(spi_device *dev, spi_mat y, spi_mat gate, spi_mat up, spi_activation act);
void spi_cuda_gated_backward(spi_device *dev, spi_mat dgate, spi_mat dup, spi_mat dy, spi_mat gate, spi_mat up,
                             spi_activation act);

/* attention.cu (the choice), attention_plain.cu, attention_tensor.cu, attention_cached.cu */
void spi_cuda_attention(spi_device *dev, spi_mat o, float *lse, spi_mat q, spi_mat k, spi_mat v,
                        const spi_seqs *seqs, const spi_attn *attn);
void spi_cuda_attention_backward(spi_device *dev, spi_mat dq, spi_mat dk, spi_mat dv, spi_mat d_o, spi_mat o,
                                 const float *lse, spi_mat q, spi_mat k, spi_mat v, const spi_seqs *seqs,
                                 const spi_attn *attn);
void spi_cuda_attention_cached(spi_device *dev, spi_mat o, spi_mat q, spi_mat k, spi_mat v, const spi_kv *kv,
                               const spi_cached_seqs *seqs, const spi_attn *attn);

/* inject.cu, update.cu */
void spi_cuda_inject(spi_device *dev, spi_mat h_out, float *p, spi_mat h, spi_mat s, const spi_inject *inject);
void spi_cuda_inject_backward(spi_device *dev, spi_mat dh, spi_mat ds, float *ddown, float *dup, spi_mat h_out,
                              spi_mat s, const float *p, const spi_inject *inject);
void spi_cuda_update(spi_device *dev, spi_mat s_out, float *z, spi_mat h, spi_mat s, const spi_update *update);
void spi_cuda_update_backward(spi_device *dev, spi_mat dh, spi_mat ds, const spi_update_grads *grads, spi_mat h,
                              spi_mat s, const float *z, const spi_update *update);

/* head_loss.cu, distill_loss.cu, softcap.cu, adamw.cu */
void spi_cuda_softcap(spi_device *dev, spi_mat y, float cap);
void spi_cuda_head_loss(spi_device *dev, const spi_head_loss *loss);
void spi_cuda_distill_loss(spi_device *dev, const spi_distill_loss *loss);
void spi_cuda_sum_squares(spi_device *dev, double *acc, const spi_span *spans, size_t count);
void spi_cuda_adamw(spi_device *dev, const spi_adamw_item *items, size_t count, const spi_adamw *adamw);

/* graph.c, choose.cu */
extern const spi_graph_ops spi_cuda_graph_ops;
void spi_cuda_letters_close(spi_cuda *cuda);
void spi_cuda_choose(spi_device *dev, spi_mat logits, const spi_choice *choice);

#ifdef __cplusplus
}
#endif
#endif
