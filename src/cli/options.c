#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What outlives parsing: texts of the configuration file, arrays of lists. */
static struct kept {
    json_t *config;
    const char ***lists;
    size_t list_count;
} kept;

void cli_options_free(void) {
    json_decref(kept.config);
    for (size_t i = 0; i < kept.list_count; i++) free(kept.lists[i]);
    free(kept.lists);
    kept = (struct kept){0};
}

cli_parsed cli_wrong(const cli_command *command, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fprintf(stderr, "shadowpeft %s: ", command->name);
    vfprintf(stderr, fmt, args);
    fprintf(stderr, "\nTry 'shadowpeft %s --help'.\n", command->name);
    va_end(args);
    return CLI_WRONG;
}

/* Names that people try, for the options that have them. */
static const struct {
    const char *other, *name;
} other_names[] = {
    {"model", "base"},
    {"base", "tokenizer"},
    {"output-dir", "output"},
    {"cache", "use-cache"},
    {"special-tokens", "add-special-tokens"},
    {"auxiliary-loss-weight", "shadow-loss-weight"},
};
#define OTHER_NAMES (sizeof other_names / sizeof *other_names)

/* HF writes names with underscores in Python and in files: both are taken. */
static bool same_name(const char *a, const char *b, size_t length) {
    if (strlen(a) != length) return false;
    for (size_t i = 0; i < length; i++)
        if (a[i] != (b[i] == '_' ? '-' : b[i])) return false;
    return true;
}

static bool has_row(const cli_option *options, const char *name) {
    for (const cli_option *o = options; o->name; o++)
        if (o->kind != CLI_HEADING && !strcmp(o->name, name)) return true;
    return false;
}

/* ------------------------------------------------------------------ help */

static void print_default(const cli_option *o) {
    switch (o->kind) {
    case CLI_SWITCH:
        if (*(const bool *)o->target) printf(" (default: on; --no-%s switches it off)", o->name);
        break;
    case CLI_TEXT:
        if (*(const char *const *)o->target) printf(" (default: %s)", *(const char *const *)o->target);
        break;
    case CLI_DEVICE:
        printf(" (default: %s)", *(const char *const *)o->target ? *(const char *const *)o->target : "auto");
        break;
    case CLI_I32: printf(" (default: %d)", *(const int32_t *)o->target); break;
    case CLI_I64: printf(" (default: %lld)", (long long)*(const int64_t *)o->target); break;
    case CLI_U64: printf(" (default: %llu)", (unsigned long long)*(const uint64_t *)o->target); break;
    case CLI_REAL: printf(" (default: %g)", *(const double *)o->target); break;
    case CLI_CHOICE: printf(" (default: %s)", o->choices[*(const int *)o->target]); break;
    default: break;
    }
}

/* Text from column `at` on, wrapped before column 100. */
static void print_wrapped(const char *text, int indent, int at) {
    while (*text) {
        const char *end = text;
        while (*end && *end != ' ') end++;
        if (at + (int)(end - text) > 100) {
            printf("\n%*s", indent, "");
            at = indent;
        }
        at += printf("%.*s", (int)(end - text), text);
        if (*end == ' ') at += printf(" ");
        text = *end ? end + 1 : end;
    }
}

static void print_option(const cli_option *o) {
    enum { COLUMN = 36 };
    char left[128];
    if (o->kind == CLI_HEADING) {
        printf("\n%s:\n", o->name);
        return;
    }
    const char *argument = o->kind == CLI_SWITCH ? "" : o->argument ? o->argument : "VALUE";
    snprintf(left, sizeof left, "  --%s%s%s", o->name, *argument ? " " : "", argument);
    printf("%-*s", COLUMN, left);
    if ((int)strlen(left) >= COLUMN) printf("\n%*s", COLUMN, "");
    print_wrapped(o->help, COLUMN, COLUMN);
    if (o->required) printf(" (required)");
    else print_default(o);
    printf("\n");
}

static void print_other_names(const cli_option *options) {
    const char *before = "\nAlso taken: --";
    for (size_t i = 0; i < OTHER_NAMES; i++) {
        if (has_row(options, other_names[i].other) || !has_row(options, other_names[i].name)) continue;
        printf("%s%s for --%s", before, other_names[i].other, other_names[i].name);
        before = ", --";
    }
    if (*before == ',') printf("\n");
}

static void print_help(const cli_command *command, const cli_option *options) {
    printf("usage: shadowpeft %s %s\n\n", command->name, command->usage);
    print_wrapped(command->summary, 0, 0);
    printf("\n");
    if (command->details) printf("\n%s\n", command->details);
    if (options[0].kind != CLI_HEADING) printf("\nOptions:\n");
    for (const cli_option *o = options; o->name; o++) print_option(o);
    printf("\nOf every command:\n");
    if (!has_row(options, "config"))
        printf("  --config FILE.json                Options from a JSON object of the same names; the command "
               "line wins\n");
    printf("  --help                            This text\n");
    print_other_names(options);
}

/* ------------------------------------------------------------------ values */

/* What a value should have been; NULL where it fits. */
static const char *set_number(cli_option *o, const char *text) {
    char *end;
    errno = 0;
    if (o->kind == CLI_REAL) {
        const double value = strtod(text, &end);
        if (end == text || *end || !isfinite(value)) return "a number";
        *(double *)o->target = value;
        return NULL;
    }
    const bool negative = *text == '-';
    const char *digits = negative ? text + 1 : text;
    if (!isdigit((unsigned char)*digits)) return "an integer";
    if (o->kind == CLI_U64) {
        const unsigned long long value = strtoull(text, &end, 10);
        if (*end || errno || negative) return "an integer from 0 to 2^64 - 1";
        *(uint64_t *)o->target = value;
        return NULL;
    }
    const long long value = strtoll(text, &end, 10);
    if (*end) return "an integer";
    if (errno || (o->kind == CLI_I32 && (value > INT32_MAX || value < INT32_MIN))) return "a smaller integer";
    if (o->kind == CLI_I32) *(int32_t *)o->target = (int32_t)value;
    else *(int64_t *)o->target = value;
    return NULL;
}

static const char *set_switch(cli_option *o, const char *text) {
    const bool yes =
        !strcmp(text, "true") || !strcmp(text, "True") || !strcmp(text, "1") || !strcmp(text, "yes");
    const bool no =
        !strcmp(text, "false") || !strcmp(text, "False") || !strcmp(text, "0") || !strcmp(text, "no");
    if (!yes && !no) return "true or false";
    *(bool *)o->target = yes;
    return NULL;
}

static const char *set_choice(cli_option *o, const char *text) {
    static char expected[256];
    size_t used = (size_t)snprintf(expected, sizeof expected, "one of");
    for (int i = 0; o->choices[i]; i++) {
        if (!strcmp(o->choices[i], text)) {
            *(int *)o->target = i;
            return NULL;
        }
        if (used < sizeof expected)
            used +=
                (size_t)snprintf(expected + used, sizeof expected - used, "%s %s", i ? "," : "", o->choices[i]);
    }
    return expected;
}

static const char *set_device(cli_option *o, const char *text) {
    const char *number = !strncmp(text, "cuda:", 5) ? text + 5 : NULL;
    const bool card =
        number && *number && strlen(number) <= 3 && strspn(number, "0123456789") == strlen(number);
    if (!card && strcmp(text, "auto") != 0 && strcmp(text, "cpu") != 0 && strcmp(text, "cuda") != 0)
        return "auto, cpu, cuda or cuda:N";
    *(const char **)o->target = text;
    return NULL;
}

static const char *add_to_list(cli_option *o, const char *text) {
    cli_list *list = o->target;
    const char **old = list->items;
    const char **items = realloc(old, (list->count + 2) * sizeof *items);
    if (!items) return "less (out of memory)";
    size_t at = 0;
    while (at < kept.list_count && kept.lists[at] != old) at++;
    if (at == kept.list_count) {
        const char ***lists = realloc(kept.lists, (kept.list_count + 1) * sizeof *lists);
        if (!lists) {
            free(items);
            return "less (out of memory)";
        }
        kept.lists = lists;
        kept.list_count++;
    }
    kept.lists[at] = items;
    items[list->count++] = text;
    items[list->count] = NULL;
    list->items = items;
    return NULL;
}

static const char *set_value(cli_option *o, const char *text) {
    o->given = true;
    switch (o->kind) {
    case CLI_TEXT: *(const char **)o->target = text; return NULL;
    case CLI_SWITCH: return set_switch(o, text);
    case CLI_CHOICE: return set_choice(o, text);
    case CLI_DEVICE: return set_device(o, text);
    case CLI_LIST: return add_to_list(o, text);
    default: return set_number(o, text);
    }
}

/* ------------------------------------------------------------------ names */

static cli_option *find_row(cli_option *options, const char *name, size_t length) {
    for (cli_option *o = options; o->name; o++)
        if (o->kind != CLI_HEADING && same_name(o->name, name, length)) return o;
    return NULL;
}

/* A row by its own name, or by another name of it that is not a row itself. */
static cli_option *find(cli_option *options, const char *name, size_t length) {
    cli_option *o = find_row(options, name, length);
    for (size_t i = 0; !o && i < OTHER_NAMES; i++)
        if (same_name(other_names[i].other, name, length))
            o = find_row(options, other_names[i].name, strlen(other_names[i].name));
    return o;
}

bool cli_given(const cli_option *options, const char *name) {
    for (const cli_option *o = options; o->name; o++)
        if (o->kind != CLI_HEADING && !strcmp(o->name, name)) return o->given;
    return false;
}

/* Edits from a to b, each a character inserted, removed or replaced. */
static size_t distance(const char *a, const char *b) {
    enum { MOST = 64 };
    size_t row[MOST + 1];
    const size_t n = strlen(a), m = strlen(b);
    if (m > MOST) return SIZE_MAX;
    for (size_t j = 0; j <= m; j++) row[j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= m; j++) {
            const size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
            diagonal = row[j];
            row[j] = row[j] + 1 < row[j - 1] + 1 ? row[j] + 1 : row[j - 1] + 1;
            if (replaced < row[j]) row[j] = replaced;
        }
    }
    return row[m];
}

const char *cli_nearest(const char *word, const char *const *names) {
    const char *best = NULL;
    size_t least = strlen(word) / 3 + 2;
    for (; *names; names++) {
        const size_t d = distance(word, *names);
        if (d >= least) continue;
        least = d;
        best = *names;
    }
    return best;
}

static cli_parsed unknown(const cli_command *command, const cli_option *options, const char *where,
                          const char *name, size_t length) {
    char word[128];
    const char *names[128];
    size_t count = 0;
    snprintf(word, sizeof word, "%.*s", (int)length, name);
    for (const cli_option *o = options; o->name && count < 127; o++)
        if (o->kind != CLI_HEADING) names[count++] = o->name;
    names[count] = NULL;
    const char *nearest = cli_nearest(word, names);
    return cli_wrong(command, "%sunknown option --%s%s%s%s", where, word, nearest ? "; did you mean --" : "",
                     nearest ? nearest : "", nearest ? "?" : "");
}

/* ------------------------------------------------------------------ the configuration file */

static cli_parsed bad_config(const cli_command *command, const char *path, const char *key,
                             const char *expected, const json_t *value) {
    char *found = json_dumps(value, JSON_ENCODE_ANY);
    cli_wrong(command, "%s: \"%s\": expected %s, found %s", path, key, expected,
              found ? found : "something else");
    free(found);
    return CLI_WRONG;
}

static cli_parsed config_value(const cli_command *command, cli_option *o, const char *path, const char *key,
                               json_t *value) {
    char number[64];
    const char *text = json_string_value(value);
    if (json_is_boolean(value)) text = json_is_true(value) ? "true" : "false";
    if (json_is_integer(value)) {
        snprintf(number, sizeof number, "%lld", (long long)json_integer_value(value));
        text = number;
    } else if (json_is_real(value)) {
        snprintf(number, sizeof number, "%.17g", json_real_value(value));
        text = number;
    }
    if (!text ||
        ((o->kind == CLI_TEXT || o->kind == CLI_DEVICE || o->kind == CLI_LIST) && !json_is_string(value)))
        return bad_config(command, path, key, "a value of another kind", value);
    const char *expected = set_value(o, text);
    return expected ? bad_config(command, path, key, expected, value) : CLI_GO_ON;
}

static cli_parsed read_config(const cli_command *command, cli_option *options, const char *path) {
    json_error_t error;
    const char *key;
    json_t *value;
    json_decref(kept.config);
    kept.config = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    if (!json_is_object(kept.config))
        return cli_wrong(command, "%s: expected a JSON object, found %s", path,
                         kept.config ? "another value" : error.text);
    json_object_foreach(kept.config, key, value) {
        cli_option *o = find(options, key, strlen(key));
        char where[300];
        snprintf(where, sizeof where, "%s: ", path);
        if (!o) return unknown(command, options, where, key, strlen(key));
        if (o->kind == CLI_LIST && json_is_array(value)) {
            for (size_t i = 0; i < json_array_size(value); i++)
                if (config_value(command, o, path, key, json_array_get(value, i)) != CLI_GO_ON)
                    return CLI_WRONG;
        } else if (!json_is_null(value) && config_value(command, o, path, key, value) != CLI_GO_ON) {
            return CLI_WRONG;
        }
    }
    return CLI_GO_ON;
}

/* ------------------------------------------------------------------ the command line */

/* One option at argv[*at]; *at moves on over a value in a word of its own. */
static cli_parsed parse_option(const cli_command *command, cli_option *options, int argc, char **argv,
                               int *at) {
    const char *name = argv[*at] + 2, *equals = strchr(name, '=');
    const size_t length = equals ? (size_t)(equals - name) : strlen(name);
    cli_option *o = find(options, name, length);
    if (!o && !strncmp(name, "no-", 3) && !equals) {
        o = find(options, name + 3, length - 3);
        if (o && o->kind == CLI_SWITCH) {
            o->given = true;
            *(bool *)o->target = false;
            return CLI_GO_ON;
        }
        o = NULL;
    }
    if (!o) return unknown(command, options, "", name, length);
    if (o->kind == CLI_SWITCH && !equals) {
        o->given = true;
        *(bool *)o->target = true;
        return CLI_GO_ON;
    }
    const char *value = equals ? equals + 1 : *at + 1 < argc ? argv[++*at] : NULL;
    if (!value) return cli_wrong(command, "--%s: expected a value, found none", o->name);
    const char *expected = set_value(o, value);
    if (expected) return cli_wrong(command, "--%s: expected %s, found '%s'", o->name, expected, value);
    return CLI_GO_ON;
}

/* --help and --config come before everything else, wherever they stand. */
static cli_parsed parse_first(const cli_command *command, cli_option *options, int argc, char **argv) {
    int end = 0; /* what follows -- are words */
    while (end < argc && strcmp(argv[end], "--") != 0) end++;
    for (int i = 0; i < end; i++)
        if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h")) {
            print_help(command, options);
            return CLI_DONE;
        }
    if (has_row(options, "config")) return CLI_GO_ON; /* the command's own, another thing */
    for (int i = 0; i < end; i++) {
        const char *path = !strncmp(argv[i], "--config=", 9) ? argv[i] + 9 : NULL;
        if (!strcmp(argv[i], "--config")) {
            if (i + 1 == argc) return cli_wrong(command, "--config: expected a value, found none");
            path = argv[i + 1];
        }
        if (path && read_config(command, options, path) != CLI_GO_ON) return CLI_WRONG;
    }
    for (cli_option *o = options; o->name; o++)
        if (o->kind == CLI_LIST && o->given) o->given = false; /* the command line begins its own list */
    return CLI_GO_ON;
}

/* A list given on the command line replaces the configuration file's. */
static void begin_list(cli_option *options, const char *word) {
    const char *name = word + 2, *equals = strchr(name, '=');
    cli_option *o = find(options, name, equals ? (size_t)(equals - name) : strlen(name));
    if (o && o->kind == CLI_LIST && !o->given) ((cli_list *)o->target)->count = 0;
}

cli_parsed cli_parse(const cli_command *command, cli_option *options, int argc, char **argv, const char **words,
                     size_t most, size_t *count) {
    const bool own_config = has_row(options, "config");
    bool only_words = false;
    *count = 0;
    const cli_parsed first = parse_first(command, options, argc, argv);
    if (first != CLI_GO_ON) return first;
    for (int i = 0; i < argc; i++) {
        if (!only_words && !strcmp(argv[i], "--")) {
            only_words = true;
        } else if (!only_words && !own_config && !strcmp(argv[i], "--config")) {
            i++;
        } else if (!only_words && !own_config && !strncmp(argv[i], "--config=", 9)) {
            continue;
        } else if (!only_words && !strncmp(argv[i], "--", 2)) {
            begin_list(options, argv[i]);
            if (parse_option(command, options, argc, argv, &i) != CLI_GO_ON) return CLI_WRONG;
        } else if (!only_words && argv[i][0] == '-' && argv[i][1]) {
            return cli_wrong(command, "unknown option %s", argv[i]);
        } else if (*count == most) {
            return cli_wrong(command, "unexpected argument '%s'", argv[i]);
        } else {
            words[(*count)++] = argv[i];
        }
    }
    for (const cli_option *o = options; o->name; o++)
        if (o->required && !o->given) return cli_wrong(command, "--%s is required", o->name);
    return CLI_GO_ON;
}
