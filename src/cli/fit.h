/* What train and pretrain share: the options of TrainingArguments, and the run. */
#ifndef CLI_FIT_H
#define CLI_FIT_H

#include "common.h"

/* What a command does around the training, once the data is there; `measured` is the data to evaluate on, or
 * else the training data. Failures leave their message in the context. */
typedef struct cli_fit_hooks {
    sp_status (*before)(void *user, sp_model **model, const sp_dataset *measured); /* makes the model */
    sp_status (*after)(void *user, sp_model *model, const sp_dataset *measured, bool quiet);
    json_t *(*members)(void *user); /* more members of the JSON result, a new object */
    void *user;
} cli_fit_hooks;

typedef struct cli_fit {
    cli_run run;
    cli_model_options model;
    cli_data_options data;
    sp_train_options train;
    const char *train_file, *eval_file;
    int schedule;               /* index into cli_schedules */
    const cli_fit_hooks *hooks; /* or NULL */
} cli_fit;

extern const char *const cli_schedules[];

void cli_fit_default(cli_fit *fit);

/* clang-format off */
#define CLI_FIT_OPTIONS(f) \
    {CLI_TEXT, "output", &(f).train.output_dir, "DIR", "Where the result and the checkpoints go", NULL, true, false}, \
    {CLI_TEXT, "data", &(f).train_file, "FILE", "Training data: JSONL, CSV, TSV or text; - is standard input", NULL, true, false}, \
    {CLI_TEXT, "eval-data", &(f).eval_file, "FILE", "Data to evaluate on while training", NULL, false, false}, \
    {CLI_TEXT, "tokenizer", &(f).model.tokenizer, "DIR", "Tokenizer, if not the base's own", NULL, false, false}, \
    CLI_DATA_OPTIONS((f).data), \
    {CLI_SWITCH, "packing", &(f).train.packing, NULL, "Fill rows of the batch with several examples", NULL, false, false}, \
    {CLI_HEADING, .name = "Training (TrainingArguments)"}, \
    {CLI_REAL, "num-train-epochs", &(f).train.num_train_epochs, "X", "Passes over the data", NULL, false, false}, \
    {CLI_I64, "max-steps", &(f).train.max_steps, "N", "Optimizer steps instead of epochs; -1: by epochs", NULL, false, false}, \
    {CLI_I32, "per-device-train-batch-size", &(f).train.per_device_train_batch_size, "N", "Examples (or packed rows) of a batch", NULL, false, false}, \
    {CLI_I32, "per-device-eval-batch-size", &(f).train.per_device_eval_batch_size, "N", "Examples of an evaluation batch", NULL, false, false}, \
    {CLI_I32, "gradient-accumulation-steps", &(f).train.gradient_accumulation_steps, "N", "Batches of an optimizer step", NULL, false, false}, \
    {CLI_REAL, "learning-rate", &(f).train.learning_rate, "X", "Peak learning rate of AdamW", NULL, false, false}, \
    {CLI_CHOICE, "lr-scheduler-type", &(f).schedule, "NAME", "linear, cosine, constant, constant_with_warmup", cli_schedules, false, false}, \
    {CLI_REAL, "warmup-ratio", &(f).train.warmup_ratio, "X", "Share of the steps to warm up in", NULL, false, false}, \
    {CLI_I64, "warmup-steps", &(f).train.warmup_steps, "N", "Steps to warm up in; above 0 it wins over the ratio", NULL, false, false}, \
    {CLI_REAL, "weight-decay", &(f).train.weight_decay, "X", "Of matrices; never of norms and biases", NULL, false, false}, \
    {CLI_REAL, "adam-beta1", &(f).train.adam_beta1, "X", "AdamW", NULL, false, false}, \
    {CLI_REAL, "adam-beta2", &(f).train.adam_beta2, "X", "AdamW", NULL, false, false}, \
    {CLI_REAL, "adam-epsilon", &(f).train.adam_epsilon, "X", "AdamW", NULL, false, false}, \
    {CLI_REAL, "max-grad-norm", &(f).train.max_grad_norm, "X", "Clip gradients to this norm; 0: never", NULL, false, false}, \
    {CLI_SWITCH, "gradient-checkpointing", &(f).train.gradient_checkpointing, NULL, "Less memory, more time: keep one hidden state a layer, compute the rest again", NULL, false, false}, \
    {CLI_SWITCH, "shuffle", &(f).train.shuffle, NULL, "Another order in every epoch", NULL, false, false}, \
    {CLI_U64, "seed", &(f).train.seed, "N", "Of initial values, order and dropout", NULL, false, false}, \
    {CLI_HEADING, .name = "Evaluating and saving"}, \
    {CLI_I64, "logging-steps", &(f).train.logging_steps, "N", "Steps between lines of metrics.jsonl", NULL, false, false}, \
    {CLI_I64, "eval-steps", &(f).train.eval_steps, "N", "Steps between evaluations; 0: after every epoch", NULL, false, false}, \
    {CLI_I64, "save-steps", &(f).train.save_steps, "N", "Steps between checkpoints", NULL, false, false}, \
    {CLI_I32, "save-total-limit", &(f).train.save_total_limit, "N", "Checkpoints to keep, the best one apart; 0: all", NULL, false, false}, \
    {CLI_SWITCH, "load-best-model-at-end", &(f).train.load_best_model_at_end, NULL, "End with the state of the best evaluation", NULL, false, false}, \
    {CLI_I32, "early-stopping-patience", &(f).train.early_stopping_patience, "N", "Stop after so many evaluations without a better one; 0: never", NULL, false, false}, \
    {CLI_SWITCH, "resume", &(f).train.resume, NULL, "Go on from the newest checkpoint in the output directory, or begin", NULL, false, false}, \
    {CLI_SWITCH, "json", &(f).run.json, NULL, "Print the result as JSON", NULL, false, false}, \
    CLI_DEVICE_OPTIONS((f).model), \
    CLI_RUN_OPTIONS((f).run)
/* clang-format on */

/* Loads data, trains the model (its adapter, or all of it), prints the result. Frees nothing of the caller's,
 * but the model where the hooks make it: then `model` is NULL. */
int cli_fit_run(cli_fit *fit, sp_model *model);

#endif
