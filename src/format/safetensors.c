#include "format/safetensors.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* The limit of the format's reference implementation. */
#define MAX_HEADER ((uint64_t)100000000)
#define PREFIX ((size_t)8)

typedef struct metadata_pair {
    const char *key, *value;
} metadata_pair;

struct spi_st_set {
    spi_arena arena; /* names, paths, tensors, metadata */
    spi_map *maps;   /* malloc'd, with room for every shard */
    size_t map_count;
    spi_st_tensor *tensors;
    size_t count;
    metadata_pair *metadata; /* malloc'd */
    size_t metadata_count, metadata_capacity;
};

/* One file while it is being read: where it lies, what it is called, the tensors found in it. */
typedef struct st_file {
    const char *path;
    const unsigned char *bytes;
    size_t length;
    size_t data_start;
    spi_st_tensor *tensors; /* [count], in the set's arena */
    size_t count;
} st_file;

/* ------------------------------------------------------------------ one tensor of the header */

static sp_status bad_tensor(sp_context *ctx, const st_file *file, const char *name, const char *expected,
                            const json_t *found) {
    char *text = found ? json_dumps(found, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    sp_status status = spi_fail(ctx, SP_ERR_FORMAT, "%s: tensor \"%s\": expected %s, found %.200s", file->path,
                                name, expected, text ? text : "nothing");
    free(text);
    return status;
}

static sp_status read_dtype(sp_context *ctx, const st_file *file, const json_t *entry, spi_st_tensor *t) {
    const json_t *value = json_object_get(entry, "dtype");
    if (!json_is_string(value)) return bad_tensor(ctx, file, t->name, "a \"dtype\" string", value);
    const char *text = json_string_value(value);
    for (sp_dtype dtype = SP_F32; spi_dtype_size(dtype) > 0; dtype++) {
        if (strcmp(text, sp_dtype_name(dtype)) != 0) continue;
        t->dtype = dtype;
        return SP_OK;
    }
    return spi_fail(ctx, SP_ERR_UNSUPPORTED,
                    "%s: tensor \"%s\": dtype \"%.40s\" is not supported (F32, BF16, F16, I64, I32, I8, U8, "
                    "BOOL are)",
                    file->path, t->name, text);
}

/* Fills shape, count and bytes. */
static sp_status read_shape(sp_context *ctx, const st_file *file, const json_t *entry, spi_st_tensor *t) {
    const json_t *shape = json_object_get(entry, "shape");
    if (!json_is_array(shape)) return bad_tensor(ctx, file, t->name, "a \"shape\" array", shape);
    const size_t ndim = json_array_size(shape);
    if (ndim > SPI_MAX_DIMS)
        return spi_fail(ctx, SP_ERR_UNSUPPORTED, "%s: tensor \"%s\": %zu dimensions, at most %d are supported",
                        file->path, t->name, ndim, SPI_MAX_DIMS);
    t->ndim = (int)ndim;
    t->count = 1;
    bool overflow = false;
    for (size_t i = 0; i < ndim; i++) {
        const json_t *size = json_array_get(shape, i);
        if (!json_is_integer(size) || json_integer_value(size) < 0)
            return bad_tensor(ctx, file, t->name, "non-negative integers in \"shape\"", shape);
        t->shape[i] = json_integer_value(size);
        overflow |= __builtin_mul_overflow(t->count, t->shape[i], &t->count);
    }
    overflow |= __builtin_mul_overflow((size_t)t->count, spi_dtype_size(t->dtype), &t->bytes);
    if (overflow) return bad_tensor(ctx, file, t->name, "a \"shape\" of fewer than 2^63 elements", shape);
    return SP_OK;
}

static sp_status read_offsets(sp_context *ctx, const st_file *file, const json_t *entry, spi_st_tensor *t) {
    const json_t *offsets = json_object_get(entry, "data_offsets");
    const json_t *first = json_array_get(offsets, 0), *second = json_array_get(offsets, 1);
    if (json_array_size(offsets) != 2 || !json_is_integer(first) || !json_is_integer(second))
        return bad_tensor(ctx, file, t->name, "\"data_offsets\" of two integers", offsets);
    const json_int_t begin = json_integer_value(first), end = json_integer_value(second);
    if (begin < 0 || end < begin)
        return bad_tensor(ctx, file, t->name, "\"data_offsets\" with 0 <= begin <= end", offsets);
    const size_t available = file->length - file->data_start;
    if ((uint64_t)end > available)
        return spi_fail(ctx, SP_ERR_FORMAT,
                        "%s: tensor \"%s\": expected data up to byte %" JSON_INTEGER_FORMAT
                        ", found a file with %zu bytes of data",
                        file->path, t->name, end, available);
    if ((uint64_t)(end - begin) != t->bytes)
        return spi_fail(ctx, SP_ERR_FORMAT,
                        "%s: tensor \"%s\": expected %zu bytes for its dtype and shape, found \"data_offsets\" "
                        "over %" JSON_INTEGER_FORMAT,
                        file->path, t->name, t->bytes, end - begin);
    t->offset = file->data_start + (size_t)begin;
    t->data = file->bytes + t->offset;
    return SP_OK;
}

static sp_status read_tensor(sp_context *ctx, spi_st_set *set, const st_file *file, const char *name,
                             const json_t *entry, spi_st_tensor *t) {
    *t = (spi_st_tensor){.name = spi_arena_strdup(&set->arena, name), .file = file->path};
    if (!t->name) return spi_fail_memory(ctx, strlen(name), file->path);
    if (!json_is_object(entry)) return bad_tensor(ctx, file, name, "an object", entry);
    SPI_TRY(read_dtype(ctx, file, entry, t));
    SPI_TRY(read_shape(ctx, file, entry, t));
    return read_offsets(ctx, file, entry, t);
}

/* ------------------------------------------------------------------ the header */

static sp_status read_metadata(sp_context *ctx, spi_st_set *set, const st_file *file, json_t *metadata) {
    if (!json_is_object(metadata))
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"__metadata__\": expected an object of strings", file->path);
    const char *key;
    json_t *value;
    json_object_foreach(metadata, key, value) {
        if (!json_is_string(value))
            return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"__metadata__\": \"%s\": expected a string", file->path,
                            key);
        if (spi_st_metadata(set, key)) continue;
        if (!spi_grow((void **)&set->metadata, &set->metadata_capacity, set->metadata_count,
                      sizeof *set->metadata))
            return spi_fail_memory(ctx, sizeof *set->metadata, "metadata");
        metadata_pair pair = {spi_arena_strdup(&set->arena, key),
                              spi_arena_strdup(&set->arena, json_string_value(value))};
        if (!pair.key || !pair.value) return spi_fail_memory(ctx, strlen(key), "metadata");
        set->metadata[set->metadata_count++] = pair;
    }
    return SP_OK;
}

static int by_offset(const void *a, const void *b) {
    const spi_st_tensor *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes); /* empty tensors stand before the data they touch */
}

static int by_name(const void *a, const void *b) {
    return strcmp(((const spi_st_tensor *)a)->name, ((const spi_st_tensor *)b)->name);
}

/* Every byte of the data belongs to exactly one tensor. Leaves the tensors sorted by offset. */
static sp_status check_layout(sp_context *ctx, const st_file *file) {
    qsort(file->tensors, file->count, sizeof *file->tensors, by_offset);
    size_t end = file->data_start;
    for (size_t i = 0; i < file->count; i++) {
        const spi_st_tensor *t = &file->tensors[i];
        if (t->offset != end)
            return spi_fail(ctx, SP_ERR_FORMAT,
                            "%s: tensor \"%s\": expected its data at byte %zu, found byte %zu: %s", file->path,
                            t->name, end - file->data_start, t->offset - file->data_start,
                            t->offset > end ? "a hole" : "it overlaps the tensor before");
        end += t->bytes;
    }
    if (end != file->length)
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: expected %zu bytes of data, found %zu", file->path,
                        end - file->data_start, file->length - file->data_start);
    return SP_OK;
}

static sp_status read_entries(sp_context *ctx, spi_st_set *set, st_file *file, json_t *header) {
    const size_t size = json_object_size(header);
    file->tensors = spi_arena_alloc(&set->arena, size * sizeof *file->tensors);
    if (!file->tensors) return spi_fail_memory(ctx, size * sizeof *file->tensors, file->path);
    const char *name;
    json_t *entry;
    json_object_foreach(header, name, entry) {
        if (strcmp(name, "__metadata__") == 0) SPI_TRY(read_metadata(ctx, set, file, entry));
        else SPI_TRY(read_tensor(ctx, set, file, name, entry, &file->tensors[file->count++]));
    }
    SPI_TRY(check_layout(ctx, file));
    qsort(file->tensors, file->count, sizeof *file->tensors, by_name);
    return SP_OK;
}

/* Parses the text of a JSON object in which no key may stand twice. */
static sp_status parse_object(sp_context *ctx, const char *path, const char *what, const void *text,
                              size_t length, json_t **out) {
    json_error_t error;
    *out = json_loadb(text, length, JSON_REJECT_DUPLICATES, &error);
    if (!*out)
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: %s is not valid JSON at byte %d: %s", path, what,
                        error.position, error.text);
    if (json_is_object(*out)) return SP_OK;
    json_decref(*out);
    *out = NULL;
    return spi_fail(ctx, SP_ERR_FORMAT, "%s: %s: expected a JSON object", path, what);
}

/* Reads the header of file->bytes; fills data_start, tensors (sorted by name) and count. */
static sp_status read_file(sp_context *ctx, spi_st_set *set, st_file *file) {
    if (file->length < PREFIX)
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: expected a safetensors file, found only %zu bytes", file->path,
                        file->length);
    uint64_t length;
    memcpy(&length, file->bytes, sizeof length);
    if (length > MAX_HEADER)
        return spi_fail(ctx, SP_ERR_FORMAT,
                        "%s: expected a header of at most %" PRIu64 " bytes, found %" PRIu64
                        ": not a safetensors file",
                        file->path, MAX_HEADER, length);
    if (length > file->length - PREFIX)
        return spi_fail(ctx, SP_ERR_FORMAT,
                        "%s: expected a header of %" PRIu64 " bytes, found a file of %zu bytes: cut short?",
                        file->path, length, file->length);
    if (length == 0 || file->bytes[PREFIX] != '{')
        return spi_fail(ctx, SP_ERR_FORMAT,
                        "%s: expected a header that begins with '{': not a safetensors file", file->path);
    file->data_start = PREFIX + (size_t)length;
    json_t *header;
    SPI_TRY(parse_object(ctx, file->path, "the header", file->bytes + PREFIX, (size_t)length, &header));
    sp_status status = read_entries(ctx, set, file, header);
    json_decref(header);
    return status;
}

/* ------------------------------------------------------------------ one file */

/* An empty set with room for the maps of `files` files. */
static spi_st_set *set_new(size_t files) {
    spi_st_set *set = calloc(1, sizeof *set);
    if (set) set->maps = calloc(files + 1, sizeof *set->maps);
    if (set && set->maps) return set;
    free(set);
    return NULL;
}

/* Maps one more file into the set, whose `maps` has room for it, and reads its header. */
static sp_status map_file(sp_context *ctx, spi_st_set *set, const char *path, st_file *file) {
    spi_map *map = &set->maps[set->map_count];
    SPI_TRY(spi_map_open(ctx, path, map));
    set->map_count++;
    *file = (st_file){.path = spi_arena_strdup(&set->arena, path), .bytes = map->data, .length = map->length};
    if (!file->path) return spi_fail_memory(ctx, strlen(path), "a path");
    return read_file(ctx, set, file);
}

/* Hands out `set` with the tensors of its only file, or frees it. */
static sp_status finish_single(sp_status status, spi_st_set *set, const st_file *file, spi_st_set **out) {
    if (status != SP_OK) {
        spi_st_close(set);
        return status;
    }
    set->tensors = file->tensors;
    set->count = file->count;
    *out = set;
    return SP_OK;
}

sp_status spi_st_open(sp_context *ctx, const char *path, spi_st_set **out) {
    *out = NULL;
    spi_st_set *set = set_new(1);
    if (!set) return spi_fail_memory(ctx, sizeof *set, "a set of tensors");
    st_file file = {0};
    return finish_single(map_file(ctx, set, path, &file), set, &file, out);
}

sp_status spi_st_open_memory(sp_context *ctx, const char *name, const void *bytes, size_t length,
                             spi_st_set **out) {
    *out = NULL;
    spi_st_set *set = set_new(0);
    if (!set) return spi_fail_memory(ctx, sizeof *set, "a set of tensors");
    st_file file = {.path = spi_arena_strdup(&set->arena, name), .bytes = bytes, .length = length};
    sp_status status = file.path ? read_file(ctx, set, &file) : spi_fail_memory(ctx, strlen(name), "a path");
    return finish_single(status, set, &file, out);
}

/* ------------------------------------------------------------------ shards */

/* One line of an index: which shard holds which tensor. */
typedef struct mapping {
    const char *tensor, *shard;
} mapping;

static int by_shard(const void *a, const void *b) {
    const mapping *x = a, *y = b;
    const int order = strcmp(x->shard, y->shard);
    return order ? order : strcmp(x->tensor, y->tensor);
}

/* A shard lies beside its index and nowhere else. */
static bool is_plain_name(const char *name) {
    return *name && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && !strchr(name, '/');
}

/* The lines of "weight_map", sorted by shard; the strings belong to `index`. Free *out. */
static sp_status read_weight_map(sp_context *ctx, const char *path, const json_t *index, mapping **out,
                                 size_t *count) {
    json_t *map = json_object_get(index, "weight_map");
    if (!json_is_object(map))
        return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"weight_map\": expected an object, found %s", path,
                        map ? "something else" : "nothing");
    mapping *lines = calloc(json_object_size(map) + 1, sizeof *lines);
    if (!lines) return spi_fail_memory(ctx, json_object_size(map) * sizeof *lines, path);
    *out = lines;
    *count = 0;
    const char *tensor;
    json_t *shard;
    json_object_foreach(map, tensor, shard) {
        const char *name = json_string_value(shard);
        if (!name || !is_plain_name(name))
            return spi_fail(
                ctx, SP_ERR_FORMAT,
                "%s: \"weight_map\": \"%s\": expected the name of a file beside it, found \"%.200s\"", path,
                tensor, name ? name : "no string");
        lines[(*count)++] = (mapping){tensor, name};
    }
    qsort(lines, *count, sizeof *lines, by_shard);
    return SP_OK;
}

/* Takes the tensors that `lines` [count], all of one shard, name. */
static sp_status take_from_shard(sp_context *ctx, spi_st_set *set, const char *index_path, const char *dir,
                                 const mapping *lines, size_t count) {
    const char *path = spi_path_join(&set->arena, dir, lines->shard);
    if (!path) return spi_fail_memory(ctx, strlen(dir), "a path");
    st_file file = {0};
    sp_status status = map_file(ctx, set, path, &file);
    if (status != SP_OK) return spi_fail_prefix(ctx, status, "%s", index_path);
    for (size_t i = 0; i < count; i++) {
        const spi_st_tensor key = {.name = lines[i].tensor};
        const spi_st_tensor *t =
            file.count ? bsearch(&key, file.tensors, file.count, sizeof key, by_name) : NULL;
        if (!t)
            return spi_fail(ctx, SP_ERR_MISMATCH,
                            "%s: \"weight_map\": expected tensor \"%s\" in %s, found none", index_path,
                            key.name, lines->shard);
        set->tensors[set->count++] = *t;
    }
    return SP_OK;
}

/* Takes what `lines` [count], sorted by shard, name, and sorts it by name. */
static sp_status take_all(sp_context *ctx, spi_st_set *set, const char *index_path, const char *dir,
                          const mapping *lines, size_t count) {
    set->tensors = spi_arena_alloc(&set->arena, count * sizeof *set->tensors);
    if (!set->tensors) return spi_fail_memory(ctx, count * sizeof *set->tensors, "a set of tensors");
    for (size_t i = 0, n; i < count; i += n) {
        for (n = 1; i + n < count && strcmp(lines[i + n].shard, lines[i].shard) == 0;) n++;
        SPI_TRY(take_from_shard(ctx, set, index_path, dir, lines + i, n));
    }
    qsort(set->tensors, set->count, sizeof *set->tensors, by_name);
    return SP_OK;
}

static sp_status open_shards(sp_context *ctx, const char *index_path, const char *dir, const mapping *lines,
                             size_t count, spi_st_set **out) {
    size_t shards = 0;
    for (size_t i = 0; i < count; i++) shards += i == 0 || strcmp(lines[i].shard, lines[i - 1].shard) != 0;
    spi_st_set *set = set_new(shards);
    if (!set) return spi_fail_memory(ctx, sizeof *set, "a set of tensors");
    sp_status status = take_all(ctx, set, index_path, dir, lines, count);
    if (status == SP_OK) *out = set;
    else spi_st_close(set);
    return status;
}

static sp_status open_index(sp_context *ctx, const char *path, const char *dir, spi_st_set **out) {
    spi_buf text = {0};
    json_t *index = NULL;
    mapping *lines = NULL;
    size_t count = 0;
    sp_status status;
    SPI_GOTO(done, status, spi_file_read(ctx, path, &text));
    SPI_GOTO(done, status,
             parse_object(ctx, path, "the index", text.data ? text.data : "", text.length, &index));
    SPI_GOTO(done, status, read_weight_map(ctx, path, index, &lines, &count));
    status = open_shards(ctx, path, dir, lines, count, out);
done:
    free(lines);
    json_decref(index);
    spi_buf_free(&text);
    return status;
}

sp_status spi_st_open_dir(sp_context *ctx, const char *dir, const char *single, spi_st_set **out) {
    *out = NULL;
    if (!spi_path_is_dir(dir)) return spi_fail(ctx, SP_ERR_IO, "%s: is not a directory", dir);
    spi_arena paths = {0};
    sp_status status;
    const char *file = spi_path_join(&paths, dir, single);
    const char *index = file ? spi_arena_printf(&paths, "%s.index.json", file) : NULL;
    if (!index) status = spi_fail_memory(ctx, strlen(dir), "a path");
    else if (spi_path_exists(file)) status = spi_st_open(ctx, file, out);
    else if (spi_path_exists(index)) status = open_index(ctx, index, dir, out);
    else
        status = spi_fail(ctx, SP_ERR_IO, "%s: no weights: neither %s nor %s.index.json is there", dir, single,
                          single);
    spi_arena_free(&paths);
    return status;
}

void spi_st_close(spi_st_set *set) {
    if (!set) return;
    for (size_t i = 0; i < set->map_count; i++) spi_map_close(&set->maps[i]);
    free(set->maps);
    free(set->metadata);
    spi_arena_free(&set->arena);
    free(set);
}

void spi_st_forget(const spi_st_set *set, const spi_st_tensor *tensor) {
    for (size_t i = 0; i < set->map_count; i++) spi_map_forget(&set->maps[i], tensor->data, tensor->bytes);
}

/* ------------------------------------------------------------------ lookup */

size_t spi_st_count(const spi_st_set *set) {
    return set->count;
}

const spi_st_tensor *spi_st_at(const spi_st_set *set, size_t index) {
    return &set->tensors[index];
}

const spi_st_tensor *spi_st_find(const spi_st_set *set, const char *name) {
    const spi_st_tensor key = {.name = name};
    return set->count ? bsearch(&key, set->tensors, set->count, sizeof key, by_name) : NULL;
}

const char *spi_st_metadata(const spi_st_set *set, const char *key) {
    for (size_t i = 0; i < set->metadata_count; i++)
        if (strcmp(set->metadata[i].key, key) == 0) return set->metadata[i].value;
    return NULL;
}
