#include "tensor/plugin.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The folder of the file that this code is in, with the slash; "" where that cannot be told. */
static void own_folder(char *folder, size_t size) {
    Dl_info info;
    char path[PATH_MAX];
    folder[0] = 0;
    /* Of a program, dladdr names what it was started as. */
    if (!dladdr(SPI_PLUGIN_OPEN, &info) || !info.dli_fname || !realpath(info.dli_fname, path) ||
        !strchr(info.dli_fname, '/')) {
        if (!realpath("/proc/self/exe", path)) return;
    }
    char *slash = strrchr(path, '/');
    if (slash && (size_t)(slash - path) + 2 <= size) {
        slash[1] = 0;
        memcpy(folder, path, strlen(path) + 1);
    }
}

/* Whether dlopen's message is that there is no file of that name, not that something it needs is missing. */
static bool is_absent(const char *message, const char *file) {
    const size_t length = strlen(file);
    return strncmp(message, file, length) == 0 && message[length] == ':' && strstr(message, "No such file");
}

/* The first that exists. NULL with the reason in `why`, and in `absent` whether there is none. */
static void *load(const char *name, char *why, size_t size, bool *absent) {
    static const char *const places[] = {"", "../lib/"};
    char folder[PATH_MAX], path[2 * PATH_MAX];
    own_folder(folder, sizeof folder);
    *absent = false;
    for (size_t i = 0; folder[0] && i < sizeof places / sizeof *places; i++) {
        snprintf(path, sizeof path, "%s%slibshadowpeft-%s.so", folder, places[i], name);
        if (access(path, F_OK) != 0) continue;
        void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
        if (!handle) snprintf(why, size, "%s", dlerror());
        return handle;
    }
    snprintf(path, sizeof path, "libshadowpeft-%s.so", name);
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle) return handle;
    snprintf(why, size, "%s", dlerror());
    *absent = is_absent(why, path);
    return NULL;
}

sp_status spi_plugin_device(sp_context *ctx, const char *name, int index, spi_device **out) {
    static const spi_plugin_host host = {SPI_PLUGIN_ABI, sizeof(spi_ops), spi_fail, spi_log};
    char why[512] = "";
    bool absent;
    *out = NULL;
    /* Never unloaded: a device's runtime does not survive that. */
    void *handle = load(name, why, sizeof why, &absent);
    if (!handle)
        return spi_fail(ctx, absent ? SP_ERR_UNSUPPORTED : SP_ERR_DEVICE,
                        "device \"%s\": its backend cannot be loaded: %s", name, why);
    spi_plugin_open *open;
    *(void **)&open = dlsym(handle, SPI_PLUGIN_OPEN);
    if (!open)
        return spi_fail(ctx, SP_ERR_DEVICE,
                        "device \"%s\": libshadowpeft-%s.so: expected the symbol %s, found none", name, name,
                        SPI_PLUGIN_OPEN);
    return open(&host, ctx, index, out);
}
