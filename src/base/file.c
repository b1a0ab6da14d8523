#include "base/file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static sp_status fail_errno(sp_context *ctx, const char *verb, const char *path) {
    spi_fail(ctx, SP_ERR_IO, "%s: cannot %s: %s", path, verb, strerror(errno));
    return SP_ERR_IO; /* in sight of static analysis: never SP_OK */
}

sp_status spi_map_open(sp_context *ctx, const char *path, spi_map *out) {
    *out = (spi_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a named pipe must not make us wait */
    if (fd < 0) return fail_errno(ctx, "open", path);
    struct stat st;
    if (fstat(fd, &st) != 0) {
        sp_status status = fail_errno(ctx, "read", path);
        close(fd);
        return status;
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        return spi_fail(ctx, SP_ERR_IO, "%s: not a regular file%s", path,
                        S_ISDIR(st.st_mode) ? ": Is a directory" : "");
    }
    if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
        if (p == MAP_FAILED) {
            sp_status status = fail_errno(ctx, "map", path);
            close(fd);
            return status;
        }
        out->data = p;
        out->length = (size_t)st.st_size;
    }
    close(fd);
    return SP_OK;
}

void spi_map_close(spi_map *map) {
    if (map->data) munmap((void *)(uintptr_t)map->data, map->length);
    *map = (spi_map){0};
}

void spi_map_forget(const spi_map *map, const void *data, size_t length) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)data,
                    map_at = (uintptr_t)map->data;
    if (!map->data || at < map_at || at - map_at >= map->length) return;
    const uintptr_t first = (at + page - 1) / page * page, end = (at + length) / page * page;
    if (first < end) madvise((void *)first, end - first, MADV_DONTNEED);
}

sp_status spi_file_read(sp_context *ctx, const char *path, spi_buf *out) {
    const bool standard_input = strcmp(path, "-") == 0;
    FILE *file = standard_input ? stdin : fopen(path, "rbe");
    if (!file) return fail_errno(ctx, "open", path);
    char chunk[1 << 16];
    size_t got;
    while ((got = fread(chunk, 1, sizeof chunk, file)) > 0) spi_buf_append(out, chunk, got);
    sp_status status = SP_OK;
    if (ferror(file)) status = fail_errno(ctx, "read", path);
    if (out->failed) status = spi_fail_memory(ctx, out->length, path);
    if (!standard_input) fclose(file);
    return status;
}

bool spi_path_exists(const char *path) {
    return access(path, F_OK) == 0;
}

bool spi_path_is_dir(const char *path) {
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *spi_path_join(spi_arena *a, const char *dir, const char *name) {
    size_t length = strlen(dir);
    return spi_arena_printf(a, "%s%s%s", dir, !length || dir[length - 1] == '/' ? "" : "/", name);
}

sp_status spi_make_dirs(sp_context *ctx, const char *path) {
    char *copy = strdup(path);
    if (!copy) return spi_fail_memory(ctx, strlen(path), "a path");
    sp_status status = SP_OK;
    for (char *p = copy; *p && status == SP_OK;) {
        p += 1 + strcspn(p + 1, "/");
        const char kept = *p;
        *p = 0;
        if (mkdir(copy, 0777) != 0 && errno != EEXIST) status = fail_errno(ctx, "make directory", copy);
        *p = kept;
    }
    free(copy);
    if (status == SP_OK && !spi_path_is_dir(path))
        status = spi_fail(ctx, SP_ERR_IO, "%s: is not a directory", path);
    return status;
}

sp_status spi_writer_open(sp_context *ctx, const char *path, spi_writer *w) {
    *w = (spi_writer){0};
    spi_buf name = {0};
    spi_buf_printf(&name, "%s.%ld.tmp", path, (long)getpid());
    w->temporary = spi_buf_take(&name);
    w->path = strdup(path);
    if (!w->temporary || !w->path) {
        spi_writer_abort(w);
        spi_fail_memory(ctx, strlen(path), "a path");
        return SP_ERR_MEMORY;
    }
    w->file = fopen(w->temporary, "wbe");
    if (!w->file) {
        sp_status status = fail_errno(ctx, "write", path);
        spi_writer_abort(w);
        return status;
    }
    return SP_OK;
}

sp_status spi_writer_write(sp_context *ctx, spi_writer *w, const void *data, size_t length) {
    if (length && fwrite(data, 1, length, w->file) != length) return fail_errno(ctx, "write", w->path);
    return SP_OK;
}

/* Flushes a directory's entries; some file systems refuse, which loses nothing but the guarantee. */
static void sync_parent(const char *path) {
    char *copy = strdup(path);
    if (!copy) return;
    char *slash = strrchr(copy, '/');
    if (slash) *slash = 0;
    int fd = open(slash ? (*copy ? copy : "/") : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0) {
        fsync(fd);
        close(fd);
    }
    free(copy);
}

sp_status spi_writer_commit(sp_context *ctx, spi_writer *w) {
    sp_status status = SP_OK;
    if (fflush(w->file) != 0 || fsync(fileno(w->file)) != 0) status = fail_errno(ctx, "write", w->path);
    if (fclose(w->file) != 0 && status == SP_OK) status = fail_errno(ctx, "write", w->path);
    w->file = NULL;
    if (status == SP_OK && rename(w->temporary, w->path) != 0) status = fail_errno(ctx, "rename to", w->path);
    if (status == SP_OK) {
        sync_parent(w->path);
        free(w->temporary);
        w->temporary = NULL;
    }
    spi_writer_abort(w);
    return status;
}

void spi_writer_abort(spi_writer *w) {
    if (w->file) fclose(w->file);
    if (w->temporary) unlink(w->temporary);
    free(w->temporary);
    free(w->path);
    *w = (spi_writer){0};
}

sp_status spi_file_write(sp_context *ctx, const char *path, const void *data, size_t length) {
    spi_writer w;
    SPI_TRY(spi_writer_open(ctx, path, &w));
    sp_status status = spi_writer_write(ctx, &w, data, length);
    if (status == SP_OK) return spi_writer_commit(ctx, &w);
    spi_writer_abort(&w);
    return status;
}

sp_status spi_file_remove(sp_context *ctx, const char *path) {
    return unlink(path) == 0 || errno == ENOENT ? SP_OK : fail_errno(ctx, "remove", path);
}

sp_status spi_file_copy(sp_context *ctx, const char *from, const char *to, bool optional) {
    if (optional && !spi_path_exists(from)) return SP_OK;
    spi_buf content = {0};
    sp_status status = spi_file_read(ctx, from, &content);
    if (status == SP_OK) status = spi_file_write(ctx, to, content.data, content.length);
    spi_buf_free(&content);
    return status;
}

sp_status spi_dir_remove(sp_context *ctx, const char *path) {
    DIR *dir = opendir(path);
    if (!dir) return errno == ENOENT ? SP_OK : fail_errno(ctx, "remove", path);
    sp_status status = SP_OK;
    spi_arena names = {0};
    for (struct dirent *e; status == SP_OK && (e = readdir(dir));) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        char *child = spi_path_join(&names, path, e->d_name);
        if (!child) status = spi_fail_memory(ctx, strlen(path), "a path");
        else if (unlink(child) != 0) {
            if (errno == EISDIR || errno == EPERM) status = spi_dir_remove(ctx, child);
            else status = fail_errno(ctx, "remove", child);
        }
    }
    closedir(dir);
    spi_arena_free(&names);
    if (status == SP_OK && rmdir(path) != 0) status = fail_errno(ctx, "remove", path);
    return status;
}

sp_status spi_dir_publish(sp_context *ctx, const char *from, const char *to) {
    if (spi_path_exists(to)) SPI_TRY(spi_dir_remove(ctx, to));
    if (rename(from, to) != 0) return fail_errno(ctx, "rename to", to);
    sync_parent(to);
    return SP_OK;
}
