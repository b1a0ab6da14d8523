/* init: a fresh checkpoint from a config.json, or a fresh adapter for a base. */
#include <stdlib.h>
#include <string.h>

#include "adapter_options.h"
#include "commands.h"

/* The labels of a classifier whose base has no head yet. */
typedef struct label_options {
    int32_t count;     /* 0: as many as `names` has, or none */
    const char *names; /* "NAME,NAME,...", or NULL */
} label_options;

/* The names between commas, in order. */
static sp_status set_label_names(sp_model *model, const char *names, uint64_t seed) {
    char *text = strdup(names);
    const char **list = calloc(strlen(names) + 1, sizeof *list);
    int32_t count = 0;
    for (char *name = text, *next; list && name; name = next) {
        next = strchr(name, ',');
        if (next) *next++ = '\0';
        list[count++] = name;
    }
    const sp_status status = list && text ? sp_model_set_labels(model, list, count, seed) : SP_ERR_MEMORY;
    free(list);
    free(text);
    return status;
}

static sp_status set_labels(sp_model *model, const label_options *labels, uint64_t seed) {
    if (labels->names) return set_label_names(model, labels->names, seed);
    return labels->count > 0 ? sp_model_set_labels(model, NULL, labels->count, seed) : SP_OK;
}

static int init_adapter(const cli_run *run, const cli_model_options *m, const sp_shadow_config *shadow,
                        const sp_adapter_options *adapter, const label_options *labels, const char *output) {
    sp_model *model = NULL;
    sp_status status = cli_model_load(run, m, false, &model);
    if (status == SP_OK) status = set_labels(model, labels, adapter->seed);
    if (status == SP_OK) status = sp_adapter_create(model, shadow, adapter);
    if (status == SP_OK) status = sp_adapter_save(model, output);
    sp_model_free(model);
    return status == SP_OK ? CLI_OK : cli_fail(run);
}

int cli_init(int argc, char **argv, const cli_command *command) {
    cli_run run = {0};
    cli_model_options m = {.device = "cpu"}; /* fresh values are drawn there, whatever the machine has */
    cli_adapter_options a;
    sp_shadow_config shadow;
    const char *config = NULL, *output = NULL;
    sp_adapter_options adapter;
    label_options labels = {0};
    size_t count;
    sp_adapter_options_default(&adapter);
    cli_adapter_default(&a);
    cli_option options[] = {
        {CLI_TEXT, "config", &config, "FILE", "config.json of the architecture to make", NULL, false, false},
        {CLI_TEXT, "base", &m.base, "DIR", "Make an adapter for this base instead of a checkpoint", NULL, false,
         false},
        {CLI_TEXT, "output", &output, "DIR", "Where to write", NULL, true, false},
        {CLI_U64, "seed", &adapter.seed, "N", "Of the random values", NULL, false, false},
        {CLI_CHOICE, "dtype", &m.dtype, "TYPE", "Of a checkpoint: auto (as the config says), f32, bf16",
         cli_dtypes, false, false},
        {CLI_TEXT, "shadow", &adapter.shadow, "DIR", "An explicit shadow: any supported decoder's checkpoint",
         NULL, false, false},
        CLI_TASK_OPTION(m),
        {CLI_I32, "num-labels", &labels.count, "N", "Labels of a classifier whose base has no head yet", NULL,
         false, false},
        {CLI_TEXT, "label-names", &labels.names, "NAMES",
         "Their names in the order of their numbers, with commas between", NULL, false, false},
        CLI_ADAPTER_OPTIONS(a),
        CLI_RUN_OPTIONS(run),
        {0}};
    cli_parsed parsed = cli_parse(command, options, argc, argv, NULL, 0, &count);
    if (parsed == CLI_GO_ON) parsed = cli_adapter_config(command, options, &a, &shadow);
    if (parsed != CLI_GO_ON) return parsed == CLI_DONE ? CLI_OK : CLI_USAGE;
    if (!config == !m.base) {
        cli_wrong(command, "expected either --config or --base");
        return CLI_USAGE;
    }
    if (labels.names && labels.count > 0) {
        cli_wrong(command, "expected either --num-labels or --label-names");
        return CLI_USAGE;
    }
    adapter.remove_embed_tokens = a.remove_embed_tokens;
    int code = cli_run_open(&run);
    if (code == CLI_OK && m.base) code = init_adapter(&run, &m, &shadow, &adapter, &labels, output);
    else if (code == CLI_OK &&
             sp_checkpoint_init(run.ctx, config, output, adapter.seed, cli_dtype(m.dtype)) != SP_OK)
        code = cli_fail(&run);
    if (code == CLI_OK && !run.quiet) fprintf(stderr, "Wrote %s\n", output);
    cli_run_close(&run);
    return code;
}
