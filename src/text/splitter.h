/* tokenizers.SplitDelimiterBehavior: what becomes of the delimiters between the parts of a text. */
#ifndef SPI_TEXT_SPLITTER_H
#define SPI_TEXT_SPLITTER_H

#include "base/context.h"

typedef enum spi_behavior {
    SPI_REMOVED = 0,
    SPI_ISOLATED,             /* each a part of its own */
    SPI_MERGED_WITH_PREVIOUS, /* the first of several goes to the part before it */
    SPI_MERGED_WITH_NEXT,     /* the last of several goes to the part behind it */
    SPI_CONTIGUOUS            /* several in a row are one part */
} spi_behavior;

/* False where no behaviour has that name. */
bool spi_behavior_find(const char *name, spi_behavior *out);

/* Takes a part, [start, end) of the text, perhaps empty. */
typedef sp_status (*spi_part_fn)(void *user, size_t start, size_t end);

/* Start with {.behavior, .fn, .user}. */
typedef struct spi_splitter {
    spi_behavior behavior;
    spi_part_fn fn;
    void *user;
    bool pending; /* a part that may still grow */
    bool was_delimiter;
    size_t start, end;
} spi_splitter;

/* The next stretch of the text; stretches follow each other without a gap. */
sp_status spi_splitter_add(spi_splitter *s, size_t start, size_t end, bool delimiter);
/* The text has ended. */
sp_status spi_splitter_end(spi_splitter *s);

#endif
