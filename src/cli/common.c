#include "common.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *const cli_dtypes[] = {"auto", "f32", "bf16", NULL};
const char *const cli_tasks[] = {"auto", "causal-lm", "seq-cls", NULL};
const char *const cli_quantizations[] = {"none", "int8", NULL};
const char *const cli_modes[] = {"base_shadow", "shadow_only", NULL};
const char *const cli_data_formats[] = {"auto", "jsonl", "csv", "tsv", "text", NULL};

/* ------------------------------------------------------------------ the context */

void cli_log(void *user, sp_log_level level, const char *message) {
    (void)user;
    fprintf(stderr, "%s%s\n", level == SP_LOG_WARNING ? "warning: " : "", message);
}

int cli_run_open(cli_run *run) {
    if (run->threads < 0) {
        cli_say_failed("--threads: expected 0 or more, found %d", (int)run->threads);
        return CLI_USAGE;
    }
    run->ctx = sp_context_new();
    if (!run->ctx) return cli_say_failed("out of memory");
    sp_context_set_threads(run->ctx, run->threads);
    if (!run->quiet) sp_context_set_log(run->ctx, cli_log, NULL, run->verbose ? SP_LOG_DEBUG : SP_LOG_INFO);
    return CLI_OK;
}

void cli_run_close(cli_run *run) {
    sp_context_free(run->ctx);
    run->ctx = NULL;
}

int cli_fail(const cli_run *run) {
    return cli_say_failed("%s", sp_last_error(run->ctx));
}

int cli_say_failed(const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fputs("shadowpeft: ", stderr);
    vfprintf(stderr, fmt, args);
    fputc('\n', stderr);
    va_end(args);
    return CLI_FAILED;
}

/* ------------------------------------------------------------------ models and data */

sp_dtype cli_dtype(int index) {
    return index == 1 ? SP_F32 : index == 2 ? SP_BF16 : SP_DTYPE_AUTO;
}

/* What an adapter's files were trained for; SP_TASK_AUTO where they do not say. */
static sp_task task_of_adapter(const cli_run *run, const char *dir) {
    char *text = NULL;
    if (!dir || sp_describe(run->ctx, dir, &text) != SP_OK) return SP_TASK_AUTO; /* loading it will say why */
    json_t *object = json_loads(text, 0, NULL);
    const char *task = json_string_value(json_object_get(object, "task"));
    const sp_task found = task && strcmp(task, "seq-cls") == 0 ? SP_TASK_SEQ_CLS : SP_TASK_AUTO;
    json_decref(object);
    sp_string_free(text);
    return found;
}

sp_status cli_model_load(const cli_run *run, const cli_model_options *options, bool trainable,
                         sp_model **model) {
    sp_model_options o;
    sp_model_options_default(&o);
    o.dtype = cli_dtype(options->dtype);
    o.task = (sp_task)options->task;
    if (o.task == SP_TASK_AUTO) o.task = task_of_adapter(run, options->adapter);
    if (options->device) o.device = options->device;
    o.trainable = trainable;
    if (options->quantize) o.quantize = SP_I8;
    sp_status status = sp_model_load(run->ctx, options->base, &o, model);
    sp_adapter_options adapter;
    sp_adapter_options_default(&adapter);
    adapter.shadow = options->shadow;
    if (status == SP_OK && options->adapter) status = sp_adapter_load(*model, options->adapter, &adapter);
    return status;
}

void cli_data_default(cli_data_options *data) {
    *data = (cli_data_options){.label_column = "label"};
    sp_dataset_options_default(&data->library);
}

sp_status cli_data_load(const cli_run *run, const sp_model *model, const sp_tokenizer *tok, const char *path,
                        const cli_data_options *data, sp_dataset **out) {
    sp_dataset_options o = data->library;
    sp_model_info info = {.size = sizeof info};
    const char **labels = NULL;
    if (model) sp_model_get_info(model, &info);
    o.format = (sp_data_format)data->format;
    if (info.task == SP_TASK_SEQ_CLS) {
        o.label_column = data->label_column;
        o.label_count = info.num_labels;
        labels = calloc((size_t)info.num_labels + 1, sizeof *labels);
        for (int32_t i = 0; labels && i < info.num_labels; i++) labels[i] = sp_model_label(model, i);
        if (!labels) return SP_ERR_MEMORY;
        if (info.num_labels > 0) o.labels = labels;
    }
    const sp_status status = sp_dataset_load(run->ctx, tok, path, &o, out);
    free(labels);
    return status;
}

/* ------------------------------------------------------------------ input and output */

char *cli_read_file(const char *path, size_t *length) {
    FILE *file = strcmp(path, "-") ? fopen(path, "rb") : stdin;
    char *text = NULL;
    size_t capacity = 0, used = 0, got = 1;
    while (file && got > 0) {
        if (capacity - used < 65536) {
            char *more = realloc(text, capacity = 2 * capacity + 131072);
            if (!more) break;
            text = more;
        }
        got = fread(text + used, 1, capacity - used - 1, file);
        used += got;
    }
    const bool failed = !file || got > 0 || ferror(file);
    if (failed) cli_say_failed("%s: cannot read: %s", path, strerror(errno));
    if (file && file != stdin) fclose(file);
    if (failed) {
        free(text);
        return NULL;
    }
    text[used] = 0;
    *length = used;
    return text;
}

json_t *cli_json_real(double value) {
    return isfinite(value) ? json_real(value) : json_null();
}

/* Bytes of the UTF-8 character at `s`, 0 if there is none. */
static size_t character(const unsigned char *s, size_t left) {
    const size_t n = *s < 0x80 ? 1 : *s < 0xC2 ? 0 : *s < 0xE0 ? 2 : *s < 0xF0 ? 3 : *s < 0xF5 ? 4 : 0;
    if (n > left) return 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    const bool overlong = (*s == 0xE0 && s[1] < 0xA0) || (*s == 0xF0 && s[1] < 0x90);
    const bool surrogate = *s == 0xED && s[1] > 0x9F, above = *s == 0xF4 && s[1] > 0x8F;
    return overlong || surrogate || above ? 0 : n;
}

json_t *cli_json_text(const char *text, size_t length) {
    static const char unknown[] = "\xEF\xBF\xBD";
    json_t *value = json_stringn(text, length);
    char *clean = value ? NULL : malloc(3 * length + 1);
    if (!clean) return value;
    size_t used = 0;
    for (size_t i = 0; i < length;) {
        const size_t n = character((const unsigned char *)text + i, length - i);
        memcpy(clean + used, n ? text + i : unknown, n ? n : 3);
        used += n ? n : 3;
        i += n ? n : 1;
    }
    value = json_stringn(clean, used);
    free(clean);
    return value;
}

const char *cli_count(int64_t n, char text[CLI_COUNT_SIZE]) {
    char digits[24];
    const int length = snprintf(digits, sizeof digits, "%lld", (long long)n);
    int at = 0;
    for (int i = 0; i < length; i++) {
        if (i && (length - i) % 3 == 0) text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = 0;
    return text;
}

const char *cli_trainable_share(const sp_model_info *info, char text[CLI_SHARE_SIZE]) {
    char trainable[CLI_COUNT_SIZE], total[CLI_COUNT_SIZE];
    const int64_t all = info->base_parameters + info->adapter_parameters;
    snprintf(text, CLI_SHARE_SIZE, "Trainable params: %s || Total params: %s || Trainable%%: %.2f%%",
             cli_count(info->trainable_parameters, trainable), cli_count(all, total),
             100.0 * (double)info->trainable_parameters / (double)all);
    return text;
}

int cli_print_json(json_t *object) {
    char *text = object ? json_dumps(object, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(object);
    if (!text) return cli_say_failed("out of memory");
    puts(text);
    free(text);
    return CLI_OK;
}

/* ------------------------------------------------------------------ interrupts */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int signal_number) {
    static const char text[] = "\nFinishing this step; press Ctrl-C again to stop at once.\n";
    const int kept = errno;
    (void)signal_number;
    if (!interrupted && write(STDERR_FILENO, text, sizeof text - 1) < 0)
        errno = 0; /* nobody is there to read */
    interrupted = 1;
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    errno = kept;
}

void cli_catch_interrupts(void) {
    struct sigaction action = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART}; /* a save goes on */
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool cli_interrupted(void) {
    return interrupted;
}
