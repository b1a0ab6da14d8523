/*
 * Any bytes as a safetensors file: refused with a message, or opened with every tensor inside the file and
 * touched by a conversion, so that the sanitizers see a wrong offset. The same bytes are tried a second time
 * with a header length that fits, because chance rarely finds one.
 */
#include <stdlib.h>
#include <string.h>

#include "format/safetensors.h"

static void require(bool condition) {
    if (!condition) abort();
}

static void check_tensor(const spi_st_set *set, const spi_st_tensor *t, const uint8_t *data, size_t size) {
    const uint8_t *begin = t->data;
    require(t->offset <= size && t->bytes <= size - t->offset && begin == data + t->offset);
    require(t->bytes == (size_t)t->count * spi_dtype_size(t->dtype));
    require(t->ndim >= 0 && t->ndim <= SPI_MAX_DIMS);
    require(spi_st_find(set, t->name) == t);
    if (t->dtype != SP_F32 && t->dtype != SP_BF16 && t->dtype != SP_F16) return;
    float *values = malloc((size_t)t->count * sizeof *values + 1);
    require(values != NULL);
    spi_to_f32(values, t->data, t->dtype, t->count);
    free(values);
}

static void try_file(const uint8_t *data, size_t size) {
    sp_context *ctx = sp_context_new();
    require(ctx != NULL);
    spi_st_set *set = NULL;
    if (spi_st_open_memory(ctx, "input", data, size, &set) == SP_OK) {
        size_t covered = 0;
        for (size_t i = 0; i < spi_st_count(set); i++) {
            check_tensor(set, spi_st_at(set, i), data, size);
            covered += spi_st_at(set, i)->bytes;
        }
        uint64_t header;
        memcpy(&header, data, sizeof header);
        require(covered == size - 8 - header);
        spi_st_metadata(set, "format");
    } else {
        require(set == NULL && strncmp(sp_last_error(ctx), "input: ", 7) == 0);
    }
    spi_st_close(set);
    sp_context_free(ctx);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    try_file(data, size);
    if (size < 8) return 0;
    /* The header is what lies between the length and the last brace. */
    uint64_t end = size;
    while (end > 8 && data[end - 1] != '}') end--;
    const uint64_t header = end - 8;
    uint8_t *repaired = malloc(size);
    require(repaired != NULL);
    memcpy(repaired, data, size);
    memcpy(repaired, &header, sizeof header);
    try_file(repaired, size);
    free(repaired);
    return 0;
}
