#include "common.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

const char *const cli_dtypes[] = {"auto", "f32", "bf16", NULL};
const char *const cli_modes[] = {"base_shadow", "shadow_only", NULL};
const char *const cli_data_formats[] = {"auto", "jsonl", "csv", "tsv", "text", NULL};

/* ------------------------------------------------------------------ the context */

static void print_log(void *user, sp_log_level level, const char *message) {
    (void)user;
    fprintf(stderr, "%s%s\n", level == SP_LOG_WARNING ? "warning: " : "", message);
}

int cli_run_open(cli_run *run) {
    run->ctx = sp_context_new();
    if (!run->ctx) return cli_say_failed("out of memory");
    sp_context_set_threads(run->ctx, run->threads);
    if (!run->quiet) sp_context_set_log(run->ctx, print_log, NULL, run->verbose ? SP_LOG_DEBUG : SP_LOG_INFO);
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

sp_status cli_model_load(const cli_run *run, const cli_model_options *options, bool trainable,
                         sp_model **model) {
    sp_model_options o;
    sp_model_options_default(&o);
    o.dtype = cli_dtype(options->dtype);
    if (options->device) o.device = options->device;
    o.trainable = trainable;
    sp_status status = sp_model_load(run->ctx, options->base, &o, model);
    if (status == SP_OK && options->adapter) status = sp_adapter_load(*model, options->adapter);
    return status;
}

void cli_data_default(cli_data_options *data) {
    *data = (cli_data_options){0};
    sp_dataset_options_default(&data->library);
}

sp_status cli_data_load(const cli_run *run, const sp_tokenizer *tok, const char *path,
                        const cli_data_options *data, sp_dataset **out) {
    sp_dataset_options o = data->library;
    o.format = (sp_data_format)data->format;
    return sp_dataset_load(run->ctx, tok, path, &o, out);
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

int cli_print_json(json_t *object) {
    char *text = object ? json_dumps(object, JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(object);
    if (!text) return cli_say_failed("out of memory");
    puts(text);
    free(text);
    return CLI_OK;
}

/* ------------------------------------------------------------------ interrupts */

static volatile sig_atomic_t interrupts;

static void on_interrupt(int signal_number) {
    static const char first[] = "\nFinishing this step; press Ctrl-C again to stop at once.\n";
    (void)signal_number;
    if (interrupts++ == 0 && write(STDERR_FILENO, first, sizeof first - 1) < 0) return;
}

void cli_catch_interrupts(void) {
    struct sigaction action = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

int cli_interrupts(void) {
    return interrupts;
}
