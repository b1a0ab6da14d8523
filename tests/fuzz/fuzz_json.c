/* Any bytes as a JSON configuration: parsed or refused; every reader asked for every key. */
#include <stdlib.h>
#include <string.h>

#include "base/json.h"

static void require(bool condition) {
    if (!condition) abort();
}

static void read_key(sp_context *ctx, const json_t *object, const char *key) {
    int64_t integer;
    double real;
    bool boolean;
    const char *text;
    int accepted = 0;
    accepted += spi_json_int(ctx, "input", object, key, 7, &integer) == SP_OK;
    accepted += spi_json_real(ctx, "input", object, key, 7.0, &real) == SP_OK;
    accepted += spi_json_bool(ctx, "input", object, key, true, &boolean) == SP_OK;
    accepted += spi_json_string(ctx, "input", object, key, "seven", &text) == SP_OK;
    /* An integer is a number too; null and a missing key are the fallback of every kind. */
    require(accepted <= 2 || accepted == 4);
    if (accepted == 4) require(integer == 7 && real == 7.0 && boolean && strcmp(text, "seven") == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    sp_context *ctx = sp_context_new();
    require(ctx != NULL);
    json_t *value;
    if (spi_json_parse(ctx, "input", (const char *)data, size, &value) == SP_OK) {
        const char *key;
        json_t *member;
        json_object_foreach(value, key, member) read_key(ctx, value, key);
        read_key(ctx, value, "hidden_size");
        json_decref(value);
    } else {
        require(value == NULL && strncmp(sp_last_error(ctx), "input: ", 7) == 0);
    }
    sp_context_free(ctx);
    return 0;
}
