/*
 * The safetensors format: 8 bytes of little-endian header length, a JSON header
 * {"name": {"dtype", "shape", "data_offsets": [begin, end)}, ..., "__metadata__"}, then the data.
 */
#ifndef SPI_FORMAT_SAFETENSORS_H
#define SPI_FORMAT_SAFETENSORS_H

#include "base/dtype.h"
#include "base/file.h"

#define SPI_MAX_DIMS 8

/* Everything that a pointer of this struct reaches lives as long as the set. */
typedef struct spi_st_tensor {
    const char *name;
    sp_dtype dtype;
    int ndim;
    int64_t shape[SPI_MAX_DIMS];
    int64_t count;    /* elements */
    const void *data; /* in the mapped file; aligned only as far as the file is */
    size_t bytes;
    const char *file; /* path of the file that holds it */
    size_t offset;    /* of the data in that file */
} spi_st_tensor;

/* One file, or all shards of an index, as one set of names. Tensors are sorted by name (as bytes). */
typedef struct spi_st_set spi_st_set;

/*
 * Opens one file. Every header fact is checked before any tensor is handed out: header length against file
 * size, JSON, known dtype, shape times size against offsets without overflow, offsets inside the file,
 * no overlap, no hole, no bytes behind the last tensor. Each refusal names file, tensor, expected and found.
 * SP_ERR_IO: cannot be opened. SP_ERR_FORMAT: breaks a rule of the format. SP_ERR_UNSUPPORTED: a dtype that
 * sp_dtype lacks, or more than SPI_MAX_DIMS dimensions. *out is NULL after a failure.
 * The pages are read when they are touched: the file must not be cut short while the set is open.
 */
sp_status spi_st_open(sp_context *ctx, const char *path, spi_st_set **out);

/* As spi_st_open, of a file's bytes in memory that must outlive the set; `name` stands for the path. */
sp_status spi_st_open_memory(sp_context *ctx, const char *name, const void *bytes, size_t length,
                             spi_st_set **out);

/*
 * Opens the weights of a checkpoint directory: DIR/model.safetensors, else the shards that
 * DIR/model.safetensors.index.json names. `single` names the single file ("model.safetensors",
 * "shadow_adapter.safetensors"); the index's name is derived from it. Tensors of a shard that the index does
 * not name are left out. SP_ERR_IO: neither is there, or a shard is missing; SP_ERR_MISMATCH: the index
 * names a tensor that its shard lacks; else as spi_st_open.
 */
sp_status spi_st_open_dir(sp_context *ctx, const char *dir, const char *single, spi_st_set **out);
void spi_st_close(spi_st_set *set);

/* Tells the system that a tensor is not needed for now: its pages no longer count as the process's memory. They
 * are read again when they are touched. */
void spi_st_forget(const spi_st_set *set, const spi_st_tensor *tensor);

size_t spi_st_count(const spi_st_set *set);
/* `index` must be below the count. */
const spi_st_tensor *spi_st_at(const spi_st_set *set, size_t index);
/* NULL if there is none of that name. */
const spi_st_tensor *spi_st_find(const spi_st_set *set, const char *name);
/* The value under "__metadata__", or NULL. Of shards, the first by file name that has the key speaks. */
const char *spi_st_metadata(const spi_st_set *set, const char *key);

/* What to write: name (UTF-8), dtype, shape and where the bytes are; all stay the caller's. */
typedef struct spi_st_item {
    const char *name;
    sp_dtype dtype;
    int ndim;
    int64_t shape[SPI_MAX_DIMS];
    const void *data; /* may be NULL where the shape has no elements */
} spi_st_item;

/*
 * Writes one file atomically, the same bytes as Python's safetensors.torch.save_file(..., metadata={"format":
 * "pt"}): tensors by dtype (wider first), then name; header padded with spaces to 8 bytes. The data goes
 * from the items to the file without a copy. SP_ERR_ARGUMENT: a name given twice or reserved, a bad shape.
 */
sp_status spi_st_write(sp_context *ctx, const char *path, const spi_st_item *items, size_t count);

/*
 * As spi_st_write, into DIR/model.safetensors (DIR made if missing), or, when the tensors take more than
 * max_shard_bytes, into DIR/model-00001-of-0000N.safetensors ... with DIR/model.safetensors.index.json: the
 * items in their order, a new shard where the next item would not fit, an item larger than a shard in one of
 * its own (as Hugging Face's save_pretrained). Weights of an earlier save that
 * these do not replace are removed at the end, for they would be read instead or lie about unused. Each file
 * appears whole; for the set to do so, write into a directory of its own and use spi_dir_publish.
 */
sp_status spi_st_write_dir(sp_context *ctx, const char *dir, const spi_st_item *items, size_t count,
                           int64_t max_shard_bytes);

#endif
