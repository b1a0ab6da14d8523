/* Files: mapped for reading, read whole, and written so that a reader never sees half of one. */
#ifndef SPI_BASE_FILE_H
#define SPI_BASE_FILE_H

#include <stdio.h>

#include "base/mem.h"

/* A file mapped read-only and shared between processes. `data` is NULL for an empty file. */
typedef struct spi_map {
    const unsigned char *data;
    size_t length;
} spi_map;

sp_status spi_map_open(sp_context *ctx, const char *path, spi_map *out);
void spi_map_close(spi_map *map);
/* Gives back the whole pages of a part of the file, as far as it lies in this map; they are read again when
 * they are touched. */
void spi_map_forget(const spi_map *map, const void *data, size_t length);

/* The whole file, "-" being standard input; appended to `out`. */
sp_status spi_file_read(sp_context *ctx, const char *path, spi_buf *out);

bool spi_path_exists(const char *path);
bool spi_path_is_dir(const char *path);
/* "dir/name" in `a`, or "name" where dir is ""; NULL when out of memory. */
char *spi_path_join(spi_arena *a, const char *dir, const char *name);
/* mkdir -p */
sp_status spi_make_dirs(sp_context *ctx, const char *path);

/*
 * A file that comes into being whole or not at all: written beside its final name, flushed to the disk,
 * renamed. Start with spi_writer_open; write to `file`; end with exactly one of commit and abort.
 */
typedef struct spi_writer {
    FILE *file;
    char *path, *temporary;
} spi_writer;

sp_status spi_writer_open(sp_context *ctx, const char *path, spi_writer *w);
/* Writing fails through here, so that a full disk is reported with the file's name. */
sp_status spi_writer_write(sp_context *ctx, spi_writer *w, const void *data, size_t length);
sp_status spi_writer_commit(sp_context *ctx, spi_writer *w);
void spi_writer_abort(spi_writer *w);

/* All of the above in one call. */
sp_status spi_file_write(sp_context *ctx, const char *path, const void *data, size_t length);
/* Copies one file; SP_OK and nothing done when `from` does not exist and `optional`. */
sp_status spi_file_copy(sp_context *ctx, const char *from, const char *to, bool optional);

/* Removes a file; a missing one is fine. */
sp_status spi_file_remove(sp_context *ctx, const char *path);

/* Renames a finished directory over `to` (removed first if there) and flushes the parent. */
sp_status spi_dir_publish(sp_context *ctx, const char *from, const char *to);
/* rm -r of a directory of ours; a missing one is fine. */
sp_status spi_dir_remove(sp_context *ctx, const char *path);

#endif
