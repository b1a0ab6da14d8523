/* tokenize: text to ids, ids to text, and learning a tokenizer. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "commands.h"
#include "common.h"

static int learn(const cli_run *run, const cli_list *files, int32_t vocab_size, const cli_list *special,
                 const char *output) {
    sp_bpe_options o;
    sp_bpe_options_default(&o);
    o.vocab_size = vocab_size;
    if (special->count) o.special_tokens = special->items;
    if (sp_tokenizer_train_bpe(run->ctx, files->items, files->count, &o, output) != SP_OK) return cli_fail(run);
    if (!run->quiet) fprintf(stderr, "Wrote %s\n", output);
    return CLI_OK;
}

static int encode(const cli_run *run, const sp_tokenizer *tok, const char *text, size_t length, bool special) {
    int32_t *ids = NULL;
    size_t count = 0;
    if (sp_tokenizer_encode(tok, text, length, special, &ids, &count) != SP_OK) return cli_fail(run);
    int code = CLI_OK;
    if (run->json) {
        json_t *list = json_array(), *tokens = json_array();
        for (size_t i = 0; i < count; i++) {
            json_array_append_new(list, json_integer(ids[i]));
            const char *token = sp_tokenizer_token(tok, ids[i]);
            json_array_append_new(tokens, token ? cli_json_text(token, strlen(token)) : json_null());
        }
        code = cli_print_json(json_pack("{s:o,s:o}", "ids", list, "tokens", tokens));
    } else {
        for (size_t i = 0; i < count; i++) printf("%s%d", i ? " " : "", ids[i]);
        printf("\n");
    }
    sp_ids_free(ids);
    return code;
}

/* Numbers with anything but digits between them: plain lists and JSON arrays alike. */
static int read_ids(const char *text, int32_t **ids, size_t *count) {
    size_t capacity = 0;
    while (*text) {
        char *end;
        if (*text < '0' || *text > '9') {
            if (!strchr(" \t\r\n,[]", *text)) return cli_say_failed("ids: expected numbers, found '%c'", *text);
            text++;
            continue;
        }
        errno = 0;
        const long id = strtol(text, &end, 10);
        if (errno || id > INT32_MAX)
            return cli_say_failed("ids: expected smaller numbers, found '%.20s'", text);
        if (*count == capacity) {
            int32_t *more = realloc(*ids, (capacity = 2 * capacity + 256) * sizeof *more);
            if (!more) return cli_say_failed("out of memory");
            *ids = more;
        }
        (*ids)[(*count)++] = (int32_t)id;
        text = end;
    }
    return CLI_OK;
}

static int decode(const cli_run *run, const sp_tokenizer *tok, const char *text, bool skip) {
    int32_t *ids = NULL;
    size_t count = 0, length = 0;
    char *out = NULL;
    int code = read_ids(text, &ids, &count);
    if (code == CLI_OK && sp_tokenizer_decode(tok, ids, count, skip, &out, &length) != SP_OK)
        code = cli_fail(run);
    if (code == CLI_OK && run->json)
        code = cli_print_json(json_pack("{s:o}", "text", cli_json_text(out, length)));
    else if (code == CLI_OK) fwrite(out, 1, length, stdout);
    sp_string_free(out);
    free(ids);
    return code;
}

int cli_tokenize(int argc, char **argv, const cli_command *command) {
    cli_run run = {0};
    cli_list files = {0}, special = {0};
    const char *dir = NULL, *output = NULL, *given = NULL, *path = NULL;
    bool back = false, add_special = true, skip_special = false;
    int32_t vocab_size = 4096;
    size_t count;
    cli_option options[] = {
        {CLI_TEXT, "tokenizer", &dir, "DIR", "A model's directory, or a tokenizer.json", NULL, false, false},
        {CLI_TEXT, "text", &given, "TEXT", "What to turn into ids, instead of a file or standard input", NULL,
         false, false},
        {CLI_SWITCH, "decode", &back, NULL, "The other way: ids to text", NULL, false, false},
        {CLI_SWITCH, "add-special-tokens", &add_special, NULL,
         "As the tokenizer's template says; without, --decode leaves them out", NULL, false, false},
        {CLI_SWITCH, "skip-special-tokens", &skip_special, NULL, "Leave them out of decoded text", NULL, false,
         false},
        {CLI_SWITCH, "json", &run.json, NULL, "Print JSON", NULL, false, false},
        {CLI_HEADING, .name = "Learning a byte-level BPE tokenizer"},
        {CLI_LIST, "train", &files, "FILE", "Text to learn from; may be given again", NULL, false, false},
        {CLI_I32, "vocab-size", &vocab_size, "N", "Tokens of the result", NULL, false, false},
        {CLI_LIST, "special-token", &special, "TOKEN",
         "A special token, the first is the EOS token; may be given "
         "again (without: <|endoftext|>)",
         NULL, false, false},
        {CLI_TEXT, "output", &output, "DIR", "Where to write it", NULL, false, false},
        CLI_RUN_OPTIONS(run),
        {0}};
    const cli_parsed parsed = cli_parse(command, options, argc, argv, &path, 1, &count);
    if (parsed != CLI_GO_ON) return parsed == CLI_DONE ? CLI_OK : CLI_USAGE;
    if (files.count ? !output : !dir) {
        cli_wrong(command, files.count ? "--output is required with --train" : "--tokenizer is required");
        return CLI_USAGE;
    }
    if (cli_run_open(&run) != CLI_OK) return CLI_FAILED;
    sp_tokenizer *tok = NULL;
    char *text = NULL;
    size_t length = given ? strlen(given) : 0;
    int code = CLI_OK;
    if (files.count) {
        code = learn(&run, &files, vocab_size, &special, output);
    } else if (sp_tokenizer_load(run.ctx, dir, &tok) != SP_OK) {
        code = cli_fail(&run);
    } else if (!given && !(text = cli_read_file(path ? path : "-", &length))) {
        code = CLI_FAILED;
    } else {
        code = back ? decode(&run, tok, given ? given : text, skip_special || !add_special)
                    : encode(&run, tok, given ? given : text, length, add_special);
    }
    free(text);
    sp_tokenizer_free(tok);
    cli_run_close(&run);
    return code;
}
