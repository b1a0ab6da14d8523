/* Learning-rate schedules: transformers.get_scheduler's. */
#ifndef SPI_TRAIN_SCHEDULE_H
#define SPI_TRAIN_SCHEDULE_H

#include "shadowpeft/shadowpeft.h"

/* The factor on the learning rate in optimizer step `step` (from 0) of `total`, `warmup` of them warming up. */
double spi_schedule_factor(sp_schedule kind, int64_t step, int64_t warmup, int64_t total);

#endif
