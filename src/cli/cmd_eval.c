/* eval: loss, perplexity, token accuracy and exact match, for both paths. */
#include <math.h>

#include "commands.h"
#include "common.h"

static json_t *as_json(int mode, const sp_eval_result *r) {
    json_t *object =
        json_pack("{s:s,s:I,s:I,s:o,s:o,s:o}", "mode", cli_modes[mode], "examples", (json_int_t)r->examples,
                  "label_tokens", (json_int_t)r->label_tokens, "loss", cli_json_real(r->loss), "perplexity",
                  cli_json_real(r->perplexity), "token_accuracy", cli_json_real(r->token_accuracy));
    if (!isnan(r->exact_match)) json_object_set_new(object, "exact_match", json_real(r->exact_match));
    return object;
}

static void print_row(int mode, bool exact, const sp_eval_result *r) {
    printf("%-12s  %8.4f  %10.2f  %13.1f%%", cli_modes[mode], r->loss, r->perplexity, 100 * r->token_accuracy);
    if (exact) printf("  %10.1f%%", 100 * r->exact_match);
    printf("\n");
}

/* The modes asked for: one, or with an adapter both. */
static sp_status measure(const cli_run *run, sp_model *model, const sp_tokenizer *tok, const sp_dataset *data,
                         sp_eval_options *o, int only, json_t *results) {
    sp_model_info info = {.size = sizeof info};
    sp_model_get_info(model, &info);
    bool first = true;
    for (int mode = 0; mode < 2; mode++) {
        sp_eval_result r = {.size = sizeof r};
        if (only >= 0 ? mode != only : mode == 1 && !info.has_adapter) continue;
        o->mode = (sp_mode)mode;
        const sp_status status = sp_evaluate(model, tok, data, o, &r);
        if (status != SP_OK) return status;
        if (first && !run->json)
            printf("%-12s  %8s  %10s  %14s%s\n", "path", "loss", "perplexity", "token accuracy",
                   o->exact_match ? "  exact match" : "");
        first = false;
        if (run->json) json_array_append_new(results, as_json(mode, &r));
        else print_row(mode, o->exact_match, &r);
        fflush(stdout);
    }
    return SP_OK;
}

int cli_eval(int argc, char **argv, const cli_command *command) {
    cli_run run = {0};
    cli_model_options m = {0};
    cli_data_options d;
    sp_eval_options o;
    const char *file = NULL;
    int mode = 0;
    size_t count;
    cli_data_default(&d);
    sp_eval_options_default(&o);
    cli_option options[] = {
        CLI_MODEL_OPTIONS(m),
        {CLI_TEXT, "data", &file, "FILE", "What to evaluate on; - is standard input", NULL, true, false},
        {CLI_TEXT, "tokenizer", &m.tokenizer, "DIR", "Tokenizer, if not the base's own", NULL, false, false},
        {CLI_CHOICE, "mode", &mode, "MODE", "One path only; without this option both that there are", cli_modes,
         false, false},
        {CLI_SWITCH, "exact-match", &o.exact_match, NULL, "Also generate from each prompt and compare", NULL,
         false, false},
        {CLI_I32, "max-new-tokens", &o.max_new_tokens, "N", "Of an answer, for --exact-match", NULL, false,
         false},
        {CLI_I32, "per-device-eval-batch-size", &o.batch_size, "N", "Examples at once", NULL, false, false},
        {CLI_SWITCH, "json", &run.json, NULL, "Print JSON", NULL, false, false},
        CLI_DATA_OPTIONS(d),
        CLI_DEVICE_OPTIONS(m),
        CLI_RUN_OPTIONS(run),
        {0}};
    const cli_parsed parsed = cli_parse(command, options, argc, argv, NULL, 0, &count);
    if (parsed != CLI_GO_ON) return parsed == CLI_DONE ? CLI_OK : CLI_USAGE;
    sp_model *model = NULL;
    sp_tokenizer *tok = NULL;
    sp_dataset *data = NULL;
    json_t *results = json_array();
    if (cli_run_open(&run) != CLI_OK) return CLI_FAILED;
    sp_status status = cli_model_load(&run, &m, false, &model);
    if (status == SP_OK) status = sp_tokenizer_load(run.ctx, m.tokenizer ? m.tokenizer : m.base, &tok);
    if (status == SP_OK) status = cli_data_load(&run, tok, file, &d, &data);
    if (status == SP_OK)
        status = measure(&run, model, tok, data, &o, cli_given(options, "mode") ? mode : -1, results);
    int code = status == SP_OK ? CLI_OK : cli_fail(&run);
    if (code == CLI_OK && run.json) code = cli_print_json(json_incref(results));
    json_decref(results);
    sp_dataset_free(data);
    sp_tokenizer_free(tok);
    sp_model_free(model);
    cli_run_close(&run);
    return code;
}
