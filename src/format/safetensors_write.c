#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "format/safetensors.h"

#define SINGLE_NAME "model.safetensors"
#define INDEX_NAME "model.safetensors.index.json"

/* Fills bytes and, if not NULL, elements. */
static sp_status item_size(sp_context *ctx, const spi_st_item *item, int64_t *bytes, int64_t *elements) {
    *bytes = 0;
    if (elements) *elements = 0;
    if (!item->name || item->ndim < 0 || item->ndim > SPI_MAX_DIMS || spi_dtype_size(item->dtype) == 0)
        return spi_fail(ctx, SP_ERR_ARGUMENT, "tensor \"%s\": no name, dtype %s or %d dimensions",
                        item->name ? item->name : "", sp_dtype_name(item->dtype), item->ndim);
    int64_t count = 1;
    bool bad = false;
    for (int i = 0; i < item->ndim; i++) {
        bad |= item->shape[i] < 0;
        bad |= __builtin_mul_overflow(count, item->shape[i], &count);
    }
    bad |= __builtin_mul_overflow(count, (int64_t)spi_dtype_size(item->dtype), bytes);
    if (bad) return spi_fail(ctx, SP_ERR_ARGUMENT, "tensor \"%s\": a shape that cannot be", item->name);
    if (elements) *elements = count;
    return SP_OK;
}

/* ------------------------------------------------------------------ one file */

/* Python's safetensors orders dtypes as its list of them does, reversed: by alignment and then by kind. */
static int dtype_rank(sp_dtype dtype) {
    static const sp_dtype order[] = {SP_I64, SP_F32, SP_I32, SP_BF16, SP_F16, SP_I8, SP_U8, SP_BOOL};
    int rank = 0;
    while (order[rank] != dtype) rank++;
    return rank;
}

static int file_order(const void *a, const void *b) {
    const spi_st_item *x = a, *y = b;
    const int difference = dtype_rank(x->dtype) - dtype_rank(y->dtype);
    return difference ? difference : strcmp(x->name, y->name);
}

static int name_order(const void *a, const void *b) {
    return strcmp(((const spi_st_item *)a)->name, ((const spi_st_item *)b)->name);
}

/* Checks every item and leaves them in `sorted` [count] as the file will hold them. */
static sp_status sort_items(sp_context *ctx, const char *path, const spi_st_item *items, size_t count,
                            spi_st_item *sorted) {
    int64_t bytes;
    for (size_t i = 0; i < count; i++) {
        SPI_TRY(item_size(ctx, &items[i], &bytes, NULL));
        sorted[i] = items[i];
    }
    qsort(sorted, count, sizeof *sorted, name_order);
    for (size_t i = 0; i < count; i++) {
        const char *name = sorted[i].name;
        if (strcmp(name, "__metadata__") == 0)
            return spi_fail(ctx, SP_ERR_ARGUMENT, "%s: tensor \"%s\": the name is reserved", path, name);
        if (i > 0 && strcmp(name, sorted[i - 1].name) == 0)
            return spi_fail(ctx, SP_ERR_ARGUMENT, "%s: tensor \"%s\" is given twice", path, name);
    }
    qsort(sorted, count, sizeof *sorted, file_order);
    return SP_OK;
}

/* A JSON string with the escapes that Python's safetensors (serde) writes. */
static void put_string(spi_buf *out, const char *text) {
    static const char plain[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    spi_buf_putc(out, '"');
    for (const char *p = text; *p; p++) {
        const char *found = strchr(plain, *p);
        if (found) spi_buf_printf(out, "\\%c", letter[found - plain]);
        else if ((unsigned char)*p < 0x20) spi_buf_printf(out, "\\u%04x", (unsigned)*p);
        else spi_buf_putc(out, *p);
    }
    spi_buf_putc(out, '"');
}

/* The header's JSON, padded so that the data begins at a multiple of 8. */
static sp_status build_header(sp_context *ctx, const char *path, const spi_st_item *sorted, size_t count,
                              spi_buf *out) {
    int64_t offset = 0;
    spi_buf_puts(out, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (size_t i = 0; i < count; i++) {
        const spi_st_item *item = &sorted[i];
        int64_t bytes, end;
        SPI_TRY(item_size(ctx, item, &bytes, NULL));
        if (__builtin_add_overflow(offset, bytes, &end))
            return spi_fail(ctx, SP_ERR_ARGUMENT, "%s: the tensors together are too large", path);
        spi_buf_putc(out, ',');
        put_string(out, item->name);
        spi_buf_printf(out, ":{\"dtype\":\"%s\",\"shape\":[", sp_dtype_name(item->dtype));
        for (int d = 0; d < item->ndim; d++) spi_buf_printf(out, "%s%" PRId64, d ? "," : "", item->shape[d]);
        spi_buf_printf(out, "],\"data_offsets\":[%" PRId64 ",%" PRId64 "]}", offset, end);
        offset = end;
    }
    spi_buf_putc(out, '}');
    while (out->length % 8 != 0 && !out->failed) spi_buf_putc(out, ' ');
    return out->failed ? spi_fail_memory(ctx, out->length, path) : SP_OK;
}

static sp_status write_body(sp_context *ctx, spi_writer *w, const spi_buf *header, const spi_st_item *sorted,
                            size_t count) {
    const uint64_t length = header->length;
    SPI_TRY(spi_writer_write(ctx, w, &length, sizeof length));
    SPI_TRY(spi_writer_write(ctx, w, header->data, header->length));
    for (size_t i = 0; i < count; i++) {
        int64_t bytes;
        SPI_TRY(item_size(ctx, &sorted[i], &bytes, NULL));
        SPI_TRY(spi_writer_write(ctx, w, sorted[i].data, (size_t)bytes));
    }
    return SP_OK;
}

sp_status spi_st_write(sp_context *ctx, const char *path, const spi_st_item *items, size_t count) {
    spi_buf header = {0};
    spi_writer w = {0};
    spi_st_item *sorted = calloc(count + 1, sizeof *sorted);
    if (!sorted) return spi_fail_memory(ctx, count * sizeof *sorted, path);
    sp_status status;
    SPI_GOTO(done, status, sort_items(ctx, path, items, count, sorted));
    SPI_GOTO(done, status, build_header(ctx, path, sorted, count, &header));
    SPI_GOTO(done, status, spi_writer_open(ctx, path, &w));
    status = write_body(ctx, &w, &header, sorted, count);
    if (status == SP_OK) status = spi_writer_commit(ctx, &w);
    else spi_writer_abort(&w);
done:
    free(sorted);
    spi_buf_free(&header);
    return status;
}

/* ------------------------------------------------------------------ a directory */

/* How the items fall into shards. */
typedef struct plan {
    size_t *shard; /* [count]: the shard of each item */
    size_t shards;
    int64_t bytes, elements; /* of all */
} plan;

#define NOT_YET SIZE_MAX

/* Gives the next number to the items of [first, end) that have none. */
static void close_shard(plan *p, size_t first, size_t end) {
    bool any = false;
    for (size_t i = first; i < end; i++) {
        if (p->shard[i] != NOT_YET) continue;
        p->shard[i] = p->shards;
        any = true;
    }
    p->shards += any;
}

/*
 * huggingface_hub's split_torch_state_dict_into_shards: a shard is closed, and numbered, once the next item
 * does not fit; an item larger than a shard is numbered at once.
 */
static sp_status plan_shards(sp_context *ctx, const spi_st_item *items, size_t count, int64_t max_bytes,
                             plan *p) {
    int64_t filled = 0;
    size_t first = 0;
    for (size_t i = 0; i < count; i++) {
        int64_t bytes, elements;
        SPI_TRY(item_size(ctx, &items[i], &bytes, &elements));
        if (__builtin_add_overflow(p->bytes, bytes, &p->bytes))
            return spi_fail(ctx, SP_ERR_ARGUMENT, "the tensors together are too large");
        p->elements += elements;
        p->shard[i] = NOT_YET;
        if (bytes > max_bytes) {
            p->shard[i] = p->shards++;
            continue;
        }
        if (filled > max_bytes - bytes) {
            close_shard(p, first, i);
            first = i;
            filled = 0;
        }
        filled += bytes;
    }
    close_shard(p, first, count);
    return SP_OK;
}

static const char *shard_name(spi_arena *a, size_t shard, size_t shards) {
    if (shards <= 1) return SINGLE_NAME;
    return spi_arena_printf(a, "model-%05zu-of-%05zu.safetensors", shard + 1, shards);
}

static sp_status write_index(sp_context *ctx, const char *dir, const spi_st_item *items, size_t count,
                             const plan *p) {
    spi_arena names = {0};
    json_t *map = json_object();
    bool made = map != NULL;
    for (size_t i = 0; i < count && made; i++) {
        const char *shard = shard_name(&names, p->shard[i], p->shards);
        made = shard && json_object_set_new(map, items[i].name, json_string(shard)) == 0;
    }
    json_t *index =
        made ? json_pack("{s:{s:I,s:I},s:O}", "metadata", "total_parameters", (json_int_t)p->elements,
                         "total_size", (json_int_t)p->bytes, "weight_map", map)
             : NULL;
    const char *path = spi_path_join(&names, dir, INDEX_NAME);
    sp_status status = index && path ? spi_json_save(ctx, path, index)
                                     : spi_fail(ctx, SP_ERR_MEMORY, "%s: cannot build %s", dir, INDEX_NAME);
    json_decref(index);
    json_decref(map);
    spi_arena_free(&names);
    return status;
}

static sp_status write_shards(sp_context *ctx, const char *dir, const spi_st_item *items, size_t count,
                              const plan *p, spi_arena *names) {
    spi_st_item *part = spi_arena_alloc(names, count * sizeof *part);
    if (!part) return spi_fail_memory(ctx, count * sizeof *part, "a shard");
    for (size_t shard = 0; shard < p->shards || shard == 0; shard++) {
        size_t held = 0;
        for (size_t i = 0; i < count; i++)
            if (p->shard[i] == shard) part[held++] = items[i];
        const char *name = shard_name(names, shard, p->shards);
        const char *path = name ? spi_path_join(names, dir, name) : NULL;
        if (!path) return spi_fail_memory(ctx, strlen(dir), "a path");
        SPI_TRY(spi_st_write(ctx, path, part, held));
    }
    return SP_OK;
}

/* "model-00001-of-00003.safetensors" of any numbers; gives the second. */
static bool is_shard(const char *name, size_t *shards) {
    static const char pattern[] = "model-#####-of-#####.safetensors";
    for (size_t i = 0; i < sizeof pattern; i++) {
        const bool digit = name[i] >= '0' && name[i] <= '9';
        if (pattern[i] == '#' ? !digit : name[i] != pattern[i]) return false;
    }
    *shards = strtoul(strrchr(name, '-') + 1, NULL, 10);
    return true;
}

/* Removes what an earlier save left and no reader of this one should see. */
static sp_status remove_stale(sp_context *ctx, const char *dir, const plan *p, spi_arena *names) {
    DIR *listing = opendir(dir);
    if (!listing) return spi_fail(ctx, SP_ERR_IO, "%s: cannot list: %s", dir, strerror(errno));
    sp_status status = SP_OK;
    for (struct dirent *e; status == SP_OK && (e = readdir(listing));) {
        size_t of = 0;
        const bool stale = strcmp(e->d_name, SINGLE_NAME) == 0  ? p->shards > 1
                           : strcmp(e->d_name, INDEX_NAME) == 0 ? p->shards <= 1
                           : is_shard(e->d_name, &of)           ? p->shards <= 1 || of != p->shards
                                                                : false;
        if (!stale) continue;
        const char *path = spi_path_join(names, dir, e->d_name);
        if (!path) status = spi_fail_memory(ctx, strlen(dir), "a path");
        else if (unlink(path) != 0)
            status = spi_fail(ctx, SP_ERR_IO, "%s: cannot remove: %s", path, strerror(errno));
    }
    closedir(listing);
    return status;
}

sp_status spi_st_write_dir(sp_context *ctx, const char *dir, const spi_st_item *items, size_t count,
                           int64_t max_shard_bytes) {
    if (max_shard_bytes <= 0)
        return spi_fail(ctx, SP_ERR_ARGUMENT, "max_shard_bytes: expected a positive number, found %" PRId64,
                        max_shard_bytes);
    spi_arena names = {0};
    plan p = {.shard = malloc((count + 1) * sizeof *p.shard)};
    if (!p.shard) return spi_fail_memory(ctx, count * sizeof *p.shard, "shards");
    sp_status status;
    SPI_GOTO(done, status, plan_shards(ctx, items, count, max_shard_bytes, &p));
    SPI_GOTO(done, status, spi_make_dirs(ctx, dir));
    SPI_GOTO(done, status, write_shards(ctx, dir, items, count, &p, &names));
    if (p.shards > 1) SPI_GOTO(done, status, write_index(ctx, dir, items, count, &p));
    status = remove_stale(ctx, dir, &p, &names);
done:
    free(p.shard);
    spi_arena_free(&names);
    return status;
}
