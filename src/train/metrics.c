#include "train/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

/* Whole lines whose "step" is at most `step`; one cut short by an interruption is dropped. */
static void keep_lines(const spi_buf *all, int64_t step, spi_buf *kept) {
    const char *at = all->data, *end = at + all->length;
    while (at < end) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        if (!newline) break;
        json_t *line = json_loadb(at, (size_t)(newline - at), 0, NULL);
        const json_t *number = json_object_get(line, "step");
        if (json_is_integer(number) && json_integer_value(number) <= step)
            spi_buf_append(kept, at, (size_t)(newline + 1 - at));
        json_decref(line);
        at = newline + 1;
    }
}

sp_status spi_metrics_start(sp_context *ctx, const char *path, int64_t step) {
    spi_buf all = {0}, kept = {0};
    sp_status status = SP_OK;
    if (step > 0 && spi_path_exists(path)) status = spi_file_read(ctx, path, &all);
    if (status == SP_OK && all.length) keep_lines(&all, step, &kept);
    if (status == SP_OK && kept.failed) status = spi_fail_memory(ctx, all.length, path);
    if (status == SP_OK) status = spi_file_write(ctx, path, kept.data ? kept.data : "", kept.length);
    spi_buf_free(&all);
    spi_buf_free(&kept);
    return status;
}

static sp_status fail_write(sp_context *ctx, const char *path) {
    return spi_fail(ctx, SP_ERR_IO, "%s: cannot write: %s", path, strerror(errno));
}

sp_status spi_metrics_append(sp_context *ctx, const char *path, json_t *line) {
    char *text = line ? json_dumps(line, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(line);
    if (!text) return spi_fail_memory(ctx, 256, path);
    FILE *file = fopen(path, "ae");
    const bool written = file && fprintf(file, "%s\n", text) > 0;
    const bool closed = file && fclose(file) == 0;
    free(text);
    return written && closed ? SP_OK : fail_write(ctx, path);
}

sp_status spi_metrics_flush(sp_context *ctx, const char *path) {
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0) return fail_write(ctx, path);
    const bool flushed = fsync(fd) == 0;
    const sp_status status = flushed ? SP_OK : fail_write(ctx, path);
    close(fd);
    return status;
}
