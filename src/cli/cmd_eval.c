/* eval: loss, perplexity, token accuracy and exact match, or of a classifier accuracy, macro-F1 and a confusion
 * table, for both paths. */
#include <math.h>
#include <stdlib.h>

#include "commands.h"
#include "common.h"
#include "confusion.h"

/* What is measured, and how it is shown. */
typedef struct evaluation {
    const cli_run *run;
    sp_model *model;
    sp_eval_options options;
    int32_t labels; /* of a classifier; 0: causal LM */
    json_t *results;
} evaluation;

static json_t *as_json(const evaluation *e, const sp_eval_result *r) {
    json_t *object = json_pack("{s:s,s:I,s:o}", "mode", cli_modes[e->options.mode], "examples",
                               (json_int_t)r->examples, "loss", cli_json_real(r->loss));
    if (e->labels) {
        json_object_set_new(object, "accuracy", cli_json_real(r->token_accuracy));
        json_object_set_new(object, "macro_f1", cli_json_real(r->macro_f1));
        cli_json_confusion(object, e->model, e->options.confusion, e->labels);
        return object;
    }
    json_object_set_new(object, "label_tokens", json_integer((json_int_t)r->label_tokens));
    json_object_set_new(object, "perplexity", cli_json_real(r->perplexity));
    json_object_set_new(object, "token_accuracy", cli_json_real(r->token_accuracy));
    if (!isnan(r->exact_match)) json_object_set_new(object, "exact_match", json_real(r->exact_match));
    return object;
}

static void print_head(const evaluation *e) {
    if (e->labels) printf("%-12s  %8s  %8s  %8s\n", "path", "loss", "accuracy", "macro-F1");
    else
        printf("%-12s  %8s  %10s  %14s%s\n", "path", "loss", "perplexity", "token accuracy",
               e->options.exact_match ? "  exact match" : "");
}

static void print_row(const evaluation *e, const sp_eval_result *r) {
    printf("%-12s  %8.4f", cli_modes[e->options.mode], r->loss);
    if (e->labels) printf("  %7.1f%%  %8.4f", 100 * r->token_accuracy, r->macro_f1);
    else printf("  %10.2f  %13.1f%%", r->perplexity, 100 * r->token_accuracy);
    if (e->options.exact_match) printf("  %10.1f%%", 100 * r->exact_match);
    printf("\n");
    if (e->labels) cli_print_confusion(e->model, e->options.confusion, e->labels);
}

/* The modes asked for: one, or with an adapter both. */
static sp_status measure(evaluation *e, const sp_tokenizer *tok, const sp_dataset *data, int only) {
    sp_model_info info = {.size = sizeof info};
    sp_model_get_info(e->model, &info);
    e->labels = info.task == SP_TASK_SEQ_CLS ? info.num_labels : 0;
    int64_t *confusion = calloc((size_t)e->labels * (size_t)e->labels + 1, sizeof *confusion);
    sp_status status = confusion ? SP_OK : SP_ERR_MEMORY;
    bool first = true;
    for (int mode = 0; mode < 2 && status == SP_OK; mode++) {
        sp_eval_result r = {.size = sizeof r};
        if (only >= 0 ? mode != only : mode == 1 && !info.has_adapter) continue;
        e->options.mode = (sp_mode)mode;
        e->options.confusion = confusion;
        status = sp_evaluate(e->model, tok, data, &e->options, &r);
        if (status != SP_OK) break;
        if (first && !e->run->json) print_head(e);
        first = false;
        if (e->run->json) json_array_append_new(e->results, as_json(e, &r));
        else print_row(e, &r);
        fflush(stdout);
    }
    free(confusion);
    return status;
}

int cli_eval(int argc, char **argv, const cli_command *command) {
    cli_run run = {0};
    cli_model_options m = {0};
    cli_data_options d;
    evaluation e = {.run = &run};
    const char *file = NULL;
    int mode = 0;
    size_t count;
    cli_data_default(&d);
    sp_eval_options_default(&e.options);
    cli_option options[] = {
        CLI_MODEL_OPTIONS(m),
        CLI_TASK_OPTION(m),
        {CLI_TEXT, "data", &file, "FILE", "What to evaluate on; - is standard input", NULL, true, false},
        {CLI_TEXT, "tokenizer", &m.tokenizer, "DIR", "Tokenizer, if not the base's own", NULL, false, false},
        {CLI_CHOICE, "mode", &mode, "MODE", "One path only; without this option both that there are", cli_modes,
         false, false},
        {CLI_SWITCH, "exact-match", &e.options.exact_match, NULL, "Also generate from each prompt and compare",
         NULL, false, false},
        {CLI_I32, "max-new-tokens", &e.options.max_new_tokens, "N", "Of an answer, for --exact-match", NULL,
         false, false},
        {CLI_I32, "per-device-eval-batch-size", &e.options.batch_size, "N", "Examples at once", NULL, false,
         false},
        {CLI_SWITCH, "json", &run.json, NULL, "Print JSON", NULL, false, false},
        CLI_DATA_OPTIONS(d),
        CLI_DEVICE_OPTIONS(m),
        CLI_QUANTIZE_OPTION(m),
        CLI_RUN_OPTIONS(run),
        {0}};
    const cli_parsed parsed = cli_parse(command, options, argc, argv, NULL, 0, &count);
    if (parsed != CLI_GO_ON) return parsed == CLI_DONE ? CLI_OK : CLI_USAGE;
    sp_tokenizer *tok = NULL;
    sp_dataset *data = NULL;
    e.results = json_array();
    if (cli_run_open(&run) != CLI_OK) return CLI_FAILED;
    sp_status status = cli_model_load(&run, &m, false, &e.model);
    if (status == SP_OK) status = sp_tokenizer_load(run.ctx, m.tokenizer ? m.tokenizer : m.base, &tok);
    if (status == SP_OK) status = cli_data_load(&run, e.model, tok, file, &d, &data);
    if (status == SP_OK) status = measure(&e, tok, data, cli_given(options, "mode") ? mode : -1);
    int code = status == SP_OK ? CLI_OK : cli_fail(&run);
    if (code == CLI_OK && run.json) code = cli_print_json(json_incref(e.results));
    json_decref(e.results);
    sp_dataset_free(data);
    sp_tokenizer_free(tok);
    sp_model_free(e.model);
    cli_run_close(&run);
    return code;
}
