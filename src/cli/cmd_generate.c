/* generate: prompts in, continuations out. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "common.h"
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
    sp_generate_options o; /* as the command line says; a field counts where its option was given */
    cli_list given, stop;
    const char *lines, *column;
    int mode;
} arguments;

/* What the command line says over what generation_config.json says. */
static sp_generate_options merged(const cli_option *options, const arguments *a, const sp_model *model) {
    sp_generate_options o;
    sp_generate_options_for(model, &o);
    const bool warped = cli_given(options, "temperature") || cli_given(options, "top-k") ||
                        cli_given(options, "top-p") || cli_given(options, "min-p");
    if (cli_given(options, "max-new-tokens")) o.max_new_tokens = a->o.max_new_tokens;
    if (cli_given(options, "temperature")) o.temperature = a->o.temperature;
    if (cli_given(options, "top-k")) o.top_k = a->o.top_k;
    if (cli_given(options, "top-p")) o.top_p = a->o.top_p;
    if (cli_given(options, "min-p")) o.min_p = a->o.min_p;
    if (cli_given(options, "repetition-penalty")) o.repetition_penalty = a->o.repetition_penalty;
    if (cli_given(options, "do-sample")) o.do_sample = a->o.do_sample;
    else if (warped) o.do_sample = true;
    if (o.temperature == 0) { /* the limit of ever sharper distributions: the likeliest token */
        o.do_sample = false;
        o.temperature = 1;
    }
    o.mode = (sp_mode)a->mode;
    o.ignore_eos = a->o.ignore_eos;
    o.skip_special_tokens = a->o.skip_special_tokens;
    o.add_special_tokens = a->o.add_special_tokens;
    o.seed = a->o.seed;
    o.use_cache = a->o.use_cache;
    o.stop = a->stop.items;
    return o;
}

static int run_all(arguments *a, const cli_option *options, const cli_prompts *p) {
    sp_model *model = NULL;
    sp_tokenizer *tok = NULL;
    int code = cli_run_open(&a->run);
    if (code != CLI_OK) return code;
    sp_status status = cli_model_load(&a->run, &a->m, false, &model);
    if (status == SP_OK)
        status = sp_tokenizer_load(a->run.ctx, a->m.tokenizer ? a->m.tokenizer : a->m.base, &tok);
    if (status == SP_OK) {
        const sp_generate_options o = merged(options, a, model);
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
    arguments a = {.column = "prompt"};
    const char *files[60];
    size_t count;
    cli_prompts p = {0};
    sp_generate_options_default(&a.o);
    cli_option options[] = {
        CLI_MODEL_OPTIONS(a.m),
        {CLI_TEXT, "tokenizer", &a.m.tokenizer, "DIR", "Tokenizer, if not the base's own", NULL, false, false},
        {CLI_CHOICE, "mode", &a.mode, "MODE", "base_shadow or shadow_only", cli_modes, false, false},
        {CLI_LIST, "prompt", &a.given, "TEXT", "A prompt; may be given again", NULL, false, false},
        {CLI_TEXT, "prompts-file", &a.lines, "FILE",
         "A prompt on every line; in .jsonl a string, or an object with --prompt-column", NULL, false, false},
        {CLI_TEXT, "prompt-column", &a.column, "NAME", "Key of the prompt in .jsonl", NULL, false, false},
        {CLI_HEADING, .name = "Generation (GenerationConfig; defaults are the model's generation_config.json)"},
        {CLI_I32, "max-new-tokens", &a.o.max_new_tokens, "N", "Tokens to add at most", NULL, false, false},
        {CLI_SWITCH, "do-sample", &a.o.do_sample, NULL, "Sample instead of taking the likeliest token", NULL,
         false, false},
        {CLI_REAL, "temperature", &a.o.temperature, "X",
         "Below 1 sharper, above 1 flatter; 0: the likeliest token", NULL, false, false},
        {CLI_I32, "top-k", &a.o.top_k, "N", "Only the N likeliest tokens; 0: all", NULL, false, false},
        {CLI_REAL, "top-p", &a.o.top_p, "P", "Only the likeliest tokens that make up P; 1: all", NULL, false,
         false},
        {CLI_REAL, "min-p", &a.o.min_p, "P", "Only tokens at least P times as likely as the likeliest", NULL,
         false, false},
        {CLI_REAL, "repetition-penalty", &a.o.repetition_penalty, "X", "Above 1: less of what was said", NULL,
         false, false},
        {CLI_LIST, "stop", &a.stop, "TEXT", "End before this text; may be given again", NULL, false, false},
        {CLI_SWITCH, "ignore-eos", &a.o.ignore_eos, NULL, "Go on after the EOS token", NULL, false, false},
        {CLI_SWITCH, "skip-special-tokens", &a.o.skip_special_tokens, NULL, "Leave special tokens out", NULL,
         false, false},
        {CLI_SWITCH, "add-special-tokens", &a.o.add_special_tokens, NULL,
         "Begin as the tokenizer's template says", NULL, false, false},
        {CLI_U64, "seed", &a.o.seed, "N", "Of sampling", NULL, false, false},
        {CLI_SWITCH, "use-cache", &a.o.use_cache, NULL, "Keep keys and values instead of computing them again",
         NULL, false, false},
        {CLI_SWITCH, "json", &a.run.json, NULL, "Print a JSON object a line", NULL, false, false},
        CLI_DEVICE_OPTIONS(a.m),
        CLI_RUN_OPTIONS(a.run),
        {0}};
    const cli_parsed parsed =
        cli_parse(command, options, argc, argv, files, sizeof files / sizeof *files, &count);
    if (parsed != CLI_GO_ON) return parsed == CLI_DONE ? CLI_OK : CLI_USAGE;
    int code = collect(&p, &a.given, a.lines, a.column, files, count);
    if (code == CLI_OK && p.count == 0) {
        cli_wrong(command, "expected a prompt: --prompt, --prompts-file, a file, or - for standard input");
        code = CLI_USAGE;
    }
    if (code == CLI_OK) code = run_all(&a, options, &p);
    cli_prompts_free(&p);
    return code;
}
