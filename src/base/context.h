/*
 * The context behind sp_context: where a failure leaves its message, where log lines go, how many threads.
 */
#ifndef SPI_BASE_CONTEXT_H
#define SPI_BASE_CONTEXT_H

#include "shadowpeft/shadowpeft.h"

/* Records the message and returns `status`, so that a failing call ends in `return spi_fail(...)`. */
sp_status spi_fail(sp_context *ctx, sp_status status, const char *fmt, ...) SP_PRINTF(3, 4);

/* Puts "prefix: " before the message of a failure that a lower call recorded; returns `status`. */
sp_status spi_fail_prefix(sp_context *ctx, sp_status status, const char *fmt, ...) SP_PRINTF(3, 4);

/* The message for a failed allocation of `bytes` for `what`. */
sp_status spi_fail_memory(sp_context *ctx, size_t bytes, const char *what);

#ifdef __clang_analyzer__
/* A static analyser that sees one file at a time cannot know that these never return SP_OK. */
#define spi_fail(ctx, status, ...) (spi_fail(ctx, status, __VA_ARGS__), (status))
#define spi_fail_memory(ctx, bytes, what) (spi_fail_memory(ctx, bytes, what), SP_ERR_MEMORY)
#endif

void spi_log(sp_context *ctx, sp_log_level level, const char *fmt, ...) SP_PRINTF(3, 4);

/* Threads to use in operations: the context's number, or all cores the process may use. */
int spi_threads(const sp_context *ctx);

/* Leaves the calling function on failure. */
#define SPI_TRY(call)                                       \
    do {                                                    \
        sp_status spi_try_status = (call);                  \
        if (spi_try_status != SP_OK) return spi_try_status; \
    } while (0)

/* Jumps to `label` on failure, with the status in `var`. */
#define SPI_GOTO(label, var, call)      \
    do {                                \
        (var) = (call);                 \
        if ((var) != SP_OK) goto label; \
    } while (0)

#endif
