/* Conversations on the command line: a template with its variables, and the text that it makes of messages. */
#ifndef CLI_CHAT_H
#define CLI_CHAT_H

#include "common.h"

typedef struct cli_chat_options {
    const char *system, *file, *kwargs;
    bool enable_thinking; /* true; counts where its option was given */
} cli_chat_options;

/* clang-format off */
#define CLI_CHAT_OPTIONS(c) \
    {CLI_TEXT, "system", &(c).system, "TEXT", "System prompt before every conversation that has none", NULL, false, false}, \
    {CLI_TEXT, "chat-template", &(c).file, "FILE", "Jinja template, if not the tokenizer's own", NULL, false, false}, \
    {CLI_TEXT, "chat-template-kwargs", &(c).kwargs, "JSON", "Variables for the template", NULL, false, false}, \
    {CLI_SWITCH, "enable-thinking", &(c).enable_thinking, NULL, "The variable enable_thinking of templates that have it", NULL, false, false}
/* clang-format on */

typedef struct cli_chat {
    sp_chat_template *chat;
    const char *system; /* or NULL */
    char *variables;    /* a JSON object */
} cli_chat;

/* The name of an option of these that was given, NULL if none was. */
const char *cli_chat_option_given(const cli_option *options);

/* Loads the template of a tokenizer's directory. These return an exit code and have said what is wrong. */
int cli_chat_open(const cli_run *run, const char *dir, const cli_chat_options *c, const cli_option *options,
                  cli_chat *out);
void cli_chat_close(cli_chat *chat);
/* The text of {"messages": [...], "tools": [...]} with the generation prompt, to free(). */
int cli_chat_render(const cli_run *run, const cli_chat *chat, const json_t *record, char **text);

#endif
