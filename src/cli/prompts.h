/* The prompts of a command, from wherever they come. */
#ifndef CLI_PROMPTS_H
#define CLI_PROMPTS_H

#include <stdbool.h>
#include <stddef.h>

/* Owned texts; no NUL byte is in any of them but at its end. */
typedef struct cli_prompts {
    char **items; /* [count] */
    size_t count, capacity;
    bool chat; /* each item is a JSON object with "messages", made of what is added */
} cli_prompts;

/* All of these return an exit code and, where it is not CLI_OK, have said why. */
int cli_prompts_add(cli_prompts *p, const char *text, size_t length);
/* A whole file, "-" being standard input. */
int cli_prompts_add_file(cli_prompts *p, const char *path);
/* A prompt a line; of a .jsonl file, each line a string or an object with one under `key`; for chats
 * an object with "messages" too. Empty lines count for nothing. */
int cli_prompts_add_lines(cli_prompts *p, const char *path, const char *key);
void cli_prompts_free(cli_prompts *p);

#endif
