/* generate: prompts in, continuations out. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "chat.h"
#include "commands.h"
#include "common.h"
#include "generation.h"
#include "prompts.h"

static int collect(cli_prompts *p, const cli_list *given, const char *lines, const char *column,
                   const char *const *files, size_t count) {
    int code = CLI_OK;
    for (size_t i = 0; i < given->count && code == CLI_OK; i++)
        code = cli_prompts_add(p, given->items[i], strlen(given->items[i]));
    if (code == CLI_OK && lines) code = cli_prompts_add_lines(p, lines, column);
    for (size_t i = 0; i < count && code == CLI_OK; i++) code = cli_prompts_add_file(p, files[i]);
    return code;
}

/* A terminal wants to see text as it comes; one sequence at a time can stream. */
static bool print_piece(void *user, size_t index, const char *text, size_t length) {
    (void)user;
    (void)index;
    return fwrite(text, 1, length, stdout) == length && fflush(stdout) == 0;
}

static int print_all(const cli_prompts *p, const sp_generation *g, bool json) {
    static const char *const finishes[] = {"length", "eos", "stop"};
    for (size_t i = 0; i < sp_generation_count(g); i++) {
        sp_generated one;
        sp_generation_get(g, i, &one);
        if (!json) {
            if (i) puts("---");
            fwrite(one.text, 1, one.length, stdout);
            putchar('\n');
            continue;
        }
        json_t *ids = json_array();
        for (size_t t = 0; t < one.count; t++) json_array_append_new(ids, json_integer(one.ids[t]));
        const int code = cli_print_json(
            json_pack("{s:o,s:o,s:o,s:I,s:s}", "prompt", cli_json_text(p->items[i], strlen(p->items[i])),
                      "text", cli_json_text(one.text, one.length), "ids", ids, "prompt_tokens",
                      (json_int_t)one.prompt_count, "finish_reason", finishes[one.finish]));
        if (code != CLI_OK) return code;
    }
    return CLI_OK;
}

static int generate(const cli_run *run, sp_model *model, const sp_tokenizer *tok, const cli_prompts *p,
                    const sp_generate_options *o) {
    sp_generation *g = NULL;
    sp_generation_stats stats = {.size = sizeof stats};
    const bool streams = p->count == 1 && !run->json && isatty(STDOUT_FILENO);
    if (sp_generate(model, tok, (const char *const *)p->items, p->count, o, streams ? print_piece : NULL, NULL,
                    &g) != SP_OK)
        return cli_fail(run);
    int code = CLI_OK;
    if (streams) putchar('\n');
    else code = print_all(p, g, run->json);
    sp_generation_get_stats(g, &stats);
    if (run->verbose)
        fprintf(stderr, "%lld prompt tokens in %.3f s, %lld new tokens in %.3f s\n",
                (long long)stats.prompt_tokens, stats.prefill_seconds, (long long)stats.new_tokens,
                stats.decode_seconds);
    sp_generation_free(g);
    return code;
}

typedef struct arguments {
    cli_run run;
    cli_model_options m;
    cli_generation g;
    cli_chat_options chat;
    cli_list given;
    const char *lines, *column;
    bool chats;
} arguments;

/* The texts that the template makes of the prompts, instead of these. */
static int render_prompts(arguments *a, const cli_option *options, cli_prompts *p) {
    cli_chat chat;
    const char *dir = a->m.tokenizer ? a->m.tokenizer : a->m.base;
    int code = cli_chat_open(&a->run, dir, &a->chat, options, &chat);
    for (size_t i = 0; i < p->count && code == CLI_OK; i++) {
        json_t *record = json_loads(p->items[i], 0, NULL);
        char *text = NULL;
        code = cli_chat_render(&a->run, &chat, record, &text);
        json_decref(record);
        if (code != CLI_OK) break;
        free(p->items[i]);
        p->items[i] = text;
    }
    cli_chat_close(&chat);
    return code;
}

static int run_all(arguments *a, const cli_option *options, cli_prompts *p) {
    sp_model *model = NULL;
    sp_tokenizer *tok = NULL;
    int code = cli_run_open(&a->run);
    if (code != CLI_OK) return code;
    if (a->chats) code = render_prompts(a, options, p);
    if (code != CLI_OK) {
        cli_run_close(&a->run);
        return code;
    }
    sp_status status = cli_model_load(&a->run, &a->m, false, &model);
    if (status == SP_OK)
        status = sp_tokenizer_load(a->run.ctx, a->m.tokenizer ? a->m.tokenizer : a->m.base, &tok);
    if (status == SP_OK) {
        sp_generate_options o = cli_generation_merge(&a->g, options, model);
        if (a->chats && !cli_given(options, "add-special-tokens"))
            o.add_special_tokens = false; /* they are there */
        code = generate(&a->run, model, tok, p, &o);
    } else {
        code = cli_fail(&a->run);
    }
    sp_tokenizer_free(tok);
    sp_model_free(model);
    cli_run_close(&a->run);
    return code;
}

int cli_generate(int argc, char **argv, const cli_command *command) {
    arguments a = {.column = "prompt", .chat = {.enable_thinking = true}};
    const char *files[60];
    size_t count;
    cli_prompts p = {0};
    cli_generation_default(&a.g);
    cli_option options[] = {
        CLI_MODEL_OPTIONS(a.m),
        {CLI_TEXT, "tokenizer", &a.m.tokenizer, "DIR", "Tokenizer, if not the base's own", NULL, false, false},
        {CLI_CHOICE, "mode", &a.g.mode, "MODE", "base_shadow or shadow_only", cli_modes, false, false},
        {CLI_LIST, "prompt", &a.given, "TEXT", "A prompt; may be given again", NULL, false, false},
        {CLI_TEXT, "prompts-file", &a.lines, "FILE",
         "A prompt on every line; in .jsonl a string, or an object with --prompt-column", NULL, false, false},
        {CLI_TEXT, "prompt-column", &a.column, "NAME", "Key of the prompt in .jsonl", NULL, false, false},
        {CLI_HEADING, .name = "Chat"},
        {CLI_SWITCH, "chat", &a.chats, NULL,
         "Each prompt is what a user says; in .jsonl an object may have messages (and tools)", NULL, false,
         false},
        CLI_CHAT_OPTIONS(a.chat),
        CLI_GENERATION_OPTIONS(a.g),
        {CLI_SWITCH, "json", &a.run.json, NULL, "Print a JSON object a line", NULL, false, false},
        CLI_DEVICE_OPTIONS(a.m),
        CLI_QUANTIZE_OPTION(a.m),
        CLI_RUN_OPTIONS(a.run),
        {0}};
    const cli_parsed parsed =
        cli_parse(command, options, argc, argv, files, sizeof files / sizeof *files, &count);
    if (parsed != CLI_GO_ON) return parsed == CLI_DONE ? CLI_OK : CLI_USAGE;
    const char *chat_only = a.chats ? NULL : cli_chat_option_given(options);
    if (chat_only) {
        cli_wrong(command, "--%s is for --chat", chat_only);
        return CLI_USAGE;
    }
    p.chat = a.chats;
    int code = collect(&p, &a.given, a.lines, a.column, files, count);
    if (code == CLI_OK && p.count == 0) {
        cli_wrong(command, "expected a prompt: --prompt, --prompts-file, a file, or - for standard input");
        code = CLI_USAGE;
    }
    if (code == CLI_OK) code = run_all(&a, options, &p);
    cli_prompts_free(&p);
    return code;
}
