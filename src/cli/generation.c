#include "generation.h"

void cli_generation_default(cli_generation *g) {
    *g = (cli_generation){0};
    sp_generate_options_default(&g->o);
}

sp_generate_options cli_generation_merge(const cli_generation *g, const cli_option *options,
                                         const sp_model *model) {
    sp_generate_options o;
    sp_generate_options_for(model, &o);
    const bool warped = cli_given(options, "temperature") || cli_given(options, "top-k") ||
                        cli_given(options, "top-p") || cli_given(options, "min-p");
    if (cli_given(options, "max-new-tokens")) o.max_new_tokens = g->o.max_new_tokens;
    if (cli_given(options, "temperature")) o.temperature = g->o.temperature;
    if (cli_given(options, "top-k")) o.top_k = g->o.top_k;
    if (cli_given(options, "top-p")) o.top_p = g->o.top_p;
    if (cli_given(options, "min-p")) o.min_p = g->o.min_p;
    if (cli_given(options, "repetition-penalty")) o.repetition_penalty = g->o.repetition_penalty;
    if (cli_given(options, "do-sample")) o.do_sample = g->o.do_sample;
    else if (warped) o.do_sample = true;
    if (o.temperature == 0) { /* the limit of ever sharper distributions: the likeliest token */
        o.do_sample = false;
        o.temperature = 1;
    }
    o.mode = (sp_mode)g->mode;
    o.ignore_eos = g->o.ignore_eos;
    o.skip_special_tokens = g->o.skip_special_tokens;
    o.add_special_tokens = g->o.add_special_tokens;
    o.seed = g->o.seed;
    o.use_cache = g->o.use_cache;
    o.stop = g->stop.items;
    return o;
}
