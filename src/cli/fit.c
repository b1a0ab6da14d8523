#include "fit.h"

#include <stdlib.h>
#include <string.h>

#include "progress.h"

const char *const cli_schedules[] = {"linear", "cosine", "constant", "constant_with_warmup", NULL};

void cli_fit_default(cli_fit *fit) {
    *fit = (cli_fit){0};
    cli_data_default(&fit->data);
    sp_train_options_default(&fit->train);
}

static int print_json(const cli_fit *fit, const sp_train_result *r, const json_t *more) {
    json_t *result = json_pack("{s:s,s:I,s:I,s:o,s:o,s:I,s:f,s:f,s:b}", "output", fit->train.output_dir,
                               "steps", (json_int_t)r->steps, "tokens", (json_int_t)r->tokens, "train_loss",
                               cli_json_real(r->train_loss), "best_eval_loss", cli_json_real(r->best_eval_loss),
                               "best_step", (json_int_t)r->best_step, "train_runtime", r->seconds,
                               "tokens_per_second", r->tokens_per_second, "stopped_early", r->stopped_early);
    if (result && more) json_object_update(result, (json_t *)(uintptr_t)more);
    return cli_print_json(result);
}

int cli_fit_print(const cli_fit *fit, const sp_train_result *r, const json_t *more) {
    if (fit->run.json) return print_json(fit, r, more);
    if (!fit->run.quiet)
        fprintf(stderr, "%lld steps, %lld tokens in %.1f s (%.0f tokens/s), training loss %.4f%s\nWrote %s\n",
                (long long)r->steps, (long long)r->tokens, r->seconds, r->tokens_per_second, r->train_loss,
                r->stopped_early ? ", stopped early" : "", fit->train.output_dir);
    return CLI_OK;
}

/* What the tokens of a text are to a language model its label is to a classifier. Without a model yet, every
 * token is learnt. */
static void announce_data(const cli_fit *fit, const sp_model *model) {
    sp_model_info info = {.size = sizeof info};
    if (model) sp_model_get_info(model, &info);
    if (fit->run.quiet) return;
    fprintf(stderr, "%lld examples, %lld tokens", (long long)sp_dataset_count(fit->train_data),
            (long long)sp_dataset_tokens(fit->train_data));
    if (info.task == SP_TASK_SEQ_CLS) fprintf(stderr, ", %d labels", (int)info.num_labels);
    else if (model)
        fprintf(stderr, ", %lld of them learnt", (long long)sp_dataset_label_tokens(fit->train_data));
    fputc('\n', stderr);
}

/* A classifier's base without a head gets one for the labels that the training data have. */
static sp_status take_labels(const cli_fit *fit, sp_model *model) {
    sp_model_info info = {.size = sizeof info};
    sp_model_get_info(model, &info);
    if (info.task != SP_TASK_SEQ_CLS || info.num_labels > 0) return SP_OK;
    const int32_t count = sp_dataset_label_count(fit->train_data);
    const char **names = calloc((size_t)count + 1, sizeof *names);
    for (int32_t i = 0; names && i < count; i++) names[i] = sp_dataset_label(fit->train_data, i);
    const sp_status status = names ? sp_model_set_labels(model, names, count, fit->train.seed) : SP_ERR_MEMORY;
    free(names);
    return status;
}

sp_status cli_fit_load(cli_fit *fit, sp_model *model) {
    const char *dir = fit->model.tokenizer ? fit->model.tokenizer : fit->model.base;
    sp_status status = sp_tokenizer_load(fit->run.ctx, dir, &fit->tok);
    if (status == SP_OK)
        status = cli_data_load(&fit->run, model, fit->tok, fit->train_file, &fit->data, &fit->train_data);
    if (status == SP_OK && model) status = take_labels(fit, model);
    if (status == SP_OK && fit->eval_file)
        status = cli_data_load(&fit->run, model, fit->tok, fit->eval_file, &fit->data, &fit->eval_data);
    if (status == SP_OK) announce_data(fit, model);
    return status;
}

void cli_fit_free(cli_fit *fit) {
    sp_dataset_free(fit->eval_data);
    sp_dataset_free(fit->train_data);
    sp_tokenizer_free(fit->tok);
    fit->eval_data = fit->train_data = NULL;
    fit->tok = NULL;
}

sp_status cli_fit_train(cli_fit *fit, sp_model *model, sp_train_result *result) {
    cli_progress progress;
    fit->train.lr_scheduler_type = (sp_schedule)fit->schedule;
    fit->train.max_seq_length = fit->data.library.max_seq_length;
    cli_progress_start(&progress, fit->run.quiet, fit->train.logging_steps);
    if (!fit->run.quiet)
        sp_context_set_log(fit->run.ctx, cli_progress_log, &progress,
                           fit->run.verbose ? SP_LOG_DEBUG : SP_LOG_INFO);
    cli_catch_interrupts();
    const sp_status status =
        sp_train(model, fit->train_data, fit->eval_data, &fit->train, cli_progress_event, &progress, result);
    cli_progress_end(&progress);
    if (!fit->run.quiet)
        sp_context_set_log(fit->run.ctx, cli_log, NULL, fit->run.verbose ? SP_LOG_DEBUG : SP_LOG_INFO);
    return status;
}

int cli_fit_failed(const cli_fit *fit, sp_status status) {
    const int code = cli_fail(&fit->run);
    if (status == SP_ERR_INTERRUPTED) fprintf(stderr, "The same command with --resume goes on.\n");
    return code;
}

int cli_fit_run(cli_fit *fit, sp_model *model) {
    sp_train_result result = {.size = sizeof result};
    const sp_status status = cli_fit_train(fit, model, &result);
    return status == SP_OK ? cli_fit_print(fit, &result, NULL) : cli_fit_failed(fit, status);
}

bool cli_fit_files(const cli_fit *fit) {
    if (!fit->eval_file || strcmp(fit->train_file, "-") != 0 || strcmp(fit->eval_file, "-") != 0) return true;
    cli_say_failed("--eval-data: expected a file, found standard input, which --data reads already");
    return false;
}
