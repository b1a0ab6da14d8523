/* Training options: defaults and checks. */
#ifndef SPI_TRAIN_OPTIONS_H
#define SPI_TRAIN_OPTIONS_H

#include "base/context.h"

/*
 * *out = the caller's options, with defaults where an older caller's struct ends. SP_ERR_ARGUMENT where a value
 * makes no sense: the message names the option, what is expected and what was found.
 */
sp_status spi_train_options_read(sp_context *ctx, const sp_train_options *from, sp_train_options *out);

#endif
