#include "chat.h"

#include <stdlib.h>
#include <string.h>

const char *cli_chat_option_given(const cli_option *options) {
    static const char *const names[] = {"system", "chat-template", "chat-template-kwargs", "enable-thinking"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (cli_given(options, names[i])) return names[i];
    return NULL;
}

/* The object of --chat-template-kwargs with enable_thinking; NULL after a message. */
static json_t *read_variables(const cli_chat_options *c, const cli_option *options) {
    json_error_t error;
    json_t *variables = c->kwargs ? json_loads(c->kwargs, JSON_REJECT_DUPLICATES, &error) : json_object();
    if (!json_is_object(variables)) {
        cli_say_failed("--chat-template-kwargs: expected a JSON object, found %s: %s",
                       c->kwargs ? c->kwargs : "", variables ? "another value" : error.text);
        json_decref(variables);
        return NULL;
    }
    if (cli_given(options, "enable-thinking"))
        json_object_set_new(variables, "enable_thinking", json_boolean(c->enable_thinking));
    return variables;
}

int cli_chat_open(const cli_run *run, const char *dir, const cli_chat_options *c, const cli_option *options,
                  cli_chat *out) {
    *out = (cli_chat){.system = c->system};
    json_t *variables = read_variables(c, options);
    if (!variables) return CLI_FAILED;
    out->variables = json_dumps(variables, 0);
    json_decref(variables);
    if (!out->variables) return cli_say_failed("out of memory");
    return sp_chat_template_load(run->ctx, dir, c->file, &out->chat) == SP_OK ? CLI_OK : cli_fail(run);
}

void cli_chat_close(cli_chat *chat) {
    sp_chat_template_free(chat->chat);
    free(chat->variables);
    *chat = (cli_chat){0};
}

static bool has_system(const json_t *messages) {
    const char *role = json_string_value(json_object_get(json_array_get(messages, 0), "role"));
    return role && !strcmp(role, "system");
}

/* The messages behind the system prompt, as JSON to free(). */
static char *dump_messages(const cli_chat *chat, const json_t *messages) {
    json_t *all = json_copy((json_t *)messages);
    if (all && chat->system && !has_system(messages))
        json_array_insert_new(all, 0,
                              json_pack("{s:s,s:o}", "role", "system", "content",
                                        cli_json_text(chat->system, strlen(chat->system))));
    char *text = all ? json_dumps(all, JSON_REAL_PRECISION(17)) : NULL;
    json_decref(all);
    return text;
}

int cli_chat_render(const cli_run *run, const cli_chat *chat, const json_t *record, char **text) {
    const json_t *given = json_object_get(record, "tools");
    const bool has_tools = given && !json_is_null(given);
    sp_chat_options o;
    size_t length;
    sp_chat_options_default(&o);
    char *messages = dump_messages(chat, json_object_get(record, "messages"));
    char *tools = has_tools ? json_dumps(given, JSON_ENCODE_ANY | JSON_REAL_PRECISION(17)) : NULL;
    o.add_generation_prompt = true;
    o.variables = chat->variables;
    o.tools = tools;
    *text = NULL;
    int code = CLI_OK;
    if (!messages || (has_tools && !tools)) code = cli_say_failed("out of memory");
    else if (sp_chat_render(chat->chat, messages, &o, text, &length) != SP_OK) code = cli_fail(run);
    else if (strlen(*text) != length)
        code = cli_say_failed("chat: expected text, found a NUL character at %zu", strlen(*text));
    free(messages);
    free(tools);
    return code;
}
