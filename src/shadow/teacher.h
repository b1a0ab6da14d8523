/*
 * A teacher for a causal_lm_with_hidden_projection: the small model that its backbone came from. Both read the
 * same final norm n of the backbone, so that one pass gives the logits of both:
 *
 *   the wrapped model's   W_large P n          the small model's   W_small n, soft-capped where its family does
 * so
 *
 * The wrapped model's projection P is what learns.
 */
#ifndef SPI_SHADOW_TEACHER_H
#define SPI_SHADOW_TEACHER_H

#include "shadow/adapted.h"

/* Frozen, mapped where its dtype is the model's. */
typedef struct spi_teacher {
    spi_checkpoint files;
    spi_params params; /* the head */
    spi_param *head;   /* [V, d_small] */
    float softcap;     /* 0: none */
} spi_teacher;

void spi_teacher_free(sp_model *model);

/*
 * spi_adapted_train and spi_adapted_loss where run->distill is set: the distance of the two logits at every row
 * of the batch into sums->base and the rows whose argmaxes agree into sums->base_correct; with `backward` the
 * projection's grad += run->base_weight * d(sum)/dP.
 */
sp_status spi_distill_pass(sp_model *model, const spi_batch *batch, const spi_run *run, bool backward,
                           spi_loss_sums *sums);

#endif
