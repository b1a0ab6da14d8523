/*
 * A backend in a shared object of its own, loaded when its device is asked for: libshadowpeft-NAME.so beside
 * the library or the program, in ../lib, or where the dynamic linker looks. It is built with the library, of
 * the same version; SPI_PLUGIN_ABI and the size of the table tell when it was not.
 */
#ifndef SPI_TENSOR_PLUGIN_H
#define SPI_TENSOR_PLUGIN_H

#include "tensor/backend.h"

#define SPI_PLUGIN_ABI 3u

/* What the library lends the backend, which links to nothing of it. */
typedef struct spi_plugin_host {
    uint32_t abi;
    size_t ops_bytes; /* sizeof(spi_ops) */
    sp_status (*fail)(sp_context *ctx, sp_status status, const char *fmt, ...) SP_PRINTF(3, 4);
    void (*log)(sp_context *ctx, sp_log_level level, const char *fmt, ...) SP_PRINTF(3, 4);
} spi_plugin_host;

/*
 * What the shared object exports under the name SPI_PLUGIN_OPEN: opens device number `index`. SP_ERR_DEVICE
 * with one line that says what is needed and what was found: no driver, a driver or a card too old, no such
 * card.
 */
typedef sp_status spi_plugin_open(const spi_plugin_host *host, sp_context *ctx, int index, spi_device **out);
#define SPI_PLUGIN_OPEN "spi_backend_open"

/*
 * Loads libshadowpeft-NAME.so and opens its device. SP_ERR_UNSUPPORTED: there is no such file; SP_ERR_DEVICE:
 * it cannot be loaded, or what it says itself.
 */
sp_status spi_plugin_device(sp_context *ctx, const char *name, int index, spi_device **out);

#endif
