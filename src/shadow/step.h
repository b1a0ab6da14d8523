/* What the passes of the adapted model share: the batch on the device, injection and update at a layer, heads.
 */
#ifndef SPI_SHADOW_STEP_H
#define SPI_SHADOW_STEP_H

#include "shadow/adapted.h"

/* Device copies of a batch, from the model's pool. */
typedef struct spi_device_batch {
    spi_seqs seqs;
    spi_pass pass; /* points at seqs: do not copy this struct */
    int64_t labels;
    const int32_t *label_row, *label_id;
} spi_device_batch;

sp_status spi_batch_upload(sp_model *model, const spi_batch *batch, spi_device_batch *out);

/* Device copy of n host integers, from the model's pool. */
const int32_t *spi_upload_i32(sp_model *model, const int32_t *host, int64_t n);

/* Whether base layer l is injected into, and whether the shadow's state moves on behind it: the state after the
 * last adapted layer feeds nothing. */
bool spi_injects(const spi_adapter *a, int64_t l);
bool spi_updates(const spi_adapter *a, int64_t l);

/* Injection before an adapted base layer l, and update after it, with this run's dropout (run NULL: none). */
spi_inject spi_inject_at(const spi_adapter *a, int64_t l, const spi_run *run);
spi_update spi_update_at(const spi_adapter *a, int64_t l, const spi_run *run);
/* Where their gradients go. */
float *spi_down_grad_at(const spi_adapter *a, int64_t l);
float *spi_up_grad_at(const spi_adapter *a, int64_t l);
spi_update_grads spi_update_grads_at(const spi_adapter *a, int64_t l);

/* The four sums of spi_loss_sums on the device: base loss, base correct, shadow loss, shadow correct. */
#define SPI_ACC_BASE 0
#define SPI_ACC_SHADOW 2
#define SPI_ACC_COUNT 4

/*
 * Loss of the labelled rows of h [T, d] through the base's head, after `norm`'s final norm (and its soft cap
 * on logits) where norm is not NULL: the base's own path. Else through the shadow's head, a plain product.
 * dh.data NULL: loss only; else dh = scale * d(sum of cross-entropy)/dh, zero in unlabelled rows.
 */
void spi_head(sp_model *model, spi_decoder *norm, const spi_device_batch *b, spi_mat h, spi_mat dh,
              double scale, double *acc);

/* out [N, V] f32 = logits of x [N, d] (V: spi_model_outputs), with `norm` as above. */
void spi_logits(sp_model *model, spi_decoder *norm, spi_mat out, spi_mat x);

/* Adds the device's sums to *sums and gives the device's status. */
sp_status spi_collect_sums(sp_model *model, const double *acc, spi_loss_sums *sums);

/* Whose embedding drives the adapter's shadow: its own, or the base's. */
spi_decoder *spi_shadow_embedder(const sp_model *model);
/* s0 [T, d] = the shadow's final norm of x [T, d_shadow], projected where the sizes differ. s0 may be x else.
 */
void spi_shadow_finish(sp_model *model, spi_mat s0, spi_mat x);

/* Fails unless the mode makes sense for this model. */
sp_status spi_mode_check(const sp_model *model, sp_mode mode);

/*
 * Inference: h [T, d] = the base's last layer's output (before its final norm) and, where s0.data is not NULL,
 * s0 [T, d] = the shadow's initial state. SHADOW_ONLY fills s0 only. Caches (NULL without pass->cached) have
 * one entry a layer.
 */
void spi_infer(sp_model *model, const spi_pass *pass, sp_mode mode, const spi_kv *base_kv,
               const spi_kv *shadow_kv, spi_mat h, spi_mat s0);

#endif
