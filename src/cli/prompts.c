#include "prompts.h"

#include <stdlib.h>
#include <string.h>

#include "common.h"

/* Takes over the text. */
static int push(cli_prompts *p, char *item) {
    if (!item) return cli_say_failed("out of memory");
    if (p->count == p->capacity) {
        const size_t capacity = p->capacity ? 2 * p->capacity : 16;
        char **items = realloc(p->items, capacity * sizeof *items);
        if (!items) {
            free(item);
            return cli_say_failed("out of memory");
        }
        p->items = items;
        p->capacity = capacity;
    }
    p->items[p->count++] = item;
    return CLI_OK;
}

/* {"messages": [{"role": "user", "content": TEXT}]} */
static char *one_message(const char *text, size_t length) {
    json_t *record =
        json_pack("{s:[{s:s,s:o}]}", "messages", "role", "user", "content", cli_json_text(text, length));
    char *item = record ? json_dumps(record, 0) : NULL;
    json_decref(record);
    return item;
}

int cli_prompts_add(cli_prompts *p, const char *text, size_t length) {
    const char *nul = memchr(text, 0, length);
    if (nul)
        return cli_say_failed("prompt %zu: expected text, found a NUL byte at %zu", p->count + 1,
                              (size_t)(nul - text));
    return push(p, p->chat ? one_message(text, length) : strndup(text, length));
}

int cli_prompts_add_file(cli_prompts *p, const char *path) {
    size_t length;
    char *text = cli_read_file(path, &length);
    const int code = text ? cli_prompts_add(p, text, length) : CLI_FAILED;
    free(text);
    return code;
}

static int add_record(cli_prompts *p, const char *path, size_t line, const char *text, size_t length,
                      const char *key) {
    json_error_t error;
    json_t *record = json_loadb(text, length, JSON_DECODE_ANY, &error);
    const json_t *value = json_is_object(record) ? json_object_get(record, key) : record;
    int code;
    if (!record) code = cli_say_failed("%s: line %zu: %s", path, line, error.text);
    else if (p->chat && json_is_array(json_object_get(record, "messages")))
        code = push(p, json_dumps(record, JSON_REAL_PRECISION(17)));
    else if (!json_is_string(value))
        code = cli_say_failed("%s: line %zu: expected a string, or an object with a string under \"%s\"", path,
                              line, key);
    else code = cli_prompts_add(p, json_string_value(value), json_string_length(value));
    json_decref(record);
    return code;
}

int cli_prompts_add_lines(cli_prompts *p, const char *path, const char *key) {
    size_t length, line = 0;
    const size_t before = p->count, name = strlen(path);
    const bool records = name > 6 && !strcmp(path + name - 6, ".jsonl");
    char *text = cli_read_file(path, &length);
    int code = text ? CLI_OK : CLI_FAILED;
    for (const char *at = text, *end = text ? text + length : text; code == CLI_OK && at < end;) {
        const char *newline = memchr(at, '\n', (size_t)(end - at));
        size_t n = (size_t)((newline ? newline : end) - at);
        line++;
        if (n && at[n - 1] == '\r') n--;
        if (n) code = records ? add_record(p, path, line, at, n, key) : cli_prompts_add(p, at, n);
        at = newline ? newline + 1 : end;
    }
    free(text);
    if (code == CLI_OK && p->count == before) code = cli_say_failed("%s: expected prompts, found none", path);
    return code;
}

void cli_prompts_free(cli_prompts *p) {
    for (size_t i = 0; i < p->count; i++) free(p->items[i]);
    free(p->items);
    *p = (cli_prompts){0};
}
