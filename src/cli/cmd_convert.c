/* convert: an adapter from one dialect to the other. */
#include "adapter_options.h"
#include "commands.h"

int cli_convert(int argc, char **argv, const cli_command *command) {
    cli_run run = {0};
    cli_model_options m = {.device = "cpu"}; /* nothing is computed */
    const char *output = NULL;
    int to = 0;
    size_t count;
    cli_option options[] = {
        {CLI_TEXT, "base", &m.base, "DIR", "The base: a Hugging Face checkpoint", NULL, true, false},
        {CLI_TEXT, "adapter", &m.adapter, "DIR", "The adapter to convert", NULL, true, false},
        {CLI_TEXT, "shadow", &m.shadow, "DIR", "The adapter's explicit shadow, where its files do not say",
         NULL, false, false},
        CLI_TASK_OPTION(m),
        {CLI_CHOICE, "to", &to, "DIALECT", "shadow_peft or peft", cli_dialects, true, false},
        {CLI_TEXT, "output", &output, "DIR", "Where to write the adapter", NULL, true, false},
        CLI_RUN_OPTIONS(run),
        {0}};
    const cli_parsed parsed = cli_parse(command, options, argc, argv, NULL, 0, &count);
    if (parsed != CLI_GO_ON) return parsed == CLI_DONE ? CLI_OK : CLI_USAGE;
    sp_model *model = NULL;
    if (cli_run_open(&run) != CLI_OK) return CLI_FAILED;
    sp_status status = cli_model_load(&run, &m, false, &model);
    if (status == SP_OK) status = sp_adapter_convert(model, (sp_dialect)to);
    if (status == SP_OK) status = sp_adapter_save(model, output);
    const int code = status == SP_OK ? CLI_OK : cli_fail(&run);
    if (code == CLI_OK && !run.quiet) fprintf(stderr, "Wrote %s\n", output);
    sp_model_free(model);
    cli_run_close(&run);
    return code;
}
