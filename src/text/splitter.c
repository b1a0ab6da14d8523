#include "text/splitter.h"

#include <string.h>

bool spi_behavior_find(const char *name, spi_behavior *out) {
    static const char *const names[] = {
        [SPI_REMOVED] = "Removed",
        [SPI_ISOLATED] = "Isolated",
        [SPI_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [SPI_MERGED_WITH_NEXT] = "MergedWithNext",
        [SPI_CONTIGUOUS] = "Contiguous",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (strcmp(names[i], name) != 0) continue;
        *out = (spi_behavior)i;
        return true;
    }
    return false;
}

/* Whether a stretch goes to the part before it. */
static bool joins(const spi_splitter *s, bool delimiter) {
    if (!s->pending) return false;
    switch (s->behavior) {
    case SPI_CONTIGUOUS: return delimiter == s->was_delimiter;
    case SPI_MERGED_WITH_PREVIOUS: return delimiter && !s->was_delimiter;
    case SPI_MERGED_WITH_NEXT: return !delimiter && s->was_delimiter;
    default: return false;
    }
}

sp_status spi_splitter_add(spi_splitter *s, size_t start, size_t end, bool delimiter) {
    if (s->behavior == SPI_ISOLATED) return s->fn(s->user, start, end);
    if (s->behavior == SPI_REMOVED) return delimiter ? SP_OK : s->fn(s->user, start, end);
    if (joins(s, delimiter)) {
        s->end = end;
    } else {
        SPI_TRY(spi_splitter_end(s));
        s->pending = true;
        s->start = start;
        s->end = end;
    }
    s->was_delimiter = delimiter;
    return SP_OK;
}

sp_status spi_splitter_end(spi_splitter *s) {
    if (!s->pending) return SP_OK;
    s->pending = false;
    return s->fn(s->user, s->start, s->end);
}
