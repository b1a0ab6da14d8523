/* pretrain: trains every weight of a model. */
#include <string.h>

#include "commands.h"
#include "fit.h"

/* "embed,head" */
static bool read_freeze(const char *text, sp_train_options *train) {
    while (text && *text) {
        const size_t n = strcspn(text, ",");
        if (n == 5 && !strncmp(text, "embed", n)) train->freeze_embed = true;
        else if (n == 4 && !strncmp(text, "head", n)) train->freeze_head = true;
        else return false;
        text += n + (text[n] == ',');
    }
    return true;
}

int cli_pretrain(int argc, char **argv, const cli_command *command) {
    cli_fit fit;
    const char *freeze = NULL;
    size_t count;
    cli_fit_default(&fit);
    cli_option options[] = {
        {CLI_TEXT, "base", &fit.model.base, "DIR", "The checkpoint to start from", NULL, true, false},
        CLI_FIT_OPTIONS(fit),
        {CLI_TEXT, "freeze", &freeze, "PARTS", "What stays as it is: embed, head, or embed,head", NULL, false,
         false},
        {0}};
    const cli_parsed parsed = cli_parse(command, options, argc, argv, NULL, 0, &count);
    if (parsed != CLI_GO_ON) return parsed == CLI_DONE ? CLI_OK : CLI_USAGE;
    if (!read_freeze(freeze, &fit.train)) {
        cli_wrong(command, "--freeze: expected embed, head or embed,head, found '%s'", freeze);
        return CLI_USAGE;
    }
    sp_model *model = NULL;
    int code = cli_run_open(&fit.run);
    if (code == CLI_OK)
        code = cli_model_load(&fit.run, &fit.model, true, &model) == SP_OK ? cli_fit_run(&fit, model)
                                                                           : cli_fail(&fit.run);
    sp_model_free(model);
    cli_run_close(&fit.run);
    return code;
}
