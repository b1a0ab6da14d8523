/* wrap: a small model behind a large model's head. */
#include "commands.h"
#include "common.h"

static int print_result(const cli_run *run, const sp_wrap_options *opts, const sp_wrap_result *r) {
    if (run->json)
        return cli_print_json(json_pack("{s:b,s:I,s:o,s:f}", "init_optimal_projection",
                                        opts->init_optimal_projection, "rank", (json_int_t)r->rank,
                                        "reconstruction_error", cli_json_real(r->reconstruction_error),
                                        "seconds", r->seconds));
    if (!opts->init_optimal_projection) puts("Projection: fresh values");
    else
        printf("Projection: rank %lld, reconstruction error %.6f (%.1f s)\n", (long long)r->rank,
               r->reconstruction_error, r->seconds);
    return CLI_OK;
}

int cli_wrap(int argc, char **argv, const cli_command *command) {
    cli_run run = {0};
    const char *small = NULL, *large = NULL, *output = NULL;
    int dtype = 0;
    size_t count;
    sp_wrap_options opts;
    sp_wrap_result result = {.size = sizeof result};
    sp_wrap_options_default(&opts);
    cli_option options[] = {
        {CLI_TEXT, "shadow", &small, "DIR", "The small model: its backbone, tokenizer and dtype are taken",
         NULL, true, false},
        {CLI_TEXT, "base", &large, "DIR", "The large model: its head is taken", NULL, true, false},
        {CLI_TEXT, "output", &output, "DIR", "Where to write the checkpoint", NULL, true, false},
        {CLI_SWITCH, "init-optimal-projection", &opts.init_optimal_projection, NULL,
         "Fit the projection to the small model's own head; else fresh values", NULL, false, false},
        {CLI_CHOICE, "dtype", &dtype, "TYPE", "Of the weights: auto (as the small model's), f32, bf16",
         cli_dtypes, false, false},
        {CLI_U64, "seed", &opts.seed, "N", "Of fresh values", NULL, false, false},
        {CLI_SWITCH, "json", &run.json, NULL, "Print the result as JSON", NULL, false, false},
        CLI_RUN_OPTIONS(run),
        {0}};
    const cli_parsed parsed = cli_parse(command, options, argc, argv, NULL, 0, &count);
    if (parsed != CLI_GO_ON) return parsed == CLI_DONE ? CLI_OK : CLI_USAGE;
    int code = cli_run_open(&run);
    if (code != CLI_OK) return code;
    opts.dtype = cli_dtype(dtype);
    code = sp_wrap(run.ctx, small, large, output, &opts, &result) == SP_OK ? print_result(&run, &opts, &result)
                                                                           : cli_fail(&run);
    if (code == CLI_OK && !run.quiet) fprintf(stderr, "Wrote %s\n", output);
    cli_run_close(&run);
    return code;
}
