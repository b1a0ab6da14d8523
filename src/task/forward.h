/* What sp_forward and sp_forward_file share. */
#ifndef SPI_TASK_FORWARD_H
#define SPI_TASK_FORWARD_H

#include "shadow/adapted.h"

/* Packs the attended tokens of every row. */
sp_status spi_batch_from_rectangle(const sp_model *model, const sp_forward_input *in, spi_batch *batch);

/* The run whose weights give the mean combined loss of this batch, without dropout. */
spi_run spi_run_of_loss(const sp_model *model, const sp_forward_input *in, const spi_batch *b);

/* loss, base_loss, shadow_loss, label_tokens from the sums. */
void spi_combine_loss(const sp_forward_input *in, const spi_batch *b, const spi_loss_sums *sums,
                      sp_forward_output *out);

#endif
