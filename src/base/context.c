#include "base/context.h"

#include <omp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Long enough to list a few dozen missing tensors; spi_buf builds longer lists and cuts them itself. */
#define ERROR_SIZE 8192

struct sp_context {
    char error[ERROR_SIZE];
    sp_log_fn log;
    void *log_user;
    sp_log_level log_level;
    int threads;
};

sp_context *sp_context_new(void) {
    return calloc(1, sizeof(sp_context));
}

void sp_context_free(sp_context *ctx) {
    free(ctx);
}

const char *sp_last_error(const sp_context *ctx) {
    return ctx ? ctx->error : "out of memory";
}

void sp_context_set_log(sp_context *ctx, sp_log_fn fn, void *user, sp_log_level level) {
    ctx->log = fn;
    ctx->log_user = user;
    ctx->log_level = level;
}

void sp_context_set_threads(sp_context *ctx, int threads) {
    ctx->threads = threads > 0 ? threads : 0;
}

int spi_threads(const sp_context *ctx) {
    return ctx->threads > 0 ? ctx->threads : omp_get_num_procs();
}

sp_status(spi_fail)(sp_context *ctx, sp_status status, const char *fmt, ...) {
    /* Through a copy, because the arguments may point into the old message. */
    char text[ERROR_SIZE];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    memcpy(ctx->error, text, sizeof text);
    return status;
}

sp_status spi_fail_prefix(sp_context *ctx, sp_status status, const char *fmt, ...) {
    char text[ERROR_SIZE];
    va_list args;
    va_start(args, fmt);
    int used = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (used >= 0 && (size_t)used < sizeof text)
        snprintf(text + used, sizeof text - (size_t)used, ": %s", ctx->error);
    memcpy(ctx->error, text, sizeof text);
    return status;
}

sp_status(spi_fail_memory)(sp_context *ctx, size_t bytes, const char *what) {
    return spi_fail(ctx, SP_ERR_MEMORY, "out of memory: %zu bytes for %s", bytes, what);
}

void spi_log(sp_context *ctx, sp_log_level level, const char *fmt, ...) {
    if (!ctx->log || level < ctx->log_level) return;
    char text[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    ctx->log(ctx->log_user, level, text);
}

const char *sp_status_name(sp_status status) {
    static const char *const names[] = {"ok",   "argument", "io",     "format", "mismatch",    "unsupported",
                                        "data", "diverged", "memory", "device", "interrupted", "internal"};
    return (unsigned)status < sizeof names / sizeof *names ? names[status] : "unknown";
}

#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)

const char *sp_version(void) {
    return TEXT(SP_VERSION_MAJOR) "." TEXT(SP_VERSION_MINOR) "." TEXT(SP_VERSION_PATCH);
}

void sp_string_free(char *text) {
    free(text);
}
