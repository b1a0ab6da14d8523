#include "train/run_dir.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "checkpoint-"
#define PARTIAL ".partial"

char *spi_run_dir_checkpoint(spi_arena *arena, const char *dir, int64_t step) {
    return spi_arena_printf(arena, "%s/" PREFIX "%lld", dir, (long long)step);
}

sp_status spi_run_dir_prepare(sp_context *ctx, const char *dir) {
    spi_arena names = {0};
    SPI_TRY(spi_make_dirs(ctx, dir));
    const char *probe = spi_path_join(&names, dir, ".write-test");
    sp_status status = probe ? spi_file_write(ctx, probe, "", 0) : spi_fail_memory(ctx, strlen(dir), "a path");
    if (status == SP_OK) remove(probe);
    spi_arena_free(&names);
    return status;
}

/* The step of a checkpoint's name; *partial for one that is not complete; -1 for any other name. */
static int64_t step_of(const char *name, bool *partial) {
    char *end;
    *partial = false;
    if (strncmp(name, PREFIX, strlen(PREFIX)) != 0 || name[strlen(PREFIX)] < '0' || name[strlen(PREFIX)] > '9')
        return -1;
    const long long step = strtoll(name + strlen(PREFIX), &end, 10);
    *partial = strcmp(end, PARTIAL) == 0;
    return *end == 0 || *partial ? step : -1;
}

/* The steps of all checkpoints in ascending order, allocated; partial ones are removed where `clean`. */
static int ascending(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static sp_status list_steps(sp_context *ctx, const char *dir, bool clean, int64_t **steps, size_t *count) {
    size_t capacity = 0;
    spi_arena names = {0};
    sp_status status = SP_OK;
    *steps = NULL;
    *count = 0;
    DIR *d = opendir(dir);
    if (!d)
        return errno == ENOENT ? SP_OK : spi_fail(ctx, SP_ERR_IO, "%s: cannot open: %s", dir, strerror(errno));
    for (struct dirent *e; status == SP_OK && (e = readdir(d));) {
        bool partial;
        const int64_t step = step_of(e->d_name, &partial);
        if (step < 0) continue;
        if (partial) {
            char *path = spi_path_join(&names, dir, e->d_name);
            if (clean && path) status = spi_dir_remove(ctx, path);
            continue;
        }
        if (!spi_grow((void **)steps, &capacity, *count, sizeof **steps))
            status = spi_fail_memory(ctx, *count * sizeof **steps, "checkpoints");
        else (*steps)[(*count)++] = step;
    }
    closedir(d);
    spi_arena_free(&names);
    if (status == SP_OK && *count) qsort(*steps, *count, sizeof **steps, ascending);
    if (status != SP_OK) {
        free(*steps);
        *steps = NULL;
    }
    return status;
}

sp_status spi_run_dir_newest(sp_context *ctx, const char *dir, int64_t *step) {
    int64_t *steps;
    size_t count;
    *step = -1;
    SPI_TRY(list_steps(ctx, dir, false, &steps, &count));
    if (count) *step = steps[count - 1];
    free(steps);
    return SP_OK;
}

static sp_status remove_step(sp_context *ctx, const char *dir, int64_t step) {
    spi_arena names = {0};
    const char *path = spi_run_dir_checkpoint(&names, dir, step);
    const char *partial = path ? spi_arena_printf(&names, "%s" PARTIAL, path) : NULL;
    sp_status status = SP_OK;
    /* Renamed first: a checkpoint half removed must not look complete. */
    if (!partial) status = spi_fail_memory(ctx, strlen(dir), "a path");
    else if (rename(path, partial) != 0)
        status = spi_fail(ctx, SP_ERR_IO, "%s: cannot remove: %s", path, strerror(errno));
    if (status == SP_OK) status = spi_dir_remove(ctx, partial);
    spi_arena_free(&names);
    return status;
}

sp_status spi_run_dir_rotate(sp_context *ctx, const char *dir, int32_t limit, int64_t keep) {
    int64_t *steps;
    size_t count;
    SPI_TRY(list_steps(ctx, dir, true, &steps, &count));
    sp_status status = SP_OK;
    size_t left = count;
    for (size_t i = 0; i + 1 < count && limit > 0 && left > (size_t)limit && status == SP_OK; i++) {
        if (steps[i] == keep) continue;
        status = remove_step(ctx, dir, steps[i]);
        left--;
    }
    free(steps);
    return status;
}

sp_status spi_run_dir_clear(sp_context *ctx, const char *dir) {
    int64_t *steps;
    size_t count;
    SPI_TRY(list_steps(ctx, dir, true, &steps, &count));
    sp_status status = SP_OK;
    for (size_t i = 0; i < count && status == SP_OK; i++) status = remove_step(ctx, dir, steps[i]);
    free(steps);
    return status;
}
