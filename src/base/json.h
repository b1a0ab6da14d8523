/*
 * Reading JSON (jansson) with messages that name file, key, expected and found. A missing key or null gives
 * the default of the call; a value of the wrong kind is SP_ERR_FORMAT.
 */
#ifndef SPI_BASE_JSON_H
#define SPI_BASE_JSON_H

#include <jansson.h>

#include "base/mem.h"

/* Parses a file whose top must be an object; json_decref the result. */
sp_status spi_json_load(sp_context *ctx, const char *path, json_t **out);
/* Parses text; `name` stands for the file in messages. Any top-level value. */
sp_status spi_json_parse(sp_context *ctx, const char *name, const char *text, size_t length, json_t **out);

/* "an object", "a string", ...: what a value is, for messages. Static storage. */
const char *spi_json_kind(const json_t *value);

sp_status spi_json_int(sp_context *ctx, const char *file, const json_t *object, const char *key,
                       int64_t fallback, int64_t *out);
sp_status spi_json_real(sp_context *ctx, const char *file, const json_t *object, const char *key,
                        double fallback, double *out);
sp_status spi_json_bool(sp_context *ctx, const char *file, const json_t *object, const char *key, bool fallback,
                        bool *out);
/* The string belongs to the JSON object. */
sp_status spi_json_string(sp_context *ctx, const char *file, const json_t *object, const char *key,
                          const char *fallback, const char **out);

/* Writes with a 2-space indent, sorted keys and a newline at the end, as Python's tools do. */
sp_status spi_json_save(sp_context *ctx, const char *path, const json_t *value);

#endif
