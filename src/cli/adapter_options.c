#include "adapter_options.h"

#include <stdlib.h>
#include <string.h>

const char *const cli_dialects[] = {"shadow_peft", "peft", NULL};

/* Options of one dialect only, and of both. */
static const char *const own_names[] = {
    "num-shadow-layers", "injection-hidden-size",      "gate-hidden-size", "alpha",
    "dropout",           "shadow-num-key-value-heads", "shadow-head-dim",  NULL};
static const char *const peft_names[] = {"r",
                                         "shadow-alpha",
                                         "shadow-dropout",
                                         "update-hidden-size",
                                         "shadow-num-hidden-layers",
                                         "shadow-hidden-size",
                                         "share-embeddings",
                                         "layers-to-transform",
                                         NULL};
static const char *const shared_names[] = {
    "dialect",         "shadow-intermediate-size", "shadow-num-attention-heads",
    "modules-to-save", "remove-embed-tokens",      NULL};

void cli_adapter_default(cli_adapter_options *a) {
    *a = (cli_adapter_options){0};
    sp_shadow_config_default(&a->own);
    sp_peft_shadow_config_default(&a->peft);
}

static const char *first_given(const cli_option *options, const char *const *names) {
    for (; *names; names++)
        if (cli_given(options, *names)) return *names;
    return NULL;
}

const char *cli_adapter_given(const cli_option *options) {
    const char *name = first_given(options, shared_names);
    if (!name) name = first_given(options, own_names);
    return name ? name : first_given(options, peft_names);
}

/* "lm_head,shadow_lm_head": which task a name belongs to shows in the model. */
static bool read_modules(const char *text, uint32_t *out) {
    static const struct {
        const char *name;
        uint32_t module;
    } known[] = {{"lm_head", SP_MODULE_HEAD},
                 {"classifier_head", SP_MODULE_HEAD},
                 {"score", SP_MODULE_HEAD},
                 {"shadow_lm_head", SP_MODULE_SHADOW_HEAD},
                 {"shadow_classifier_head", SP_MODULE_SHADOW_HEAD}};
    while (text && *text) {
        const size_t n = strcspn(text, ", ");
        size_t i = 0;
        while (i < sizeof known / sizeof *known &&
               (strlen(known[i].name) != n || strncmp(known[i].name, text, n) != 0))
            i++;
        if (i == sizeof known / sizeof *known) return false;
        *out |= known[i].module;
        text += n;
        text += strspn(text, ", ");
    }
    return true;
}

/* A number from 0 on at *text, which moves behind it. */
static bool read_number(const char **text, long *out) {
    char *end;
    if (**text < '0' || **text > '9') return false;
    *out = strtol(*text, &end, 10);
    *text = end;
    return *out < 1000000;
}

/* "4-11", "4,5,6" or "4". */
static bool read_layers(const char *text, sp_shadow_config *cfg) {
    long first, last, next;
    if (!read_number(&text, &first)) return false;
    last = first;
    if (*text == '-') {
        text++;
        if (!read_number(&text, &last) || last < first) return false;
    }
    for (; *text == ','; last = next) {
        text++;
        if (!read_number(&text, &next) || next != last + 1) return false;
    }
    cfg->first_layer_to_transform = (int32_t)first;
    cfg->layers_to_transform = (int32_t)(last - first + 1);
    return !*text;
}

cli_parsed cli_adapter_config(const cli_command *command, const cli_option *options,
                              const cli_adapter_options *a, sp_shadow_config *out) {
    const bool peft = a->dialect == SP_DIALECT_PEFT;
    const char *foreign = first_given(options, peft ? own_names : peft_names);
    if (foreign) return cli_wrong(command, "--%s belongs to --dialect %s", foreign, cli_dialects[peft ? 0 : 1]);
    *out = peft ? a->peft : a->own;
    out->shadow_intermediate_size = a->own.shadow_intermediate_size;
    out->shadow_num_attention_heads = a->own.shadow_num_attention_heads;
    if (a->modules && !read_modules(a->modules, &out->modules_to_save))
        return cli_wrong(command,
                         "--modules-to-save: expected names of lm_head, shadow_lm_head, classifier_head, "
                         "shadow_classifier_head, found '%s'",
                         a->modules);
    if (a->layers && !read_layers(a->layers, out))
        return cli_wrong(command,
                         "--layers-to-transform: expected a run of layers such as 4-11 or 4,5,6, found '%s'",
                         a->layers);
    return CLI_GO_ON;
}
