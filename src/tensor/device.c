#include <stdlib.h>
#include <string.h>

#include "tensor/cpu/open.h"
#include "tensor/plugin.h"

/* The number behind "cuda:", 0 behind "cuda" alone; -1: it is no such name. */
static int cuda_index(const char *name) {
    if (strncmp(name, "cuda", 4) != 0) return -1;
    if (!name[4]) return 0;
    const char *number = name + 5;
    const size_t digits = name[4] == ':' ? strspn(number, "0123456789") : 0;
    return digits < 1 || digits > 3 || number[digits] ? -1 : atoi(number);
}

/* The first usable GPU; else the CPU, and the log says why. */
static sp_status open_auto(sp_context *ctx, spi_device **out) {
    const sp_status status = spi_plugin_device(ctx, "cuda", 0, out);
    if (status == SP_OK) return SP_OK;
    /* That there is no backend for GPUs is how many install it: no news. */
    const sp_log_level level = status == SP_ERR_UNSUPPORTED ? SP_LOG_DEBUG : SP_LOG_INFO;
    spi_log(ctx, level, "computing on the CPU: %s", sp_last_error(ctx));
    return spi_cpu_open(ctx, out);
}

sp_status spi_device_open(sp_context *ctx, const char *name, spi_device **out) {
    *out = NULL;
    if (!name || strcmp(name, "auto") == 0) return open_auto(ctx, out);
    if (strcmp(name, "cpu") == 0) return spi_cpu_open(ctx, out);
    const int index = cuda_index(name);
    if (index >= 0) return spi_plugin_device(ctx, "cuda", index, out);
    return spi_fail(ctx, SP_ERR_UNSUPPORTED, "device \"%s\": expected auto, cpu, cuda or cuda:N", name);
}

void spi_device_close(spi_device *dev) {
    if (dev) dev->op->close(dev);
}

sp_status spi_device_status(const spi_device *dev) {
    return dev->status;
}
