/* train: fits an adapter. */
#include "adapter_options.h"
#include "commands.h"
#include "fit.h"

/* "Trainable params: ..." belongs to the start of a run, as Python users know it. */
static void announce(const cli_run *run, const sp_model *model) {
    sp_model_info info = {.size = sizeof info};
    char text[CLI_SHARE_SIZE];
    sp_model_get_info(model, &info);
    if (!run->quiet)
        fprintf(stderr, "%s, %s: %s\n", info.model_type, sp_dtype_name(info.compute_dtype),
                cli_trainable_share(&info, text));
}

/* The published weight of the shadow's loss is PEFT's adapter's own affair, unless the command says another. */
static void settle_loss_weight(const cli_option *options, const sp_model *model, cli_fit *fit) {
    sp_model_info info = {.size = sizeof info};
    sp_model_get_info(model, &info);
    if (info.has_adapter && info.shadow.dialect == SP_DIALECT_PEFT && !cli_given(options, "shadow-loss-weight"))
        fit->train.shadow_loss_weight = info.shadow.auxiliary_loss_weight;
}

static sp_status create(const cli_fit *fit, sp_model *model, sp_shadow_config *config, bool remove_embed) {
    sp_adapter_options o;
    sp_adapter_options_default(&o);
    o.shadow = fit->model.shadow;
    o.remove_embed_tokens = remove_embed;
    o.seed = fit->train.seed;
    config->auxiliary_loss_weight = fit->train.shadow_loss_weight;
    return sp_adapter_create(model, config, &o);
}

static int run(cli_fit *fit, const cli_option *options, sp_shadow_config *config, bool remove_embed) {
    sp_model *model = NULL;
    sp_status status = cli_model_load(&fit->run, &fit->model, false, &model);
    if (status == SP_OK) status = cli_fit_load(fit, model);
    if (status == SP_OK && !fit->model.adapter) status = create(fit, model, config, remove_embed);
    int code = CLI_OK;
    if (status == SP_OK) {
        settle_loss_weight(options, model, fit);
        announce(&fit->run, model);
        code = cli_fit_run(fit, model);
    } else {
        code = cli_fail(&fit->run);
    }
    cli_fit_free(fit);
    sp_model_free(model);
    return code;
}

int cli_train(int argc, char **argv, const cli_command *command) {
    cli_fit fit;
    cli_adapter_options adapter;
    sp_shadow_config config;
    size_t count;
    cli_fit_default(&fit);
    cli_adapter_default(&adapter);
    cli_option options[] = {CLI_MODEL_OPTIONS(fit.model),
                            CLI_TASK_OPTION(fit.model),
                            CLI_QUANTIZE_OPTION(fit.model),
                            CLI_FIT_OPTIONS(fit),
                            {CLI_HEADING, .name = "Shadow in training"},
                            {CLI_REAL, "shadow-loss-weight", &fit.train.shadow_loss_weight, "X",
                             "Weight of the shadow's own loss", NULL, false, false},
                            {CLI_REAL, "shadow-lr-multiplier", &fit.train.shadow_lr_multiplier, "X",
                             "Factor on the learning rate of the shadow backbone", NULL, false, false},
                            CLI_ADAPTER_OPTIONS(adapter),
                            {0}};
    cli_parsed parsed = cli_parse(command, options, argc, argv, NULL, 0, &count);
    if (parsed == CLI_GO_ON) parsed = cli_adapter_config(command, options, &adapter, &config);
    if (parsed != CLI_GO_ON) return parsed == CLI_DONE ? CLI_OK : CLI_USAGE;
    const char *fresh = fit.model.adapter ? cli_adapter_given(options) : NULL;
    if (fresh) {
        cli_wrong(command, "--%s is for a fresh adapter; that of --adapter keeps its own", fresh);
        return CLI_USAGE;
    }
    if (!cli_fit_files(&fit)) return CLI_USAGE;
    int code = cli_run_open(&fit.run);
    if (code == CLI_OK) code = run(&fit, options, &config, adapter.remove_embed_tokens);
    cli_run_close(&fit.run);
    return code;
}
