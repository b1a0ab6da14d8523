/* Tokens of a Jinja template, white space control applied. */
#ifndef SPI_TEXT_JINJA_LEXER_H
#define SPI_TEXT_JINJA_LEXER_H

#include "base/mem.h"

typedef enum spi_jtoken_kind {
    SPI_T_END = 0,
    SPI_T_DATA,
    SPI_T_PRINT_BEGIN,
    SPI_T_PRINT_END,
    SPI_T_BLOCK_BEGIN,
    SPI_T_BLOCK_END,
    SPI_T_NAME,
    SPI_T_STRING, /* unescaped */
    SPI_T_INT,
    SPI_T_FLOAT,
    SPI_T_OP /* text is the operator */
} spi_jtoken_kind;

typedef struct spi_jtoken {
    spi_jtoken_kind kind;
    int line;
    const char *text; /* NUL-terminated */
    size_t length;
    int64_t integer;
    double real;
} spi_jtoken;

typedef struct spi_jtokens {
    spi_jtoken *items; /* [count], the last one SPI_T_END; free() it */
    size_t count, capacity;
} spi_jtokens;

/* Takes `text` apart; the tokens' texts go to the arena. SP_ERR_FORMAT: "NAME: line N: ...". */
sp_status spi_jinja_lex(sp_context *ctx, spi_arena *arena, const char *name, const char *text, size_t length,
                        spi_jtokens *out);

/* Copies text with its line ends made "\n"; NULL when out of memory. */
char *spi_jinja_newlines(spi_arena *arena, const char *text, size_t *length);

#endif
