#include "base/json.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"

const char *spi_json_kind(const json_t *value) {
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a real number";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    case JSON_NULL: break;
    }
    return "null";
}

sp_status spi_json_parse(sp_context *ctx, const char *name, const char *text, size_t length, json_t **out) {
    json_error_t error;
    *out = json_loadb(text, length, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (*out) return SP_OK;
    spi_fail(ctx, SP_ERR_FORMAT, "%s: invalid JSON at line %d, column %d: %s", name, error.line, error.column,
             error.text);
    return SP_ERR_FORMAT;
}

sp_status spi_json_load(sp_context *ctx, const char *path, json_t **out) {
    *out = NULL;
    spi_buf text = {0};
    sp_status status = spi_file_read(ctx, path, &text);
    if (status == SP_OK) status = spi_json_parse(ctx, path, text.data ? text.data : "", text.length, out);
    spi_buf_free(&text);
    if (status == SP_OK && !json_is_object(*out)) {
        status =
            spi_fail(ctx, SP_ERR_FORMAT, "%s: expected a JSON object, found %s", path, spi_json_kind(*out));
        json_decref(*out);
        *out = NULL;
    }
    return status;
}

/* The value under `key`, NULL where it is missing or null. */
static const json_t *lookup(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return value && !json_is_null(value) ? value : NULL;
}

static sp_status wrong_kind(sp_context *ctx, const char *file, const char *key, const char *expected,
                            const json_t *value) {
    return spi_fail(ctx, SP_ERR_FORMAT, "%s: \"%s\": expected %s, found %s", file, key, expected,
                    spi_json_kind(value));
}

sp_status spi_json_int(sp_context *ctx, const char *file, const json_t *object, const char *key,
                       int64_t fallback, int64_t *out) {
    const json_t *value = lookup(object, key);
    *out = fallback;
    if (!value) return SP_OK;
    if (!json_is_integer(value)) return wrong_kind(ctx, file, key, "an integer", value);
    *out = json_integer_value(value);
    return SP_OK;
}

sp_status spi_json_real(sp_context *ctx, const char *file, const json_t *object, const char *key,
                        double fallback, double *out) {
    const json_t *value = lookup(object, key);
    *out = fallback;
    if (!value) return SP_OK;
    if (!json_is_number(value)) return wrong_kind(ctx, file, key, "a number", value);
    *out = json_number_value(value);
    return SP_OK;
}

sp_status spi_json_bool(sp_context *ctx, const char *file, const json_t *object, const char *key, bool fallback,
                        bool *out) {
    const json_t *value = lookup(object, key);
    *out = fallback;
    if (!value) return SP_OK;
    if (!json_is_boolean(value)) return wrong_kind(ctx, file, key, "true or false", value);
    *out = json_is_true(value);
    return SP_OK;
}

sp_status spi_json_string(sp_context *ctx, const char *file, const json_t *object, const char *key,
                          const char *fallback, const char **out) {
    const json_t *value = lookup(object, key);
    *out = fallback;
    if (!value) return SP_OK;
    if (!json_is_string(value)) return wrong_kind(ctx, file, key, "a string", value);
    *out = json_string_value(value);
    return SP_OK;
}

/* Reals in the fewest digits that read back as the same numbers, as Python prints them. */
static char *dump_shortest(const json_t *value) {
    for (size_t digits = 15; digits <= 17; digits++) {
        char *text =
            json_dumps(value, JSON_INDENT(2) | JSON_SORT_KEYS | JSON_ENCODE_ANY | JSON_REAL_PRECISION(digits));
        json_t *again = text ? json_loads(text, JSON_DECODE_ANY, NULL) : NULL;
        const bool same = again && json_equal(again, value);
        json_decref(again);
        if (same || digits == 17) return text;
        free(text);
    }
    return NULL;
}

sp_status spi_json_save(sp_context *ctx, const char *path, const json_t *value) {
    char *text = dump_shortest(value);
    if (!text) return spi_fail(ctx, SP_ERR_MEMORY, "%s: out of memory while writing JSON", path);
    spi_buf out = {0};
    spi_buf_puts(&out, text);
    spi_buf_putc(&out, '\n');
    free(text);
    sp_status status =
        out.failed ? spi_fail_memory(ctx, out.length, path) : spi_file_write(ctx, path, out.data, out.length);
    spi_buf_free(&out);
    return status;
}
