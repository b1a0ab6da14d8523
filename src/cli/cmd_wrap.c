/* wrap: a small model behind a large model's head; its projection perhaps trained on text. */
#include <dirent.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "commands.h"
#include "fit.h"

/* Examples that the distance from the small model is measured on, before and after. */
#define MEASURED 64

typedef struct wrap {
    cli_fit fit; /* run, output and dtype without --align too */
    const char *small, *large, *wrapped;
    bool align;
    sp_wrap_options options;
    sp_wrap_result result;
    sp_distill_result before, after; /* `tokens` 0: not measured */
} wrap;

/* ------------------------------------------------------------------ wrapping */

static json_t *wrap_members(const wrap *w) {
    return json_pack("{s:b,s:I,s:o,s:f}", "init_optimal_projection", w->options.init_optimal_projection, "rank",
                     (json_int_t)w->result.rank, "reconstruction_error",
                     cli_json_real(w->result.reconstruction_error), "seconds", w->result.seconds);
}

static void say_wrapped(const wrap *w, FILE *to) {
    if (!w->options.init_optimal_projection) fputs("Projection: fresh values\n", to);
    else
        fprintf(to, "Projection: rank %lld, reconstruction error %.6f (%.1f s)\n", (long long)w->result.rank,
                w->result.reconstruction_error, w->result.seconds);
}

static sp_status make(wrap *w) {
    w->options.dtype = cli_dtype(w->fit.model.dtype);
    w->options.seed = w->fit.train.seed;
    return sp_wrap(w->fit.run.ctx, w->small, w->large, w->fit.train.output_dir, &w->options, &w->result);
}

static int wrap_only(wrap *w) {
    if (make(w) != SP_OK) return cli_fail(&w->fit.run);
    if (!w->fit.run.json) say_wrapped(w, stdout);
    else if (cli_print_json(wrap_members(w)) != CLI_OK) return CLI_FAILED;
    if (!w->fit.run.quiet) fprintf(stderr, "Wrote %s\n", w->fit.train.output_dir);
    return CLI_OK;
}

/* ------------------------------------------------------------------ aligning */

static bool is_there(const char *dir, const char *name) {
    char path[4096];
    return snprintf(path, sizeof path, "%s/%s", dir, name) < (int)sizeof path && access(path, F_OK) == 0;
}

/* What is half written does not count. */
static bool holds_checkpoint(const char *path) {
    bool found = false;
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));)
        found |= !strncmp(e->d_name, "checkpoint-", 11) && !strstr(e->d_name, ".partial");
    if (dir) closedir(dir);
    return found;
}

static sp_status measure(wrap *w, sp_model *model, const sp_dataset *data, sp_distill_result *out) {
    return sp_distill_evaluate(model, data, MEASURED, &w->fit.train, out);
}

/* A run that goes on finds its wrapped model, perhaps aligned, where it is. */
static sp_status before(wrap *w, sp_model **model, const sp_dataset *measured) {
    const char *output = w->fit.train.output_dir;
    const bool goes_on = w->fit.train.resume && is_there(output, "config.json");
    if (!w->wrapped && !goes_on) {
        const sp_status status = make(w);
        if (status != SP_OK) return status;
        if (!w->fit.run.quiet) say_wrapped(w, stderr);
    }
    w->fit.model.base = w->wrapped ? w->wrapped : output;
    sp_status status = cli_model_load(&w->fit.run, &w->fit.model, false, model);
    if (status == SP_OK) status = sp_model_set_teacher(*model, w->small);
    if (status == SP_OK && !goes_on) status = measure(w, *model, measured, &w->before);
    return status;
}

static sp_status after(wrap *w, sp_model *model, const sp_dataset *measured) {
    const sp_status status = measure(w, model, measured, &w->after);
    if (status != SP_OK || w->fit.run.quiet || w->fit.run.json) return status;
    if (w->before.tokens)
        fprintf(stderr,
                "Distance from the small model %.4g, was %.4g; the same next token %.1f%%, was %.1f%%\n",
                w->after.loss, w->before.loss, 100 * w->after.agreement, 100 * w->before.agreement);
    else
        fprintf(stderr, "Distance from the small model %.4g; the same next token %.1f%%\n", w->after.loss,
                100 * w->after.agreement);
    return status;
}

/* null for what this run did not measure. */
static json_t *members(const wrap *w) {
    const bool known = w->before.tokens > 0;
    json_t *all = w->result.seconds > 0 ? wrap_members(w) : json_object();
    json_t *more = json_pack(
        "{s:o,s:o,s:f,s:f,s:I}", "loss_before", cli_json_real(known ? w->before.loss : NAN), "agreement_before",
        cli_json_real(known ? w->before.agreement : NAN), "loss_after", w->after.loss, "agreement_after",
        w->after.agreement, "measured_tokens", (json_int_t)w->after.tokens);
    if (more) json_object_update(all, more);
    json_decref(more);
    return all;
}

/* The data come first: a mistake in them should not cost the time of a pseudo-inverse. */
static int align_on_data(wrap *w) {
    cli_fit *fit = &w->fit;
    sp_model *model = NULL;
    sp_train_result result = {.size = sizeof result};
    sp_status status = cli_fit_load(fit, NULL);
    const sp_dataset *measured = fit->eval_data ? fit->eval_data : fit->train_data;
    if (status == SP_OK) status = before(w, &model, measured);
    if (status == SP_OK) status = cli_fit_train(fit, model, &result);
    if (status == SP_OK) status = after(w, model, measured);
    json_t *more = status == SP_OK ? members(w) : NULL;
    const int code = status == SP_OK ? cli_fit_print(fit, &result, more) : cli_fit_failed(fit, status);
    json_decref(more);
    sp_model_free(model);
    cli_fit_free(fit);
    return code;
}

static int align(wrap *w) {
    const char *output = w->fit.train.output_dir;
    if (!w->fit.train.resume && holds_checkpoint(output))
        return cli_say_failed("%s: holds a checkpoint of an earlier run: --resume goes on from it; to begin "
                              "anew, remove it or choose another --output",
                              output);
    if (!cli_fit_files(&w->fit)) return CLI_USAGE;
    if (!w->fit.model.tokenizer) w->fit.model.tokenizer = w->small;
    return align_on_data(w);
}

/* ------------------------------------------------------------------ options */

static bool is_one_of(const char *name, const char *const *names) {
    while (*names && strcmp(name, *names) != 0) names++;
    return *names != NULL;
}

/* The shared options of training, as far as they make sense here. */
static void adapt(cli_option *options) {
    static const char *const without[] = {"train-on-prompt", "gradient-checkpointing", "label-column", NULL};
    cli_option *to = options;
    for (cli_option *o = options; o->name; o++) {
        if (o->kind != CLI_HEADING && is_one_of(o->name, without)) continue;
        *to = *o;
        if (!strcmp(to->name, "data")) to->required = false;
        if (!strcmp(to->name, "dtype"))
            to->help = "Of the weights, and to compute in: auto (as the small model's), f32, bf16";
        if (!strcmp(to->name, "tokenizer")) to->help = "Tokenizer, if not the small model's";
        if (!strcmp(to->name, "seed")) to->help = "Of fresh values, and of the order of the data";
        to++;
    }
    *to = (cli_option){0};
}

static cli_parsed check_use(const cli_command *command, const cli_option *options, const wrap *w) {
    static const char *const always[] = {"shadow", "base",    "output", "init-optimal-projection",
                                         "dtype",  "seed",    "json",   "threads",
                                         "quiet",  "verbose", NULL};
    for (const cli_option *o = options; !w->align && o->name; o++)
        if (o->kind != CLI_HEADING && o->given && !is_one_of(o->name, always))
            return cli_wrong(command, "--%s is for --align", o->name);
    if (w->align && !w->fit.train_file) return cli_wrong(command, "--align needs --data");
    if (!w->large == !w->wrapped)
        return cli_wrong(command, w->align ? "expected --base or --wrapped" : "--base is required");
    return CLI_GO_ON;
}

int cli_wrap(int argc, char **argv, const cli_command *command) {
    wrap w = {.result = {.size = sizeof w.result},
              .before = {.size = sizeof w.before},
              .after = {.size = sizeof w.after}};
    size_t count;
    cli_fit_default(&w.fit);
    sp_wrap_options_default(&w.options);
    cli_option options[] = {
        {CLI_TEXT, "shadow", &w.small, "DIR", "The small model: its backbone, tokenizer and dtype are taken",
         NULL, true, false},
        {CLI_TEXT, "base", &w.large, "DIR", "The large model: its head is taken (required without --wrapped)",
         NULL, false, false},
        {CLI_SWITCH, "init-optimal-projection", &w.options.init_optimal_projection, NULL,
         "Fit the projection to the small model's own head; else fresh values", NULL, false, false},
        {CLI_SWITCH, "align", &w.align, NULL,
         "Train the projection on --data to give the small model's own logits", NULL, false, false},
        {CLI_TEXT, "wrapped", &w.wrapped, "DIR", "Align this wrapped model instead of wrapping --base", NULL,
         false, false},
        {CLI_REAL, "kl-weight", &w.fit.train.distill_kl, "X",
         "Weight of the divergence KL(small model || wrapped model)", NULL, false, false},
        {CLI_REAL, "mse-weight", &w.fit.train.distill_mse, "X", "Weight of the mean square of the logits' gap",
         NULL, false, false},
        {CLI_REAL, "temperature", &w.fit.train.distill_temperature, "X", "Temperature of the divergence", NULL,
         false, false},
        CLI_FIT_OPTIONS(w.fit),
        {0}};
    adapt(options);
    const cli_parsed parsed = cli_parse(command, options, argc, argv, NULL, 0, &count);
    if (parsed != CLI_GO_ON) return parsed == CLI_DONE ? CLI_OK : CLI_USAGE;
    if (check_use(command, options, &w) != CLI_GO_ON) return CLI_USAGE;
    int code = cli_run_open(&w.fit.run);
    if (code == CLI_OK) code = w.align ? align(&w) : wrap_only(&w);
    cli_run_close(&w.fit.run);
    return code;
}
