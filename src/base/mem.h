/* Host memory: arenas that free everything at once, and growing byte buffers. */
#ifndef SPI_BASE_MEM_H
#define SPI_BASE_MEM_H

#include "base/context.h"

/* Memory that lives and dies together. Start with {0}. */
typedef struct spi_arena {
    struct spi_arena_block *last;
} spi_arena;

/* 16-byte aligned, zeroed; NULL when out of memory. */
void *spi_arena_alloc(spi_arena *a, size_t bytes);
char *spi_arena_strdup(spi_arena *a, const char *text);
char *spi_arena_strndup(spi_arena *a, const char *text, size_t length);
char *spi_arena_printf(spi_arena *a, const char *fmt, ...) SP_PRINTF(2, 3);
void spi_arena_free(spi_arena *a);

/*
 * A growing byte buffer, always followed by a NUL that does not count. Start with {0}. After a failed
 * allocation `failed` is set and further appends do nothing, so that one check at the end is enough.
 */
typedef struct spi_buf {
    char *data;
    size_t length, capacity;
    bool failed;
} spi_buf;

void spi_buf_append(spi_buf *b, const void *data, size_t length);
void spi_buf_puts(spi_buf *b, const char *text);
void spi_buf_putc(spi_buf *b, char c);
void spi_buf_printf(spi_buf *b, const char *fmt, ...) SP_PRINTF(2, 3);
/* Takes the text out, NULL if an append failed; the buffer is empty afterwards. */
char *spi_buf_take(spi_buf *b);
void spi_buf_free(spi_buf *b);

/* Makes room for one more element of `size` bytes in a growing array; false when out of memory. */
bool spi_grow(void **items, size_t *capacity, size_t count, size_t size);

#endif
