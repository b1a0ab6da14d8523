/*
 * Records of a data file, one at a time: JSON lines, a JSON array of objects, or a table (CSV, TSV; RFC 4180
 * quoting) whose first line names the columns. Every message names the file and the line.
 */
#ifndef SPI_TEXT_RECORDS_H
#define SPI_TEXT_RECORDS_H

#include "base/json.h"

typedef struct spi_field {
    const char *name;
    const char *text;   /* followed by a NUL; NULL where a JSON value is no string */
    size_t length;      /* bytes; the text may hold NUL bytes */
    const char *kind;   /* what the value is: "a string", "an integer", ... */
    const json_t *json; /* the value itself; NULL in a table */
} spi_field;

typedef struct spi_record {
    int64_t line; /* where it begins, from 1 */
    size_t count;
    const spi_field *fields; /* [count], in the file's order */
} spi_record;

typedef struct spi_records spi_records;

/* The format that a path's extension stands for: never SP_DATA_AUTO. ".json" is SP_DATA_JSONL, see below. */
sp_data_format spi_data_format(const char *path);

/*
 * Opens SP_DATA_JSONL, SP_DATA_CSV or SP_DATA_TSV; "-" is standard input. A JSONL file that begins with '[' is
 * read as one array of objects. A byte order mark is skipped, as are blank lines; lines end in LF or CRLF.
 * Errors: SP_ERR_IO; SP_ERR_DATA for an empty file or a header that is broken or names a column twice.
 */
sp_status spi_records_open(sp_context *ctx, const char *path, sp_data_format format, spi_records **out);

/* The same from `length` bytes of text, which are copied; `name` stands for the file in messages. */
sp_status spi_records_from_text(sp_context *ctx, const char *name, const char *text, size_t length,
                                sp_data_format format, spi_records **out);

/*
 * The next record into *out, whose pointers live until the next call; *more is false behind the last one.
 * SP_ERR_DATA for broken JSON, a value that is no object, an unterminated quote, a wrong number of fields.
 */
sp_status spi_records_next(spi_records *records, spi_record *out, bool *more);

void spi_records_close(spi_records *records);

/* The field of that name, NULL if the record has none. */
const spi_field *spi_record_find(const spi_record *record, const char *name);

#endif
