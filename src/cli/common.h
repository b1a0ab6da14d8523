/* What the commands share: the library's context, models with adapters, results as JSON, interrupts. */
#ifndef CLI_COMMON_H
#define CLI_COMMON_H

#include <jansson.h>
#include <stdio.h>

#include "options.h"
#include "shadowpeft/shadowpeft.h"

/* Exit codes. */
#define CLI_OK 0
#define CLI_FAILED 1
#define CLI_USAGE 2

/* Options that every command which computes has. */
typedef struct cli_run {
    sp_context *ctx;
    int32_t threads;
    bool quiet, verbose, json;
} cli_run;

/* clang-format off */
#define CLI_RUN_OPTIONS(run) \
    {CLI_HEADING, .name = "Running"}, \
    {CLI_I32, "threads", &(run).threads, "N", "Threads to use; 0: every core", NULL, false, false}, \
    {CLI_SWITCH, "quiet", &(run).quiet, NULL, "Nothing but results and errors", NULL, false, false}, \
    {CLI_SWITCH, "verbose", &(run).verbose, NULL, "More about what is done", NULL, false, false}
/* clang-format on */

/* Makes the context. CLI_OK or CLI_FAILED. */
int cli_run_open(cli_run *run);
void cli_run_close(cli_run *run);
/* Prints the context's last error; CLI_FAILED. */
int cli_fail(const cli_run *run);
/* Prints a message of the command's own; CLI_FAILED. */
int cli_say_failed(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* A base with perhaps an adapter on it, and its tokenizer. */
typedef struct cli_model_options {
    const char *base, *adapter, *shadow, *tokenizer;
    const char *device; /* NULL: auto */
    int dtype;          /* index into cli_dtypes */
    int task;           /* index into cli_tasks, which is an sp_task */
    int quantize;       /* index into cli_quantizations */
} cli_model_options;
extern const char *const cli_dtypes[];
extern const char *const cli_tasks[];
extern const char *const cli_quantizations[];
extern const char *const cli_modes[];

/* clang-format off */
#define CLI_MODEL_OPTIONS(m) \
    {CLI_TEXT, "base", &(m).base, "DIR", "The base: a Hugging Face checkpoint", NULL, true, false}, \
    {CLI_TEXT, "adapter", &(m).adapter, "DIR", "The shadow adapter to put on it", NULL, false, false}, \
    {CLI_TEXT, "shadow", &(m).shadow, "DIR", "An explicit shadow (of --adapter: where its files do not say)", NULL, false, false}
/* clang-format on */

/* clang-format off */
#define CLI_TASK_OPTION(m) \
    {CLI_CHOICE, "task", &(m).task, "TASK", "causal-lm, seq-cls, or auto: as the adapter or the base's config says", cli_tasks, false, false}
/* clang-format on */

/* clang-format off */
#define CLI_DEVICE_OPTION(m) \
    {CLI_DEVICE, "device", &(m).device, "NAME", "Where to compute: auto (the first GPU that can be used, else the CPU), cpu, cuda, cuda:N", NULL, false, false}
/* clang-format on */

/* clang-format off */
#define CLI_DEVICE_OPTIONS(m) \
    {CLI_CHOICE, "dtype", &(m).dtype, "TYPE", "To compute in: auto (as stored), f32, bf16", cli_dtypes, false, false}, \
    CLI_DEVICE_OPTION(m)
/* clang-format on */

/* clang-format off */
#define CLI_QUANTIZE_OPTION(m) \
    {CLI_CHOICE, "quantize", &(m).quantize, "TYPE", "Hold the frozen base's matrices in: none (as computed with), int8", cli_quantizations, false, false}
/* clang-format on */

sp_status cli_model_load(const cli_run *run, const cli_model_options *options, bool trainable,
                         sp_model **model);
sp_dtype cli_dtype(int index);

/* Reads a whole file, "-" for standard input, as NUL-terminated text to free(); NULL with a message printed. */
char *cli_read_file(const char *path, size_t *length);

/* Prints an object on one line of standard output and drops it. */
int cli_print_json(json_t *object);
/* A number, or null for NaN, which JSON lacks. */
json_t *cli_json_real(double value);
/* A string; bytes that are not UTF-8, one by one, become U+FFFD. */
json_t *cli_json_text(const char *text, size_t length);

/* "1,234,567"; returns `text`. */
#define CLI_COUNT_SIZE 32
const char *cli_count(int64_t n, char text[CLI_COUNT_SIZE]);
/* peft's print_trainable_parameters, without a newline. */
#define CLI_SHARE_SIZE 160
const char *cli_trainable_share(const sp_model_info *info, char text[CLI_SHARE_SIZE]);

/* An sp_log_fn that prints. */
void cli_log(void *user, sp_log_level level, const char *message);

/* From now on the first Ctrl-C (or SIGTERM) is noted, so that a step can end; the second ends the program. */
void cli_catch_interrupts(void);
bool cli_interrupted(void);

/* Options of data files. */
typedef struct cli_data_options {
    sp_dataset_options library;
    const char *label_column; /* of classification */
    int format;               /* index into cli_data_formats */
} cli_data_options;
extern const char *const cli_data_formats[];

/* clang-format off */
#define CLI_DATA_OPTIONS(d) \
    {CLI_HEADING, .name = "Data"}, \
    {CLI_CHOICE, "data-format", &(d).format, "FORMAT", "auto, jsonl, csv, tsv, text", cli_data_formats, false, false}, \
    {CLI_TEXT, "text-column", &(d).library.text_column, "NAME", "Column of plain text", NULL, false, false}, \
    {CLI_TEXT, "prompt-column", &(d).library.prompt_column, "NAME", "Column of prompts", NULL, false, false}, \
    {CLI_TEXT, "label-column", &(d).label_column, "NAME", "Column of labels, names or numbers, of a classification", NULL, false, false}, \
    {CLI_TEXT, "completion-column", &(d).library.completion_column, "NAME", "Column of completions", NULL, false, false}, \
    {CLI_TEXT, "messages-column", &(d).library.messages_column, "NAME", "Column of conversations (arrays of messages; tools beside it)", NULL, false, false}, \
    {CLI_TEXT, "chat-template", &(d).library.chat_template, "FILE", "Jinja template for conversations, if not the tokenizer's own", NULL, false, false}, \
    {CLI_TEXT, "chat-template-kwargs", &(d).library.chat_template_kwargs, "JSON", "Variables for the template, such as {\"enable_thinking\": false}", NULL, false, false}, \
    {CLI_I32, "max-seq-length", &(d).library.max_seq_length, "N", "Tokens of an example; longer ones are cut", NULL, false, false}, \
    {CLI_SWITCH, "append-eos", &(d).library.append_eos, NULL, "End every example with the EOS token", NULL, false, false}, \
    {CLI_SWITCH, "train-on-prompt", &(d).library.train_on_prompt, NULL, "Count the prompt's tokens too", NULL, false, false}, \
    {CLI_I64, "max-samples", &(d).library.max_samples, "N", "Examples to take at most; 0: all", NULL, false, false}
/* clang-format on */

void cli_data_default(cli_data_options *data);
/* Data for the model's task: a classifier's labels are the model's, or where it has none yet those of the file.
 */
sp_status cli_data_load(const cli_run *run, const sp_model *model, const sp_tokenizer *tok, const char *path,
                        const cli_data_options *data, sp_dataset **out);

#endif
