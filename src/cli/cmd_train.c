/* train: fits an adapter. */
#include <string.h>

#include "commands.h"
#include "fit.h"

static const char *const tasks[] = {"causal-lm", NULL};

/* "Trainable params: ..." belongs to the start of a run, as Python users know it. */
static void announce(const cli_run *run, const sp_model *model) {
    sp_model_info info = {.size = sizeof info};
    char text[CLI_SHARE_SIZE];
    sp_model_get_info(model, &info);
    if (!run->quiet)
        fprintf(stderr, "%s, %s: %s\n", info.model_type, sp_dtype_name(info.compute_dtype),
                cli_trainable_share(&info, text));
}

/* A fresh adapter's options say nothing about one that exists. The name of one that was given, or NULL. */
static const char *fresh_option(const cli_option *options) {
    static const char *const names[] = {"num-shadow-layers",
                                        "injection-hidden-size",
                                        "gate-hidden-size",
                                        "alpha",
                                        "dropout",
                                        "shadow-intermediate-size",
                                        "shadow-num-attention-heads",
                                        "shadow-num-key-value-heads",
                                        "shadow-head-dim",
                                        "remove-embed-tokens"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (cli_given(options, names[i])) return names[i];
    return NULL;
}

static sp_status create(const cli_fit *fit, sp_model *model, const sp_shadow_config *shadow,
                        bool remove_embed) {
    sp_adapter_options o;
    sp_adapter_options_default(&o);
    o.shadow = fit->model.shadow;
    o.remove_embed_tokens = remove_embed;
    o.seed = fit->train.seed;
    return sp_adapter_create(model, shadow, &o);
}

int cli_train(int argc, char **argv, const cli_command *command) {
    cli_fit fit;
    sp_shadow_config shadow;
    int task = 0;
    bool remove_embed = false;
    size_t count;
    cli_fit_default(&fit);
    sp_shadow_config_default(&shadow);
    cli_option options[] = {CLI_MODEL_OPTIONS(fit.model),
                            {CLI_CHOICE, "task", &task, "TASK", "causal-lm", tasks, false, false},
                            CLI_FIT_OPTIONS(fit),
                            {CLI_HEADING, .name = "Shadow in training"},
                            {CLI_REAL, "shadow-loss-weight", &fit.train.shadow_loss_weight, "X",
                             "Weight of the shadow's own loss", NULL, false, false},
                            {CLI_REAL, "shadow-lr-multiplier", &fit.train.shadow_lr_multiplier, "X",
                             "Factor on the learning rate of the shadow backbone", NULL, false, false},
                            CLI_SHADOW_OPTIONS(shadow),
                            {CLI_SWITCH, "remove-embed-tokens", &remove_embed, NULL,
                             "Let the base's embedding drive the explicit shadow", NULL, false, false},
                            {0}};
    const cli_parsed parsed = cli_parse(command, options, argc, argv, NULL, 0, &count);
    if (parsed != CLI_GO_ON) return parsed == CLI_DONE ? CLI_OK : CLI_USAGE;
    const char *fresh = fit.model.adapter ? fresh_option(options) : NULL;
    if (fresh) {
        cli_wrong(command, "--%s is for a fresh adapter; that of --adapter keeps its own", fresh);
        return CLI_USAGE;
    }
    sp_model *model = NULL;
    int code = cli_run_open(&fit.run);
    if (code == CLI_OK) {
        sp_status status = cli_model_load(&fit.run, &fit.model, false, &model);
        if (status == SP_OK && !fit.model.adapter) status = create(&fit, model, &shadow, remove_embed);
        if (status == SP_OK) announce(&fit.run, model);
        code = status == SP_OK ? cli_fit_run(&fit, model) : cli_fail(&fit.run);
    }
    sp_model_free(model);
    cli_run_close(&fit.run);
    return code;
}
