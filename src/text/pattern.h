/*
 * Patterns that tokenizers split and replace by: a fixed string, or a regular expression of Oniguruma's Ruby
 * syntax, run by PCRE2 (JIT, UTF, UCP).
 */
#ifndef SPI_TEXT_PATTERN_H
#define SPI_TEXT_PATTERN_H

#include "base/mem.h"

typedef struct spi_pattern spi_pattern;

/* A fixed string, not empty; copied. NULL when out of memory. */
spi_pattern *spi_pattern_string(const char *text, size_t length);
/*
 * SP_ERR_FORMAT with PCRE2's message where the expression is broken, SP_ERR_UNSUPPORTED where it uses what
 * PCRE2 lacks; `file` and `key` are for messages. `regex` is followed by a NUL.
 */
sp_status spi_pattern_regex(sp_context *ctx, const char *file, const char *key, const char *regex,
                            size_t length, spi_pattern **out);
void spi_pattern_free(spi_pattern *p);

/* Walks over the matches in a text. Start with {.pattern, .text, .length}; the text is well-formed UTF-8. */
typedef struct spi_matches {
    const spi_pattern *pattern;
    const char *text;
    size_t length;
    size_t from;     /* where to search on */
    size_t last_end; /* of the last match, plus one; 0: none yet */
} spi_matches;

/*
 * The next match [*start, *end), or *found = false. An empty match right behind the last match is passed over.
 * SP_ERR_DATA where the expression backtracks without end.
 */
sp_status spi_matches_next(sp_context *ctx, spi_matches *m, size_t *start, size_t *end, bool *found);

#endif
