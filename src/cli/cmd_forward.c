/* forward: from a safetensors file to a safetensors file. */
#include "commands.h"
#include "common.h"

int cli_forward(int argc, char **argv, const cli_command *command) {
    cli_run run = {0};
    cli_model_options m = {0};
    sp_forward_input in;
    const char *input = NULL, *output = NULL;
    int mode = 0;
    bool grads = false;
    size_t count;
    sp_forward_input_default(&in);
    cli_option options[] = {
        CLI_MODEL_OPTIONS(m),
        CLI_TASK_OPTION(m),
        {CLI_CHOICE, "mode", &mode, "MODE", "base_shadow or shadow_only", cli_modes, false, false},
        {CLI_REAL, "shadow-loss-weight", &in.shadow_loss_weight, "X", "Weight of the shadow's loss", NULL,
         false, false},
        {CLI_SWITCH, "grads", &grads, NULL, "Gradients of the loss too", NULL, false, false},
        {CLI_TEXT, "input", &input, "FILE", "input_ids, attention_mask, labels", NULL, true, false},
        {CLI_TEXT, "output", &output, "FILE", "logits, shadow_logits, loss, grad.*", NULL, true, false},
        CLI_DEVICE_OPTIONS(m),
        CLI_QUANTIZE_OPTION(m),
        CLI_RUN_OPTIONS(run),
        {0}};
    const cli_parsed parsed = cli_parse(command, options, argc, argv, NULL, 0, &count);
    if (parsed != CLI_GO_ON) return parsed == CLI_DONE ? CLI_OK : CLI_USAGE;
    sp_model *model = NULL;
    if (cli_run_open(&run) != CLI_OK) return CLI_FAILED;
    in.mode = (sp_mode)mode;
    sp_status status = cli_model_load(&run, &m, false, &model);
    if (status == SP_OK) status = sp_forward_file(model, input, output, &in, grads);
    const int code = status == SP_OK ? CLI_OK : cli_fail(&run);
    sp_model_free(model);
    cli_run_close(&run);
    return code;
}
