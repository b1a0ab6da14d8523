/* What train and pretrain share: the options of TrainingArguments, and the run. */
#ifndef CLI_FIT_H
#define CLI_FIT_H

#include "common.h"

typedef struct cli_fit {
    cli_run run;
    cli_model_options model;
    cli_data_options data;
    sp_train_options train;
    const char *train_file, *eval_file;
    int schedule;      /* index into cli_schedules */
    sp_tokenizer *tok; /* these three made by cli_fit_load */
    sp_dataset *train_data, *eval_data;
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

/* Whether the data files make sense together; prints what does not. */
bool cli_fit_files(const cli_fit *fit);
/* Loads tokenizer and data for the model, and gives a classifier without labels those of the data. model NULL:
 * for a causal LM that is made later. */
sp_status cli_fit_load(cli_fit *fit, sp_model *model);
/* Trains the model (its adapter, its projection, or all of it) on them, with progress. */
sp_status cli_fit_train(cli_fit *fit, sp_model *model, sp_train_result *result);
/* Prints the result, as JSON with further members; the exit code. */
int cli_fit_print(const cli_fit *fit, const sp_train_result *r, const json_t *more);
/* Prints why not, and how to go on after an interruption; CLI_FAILED. */
int cli_fit_failed(const cli_fit *fit, sp_status status);
/* Trains and prints; the exit code. */
int cli_fit_run(cli_fit *fit, sp_model *model);
void cli_fit_free(cli_fit *fit);

#endif
