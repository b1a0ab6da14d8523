/*
 * Any bytes as a chat template: parsed or refused, rendered or failed, and both in time and without running out
 * of stack. What stands behind the first NUL byte is JSON with the variables; without it there are some.
 */
#include <stdlib.h>
#include <string.h>

#include "text/jinja.h"

static void require(bool condition) {
    if (!condition) abort();
}

static const char usual[] =
    "{\"messages\": [{\"role\": \"system\", \"content\": \"S\"}, {\"role\": \"user\", \"content\": \"U "
    "\\u00e9\"}, "
    "{\"role\": \"assistant\", \"content\": null, \"tool_calls\": [{\"function\": {\"name\": \"f\", "
    "\"arguments\": "
    "{\"a\": [1, 2.5, true]}}}]}], \"tools\": [{\"type\": \"function\"}], \"add_generation_prompt\": true, "
    "\"bos_token\": \"<s>\", \"x\": [3, 1, 2], \"s\": \"a b,c\", \"n\": 7}";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    sp_context *ctx = sp_context_new();
    require(ctx != NULL);
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    const size_t length = nul ? (size_t)(nul - data) : size;
    json_t *variables = nul ? json_loadb((const char *)nul + 1, size - length - 1, 0, NULL) : NULL;
    if (!json_is_object(variables)) {
        json_decref(variables);
        variables = json_loads(usual, 0, NULL);
    }
    require(variables != NULL);
    const json_t *const all[] = {variables};
    spi_jinja_template *t;
    if (spi_jinja_parse(ctx, "t.jinja", (const char *)data, length, &t) == SP_OK) {
        spi_jinja_output out = {0};
        if (spi_jinja_render(t, all, 1, 0, &out) == SP_OK) {
            require(out.text.data != NULL && out.text.data[out.text.length] == 0);
            for (size_t i = 0; i < out.span_count; i++)
                require(out.spans[i].start <= out.spans[i].end && out.spans[i].end <= out.text.length);
        } else {
            require(sp_last_error(ctx)[0] != 0);
        }
        spi_jinja_output_free(&out);
        spi_jinja_free(t);
    } else {
        require(t == NULL && strncmp(sp_last_error(ctx), "t.jinja: ", 9) == 0);
    }
    json_decref(variables);
    sp_context_free(ctx);
    return 0;
}
