/* pretrain: trains every weight of a model. */
#include <string.h>

#include "commands.h"
#include "fit.h"

/*
 * A model with a hidden projection keeps its embedding and its head, which are other models', unless told
 * otherwise: the defaults of AutoModelForCausalLMWithHiddenProjection.from_pretrained.
 */
static void projected_defaults(const cli_option *options, const sp_model *model, sp_train_options *train) {
    sp_model_info info = {.size = sizeof info};
    sp_model_get_info(model, &info);
    if (!info.projected || cli_given(options, "freeze")) return;
    if (!cli_given(options, "freeze-embed-tokens")) train->freeze_embed = true;
    if (!cli_given(options, "freeze-lm-head")) train->freeze_head = true;
}

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
        {CLI_SWITCH, "freeze-backbone", &fit.train.freeze_backbone, NULL,
         "Leave all but the head and a hidden projection as they are", NULL, false, false},
        {CLI_SWITCH, "freeze-embed-tokens", &fit.train.freeze_embed, NULL,
         "Leave the embedding as it is (default with a hidden projection)", NULL, false, false},
        {CLI_SWITCH, "freeze-lm-head", &fit.train.freeze_head, NULL,
         "Leave the head as it is (default with a hidden projection)", NULL, false, false},
        {0}};
    const cli_parsed parsed = cli_parse(command, options, argc, argv, NULL, 0, &count);
    if (parsed != CLI_GO_ON) return parsed == CLI_DONE ? CLI_OK : CLI_USAGE;
    if (!read_freeze(freeze, &fit.train)) {
        cli_wrong(command, "--freeze: expected embed, head or embed,head, found '%s'", freeze);
        return CLI_USAGE;
    }
    if (!cli_fit_files(&fit)) return CLI_USAGE;
    sp_model *model = NULL;
    int code = cli_run_open(&fit.run);
    if (code == CLI_OK) {
        sp_status status = cli_model_load(&fit.run, &fit.model, true, &model);
        if (status == SP_OK) projected_defaults(options, model, &fit.train);
        if (status == SP_OK) status = cli_fit_load(&fit, model);
        code = status == SP_OK ? cli_fit_run(&fit, model) : cli_fail(&fit.run);
    }
    cli_fit_free(&fit);
    sp_model_free(model);
    cli_run_close(&fit.run);
    return code;
}
