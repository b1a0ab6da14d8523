#include "text/component.h"

#include <stdio.h>
#include <string.h>

#include "text/utf8.h"

static sp_status open_component(spi_component *c, spi_component_fn fn, void *user) {
    if (!json_is_object(c->json))
        return spi_fail(c->ctx, SP_ERR_FORMAT, "%s: \"%s\": expected an object, found %s", c->file, c->key,
                        spi_json_kind(c->json));
    const json_t *type = json_object_get(c->json, "type");
    if (!json_is_string(type)) return spi_component_wrong(c, "type", "a string");
    c->type = json_string_value(type);
    return fn(user, c);
}

sp_status spi_component_read(sp_context *ctx, const char *file, const json_t *object, const char *key,
                             spi_component_fn fn, void *user) {
    spi_component c = {.ctx = ctx, .file = file, .json = json_object_get(object, key)};
    if (!c.json || json_is_null(c.json)) return SP_OK;
    snprintf(c.key, sizeof c.key, "%s", key);
    return open_component(&c, fn, user);
}

sp_status spi_component_each(const spi_component *c, const char *list, spi_component_fn fn, void *user) {
    const json_t *array = json_object_get(c->json, list);
    if (!json_is_array(array)) return spi_component_wrong(c, list, "an array");
    for (size_t i = 0; i < json_array_size(array); i++) {
        spi_component part = {.ctx = c->ctx, .file = c->file, .json = json_array_get(array, i)};
        const int length = snprintf(part.key, sizeof part.key, "%s.%s[%zu]", c->key, list, i);
        if (length < 0 || (size_t)length >= sizeof part.key)
            return spi_fail(c->ctx, SP_ERR_UNSUPPORTED, "%s: \"%s\": nested too deeply", c->file, c->key);
        SPI_TRY(open_component(&part, fn, user));
    }
    return SP_OK;
}

sp_status spi_component_unknown(const spi_component *c, const char *known) {
    return spi_fail(c->ctx, SP_ERR_UNSUPPORTED, "%s: \"%s.type\": expected one of %s, found \"%s\"", c->file,
                    c->key, known, c->type);
}

sp_status spi_component_wrong(const spi_component *c, const char *name, const char *expected) {
    const json_t *value = json_object_get(c->json, name);
    if (json_is_string(value))
        return spi_fail(c->ctx, SP_ERR_FORMAT, "%s: \"%s.%s\": expected %s, found \"%s\"", c->file, c->key,
                        name, expected, json_string_value(value));
    return spi_fail(c->ctx, SP_ERR_FORMAT, "%s: \"%s.%s\": expected %s, found %s", c->file, c->key, name,
                    expected, value ? spi_json_kind(value) : "nothing");
}

sp_status spi_component_bool(const spi_component *c, const char *name, bool fallback, bool *out) {
    const json_t *value = json_object_get(c->json, name);
    *out = fallback;
    if (!value || json_is_null(value)) return SP_OK;
    if (!json_is_boolean(value)) return spi_component_wrong(c, name, "true or false");
    *out = json_is_true(value);
    return SP_OK;
}

sp_status spi_component_int(const spi_component *c, const char *name, int64_t fallback, int64_t *out) {
    const json_t *value = json_object_get(c->json, name);
    *out = fallback;
    if (!value || json_is_null(value)) return SP_OK;
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return spi_component_wrong(c, name, "an integer from 0 on");
    *out = json_integer_value(value);
    return SP_OK;
}

sp_status spi_component_string(const spi_component *c, const char *name, const char **out, size_t *length) {
    const json_t *value = json_object_get(c->json, name);
    if (!json_is_string(value)) return spi_component_wrong(c, name, "a string");
    *out = json_string_value(value);
    *length = json_string_length(value);
    return SP_OK;
}

sp_status spi_component_char(const spi_component *c, const char *name, const char **out, size_t *length) {
    SPI_TRY(spi_component_string(c, name, out, length));
    size_t size = 0;
    if (*length) spi_utf8_get(*out, &size);
    return *length && size == *length ? SP_OK : spi_component_wrong(c, name, "one character");
}

sp_status spi_component_pattern(const spi_component *c, const char *name, spi_pattern **out) {
    const json_t *value = json_object_get(c->json, name);
    const json_t *string = json_object_get(value, "String");
    const json_t *regex = json_object_get(value, "Regex");
    *out = NULL;
    if (!json_is_string(string) && !json_is_string(regex))
        return spi_component_wrong(c, name, "{\"String\": ...} or {\"Regex\": ...}");
    if (json_is_string(string) && json_string_length(string) > 0) {
        *out = spi_pattern_string(json_string_value(string), json_string_length(string));
        return *out ? SP_OK : spi_fail_memory(c->ctx, json_string_length(string), "a pattern");
    }
    if (!json_is_string(regex)) regex = string; /* empty: it matches everywhere, as an expression does */
    char key[160];
    snprintf(key, sizeof key, "%s.%s", c->key, name);
    return spi_pattern_regex(c->ctx, c->file, key, json_string_value(regex), json_string_length(regex), out);
}
