/*
 * Options of a command as a table: parsing, the configuration file, and the help text come from the same rows.
 * Values are taken as `--name value` or `--name=value`; switches as `--name`, `--no-name` or `--name=true`.
 */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum cli_kind {
    CLI_HEADING, /* a line of the help text */
    CLI_SWITCH,  /* bool */
    CLI_TEXT,    /* const char * */
    CLI_I32,     /* int32_t */
    CLI_I64,     /* int64_t */
    CLI_U64,     /* uint64_t */
    CLI_REAL,    /* double */
    CLI_CHOICE,  /* int: index into `choices` */
    CLI_DEVICE,  /* const char *: auto, cpu, cuda or cuda:N; NULL: auto */
    CLI_LIST     /* cli_list: may be given again and again */
} cli_kind;

typedef struct cli_list {
    const char **items; /* followed by NULL; NULL if never given */
    size_t count;
} cli_list;

typedef struct cli_option {
    cli_kind kind;
    const char *name;     /* without dashes; of a heading: its text */
    void *target;         /* holds the default before parsing */
    const char *argument; /* what stands for the value in the help text */
    const char *help;
    const char *const *choices; /* CLI_CHOICE: NULL-ended */
    bool required;
    bool given; /* set by parsing */
} cli_option;

typedef struct cli_command {
    const char *name;
    const char *usage;   /* behind "shadowpeft NAME " */
    const char *summary; /* one line */
    const char *details; /* paragraphs of the help text, or NULL */
    int (*run)(int argc, char **argv, const struct cli_command *command);
} cli_command;

/* Every command, NULL-named row at the end. */
extern const cli_command cli_commands[];

typedef enum cli_parsed {
    CLI_GO_ON,
    CLI_DONE, /* help was printed: exit 0 */
    CLI_WRONG /* usage error, message printed: exit 2 */
} cli_parsed;

/*
 * Parses argv[0 .. argc) into the rows' targets; up to `most` words that are no options go to `words`.
 * `options` ends with a row whose name is NULL.
 */
cli_parsed cli_parse(const cli_command *command, cli_option *options, int argc, char **argv, const char **words,
                     size_t most, size_t *count);

/* Whether the option was given, on the command line or in the configuration file. */
bool cli_given(const cli_option *options, const char *name);

/* Prints "shadowpeft NAME: message" and where to find help; returns CLI_WRONG. */
cli_parsed cli_wrong(const cli_command *command, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The name in `names` (NULL-ended) that `word` was most likely meant to be, or NULL. */
const char *cli_nearest(const char *word, const char *const *names);

/* Frees what cli_parse keeps for the whole run: lists and texts of the configuration file. */
void cli_options_free(void);

#endif
