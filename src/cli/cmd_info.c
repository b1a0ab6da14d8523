/* info: what a directory holds, or how much of a base with an adapter is trainable. */
#include <string.h>

#include "commands.h"
#include "common.h"

static int print_pairs(const json_t *object) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        char *text = json_is_string(value)
                         ? NULL
                         : json_dumps(value, JSON_ENCODE_ANY | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
        printf("%-26s %s\n", key, text ? text : json_string_value(value));
        free(text);
    }
    return CLI_OK;
}

static int describe(const cli_run *run, const char *path) {
    char *text = NULL;
    if (sp_describe(run->ctx, path, &text) != SP_OK) return cli_fail(run);
    json_t *object = json_loads(text, 0, NULL);
    sp_string_free(text);
    if (!object) return cli_say_failed("out of memory");
    if (run->json) return cli_print_json(object);
    const int code = print_pairs(object);
    json_decref(object);
    return code;
}

static int print_taken_json(const sp_model_info *info, double share, int64_t all, sp_dtype held) {
    json_t *out =
        json_pack("{s:s,s:I,s:I,s:f,s:s,s:I,s:I,s:I,s:s,s:s}", "model_type", info->model_type,
                  "trainable_params", (json_int_t)info->trainable_parameters, "all_params", (json_int_t)all,
                  "trainable_percent", share, "base_dtype", sp_dtype_name(held), "base_bytes",
                  (json_int_t)info->base_bytes, "adapter_bytes", (json_int_t)info->adapter_bytes,
                  "cache_bytes_per_1000_tokens", 1000 * (json_int_t)info->cache_bytes_per_token, "device",
                  info->device, "device_name", info->device_name);
    if (info->device_bytes) {
        json_object_set_new(out, "device_bytes", json_integer((json_int_t)info->device_bytes));
        json_object_set_new(out, "device_free_bytes", json_integer((json_int_t)info->device_free_bytes));
    }
    return cli_print_json(out);
}

/* The weights, what decoding adds to them, and where all that is. */
static void print_taken(const sp_model_info *info, sp_dtype held) {
    char a[CLI_COUNT_SIZE];
    printf("Base held as %s: %s bytes\n", sp_dtype_name(held), cli_count(info->base_bytes, a));
    if (info->has_adapter) printf("Adapter: %s bytes\n", cli_count(info->adapter_bytes, a));
    printf("Keys and values of 1,000 tokens: %s bytes\n", cli_count(1000 * info->cache_bytes_per_token, a));
    printf("Computes on: %s (%s)", info->device, info->device_name);
    if (info->device_bytes) printf(", %s bytes of memory", cli_count(info->device_bytes, a));
    putchar('\n');
}

static int trainable(const cli_run *run, const cli_model_options *m) {
    char text[CLI_SHARE_SIZE];
    sp_model *model = NULL;
    sp_model_info info = {.size = sizeof info};
    if (cli_model_load(run, m, false, &model) != SP_OK) {
        sp_model_free(model);
        return cli_fail(run);
    }
    sp_model_get_info(model, &info);
    const int64_t all = info.base_parameters + info.adapter_parameters;
    const double share = 100.0 * (double)info.trainable_parameters / (double)all;
    const sp_dtype held = info.quantized ? info.quantized : info.compute_dtype;
    int code = CLI_OK;
    if (run->json) {
        code = print_taken_json(&info, share, all, held);
    } else {
        puts(cli_trainable_share(&info, text));
        print_taken(&info, held);
    }
    sp_model_free(model);
    return code;
}

int cli_info(int argc, char **argv, const cli_command *command) {
    cli_run run = {0};
    cli_model_options m = {.device = "cpu"}; /* nothing is computed */
    const char *path = NULL;
    size_t count;
    cli_option options[] = {
        {CLI_TEXT, "base", &m.base, "DIR", "Count the parameters of this base, and the memory that it takes",
         NULL, false, false},
        {CLI_TEXT, "adapter", &m.adapter, "DIR", "With this adapter on it", NULL, false, false},
        {CLI_TEXT, "shadow", &m.shadow, "DIR", "The explicit shadow of the adapter, where its files do not say",
         NULL, false, false},
        CLI_TASK_OPTION(m),
        CLI_QUANTIZE_OPTION(m),
        CLI_DEVICE_OPTION(m),
        {CLI_SWITCH, "json", &run.json, NULL, "Print JSON", NULL, false, false},
        CLI_RUN_OPTIONS(run),
        {0}};
    const cli_parsed parsed = cli_parse(command, options, argc, argv, &path, 1, &count);
    if (parsed != CLI_GO_ON) return parsed == CLI_DONE ? CLI_OK : CLI_USAGE;
    if (!path == !m.base) {
        cli_wrong(command, "expected either a PATH or --base");
        return CLI_USAGE;
    }
    int code = cli_run_open(&run);
    if (code == CLI_OK) code = path ? describe(&run, path) : trainable(&run, &m);
    cli_run_close(&run);
    return code;
}
