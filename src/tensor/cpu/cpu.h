/* What the files of the CPU backend share. */
#ifndef SPI_TENSOR_CPU_CPU_H
#define SPI_TENSOR_CPU_CPU_H

#include "tensor/backend.h"

typedef struct spi_cpu {
    spi_device device; /* first: a spi_device * of this backend is a spi_cpu * */
    int threads;
    void *products; /* cpu/product.c: oneDNN engine, stream and primitive cache */
    void *scratch;  /* grows, never shrinks; spi_cpu_scratch */
    size_t scratch_bytes;
} spi_cpu;

static inline spi_cpu *spi_cpu_of(spi_device *dev) {
    return (spi_cpu *)dev;
}

/* Working memory of one operation, shared by all; contents do not survive. NULL and a sticky error on failure;
 * NULL as well while the device plans, for then nothing is to be computed.
 */
void *spi_cpu_scratch(spi_cpu *cpu, size_t bytes);

/* Marks leaf functions that should exist in a version for each vector width, chosen at run time. SPI_NO_V4, of
 * a build that measures a CPU without AVX-512 on one with it, leaves out the widest. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(SPI_NO_CLONES)
#ifdef SPI_NO_V4
#define SPI_CLONES __attribute__((noinline, target_clones("default", "arch=x86-64-v3")))
#else
#define SPI_CLONES __attribute__((noinline, target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#endif
#else
#define SPI_CLONES __attribute__((noinline))
#endif

/* product.c */
sp_status spi_cpu_products_open(spi_cpu *cpu);
void spi_cpu_products_close(spi_cpu *cpu);
void spi_cpu_linear(spi_device *dev, spi_mat y, spi_mat x, const spi_weight *w, const float *bias,
                    const spi_mat *residual);
void spi_cpu_linear_dx(spi_device *dev, spi_mat dx, spi_mat dy, const spi_weight *w, bool accumulate);
void spi_cpu_linear_dw(spi_device *dev, float *dw, float *dbias, spi_mat dy, spi_mat x, bool transposed);

/* quantize.c */
void spi_cpu_quantize(spi_device *dev, float *scale, int8_t *q, const spi_weight *w);
/* to [rows, K], F32 or BF16 and contiguous, = rows [first, first + rows) of the quantised W [N, K]. */
void spi_cpu_dequantize(int threads, spi_mat to, const spi_weight *w, int64_t first);
/* The same of one row, to f32. */
void spi_cpu_dequantize_row(float *to, const spi_weight *w, int64_t row);

/* rows.c: conversions, embedding, gather, scatter, add */
void spi_cpu_convert(spi_device *dev, spi_mat to, spi_mat from);
void spi_cpu_embedding(spi_device *dev, spi_mat y, const spi_weight *table, const int32_t *ids, float scale,
                       const spi_mat *position_table, const int32_t *positions);
void spi_cpu_embedding_backward(spi_device *dev, float *dtable, spi_mat dy, const int32_t *ids, float scale);
void spi_cpu_gather_rows(spi_device *dev, spi_mat y, spi_mat x, const int32_t *index);
void spi_cpu_scatter_rows(spi_device *dev, spi_mat y, spi_mat x, const int32_t *index);
void spi_cpu_add(spi_device *dev, spi_mat y, spi_mat x, float a);

/* norm.c, qk.c, gated.c */
void spi_cpu_norm(spi_device *dev, spi_mat y, spi_mat x, const spi_norm *norm);
void spi_cpu_norm_backward(spi_device *dev, spi_mat dx, spi_mat dy, spi_mat x, const spi_norm *norm,
                           float *dweight, float *dbias, bool accumulate);
void spi_cpu_qk(spi_device *dev, spi_mat y, spi_mat x, const spi_qk *qk);
void spi_cpu_qk_backward(spi_device *dev, spi_mat dx, spi_mat dy, spi_mat x, const spi_qk *qk, float *dq_weight,
                         float *dk_weight);
void spi_cpu_gated(spi_device *dev, spi_mat y, spi_mat gate, spi_mat up, spi_activation act);
void spi_cpu_gated_backward(spi_device *dev, spi_mat dgate, spi_mat dup, spi_mat dy, spi_mat gate, spi_mat up,
                            spi_activation act);

/* attention.c, attention_cached.c */
void spi_cpu_attention(spi_device *dev, spi_mat o, float *lse, spi_mat q, spi_mat k, spi_mat v,
                       const spi_seqs *seqs, const spi_attn *attn);
void spi_cpu_attention_backward(spi_device *dev, spi_mat dq, spi_mat dk, spi_mat dv, spi_mat d_o, spi_mat o,
                                const float *lse, spi_mat q, spi_mat k, spi_mat v, const spi_seqs *seqs,
                                const spi_attn *attn);
void spi_cpu_attention_cached(spi_device *dev, spi_mat o, spi_mat q, spi_mat k, spi_mat v, const spi_kv *kv,
                              const spi_cached_seqs *seqs, const spi_attn *attn);

/* inject.c, update.c */
void spi_cpu_inject(spi_device *dev, spi_mat h_out, float *p, spi_mat h, spi_mat s, const spi_inject *inject);
void spi_cpu_inject_backward(spi_device *dev, spi_mat dh, spi_mat ds, float *ddown, float *dup, spi_mat h_out,
                             spi_mat s, const float *p, const spi_inject *inject);
void spi_cpu_update(spi_device *dev, spi_mat s_out, float *z, spi_mat h, spi_mat s, const spi_update *update);
void spi_cpu_update_backward(spi_device *dev, spi_mat dh, spi_mat ds, const spi_update_grads *grads, spi_mat h,
                             spi_mat s, const float *z, const spi_update *update);

/* softcap.c */
void spi_cpu_softcap(spi_device *dev, spi_mat y, float cap);

/* head_loss.c, distill_loss.c, adamw.c */
void spi_cpu_head_loss(spi_device *dev, const spi_head_loss *loss);
void spi_cpu_distill_loss(spi_device *dev, const spi_distill_loss *loss);
void spi_cpu_sum_squares(spi_device *dev, double *acc, const spi_span *spans, size_t count);
void spi_cpu_adamw(spi_device *dev, const spi_adamw_item *items, size_t count, const spi_adamw *adamw);

#endif
