/* Options of GenerationConfig, over those that come with the model. */
#ifndef CLI_GENERATION_H
#define CLI_GENERATION_H

#include "common.h"

typedef struct cli_generation {
    sp_generate_options o; /* as the command line says; a field counts where its option was given */
    cli_list stop;
    int mode; /* index into cli_modes */
} cli_generation;

void cli_generation_default(cli_generation *g);
/* What the command line says over what generation_config.json says. */
sp_generate_options cli_generation_merge(const cli_generation *g, const cli_option *options,
                                         const sp_model *model);

/* clang-format off */
#define CLI_GENERATION_OPTIONS(g) \
    {CLI_HEADING, .name = "Generation (GenerationConfig; defaults are the model's generation_config.json)"}, \
    {CLI_I32, "max-new-tokens", &(g).o.max_new_tokens, "N", "Tokens to add at most", NULL, false, false}, \
    {CLI_SWITCH, "do-sample", &(g).o.do_sample, NULL, "Sample instead of taking the likeliest token", NULL, false, false}, \
    {CLI_REAL, "temperature", &(g).o.temperature, "X", "Below 1 sharper, above 1 flatter; 0: the likeliest token", NULL, false, false}, \
    {CLI_I32, "top-k", &(g).o.top_k, "N", "Only the N likeliest tokens; 0: all", NULL, false, false}, \
    {CLI_REAL, "top-p", &(g).o.top_p, "P", "Only the likeliest tokens that make up P; 1: all", NULL, false, false}, \
    {CLI_REAL, "min-p", &(g).o.min_p, "P", "Only tokens at least P times as likely as the likeliest", NULL, false, false}, \
    {CLI_REAL, "repetition-penalty", &(g).o.repetition_penalty, "X", "Above 1: less of what was said", NULL, false, false}, \
    {CLI_LIST, "stop", &(g).stop, "TEXT", "End before this text; may be given again", NULL, false, false}, \
    {CLI_SWITCH, "ignore-eos", &(g).o.ignore_eos, NULL, "Go on after the EOS token", NULL, false, false}, \
    {CLI_SWITCH, "skip-special-tokens", &(g).o.skip_special_tokens, NULL, "Leave special tokens out", NULL, false, false}, \
    {CLI_SWITCH, "add-special-tokens", &(g).o.add_special_tokens, NULL, "Begin as the tokenizer's template says", NULL, false, false}, \
    {CLI_U64, "seed", &(g).o.seed, "N", "Of sampling", NULL, false, false}, \
    {CLI_SWITCH, "use-cache", &(g).o.use_cache, NULL, "Keep keys and values instead of computing them again", NULL, false, false}
/* clang-format on */

#endif
