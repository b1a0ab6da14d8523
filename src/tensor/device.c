#include <string.h>

#include "tensor/backend.h"
#include "tensor/cpu/open.h"

sp_status spi_device_open(sp_context *ctx, const char *name, spi_device **out) {
    *out = NULL;
    if (!name || strcmp(name, "cpu") == 0) return spi_cpu_open(ctx, out);
    return spi_fail(ctx, SP_ERR_UNSUPPORTED, "device \"%s\": expected cpu", name);
}

void spi_device_close(spi_device *dev) {
    if (dev) spi_cpu_close(dev);
}

sp_status spi_device_status(const spi_device *dev) {
    return dev->status;
}
