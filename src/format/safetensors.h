/*
 * The safetensors format: 8 bytes of little-endian header length, a JSON header
 * {"name": {"dtype", "shape", "data_offsets": [begin, end)}, ..., "__metadata__"}, then the data.
 */
#ifndef SPI_FORMAT_SAFETENSORS_H
#define SPI_FORMAT_SAFETENSORS_H

#include "base/file.h"

#define SPI_MAX_DIMS 8

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

/* One file, or all shards of an index, as one set of names. Tensors are sorted by name. */
typedef struct spi_st_set spi_st_set;

/*
 * Opens one file. Every header fact is checked before any tensor is handed out: header length against file
 * size, JSON, known dtype, shape times size against offsets without overflow, offsets inside the file,
 * no overlap, no hole. Each refusal names file, tensor, expected and found.
 */
sp_status spi_st_open(sp_context *ctx, const char *path, spi_st_set **out);

/*
 * Opens the weights of a checkpoint directory: DIR/model.safetensors, else the shards that
 * DIR/model.safetensors.index.json names. `single` names the single file ("model.safetensors",
 * "shadow_adapter.safetensors"); the index's name is derived from it.
 */
sp_status spi_st_open_dir(sp_context *ctx, const char *dir, const char *single, spi_st_set **out);
void spi_st_close(spi_st_set *set);

size_t spi_st_count(const spi_st_set *set);
const spi_st_tensor *spi_st_at(const spi_st_set *set, size_t index);
/* NULL if there is none of that name. */
const spi_st_tensor *spi_st_find(const spi_st_set *set, const char *name);
/* The value under "__metadata__", or NULL. */
const char *spi_st_metadata(const spi_st_set *set, const char *key);

size_t spi_dtype_size(sp_dtype dtype);

/* Converts n elements to f32 from F32, BF16 or F16; `from` needs no alignment. */
void spi_to_f32(float *to, const void *from, sp_dtype dtype, int64_t n);
/* And back, rounding to nearest even. */
void spi_from_f32(void *to, const float *from, sp_dtype dtype, int64_t n);

/* What to write: name, dtype, shape and where the bytes are. */
typedef struct spi_st_item {
    const char *name;
    sp_dtype dtype;
    int ndim;
    int64_t shape[SPI_MAX_DIMS];
    const void *data;
} spi_st_item;

/*
 * Writes one file atomically, tensors ordered as Python's safetensors orders them (by dtype size descending,
 * then name), header padded with spaces to 8 bytes, "__metadata__": {"format": "pt"}.
 */
sp_status spi_st_write(sp_context *ctx, const char *path, const spi_st_item *items, size_t count);

/* As spi_st_write, in shards of at most `max_shard_bytes` with DIR/model.safetensors.index.json when it takes
 * more than one (names as save_pretrained gives them). */
sp_status spi_st_write_dir(sp_context *ctx, const char *dir, const spi_st_item *items, size_t count,
                           int64_t max_shard_bytes);

#endif
