/* Generation options: defaults and checks. */
#ifndef SPI_GENERATE_OPTIONS_H
#define SPI_GENERATE_OPTIONS_H

#include "base/context.h"

/*
 * *out = the caller's options (NULL: defaults), with defaults where an older caller's struct ends. Fails on a
 * value that makes no sense; EOS ids must be below `vocab`.
 */
sp_status spi_generate_options_read(sp_context *ctx, const sp_generate_options *from, int64_t vocab,
                                    sp_generate_options *out);

#endif
