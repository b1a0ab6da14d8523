#include "text/records.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/file.h"
#include "base/json.h"

struct spi_records {
    sp_context *ctx;
    char *name;         /* of the file */
    spi_buf text;       /* the whole file; tables are unquoted in place */
    char *cursor, *end; /* what is not yet read */
    int64_t line;       /* of the cursor */
    char delimiter;     /* of a table; 0: JSON */
    bool in_array;      /* JSON: an element of an array must follow */
    json_t *object;     /* the current JSON record, which owns the fields' text */
    spi_field *fields;  /* [columns] of a table, else [at most capacity] */
    size_t capacity, columns;
};

sp_data_format spi_data_format(const char *path) {
    const char *dot = strrchr(path, '.');
    if (!dot || strchr(dot, '/')) return SP_DATA_TEXT;
    if (strcasecmp(dot, ".jsonl") == 0 || strcasecmp(dot, ".json") == 0) return SP_DATA_JSONL;
    if (strcasecmp(dot, ".csv") == 0) return SP_DATA_CSV;
    if (strcasecmp(dot, ".tsv") == 0) return SP_DATA_TSV;
    return SP_DATA_TEXT;
}

const spi_field *spi_record_find(const spi_record *record, const char *name) {
    for (size_t i = 0; i < record->count; i++)
        if (strcmp(record->fields[i].name, name) == 0) return &record->fields[i];
    return NULL;
}

/* ------------------------------------------------------------------ tables */

/* Bytes of the line end at p: 0 if there is none, 2 for CRLF. A CR that ends the file counts too. */
static size_t line_end(const char *p, const char *end) {
    if (p == end) return 0;
    if (*p == '\n') return 1;
    if (*p != '\r') return 0;
    if (p + 1 == end) return 1;
    return p[1] == '\n' ? 2 : 0;
}

/* Unquotes the field behind the quote at the cursor, in place; *stop is the byte behind its closing quote. */
static sp_status read_quoted(spi_records *r, size_t *length, char **stop) {
    const int64_t opened = r->line;
    char *from = r->cursor + 1;
    char *to = from;
    for (; from < r->end; from++) {
        if (*from == '"') {
            if (from + 1 == r->end || from[1] != '"') break;
            from++;
        }
        if (*from == '\n') r->line++;
        *to++ = *from;
    }
    if (from == r->end)
        return spi_fail(r->ctx, SP_ERR_DATA, "%s: line %" PRId64 ": this quote is never closed", r->name,
                        opened);
    from++;
    if (from < r->end && *from != r->delimiter && !line_end(from, r->end))
        return spi_fail(r->ctx, SP_ERR_DATA,
                        "%s: line %" PRId64
                        ": text after a field's closing quote (a quote inside it is doubled)",
                        r->name, r->line);
    *length = (size_t)(to - r->cursor - 1);
    *stop = from;
    return SP_OK;
}

/* Takes the field at the cursor and what ends it; *last tells whether that was a line's end. */
static sp_status read_field(spi_records *r, spi_field *out, bool *last) {
    const bool quoted = r->cursor < r->end && *r->cursor == '"';
    char *text = r->cursor + quoted;
    char *stop = r->cursor;
    size_t length = 0;
    if (quoted) {
        SPI_TRY(read_quoted(r, &length, &stop));
    } else {
        while (stop < r->end && *stop != r->delimiter && !line_end(stop, r->end)) stop++;
        length = (size_t)(stop - text);
    }
    const size_t newline = line_end(stop, r->end);
    *last = newline || stop == r->end;
    r->cursor = stop + (newline ? newline : stop < r->end);
    r->line += newline > 0;
    text[length] = 0; /* on what ended the field, or before it: nothing unread is lost */
    *out = (spi_field){.text = text, .length = length, .kind = "a string"};
    return SP_OK;
}

static void skip_blank_lines(spi_records *r) {
    for (size_t n; (n = line_end(r->cursor, r->end)); r->line++) r->cursor += n;
}

static sp_status read_header(spi_records *r) {
    skip_blank_lines(r);
    const int64_t line = r->line;
    for (bool last = false; !last; r->columns++) {
        spi_field name;
        SPI_TRY(read_field(r, &name, &last));
        if (!spi_grow((void **)&r->fields, &r->capacity, r->columns, sizeof *r->fields))
            return spi_fail_memory(r->ctx, r->columns * sizeof *r->fields, r->name);
        for (size_t i = 0; i < r->columns; i++)
            if (name.length && strcmp(r->fields[i].name, name.text) == 0)
                return spi_fail(r->ctx, SP_ERR_DATA, "%s: line %" PRId64 ": two columns are named \"%s\"",
                                r->name, line, name.text);
        r->fields[r->columns] = (spi_field){.name = name.text};
    }
    return SP_OK;
}

static sp_status next_row(spi_records *r, spi_record *out, bool *more) {
    skip_blank_lines(r);
    *out = (spi_record){.line = r->line, .fields = r->fields};
    *more = r->cursor < r->end;
    if (!*more) return SP_OK;
    for (bool last = false; !last; out->count++) {
        spi_field field;
        SPI_TRY(read_field(r, &field, &last));
        if (out->count >= r->columns) continue;
        field.name = r->fields[out->count].name;
        r->fields[out->count] = field;
    }
    if (out->count == r->columns) return SP_OK;
    return spi_fail(r->ctx, SP_ERR_DATA,
                    "%s: line %" PRId64 ": expected %zu fields, as the header has, found %zu", r->name,
                    out->line, r->columns, out->count);
}

/* ------------------------------------------------------------------ JSON */

static void skip_space(spi_records *r) {
    for (; r->cursor < r->end && strchr(" \t\r\n", *r->cursor) && *r->cursor; r->cursor++)
        r->line += *r->cursor == '\n';
}

static sp_status set_object_fields(spi_records *r, spi_record *out) {
    const char *key;
    json_t *value;
    json_object_foreach(r->object, key, value) {
        if (!spi_grow((void **)&r->fields, &r->capacity, out->count, sizeof *r->fields))
            return spi_fail_memory(r->ctx, out->count * sizeof *r->fields, r->name);
        r->fields[out->count++] = (spi_field){.name = key,
                                              .text = json_string_value(value),
                                              .length = json_string_length(value),
                                              .kind = spi_json_kind(value),
                                              .json = value};
    }
    out->fields = r->fields;
    return SP_OK;
}

/* Parses the value at the cursor, which may go as far as `stop`, and moves the cursor behind it. */
static sp_status parse_value(spi_records *r, const char *stop) {
    json_error_t error;
    r->object = json_loadb(r->cursor, (size_t)(stop - r->cursor),
                           JSON_DISABLE_EOF_CHECK | JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (!r->object)
        return spi_fail(r->ctx, SP_ERR_DATA, "%s: line %" PRId64 ": invalid JSON at column %d: %s", r->name,
                        r->line + error.line - 1, error.column, error.text);
    if (!json_is_object(r->object))
        return spi_fail(r->ctx, SP_ERR_DATA, "%s: line %" PRId64 ": expected a JSON object, found %s", r->name,
                        r->line, spi_json_kind(r->object));
    /* On success jansson tells how many bytes it took. */
    for (const char *end = r->cursor + error.position; r->cursor < end; r->cursor++)
        r->line += *r->cursor == '\n';
    return SP_OK;
}

static sp_status next_line(spi_records *r) {
    char *stop = memchr(r->cursor, '\n', (size_t)(r->end - r->cursor));
    if (!stop) stop = r->end;
    SPI_TRY(parse_value(r, stop));
    while (r->cursor < stop && strchr(" \t\r", *r->cursor) && *r->cursor) r->cursor++;
    if (r->cursor == stop) return SP_OK;
    return spi_fail(r->ctx, SP_ERR_DATA, "%s: line %" PRId64 ": text after the JSON object", r->name, r->line);
}

/* Takes the array's comma behind an element, or its closing bracket, behind which nothing may stand. */
static sp_status end_element(spi_records *r) {
    skip_space(r);
    const char found = r->cursor < r->end ? *r->cursor : 0;
    if (found != ',' && found != ']')
        return spi_fail(r->ctx, SP_ERR_DATA,
                        "%s: line %" PRId64 ": expected ',' or ']' after an array's element", r->name, r->line);
    r->cursor++;
    r->in_array = found == ',';
    skip_space(r);
    if (!r->in_array && r->cursor < r->end)
        return spi_fail(r->ctx, SP_ERR_DATA, "%s: line %" PRId64 ": text after the array's end", r->name,
                        r->line);
    return SP_OK;
}

static sp_status next_object(spi_records *r, spi_record *out, bool *more) {
    json_decref(r->object);
    r->object = NULL;
    skip_space(r);
    *out = (spi_record){.line = r->line};
    *more = r->cursor < r->end || r->in_array;
    if (!*more) return SP_OK;
    if (r->in_array) {
        SPI_TRY(parse_value(r, r->end));
        SPI_TRY(end_element(r));
    } else {
        SPI_TRY(next_line(r));
    }
    return set_object_fields(r, out);
}

/* ------------------------------------------------------------------ both */

/* Skips what stands before the first record. */
static sp_status begin(spi_records *r, sp_data_format format) {
    static const char bom[] = "\xEF\xBB\xBF";
    if (r->text.failed) return spi_fail_memory(r->ctx, r->text.length, r->name);
    spi_buf_append(&r->text, "", 0);
    r->cursor = r->text.data;
    r->end = r->cursor + r->text.length;
    r->line = 1;
    if (r->text.length >= 3 && memcmp(r->cursor, bom, 3) == 0) r->cursor += 3;
    const char *start = r->cursor;
    while (start < r->end && strchr(" \t\r\n", *start) && *start) start++;
    if (start == r->end) return spi_fail(r->ctx, SP_ERR_DATA, "%s: the file is empty", r->name);
    if (format != SP_DATA_JSONL) {
        r->delimiter = (char)(format == SP_DATA_CSV ? ',' : '\t');
        return read_header(r);
    }
    skip_space(r);
    if (*r->cursor != '[') return SP_OK;
    r->cursor++;
    skip_space(r);
    r->in_array = true;
    if (r->cursor < r->end && *r->cursor == ']') return end_element(r);
    return SP_OK;
}

static spi_records *make(sp_context *ctx, const char *name) {
    spi_records *r = calloc(1, sizeof *r);
    if (!r) return NULL;
    r->ctx = ctx;
    r->name = strdup(name);
    if (r->name) return r;
    free(r);
    return NULL;
}

static sp_status finish_open(spi_records *r, sp_status status, sp_data_format format, spi_records **out) {
    if (status == SP_OK) status = begin(r, format);
    if (status == SP_OK) *out = r;
    else spi_records_close(r);
    return status;
}

sp_status spi_records_open(sp_context *ctx, const char *path, sp_data_format format, spi_records **out) {
    *out = NULL;
    const bool standard_input = strcmp(path, "-") == 0;
    spi_records *r = make(ctx, standard_input ? "standard input" : path);
    if (!r) return spi_fail_memory(ctx, sizeof *r, path);
    return finish_open(r, spi_file_read(ctx, path, &r->text), format, out);
}

sp_status spi_records_from_text(sp_context *ctx, const char *name, const char *text, size_t length,
                                sp_data_format format, spi_records **out) {
    *out = NULL;
    spi_records *r = make(ctx, name);
    if (!r) return spi_fail_memory(ctx, sizeof *r, name);
    spi_buf_append(&r->text, text, length);
    return finish_open(r, SP_OK, format, out);
}

sp_status spi_records_next(spi_records *records, spi_record *out, bool *more) {
    return records->delimiter ? next_row(records, out, more) : next_object(records, out, more);
}

void spi_records_close(spi_records *records) {
    if (!records) return;
    json_decref(records->object);
    free(records->fields);
    spi_buf_free(&records->text);
    free(records->name);
    free(records);
}
