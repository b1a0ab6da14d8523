/* A part of a tokenizer.json, {"type": ..., ...}, and the place where it stands, for messages. */
#ifndef SPI_TEXT_COMPONENT_H
#define SPI_TEXT_COMPONENT_H

#include "base/json.h"
#include "text/pattern.h"

typedef struct spi_component {
    sp_context *ctx;
    const char *file;
    char key[128]; /* "pre_tokenizer", "pre_tokenizer.pretokenizers[0]", ... */
    const json_t *json;
    const char *type;
} spi_component;

/* What reads one part; `user` is the reader's own. */
typedef sp_status (*spi_component_fn)(void *user, const spi_component *c);

/* Calls `fn` with the part under `key` of the file's object; a missing or null one is not read. */
sp_status spi_component_read(sp_context *ctx, const char *file, const json_t *object, const char *key,
                             spi_component_fn fn, void *user);
/* Calls `fn` with each part of the array `list` of a sequence. */
sp_status spi_component_each(const spi_component *c, const char *list, spi_component_fn fn, void *user);

/* SP_ERR_UNSUPPORTED: "FILE: "KEY.type": expected one of KNOWN, found "TYPE"". */
sp_status spi_component_unknown(const spi_component *c, const char *known);
/* SP_ERR_FORMAT: "FILE: "KEY.NAME": expected EXPECTED, found ..." */
sp_status spi_component_wrong(const spi_component *c, const char *name, const char *expected);

/* Members, with a default where they are missing or null. */
sp_status spi_component_bool(const spi_component *c, const char *name, bool fallback, bool *out);
sp_status spi_component_int(const spi_component *c, const char *name, int64_t fallback, int64_t *out);
/* Strings may hold NUL characters. SP_ERR_FORMAT where one is missing. */
sp_status spi_component_string(const spi_component *c, const char *name, const char **out, size_t *length);
/* A string of exactly one character. */
sp_status spi_component_char(const spi_component *c, const char *name, const char **out, size_t *length);
/* {"String": ...} or {"Regex": ...}; the caller frees *out. */
sp_status spi_component_pattern(const spi_component *c, const char *name, spi_pattern **out);

#endif
