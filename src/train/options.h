/* Training options: defaults and checks. */
#ifndef SPI_TRAIN_OPTIONS_H
#define SPI_TRAIN_OPTIONS_H

#include "base/context.h"

/* *out = the caller's options, with defaults where an older caller's struct ends; fails on a senseless value.
 */
sp_status spi_train_options_read(sp_context *ctx, const sp_train_options *from, sp_train_options *out);

#endif
