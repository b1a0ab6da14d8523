/* chat: a conversation, line by line. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chat.h"
#include "commands.h"
#include "common.h"
#include "generation.h"

typedef struct talk {
    cli_run run;
    cli_model_options m;
    cli_generation g;
    cli_chat_options options;
    cli_chat chat;
    sp_model *model;
    sp_tokenizer *tok;
    sp_generate_options generate;
    json_t *messages;
    bool terminal; /* a person types */
} talk;

static const char help[] = "/reset       Forget the conversation\n"
                           "/mode MODE   base_shadow or shadow_only: which path answers\n"
                           "/help        This text\n"
                           "/quit        Leave; so does Ctrl-D\n"
                           "Ctrl-C stops an answer.\n";

/* ------------------------------------------------------------------ Ctrl-C */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number) {
    (void)signal_number;
    interrupted = 1;
}

/* Without SA_RESTART: a line that is being typed is given up as well. */
static void catch_interrupts(void) {
    const struct sigaction action = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &action, NULL);
}

/* ------------------------------------------------------------------ answers */

static bool print_piece(void *user, size_t index, const char *text, size_t length) {
    (void)user;
    (void)index;
    return fwrite(text, 1, length, stdout) == length && fflush(stdout) == 0 && !interrupted;
}

static int add_message(talk *t, const char *role, const char *text, size_t length) {
    json_t *message = json_pack("{s:s,s:o}", "role", role, "content", cli_json_text(text, length));
    if (!message || json_array_append_new(t->messages, message) != 0) return cli_say_failed("out of memory");
    return CLI_OK;
}

/* Prints the answer to the conversation so far and adds it; what was stopped stays as far as it came. */
static int answer(talk *t) {
    sp_generation *g = NULL;
    sp_generated one;
    char *text = NULL;
    json_t *record = json_pack("{s:O}", "messages", t->messages);
    int code = cli_chat_render(&t->run, &t->chat, record, &text);
    const char *prompt = text;
    json_decref(record);
    interrupted = 0;
    if (code == CLI_OK &&
        sp_generate(t->model, t->tok, &prompt, 1, &t->generate, print_piece, NULL, &g) != SP_OK)
        code = cli_fail(&t->run);
    sp_string_free(text);
    if (code != CLI_OK) return code;
    sp_generation_get(g, 0, &one);
    puts(interrupted ? " ..." : "");
    fflush(stdout);
    code = add_message(t, "assistant", one.text, one.length);
    sp_generation_free(g);
    return code;
}

/* What cannot be answered is forgotten, so that the conversation can go on. */
static int say(talk *t, const char *line, size_t length) {
    const size_t before = json_array_size(t->messages);
    int code = add_message(t, "user", line, length);
    if (code == CLI_OK) code = answer(t);
    while (code != CLI_OK && json_array_size(t->messages) > before)
        json_array_remove(t->messages, json_array_size(t->messages) - 1);
    return code;
}

/* ------------------------------------------------------------------ commands */

static int set_mode(talk *t, const char *name) {
    for (int i = 0; cli_modes[i]; i++) {
        sp_model_info info = {.size = sizeof info};
        if (strcmp(cli_modes[i], name) != 0) continue;
        sp_model_get_info(t->model, &info);
        if (i == SP_MODE_SHADOW_ONLY && !info.has_adapter)
            return cli_say_failed("/mode: expected an adapter for shadow_only, found none");
        t->generate.mode = (sp_mode)i;
        return CLI_OK;
    }
    return cli_say_failed("/mode: expected base_shadow or shadow_only, found '%s'", name);
}

static int obey(talk *t, const char *line, bool *leave) {
    if (!strcmp(line, "/quit") || !strcmp(line, "/exit")) {
        *leave = true;
    } else if (!strcmp(line, "/reset")) {
        json_array_clear(t->messages);
    } else if (!strcmp(line, "/help")) {
        fputs(help, stderr);
    } else if (!strncmp(line, "/mode", 5) && (line[5] == ' ' || !line[5])) {
        return set_mode(t, line + 5 + strspn(line + 5, " "));
    } else {
        return cli_say_failed("unknown command '%s'; /help lists all", line);
    }
    return CLI_OK;
}

/* One line: a command where it begins with '/', else what the user says; "//" stands for a '/' to say. */
static int take_line(talk *t, char *line, size_t length, bool *leave) {
    while (length && strchr("\r\n", line[length - 1])) line[--length] = 0;
    if (!length) return CLI_OK;
    if (line[0] == '/' && line[1] != '/') return obey(t, line, leave);
    const size_t skip = line[0] == '/';
    return say(t, line + skip, length - skip);
}

/* A person's mistakes are told and forgotten; from a pipe the first one ends the conversation. */
static int converse(talk *t) {
    char *line = NULL;
    size_t capacity = 0;
    int code = CLI_OK;
    bool leave = false;
    if (t->terminal && !t->run.quiet) fprintf(stderr, "/help lists the commands.\n");
    while (!leave) {
        if (t->terminal) fputs("> ", stderr);
        interrupted = 0;
        const ssize_t length = getline(&line, &capacity, stdin);
        if (length < 0 && interrupted && errno == EINTR) {
            clearerr(stdin);
            fputs("\n", stderr);
            if (t->terminal) continue;
            code = CLI_FAILED;
        }
        if (length < 0) break;
        code = take_line(t, line, (size_t)length, &leave);
        if (code != CLI_OK && !t->terminal) break;
        code = CLI_OK;
    }
    if (t->terminal && !leave) fputs("\n", stderr);
    free(line);
    return code;
}

/* ------------------------------------------------------------------ the command */

static int run_chat(talk *t, const cli_option *options) {
    const char *dir = t->m.tokenizer ? t->m.tokenizer : t->m.base;
    int code = cli_chat_open(&t->run, dir, &t->options, options, &t->chat);
    if (code != CLI_OK) return code;
    sp_status status = cli_model_load(&t->run, &t->m, false, &t->model);
    if (status == SP_OK) status = sp_tokenizer_load(t->run.ctx, dir, &t->tok);
    if (status != SP_OK) return cli_fail(&t->run);
    t->generate = cli_generation_merge(&t->g, options, t->model);
    if (!cli_given(options, "add-special-tokens"))
        t->generate.add_special_tokens = false; /* the template has them */
    if (!cli_given(options, "max-new-tokens")) t->generate.max_new_tokens = t->g.o.max_new_tokens;
    t->messages = json_array();
    t->terminal = isatty(STDIN_FILENO);
    catch_interrupts();
    return t->messages ? converse(t) : cli_say_failed("out of memory");
}

int cli_chat_command(int argc, char **argv, const cli_command *command) {
    talk t = {.options = {.enable_thinking = true}};
    size_t count;
    cli_generation_default(&t.g);
    t.g.o.max_new_tokens = 512;
    cli_option options[] = {
        CLI_MODEL_OPTIONS(t.m),
        {CLI_TEXT, "tokenizer", &t.m.tokenizer, "DIR", "Tokenizer, if not the base's own", NULL, false, false},
        {CLI_CHOICE, "mode", &t.g.mode, "MODE", "base_shadow or shadow_only", cli_modes, false, false},
        CLI_CHAT_OPTIONS(t.options),
        CLI_GENERATION_OPTIONS(t.g),
        CLI_DEVICE_OPTIONS(t.m),
        CLI_QUANTIZE_OPTION(t.m),
        CLI_RUN_OPTIONS(t.run),
        {0}};
    const cli_parsed parsed = cli_parse(command, options, argc, argv, NULL, 0, &count);
    if (parsed != CLI_GO_ON) return parsed == CLI_DONE ? CLI_OK : CLI_USAGE;
    int code = cli_run_open(&t.run);
    if (code != CLI_OK) return code;
    code = run_chat(&t, options);
    json_decref(t.messages);
    sp_tokenizer_free(t.tok);
    sp_model_free(t.model);
    cli_chat_close(&t.chat);
    cli_run_close(&t.run);
    return code;
}
