/* Generation options: defaults and checks. */
#ifndef SPI_GENERATE_OPTIONS_H
#define SPI_GENERATE_OPTIONS_H

#include "base/context.h"

/* *out = the caller's options, with defaults where an older caller's struct ends; fails on a senseless value.
 */
sp_status spi_generate_options_read(sp_context *ctx, const sp_generate_options *from, sp_generate_options *out);

#endif
