/* Whether a run fits into the device's memory, known before its first step. */
#ifndef SPI_TRAIN_FITS_H
#define SPI_TRAIN_FITS_H

#include "train/trainer.h"

/*
 * Plans the largest batch that the data and the options can give, and the largest of an evaluation, and logs
 * what they will take. Where that is more than is free: SP_ERR_MEMORY with the options that would make it fit,
 * and on the CPU, where memory can be swapped, a warning. What fits is reserved in the model's pool. Call it
 * before there is an optimizer.
 */
sp_status spi_trainer_fits(spi_trainer *t);

#endif
