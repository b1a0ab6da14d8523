#include "base/mem.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_SIZE ((size_t)64 << 10)

struct spi_arena_block {
    struct spi_arena_block *previous;
    size_t used, size;
    _Alignas(max_align_t) unsigned char data[];
};

void *spi_arena_alloc(spi_arena *a, size_t bytes) {
    const size_t align = _Alignof(max_align_t);
    if (bytes > SIZE_MAX / 2) return NULL;
    bytes = (bytes + align - 1) / align * align;
    struct spi_arena_block *b = a->last;
    if (!b || b->size - b->used < bytes) {
        size_t size = bytes > BLOCK_SIZE ? bytes : BLOCK_SIZE;
        b = malloc(sizeof *b + size);
        if (!b) return NULL;
        *b = (struct spi_arena_block){.previous = a->last, .size = size};
        a->last = b;
    }
    void *p = b->data + b->used;
    b->used += bytes;
    return memset(p, 0, bytes);
}

char *spi_arena_strndup(spi_arena *a, const char *text, size_t length) {
    char *copy = spi_arena_alloc(a, length + 1);
    if (copy && length) memcpy(copy, text, length);
    return copy;
}

char *spi_arena_strdup(spi_arena *a, const char *text) {
    return spi_arena_strndup(a, text, strlen(text));
}

char *spi_arena_printf(spi_arena *a, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int length = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    char *text = length < 0 ? NULL : spi_arena_alloc(a, (size_t)length + 1);
    if (!text) return NULL;
    va_start(args, fmt);
    vsnprintf(text, (size_t)length + 1, fmt, args);
    va_end(args);
    return text;
}

void spi_arena_free(spi_arena *a) {
    for (struct spi_arena_block *b = a->last; b;) {
        struct spi_arena_block *previous = b->previous;
        free(b);
        b = previous;
    }
    a->last = NULL;
}

static bool buf_reserve(spi_buf *b, size_t extra) {
    if (b->failed) return false;
    if (extra >= SIZE_MAX / 2 - b->length) return !(b->failed = true);
    size_t need = b->length + extra + 1;
    if (b->data && need <= b->capacity) return true;
    size_t capacity = b->capacity ? b->capacity : 64;
    while (capacity < need) capacity *= 2;
    char *data = realloc(b->data, capacity);
    if (!data) return !(b->failed = true);
    b->data = data;
    b->capacity = capacity;
    return true;
}

void spi_buf_append(spi_buf *b, const void *data, size_t length) {
    if (!buf_reserve(b, length)) return;
    if (length) memcpy(b->data + b->length, data, length);
    b->length += length;
    b->data[b->length] = 0;
}

void spi_buf_puts(spi_buf *b, const char *text) {
    spi_buf_append(b, text, strlen(text));
}

void spi_buf_putc(spi_buf *b, char c) {
    spi_buf_append(b, &c, 1);
}

void spi_buf_printf(spi_buf *b, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int length = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (length < 0 || !buf_reserve(b, (size_t)length)) return;
    va_start(args, fmt);
    vsnprintf(b->data + b->length, (size_t)length + 1, fmt, args);
    va_end(args);
    b->length += (size_t)length;
}

char *spi_buf_take(spi_buf *b) {
    if (!b->data) spi_buf_append(b, "", 0);
    char *data = b->failed ? NULL : b->data;
    if (b->failed) free(b->data);
    *b = (spi_buf){0};
    return data;
}

void spi_buf_free(spi_buf *b) {
    free(b->data);
    *b = (spi_buf){0};
}

bool spi_grow(void **items, size_t *capacity, size_t count, size_t size) {
    if (count < *capacity) return true;
    size_t wanted = *capacity ? *capacity * 2 : 16;
    if (wanted > SIZE_MAX / size) return false;
    void *grown = realloc(*items, wanted * size);
    if (!grown) return false;
    *items = grown;
    *capacity = wanted;
    return true;
}
