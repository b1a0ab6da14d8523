/* AdamW over the trainable parameters of a model, with clipping by the global norm. */
#ifndef SPI_TRAIN_OPTIMIZER_H
#define SPI_TRAIN_OPTIMIZER_H

#include "shadow/model.h"

typedef struct spi_optimizer {
    sp_model *model;
    spi_param **params; /* [count] spi_model_trainable's */
    size_t count;
    float **m, **v; /* [count] device f32, exp_avg and exp_avg_sq; NULL where no gradient ever comes */
    spi_adamw_item *items;
    spi_span *spans;
    double *sum; /* device */
    sp_train_options options;
} spi_optimizer;

/* State of zeros; what training adds to the parameters comes with it and, values aside, goes with it.
 * SP_ERR_ARGUMENT where nothing can be trained. */
sp_status spi_optimizer_new(sp_model *model, const sp_train_options *options, spi_optimizer **out);
void spi_optimizer_free(spi_optimizer *o);

void spi_optimizer_zero_grad(spi_optimizer *o);
/* The 2-norm of all gradients together, and of all values that train. */
sp_status spi_optimizer_grad_norm(spi_optimizer *o, double *norm);
sp_status spi_optimizer_param_norm(spi_optimizer *o, double *norm);
/*
 * Step t >= 1 at a learning rate (shadow_lr_multiplier times that for the shadow's parameters), with gradients
 * as they are but for clipping to max_grad_norm. Parameters that no gradient reaches are not touched.
 */
sp_status spi_optimizer_step(spi_optimizer *o, int64_t t, double learning_rate, double grad_norm);

#endif
