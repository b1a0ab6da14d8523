#include "text/chat_template.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

/* One of a model's templates, parsed when it is first asked for. */
typedef struct named_template {
    const char *name, *origin; /* origin: the file, for messages */
    const char *text;
    size_t length;
    spi_jinja_template *parsed;
} named_template;

struct sp_chat_template {
    sp_context *ctx;
    spi_arena arena;
    const char *dir;           /* or NULL */
    const char *file;          /* or NULL */
    named_template *templates; /* [count] */
    size_t count, capacity;
    json_t *tokens; /* bos_token, eos_token, ... */
};

void sp_chat_options_default(sp_chat_options *opts) {
    *opts = (sp_chat_options){.size = sizeof *opts};
}

/* ------------------------------------------------------------------ finding templates */

/* A template of that name, unless there is one already: what is read first wins. */
static sp_status add_template(sp_chat_template *chat, const char *name, const char *origin, const char *text,
                              size_t length) {
    for (size_t i = 0; i < chat->count; i++)
        if (strcmp(chat->templates[i].name, name) == 0) return SP_OK;
    if (!spi_grow((void **)&chat->templates, &chat->capacity, chat->count, sizeof *chat->templates))
        return spi_fail_memory(chat->ctx, chat->count * sizeof *chat->templates, origin);
    named_template *t = &chat->templates[chat->count];
    *t = (named_template){.name = spi_arena_strdup(&chat->arena, name),
                          .origin = spi_arena_strdup(&chat->arena, origin),
                          .text = spi_arena_strndup(&chat->arena, text, length),
                          .length = length};
    if (!t->name || !t->origin || !t->text) return spi_fail_memory(chat->ctx, length, origin);
    chat->count++;
    return SP_OK;
}

static sp_status add_file(sp_chat_template *chat, const char *name, const char *path) {
    spi_buf text = {0};
    sp_status status = spi_file_read(chat->ctx, path, &text);
    if (status == SP_OK) status = add_template(chat, name, path, text.data ? text.data : "", text.length);
    spi_buf_free(&text);
    return status;
}

static const char *join(sp_chat_template *chat, const char *dir, const char *name) {
    return spi_path_join(&chat->arena, dir, name);
}

static int is_jinja(const struct dirent *entry) {
    const size_t length = strlen(entry->d_name);
    return length > 6 && strcmp(entry->d_name + length - 6, ".jinja") == 0;
}

/* additional_chat_templates/NAME.jinja */
static sp_status add_directory(sp_chat_template *chat, const char *dir) {
    struct dirent **entries;
    sp_status status = SP_OK;
    const int count = scandir(dir, &entries, is_jinja, alphasort);
    for (int i = 0; i < count; i++) {
        const char *file = entries[i]->d_name;
        const char *path = join(chat, dir, file);
        const char *name = spi_arena_strndup(&chat->arena, file, strlen(file) - 6);
        if (status == SP_OK && (!path || !name)) status = spi_fail_memory(chat->ctx, 1, dir);
        if (status == SP_OK) status = add_file(chat, name, path);
        free(entries[i]);
    }
    if (count >= 0) free(entries);
    return status;
}

/* "chat_template" of tokenizer_config.json: a string, or a list of {"name", "template"}. */
static sp_status add_config(sp_chat_template *chat, const char *path, const json_t *config) {
    const json_t *value = json_object_get(config, "chat_template");
    if (!value || json_is_null(value)) return SP_OK;
    if (json_is_string(value))
        return add_template(chat, "default", path, json_string_value(value), json_string_length(value));
    if (!json_is_array(value))
        return spi_fail(chat->ctx, SP_ERR_FORMAT,
                        "%s: \"chat_template\": expected a string or an array, found %s", path,
                        spi_json_kind(value));
    for (size_t i = 0; i < json_array_size(value); i++) {
        const json_t *name = json_object_get(json_array_get(value, i), "name");
        const json_t *text = json_object_get(json_array_get(value, i), "template");
        if (!json_is_string(name) || !json_is_string(text))
            return spi_fail(chat->ctx, SP_ERR_FORMAT,
                            "%s: \"chat_template[%zu]\": expected an object with \"name\" and \"template\"",
                            path, i);
        SPI_TRY(add_template(chat, json_string_value(name), path, json_string_value(text),
                             json_string_length(text)));
    }
    return SP_OK;
}

/* ------------------------------------------------------------------ special tokens */

/* A token under its name: a string, or an object with the string as its "content"; anything else is left out.
 */
static sp_status add_token(sp_chat_template *chat, const char *key, json_t *value) {
    if (json_is_object(value)) value = json_object_get(value, "content");
    if (!json_is_string(value) || json_object_set(chat->tokens, key, value) == 0) return SP_OK;
    return spi_fail_memory(chat->ctx, 1, "special tokens");
}

static sp_status add_tokens(sp_chat_template *chat, const json_t *config, bool all) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)config, key, value) {
        const size_t length = strlen(key);
        if (all || (length > 6 && strcmp(key + length - 6, "_token") == 0))
            SPI_TRY(add_token(chat, key, value));
    }
    return SP_OK;
}

/* As Transformers does, special_tokens_map.json is read only beside configs that list no added tokens. */
static sp_status read_tokens(sp_chat_template *chat, const json_t *config) {
    SPI_TRY(add_tokens(chat, config, false));
    SPI_TRY(add_tokens(chat, json_object_get(config, "extra_special_tokens"), true));
    SPI_TRY(add_tokens(chat, json_object_get(config, "model_specific_special_tokens"), true));
    if (json_object_get(config, "added_tokens_decoder")) return SP_OK;
    const char *path = join(chat, chat->dir, "special_tokens_map.json");
    if (!path) return spi_fail_memory(chat->ctx, 1, "a path");
    if (!spi_path_exists(path)) return SP_OK;
    json_t *map;
    SPI_TRY(spi_json_load(chat->ctx, path, &map));
    const sp_status status = add_tokens(chat, map, false);
    json_decref(map);
    return status;
}

/* ------------------------------------------------------------------ loading */

static sp_status load_directory(sp_chat_template *chat) {
    const char *jinja = join(chat, chat->dir, "chat_template.jinja");
    const char *more = join(chat, chat->dir, "additional_chat_templates");
    const char *path = join(chat, chat->dir, "tokenizer_config.json");
    if (!jinja || !more || !path) return spi_fail_memory(chat->ctx, 1, "a path");
    const bool files = spi_path_exists(jinja);
    if (files) SPI_TRY(add_file(chat, "default", jinja));
    if (spi_path_is_dir(more)) SPI_TRY(add_directory(chat, more));
    if (!spi_path_exists(path)) return SP_OK;
    json_t *config;
    SPI_TRY(spi_json_load(chat->ctx, path, &config));
    sp_status status = files ? SP_OK : add_config(chat, path, config);
    if (status == SP_OK) status = read_tokens(chat, config);
    json_decref(config);
    return status;
}

/* The directory: `dir` itself, or that of the file that it names. */
static sp_status set_directory(sp_chat_template *chat, const char *dir) {
    const char *slash = strrchr(dir, '/');
    if (spi_path_is_dir(dir)) chat->dir = spi_arena_strdup(&chat->arena, dir);
    else chat->dir = spi_arena_strndup(&chat->arena, dir, slash ? (size_t)(slash + 1 - dir) : 0);
    if (!chat->dir) return spi_fail_memory(chat->ctx, strlen(dir), "a path");
    return SP_OK;
}

static sp_status parse_template(const sp_chat_template *chat, named_template *t) {
    if (t->parsed) return SP_OK;
    return spi_jinja_parse(chat->ctx, t->origin, t->text, t->length, &t->parsed);
}

static named_template *find_template(const sp_chat_template *chat, const char *name) {
    for (size_t i = 0; i < chat->count; i++)
        if (strcmp(chat->templates[i].name, name) == 0) return &chat->templates[i];
    return NULL;
}

static sp_status load(sp_chat_template *chat, const char *dir, const char *file) {
    chat->tokens = json_object();
    if (!chat->tokens) return spi_fail_memory(chat->ctx, 1, "special tokens");
    if (file) SPI_TRY(add_file(chat, "default", file));
    if (dir) {
        SPI_TRY(set_directory(chat, dir));
        SPI_TRY(load_directory(chat));
    }
    if (!chat->count)
        return spi_fail(chat->ctx, SP_ERR_FORMAT,
                        "%s: no chat template: neither chat_template.jinja nor \"chat_template\" in "
                        "tokenizer_config.json",
                        dir ? dir : "chat template");
    named_template *t = find_template(chat, "default");
    return t ? parse_template(chat, t) : SP_OK;
}

sp_status sp_chat_template_load(sp_context *ctx, const char *dir, const char *file, sp_chat_template **out) {
    *out = NULL;
    if (!dir && !file) return spi_fail(ctx, SP_ERR_ARGUMENT, "chat template: expected a directory or a file");
    sp_chat_template *chat = calloc(1, sizeof *chat);
    if (!chat) return spi_fail_memory(ctx, sizeof *chat, "a chat template");
    chat->ctx = ctx;
    const sp_status status = load(chat, dir, file);
    if (status == SP_OK) *out = chat;
    else sp_chat_template_free(chat);
    return status;
}

void sp_chat_template_free(sp_chat_template *chat) {
    if (!chat) return;
    for (size_t i = 0; i < chat->count; i++) spi_jinja_free(chat->templates[i].parsed);
    free(chat->templates);
    json_decref(chat->tokens);
    spi_arena_free(&chat->arena);
    free(chat);
}

/* ------------------------------------------------------------------ rendering */

static sp_status no_such_template(const sp_chat_template *chat, const char *name) {
    spi_buf names = {0};
    for (size_t i = 0; i < chat->count; i++)
        spi_buf_printf(&names, "%s%s", i ? ", " : "", chat->templates[i].name);
    const sp_status status =
        spi_fail(chat->ctx, SP_ERR_ARGUMENT, "%s: no chat template is named \"%s\"; found %s",
                 chat->templates[0].origin, name, names.data ? names.data : "none");
    spi_buf_free(&names);
    return status;
}

static sp_status choose(const sp_chat_template *chat, const spi_chat *what, const spi_jinja_template **out) {
    const bool tools = what->tools && find_template(chat, "tool_use");
    const char *name = what->name ? what->name : tools ? "tool_use" : "default";
    named_template *t = find_template(chat, name);
    *out = NULL;
    if (!t) return no_such_template(chat, name);
    SPI_TRY(parse_template(chat, t));
    *out = t->parsed;
    return SP_OK;
}

/*
 * A message's reasoning under all the names that templates read it by, as Transformers fills them in:
 * "thinking" where it is missing, "reasoning_content" in every case.
 */
static sp_status alias_reasoning(sp_context *ctx, json_t *message) {
    static const char *const fields[] = {"reasoning_content", "thinking", "reasoning"};
    json_t *found = NULL;
    for (int i = 0; i < 3 && (!found || json_is_null(found)); i++) found = json_object_get(message, fields[i]);
    if (!found || json_is_null(found)) return SP_OK;
    json_incref(found);
    int failed = json_object_set(message, "reasoning_content", found);
    if (!json_object_get(message, "thinking")) failed |= json_object_set(message, "thinking", found);
    json_decref(found);
    return failed ? spi_fail_memory(ctx, 1, "messages") : SP_OK;
}

static sp_status copy_messages(sp_context *ctx, const json_t *messages, json_t **out) {
    *out = NULL;
    if (!json_is_array(messages))
        return spi_fail(ctx, SP_ERR_ARGUMENT, "messages: expected an array, found %s", spi_json_kind(messages));
    *out = json_array();
    if (!*out) return spi_fail_memory(ctx, 1, "messages");
    for (size_t i = 0; i < json_array_size(messages); i++) {
        const json_t *message = json_array_get(messages, i);
        if (!json_is_object(message))
            return spi_fail(ctx, SP_ERR_ARGUMENT, "messages[%zu]: expected an object, found %s", i,
                            spi_json_kind(message));
        json_t *copy = json_copy((json_t *)message);
        if (!copy || json_array_append_new(*out, copy) != 0) return spi_fail_memory(ctx, 1, "messages");
        SPI_TRY(alias_reasoning(ctx, copy));
    }
    return SP_OK;
}

/* Without tools Transformers hands a template None, and without documents too. */
static json_t *arguments(const spi_chat *what, json_t *messages) {
    json_t *tools = what->tools ? (json_t *)what->tools : json_null();
    json_t *documents = json_object_get(what->variables, "documents");
    return json_pack("{s:O,s:O,s:O,s:b}", "messages", messages, "tools", tools, "documents",
                     documents ? documents : json_null(), "add_generation_prompt", what->add_generation_prompt);
}

sp_status spi_chat_render(const sp_chat_template *chat, const spi_chat *what, spi_jinja_output *out) {
    const spi_jinja_template *t;
    json_t *messages;
    SPI_TRY(choose(chat, what, &t));
    sp_status status = copy_messages(chat->ctx, what->messages, &messages);
    json_t *own = status == SP_OK ? arguments(what, messages) : NULL;
    if (status == SP_OK && !own) status = spi_fail_memory(chat->ctx, 1, "messages");
    const json_t *const variables[] = {chat->tokens, what->variables, own};
    if (status == SP_OK) status = spi_jinja_render(t, variables, 3, what->now ? what->now : -1, out);
    json_decref(own);
    json_decref(messages);
    return status;
}

/* ------------------------------------------------------------------ continuing the last message */

#define CONTINUE_TAG "CONTINUE_FINAL_MESSAGE_TAG "

/* Puts the tag behind what a message says: its content, or the last text of a list of parts. */
static sp_status tag_content(sp_context *ctx, json_t *message) {
    json_t *content = json_object_get(message, "content"), *holder = message;
    const char *key = "content";
    for (size_t i = json_array_size(content); json_is_array(content) && i-- > 0;) {
        holder = json_array_get(json_object_get(message, "content"), i);
        if (!json_object_get(holder, "text")) continue;
        content = json_object_get(holder, key = "text");
        break;
    }
    if (!json_is_string(content))
        return spi_fail(ctx, SP_ERR_ARGUMENT,
                        "continue_final_message: expected a last message with text, found %s",
                        content ? spi_json_kind(content) : "none");
    json_t *tagged = json_sprintf("%s%s", json_string_value(content), CONTINUE_TAG);
    if (!tagged || json_object_set_new(holder, key, tagged) != 0) return spi_fail_memory(ctx, 1, "messages");
    return SP_OK;
}

/* Where the tag begins that comes last, without the space at its end; SIZE_MAX if there is none. */
static size_t find_tag(const spi_buf *text) {
    const size_t size = sizeof CONTINUE_TAG - 2;
    for (size_t at = text->length >= size ? text->length - size + 1 : 0; at-- > 0;)
        if (memcmp(text->data + at, CONTINUE_TAG, size) == 0) return at;
    return SIZE_MAX;
}

/* Cuts the text before the tag; if the template stripped the message, white space there goes as well. */
static sp_status cut_at_tag(sp_context *ctx, spi_buf *text) {
    const size_t at = find_tag(text);
    if (at == SIZE_MAX)
        return spi_fail(ctx, SP_ERR_DATA,
                        "continue_final_message: the template leaves the end of the last message out");
    const size_t size = sizeof CONTINUE_TAG - 1;
    const bool whole = text->length - at >= size && text->data[at + size - 1] == ' ';
    text->length = at;
    while (!whole && text->length && strchr(" \t\r\n\f\v", text->data[text->length - 1])) text->length--;
    text->data[text->length] = 0;
    return SP_OK;
}

static sp_status render_continued(const sp_chat_template *chat, const spi_chat *what, spi_jinja_output *out) {
    json_t *messages = json_deep_copy(what->messages);
    const size_t count = json_array_size(messages);
    spi_chat tagged = *what;
    tagged.messages = messages;
    sp_status status = SP_OK;
    if (!messages) status = spi_fail_memory(chat->ctx, 1, "messages");
    else if (!count)
        status = spi_fail(chat->ctx, SP_ERR_ARGUMENT, "continue_final_message: expected a message, found none");
    else if (what->add_generation_prompt)
        status = spi_fail(chat->ctx, SP_ERR_ARGUMENT,
                          "continue_final_message: expected add_generation_prompt to be off");
    if (status == SP_OK) status = tag_content(chat->ctx, json_array_get(messages, count - 1));
    if (status == SP_OK) status = spi_chat_render(chat, &tagged, out);
    if (status == SP_OK) status = cut_at_tag(chat->ctx, &out->text);
    json_decref(messages);
    return status;
}

/* ------------------------------------------------------------------ the public call */

/* Parses an argument that must be an array or an object; NULL stays NULL. */
static sp_status parse_argument(sp_context *ctx, const char *name, const char *text, bool array, json_t **out) {
    *out = NULL;
    if (!text) return SP_OK;
    if (spi_json_parse(ctx, name, text, strlen(text), out) != SP_OK) return SP_ERR_ARGUMENT;
    if (array ? json_is_array(*out) : json_is_object(*out)) return SP_OK;
    return spi_fail(ctx, SP_ERR_ARGUMENT, "%s: expected %s, found %s", name, array ? "an array" : "an object",
                    spi_json_kind(*out));
}

sp_status sp_chat_render(const sp_chat_template *chat, const char *messages, const sp_chat_options *opts,
                         char **text, size_t *length) {
    sp_context *ctx = chat->ctx;
    sp_chat_options o;
    json_t *parsed = NULL, *tools = NULL, *variables = NULL;
    spi_jinja_output out = {0};
    *text = NULL;
    *length = 0;
    sp_chat_options_default(&o);
    if (opts && opts->size < sizeof opts->size)
        return spi_fail(ctx, SP_ERR_ARGUMENT, "chat options: not filled by sp_chat_options_default");
    if (opts) memcpy(&o, opts, opts->size < sizeof o ? opts->size : sizeof o);
    sp_status status = parse_argument(ctx, "messages", messages ? messages : "null", true, &parsed);
    if (status == SP_OK) status = parse_argument(ctx, "tools", o.tools, true, &tools);
    if (status == SP_OK) status = parse_argument(ctx, "template variables", o.variables, false, &variables);
    const spi_chat what = {.messages = parsed,
                           .tools = tools,
                           .variables = variables,
                           .add_generation_prompt = o.add_generation_prompt,
                           .name = o.name};
    if (status == SP_OK)
        status =
            o.continue_final_message ? render_continued(chat, &what, &out) : spi_chat_render(chat, &what, &out);
    if (status == SP_OK) {
        *length = out.text.length;
        *text = spi_buf_take(&out.text);
        if (!*text) status = spi_fail_memory(ctx, *length, "a conversation");
    }
    spi_jinja_output_free(&out);
    json_decref(parsed);
    json_decref(tools);
    json_decref(variables);
    return status;
}
