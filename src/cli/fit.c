#include "fit.h"

#include <string.h>

#include "progress.h"

const char *const cli_schedules[] = {"linear", "cosine", "constant", "constant_with_warmup", NULL};

void cli_fit_default(cli_fit *fit) {
    *fit = (cli_fit){0};
    cli_data_default(&fit->data);
    sp_train_options_default(&fit->train);
}

static int print_json(const cli_fit *fit, const sp_train_result *r) {
    json_t *more = fit->hooks ? fit->hooks->members(fit->hooks->user) : NULL;
    json_t *result = json_pack("{s:s,s:I,s:I,s:o,s:o,s:I,s:f,s:f,s:b}", "output", fit->train.output_dir,
                               "steps", (json_int_t)r->steps, "tokens", (json_int_t)r->tokens, "train_loss",
                               cli_json_real(r->train_loss), "best_eval_loss", cli_json_real(r->best_eval_loss),
                               "best_step", (json_int_t)r->best_step, "train_runtime", r->seconds,
                               "tokens_per_second", r->tokens_per_second, "stopped_early", r->stopped_early);
    if (result && more) json_object_update(result, more);
    json_decref(more);
    return cli_print_json(result);
}

static int print_result(const cli_fit *fit, const sp_train_result *r) {
    if (fit->run.json) return print_json(fit, r);
    if (!fit->run.quiet)
        fprintf(stderr, "%lld steps, %lld tokens in %.1f s (%.0f tokens/s), training loss %.4f%s\nWrote %s\n",
                (long long)r->steps, (long long)r->tokens, r->seconds, r->tokens_per_second, r->train_loss,
                r->stopped_early ? ", stopped early" : "", fit->train.output_dir);
    return CLI_OK;
}

static sp_status load_data(const cli_fit *fit, const sp_tokenizer *tok, sp_dataset **train, sp_dataset **eval) {
    sp_status status = cli_data_load(&fit->run, tok, fit->train_file, &fit->data, train);
    if (status == SP_OK && fit->eval_file)
        status = cli_data_load(&fit->run, tok, fit->eval_file, &fit->data, eval);
    return status;
}

/* With a teacher every token counts. */
static void announce(const cli_fit *fit, const sp_dataset *data) {
    fprintf(stderr, "%lld examples, %lld tokens", (long long)sp_dataset_count(data),
            (long long)sp_dataset_tokens(data));
    if (!fit->hooks) fprintf(stderr, ", %lld of them learnt", (long long)sp_dataset_label_tokens(data));
    fputc('\n', stderr);
}

static sp_status train(cli_fit *fit, sp_model *model, const sp_dataset *data, const sp_dataset *eval,
                       sp_train_result *result) {
    cli_progress progress;
    fit->train.lr_scheduler_type = (sp_schedule)fit->schedule;
    fit->train.max_seq_length = fit->data.library.max_seq_length;
    cli_progress_start(&progress, fit->run.quiet, fit->train.logging_steps);
    if (!fit->run.quiet)
        sp_context_set_log(fit->run.ctx, cli_progress_log, &progress,
                           fit->run.verbose ? SP_LOG_DEBUG : SP_LOG_INFO);
    cli_catch_interrupts();
    const sp_status status = sp_train(model, data, eval, &fit->train, cli_progress_event, &progress, result);
    cli_progress_end(&progress);
    if (!fit->run.quiet)
        sp_context_set_log(fit->run.ctx, cli_log, NULL, fit->run.verbose ? SP_LOG_DEBUG : SP_LOG_INFO);
    return status;
}

int cli_fit_run(cli_fit *fit, sp_model *model) {
    sp_tokenizer *tok = NULL;
    sp_dataset *data = NULL, *eval = NULL;
    sp_train_result result = {.size = sizeof result};
    if (fit->eval_file && !strcmp(fit->train_file, "-") && !strcmp(fit->eval_file, "-")) {
        cli_say_failed("--eval-data: expected a file, found standard input, which --data reads already");
        return CLI_USAGE;
    }
    const char *dir = fit->model.tokenizer ? fit->model.tokenizer : fit->model.base;
    sp_status status = sp_tokenizer_load(fit->run.ctx, dir, &tok);
    if (status == SP_OK) status = load_data(fit, tok, &data, &eval);
    if (status == SP_OK && !fit->run.quiet) announce(fit, data);
    const cli_fit_hooks *hooks = fit->hooks;
    sp_model *made = NULL;
    if (status == SP_OK && hooks) {
        status = hooks->before(hooks->user, &made, eval ? eval : data);
        model = made;
    }
    if (status == SP_OK) status = train(fit, model, data, eval, &result);
    if (status == SP_OK && hooks)
        status = hooks->after(hooks->user, model, eval ? eval : data, fit->run.quiet || fit->run.json);
    int code = CLI_OK;
    if (status == SP_OK) code = print_result(fit, &result);
    else code = cli_fail(&fit->run);
    if (status == SP_ERR_INTERRUPTED) fprintf(stderr, "The same command with --resume goes on.\n");
    sp_model_free(made);
    sp_dataset_free(eval);
    sp_dataset_free(data);
    sp_tokenizer_free(tok);
    return code;
}
