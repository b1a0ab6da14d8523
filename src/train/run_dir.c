#include "train/run_dir.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define PREFIX "checkpoint-"
#define PARTIAL ".partial"

char *spi_run_dir_checkpoint(spi_arena *arena, const char *dir, int64_t step) {
    char name[64];
    snprintf(name, sizeof name, PREFIX "%lld", (long long)step);
    return spi_path_join(arena, dir, name);
}

char *spi_run_dir_partial(spi_arena *arena, const char *checkpoint) {
    return spi_arena_printf(arena, "%s" PARTIAL, checkpoint);
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

/* ------------------------------------------------------------------ what is there */

/* The step of a checkpoint's name; *partial for one that is not complete; -1 for any other name. */
static int64_t step_of(const char *name, bool *partial) {
    char *end, again[64];
    *partial = false;
    if (strncmp(name, PREFIX, strlen(PREFIX)) != 0) return -1;
    const long long step = strtoll(name + strlen(PREFIX), &end, 10);
    *partial = strcmp(end, PARTIAL) == 0;
    if (step < 0 || (*end && !*partial)) return -1;
    /* Leading zeros, signs and numbers too large are other names. */
    snprintf(again, sizeof again, PREFIX "%lld", step);
    return strncmp(name, again, (size_t)(end - name)) == 0 && again[end - name] == 0 ? step : -1;
}

typedef struct steps {
    int64_t *list;
    size_t count, capacity;
} steps;

static int ascending(const void *a, const void *b) {
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

static sp_status open_dir(sp_context *ctx, const char *dir, DIR **out) {
    *out = opendir(dir);
    if (*out) return SP_OK;
    spi_fail(ctx, SP_ERR_IO, "%s: cannot open: %s", dir, strerror(errno));
    return SP_ERR_IO;
}

/* The steps of all checkpoints, ascending; free *out's list. */
static sp_status list_steps(sp_context *ctx, const char *dir, steps *out) {
    DIR *d = NULL;
    sp_status status = SP_OK;
    *out = (steps){0};
    SPI_TRY(open_dir(ctx, dir, &d));
    for (struct dirent *e; status == SP_OK && (e = readdir(d));) {
        bool partial;
        const int64_t step = step_of(e->d_name, &partial);
        if (step < 0 || partial) continue;
        if (spi_grow((void **)&out->list, &out->capacity, out->count, sizeof *out->list))
            out->list[out->count++] = step;
        else status = spi_fail_memory(ctx, out->count * sizeof *out->list, "checkpoints");
    }
    closedir(d);
    if (out->count) qsort(out->list, out->count, sizeof *out->list, ascending);
    return status;
}

sp_status spi_run_dir_newest(sp_context *ctx, const char *dir, int64_t *step) {
    steps all;
    sp_status status = list_steps(ctx, dir, &all);
    *step = all.count ? all.list[all.count - 1] : -1;
    free(all.list);
    return status;
}

/* ------------------------------------------------------------------ removing */

static sp_status remove_partial(sp_context *ctx, const char *dir) {
    DIR *d = NULL;
    spi_arena names = {0};
    sp_status status = SP_OK;
    SPI_TRY(open_dir(ctx, dir, &d));
    for (struct dirent *e; status == SP_OK && (e = readdir(d));) {
        bool partial;
        if (step_of(e->d_name, &partial) < 0 || !partial) continue;
        const char *path = spi_path_join(&names, dir, e->d_name);
        status = path ? spi_dir_remove(ctx, path) : spi_fail_memory(ctx, strlen(dir), "a path");
    }
    closedir(d);
    spi_arena_free(&names);
    return status;
}

/* Takes the name away first: a checkpoint half removed must not look complete. */
static sp_status make_partial(sp_context *ctx, const char *dir, int64_t step) {
    spi_arena names = {0};
    const char *path = spi_run_dir_checkpoint(&names, dir, step);
    const char *partial = path ? spi_run_dir_partial(&names, path) : NULL;
    sp_status status = SP_OK;
    if (!partial) status = spi_fail_memory(ctx, strlen(dir), "a path");
    if (status == SP_OK) status = spi_dir_remove(ctx, partial);
    if (status == SP_OK && rename(path, partial) != 0)
        status = spi_fail(ctx, SP_ERR_IO, "%s: cannot remove: %s", path, strerror(errno));
    spi_arena_free(&names);
    return status;
}

sp_status spi_run_dir_rotate(sp_context *ctx, const char *dir, int32_t limit, int64_t keep) {
    steps all;
    sp_status status = list_steps(ctx, dir, &all);
    size_t left = all.count;
    for (size_t i = 0; limit > 0 && status == SP_OK && i + 1 < all.count && left > (size_t)limit; i++) {
        if (all.list[i] == keep) continue;
        status = make_partial(ctx, dir, all.list[i]);
        left--;
    }
    free(all.list);
    return status == SP_OK ? remove_partial(ctx, dir) : status;
}
