/* export: the detached shadow. */
#include "commands.h"
#include "common.h"

int cli_export(int argc, char **argv, const cli_command *command) {
    cli_run run = {0};
    cli_model_options m = {.device = "cpu"}; /* nothing is computed */
    const char *output = NULL;
    size_t count;
    cli_option options[] = {
        {CLI_TEXT, "base", &m.base, "DIR", "The base: a Hugging Face checkpoint", NULL, true, false},
        {CLI_TEXT, "adapter", &m.adapter, "DIR", "The adapter whose shadow to detach", NULL, true, false},
        {CLI_TEXT, "shadow", &m.shadow, "DIR", "The adapter's explicit shadow, where its files do not say",
         NULL, false, false},
        CLI_TASK_OPTION(m),
        {CLI_TEXT, "output", &output, "DIR", "Where to write the checkpoint", NULL, true, false},
        {CLI_CHOICE, "dtype", &m.dtype, "TYPE", "Of the weights: auto (as the base's), f32, bf16", cli_dtypes,
         false, false},
        CLI_RUN_OPTIONS(run),
        {0}};
    const cli_parsed parsed = cli_parse(command, options, argc, argv, NULL, 0, &count);
    if (parsed != CLI_GO_ON) return parsed == CLI_DONE ? CLI_OK : CLI_USAGE;
    sp_model *model = NULL;
    if (cli_run_open(&run) != CLI_OK) return CLI_FAILED;
    sp_status status = cli_model_load(&run, &m, false, &model);
    if (status == SP_OK) status = sp_export_shadow(model, output);
    const int code = status == SP_OK ? CLI_OK : cli_fail(&run);
    if (code == CLI_OK && !run.quiet) fprintf(stderr, "Wrote %s\n", output);
    sp_model_free(model);
    cli_run_close(&run);
    return code;
}
