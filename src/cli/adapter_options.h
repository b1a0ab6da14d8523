/* Options of a fresh adapter, in either dialect: ShadowConfig's of shadow_peft, and ShadowConfig's of PEFT. */
#ifndef CLI_ADAPTER_OPTIONS_H
#define CLI_ADAPTER_OPTIONS_H

#include "common.h"

typedef struct cli_adapter_options {
    sp_shadow_config own, peft; /* both begin as their defaults; `dialect` says which one counts */
    int dialect;                /* index into cli_dialects */
    const char *modules, *layers;
    bool remove_embed_tokens;
} cli_adapter_options;

extern const char *const cli_dialects[];

void cli_adapter_default(cli_adapter_options *a);

/* clang-format off */
#define CLI_ADAPTER_OPTIONS(a) \
    {CLI_HEADING, .name = "Adapter (ShadowConfig)"}, \
    {CLI_CHOICE, "dialect", &(a).dialect, "NAME", "shadow_peft, or peft: Hugging Face PEFT's form of it", cli_dialects, false, false}, \
    {CLI_I32, "num-shadow-layers", &(a).own.num_shadow_layers, "N", "Layers of the implicit shadow", NULL, false, false}, \
    {CLI_I32, "injection-hidden-size", &(a).own.injection_hidden_size, "N", "Rank of the injections", NULL, false, false}, \
    {CLI_I32, "gate-hidden-size", &(a).own.gate_hidden_size, "N", "Width of the updates", NULL, false, false}, \
    {CLI_REAL, "alpha", &(a).own.alpha, "X", "Strength of the injections", NULL, false, false}, \
    {CLI_REAL, "dropout", &(a).own.dropout, "P", "Dropout in injections and updates", NULL, false, false}, \
    {CLI_I32, "shadow-intermediate-size", &(a).own.shadow_intermediate_size, "N", "MLP width of the shadow; 0: the base's", NULL, false, false}, \
    {CLI_I32, "shadow-num-attention-heads", &(a).own.shadow_num_attention_heads, "N", "Attention heads of the shadow; 0: the base's", NULL, false, false}, \
    {CLI_I32, "shadow-num-key-value-heads", &(a).own.shadow_num_key_value_heads, "N", "Key/value heads of the shadow; 0: the base's", NULL, false, false}, \
    {CLI_I32, "shadow-head-dim", &(a).own.shadow_head_dim, "N", "Head size of the shadow; 0: the base's", NULL, false, false}, \
    {CLI_TEXT, "modules-to-save", &(a).modules, "NAMES", "Heads that train too: lm_head,shadow_lm_head; of a classifier classifier_head,shadow_classifier_head (default: both)", NULL, false, false}, \
    {CLI_SWITCH, "remove-embed-tokens", &(a).remove_embed_tokens, NULL, "Let the base's embedding drive the explicit shadow", NULL, false, false}, \
    {CLI_HEADING, .name = "Adapter with --dialect peft (peft.ShadowConfig; the two sizes above count as well)"}, \
    {CLI_I32, "r", &(a).peft.injection_hidden_size, "N", "Rank of the injections", NULL, false, false}, \
    {CLI_REAL, "shadow-alpha", &(a).peft.alpha, "X", "Strength of the injections", NULL, false, false}, \
    {CLI_REAL, "shadow-dropout", &(a).peft.dropout, "P", "Dropout in injections", NULL, false, false}, \
    {CLI_I32, "update-hidden-size", &(a).peft.gate_hidden_size, "N", "Width of the updates; 0: as r", NULL, false, false}, \
    {CLI_I32, "shadow-num-hidden-layers", &(a).peft.num_shadow_layers, "N", "Layers of the shadow", NULL, false, false}, \
    {CLI_I32, "shadow-hidden-size", &(a).peft.shadow_hidden_size, "N", "Hidden size of the shadow; 0: the base's", NULL, false, false}, \
    {CLI_SWITCH, "share-embeddings", &(a).peft.share_embeddings, NULL, "Let the base's embedding drive the shadow", NULL, false, false}, \
    {CLI_TEXT, "layers-to-transform", &(a).layers, "A-B", "The decoder layers to adapt, a run from 0 on, as 4-11 or 4,5,6 (default: all)", NULL, false, false}
/* clang-format on */

/* The config that the options ask for. CLI_GO_ON, or CLI_WRONG with the message printed. */
cli_parsed cli_adapter_config(const cli_command *command, const cli_option *options,
                              const cli_adapter_options *a, sp_shadow_config *out);

/* An option of a fresh adapter that was given, or NULL: they say nothing about one that exists. */
const char *cli_adapter_given(const cli_option *options);

#endif
