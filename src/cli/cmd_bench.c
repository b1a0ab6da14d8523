/* bench: how fast training, prompts and decoding are at a shape, as JSON. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "adapter_options.h"
#include "commands.h"

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static int print(const cli_run *run, sp_model *model, const sp_bench_options *o, double load_seconds) {
    char *text = NULL;
    if (sp_bench(model, o, &text) != SP_OK) return cli_fail(run);
    json_t *object = json_loads(text, 0, NULL);
    sp_string_free(text);
    if (!object) return cli_say_failed("out of memory");
    json_object_set_new(object, "load_ms", json_real(1000 * load_seconds));
    const json_t *prefill = json_object_get(object, "prefill_ms");
    if (o->kind == SP_BENCH_DECODE)
        json_object_set_new(object, "first_token_ms",
                            json_real(1000 * load_seconds + json_real_value(prefill)));
    json_object_set_new(object, "version", json_string(sp_version()));
    text = json_dumps(object, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(6));
    json_decref(object);
    if (!text) return cli_say_failed("out of memory");
    puts(text);
    free(text);
    return CLI_OK;
}

/* With --adapter that one, with --no-adapter none, else a fresh one. */
static int bench(const cli_run *run, const cli_model_options *m, const sp_bench_options *o,
                 const sp_shadow_config *config, bool plain) {
    sp_model *model = NULL;
    sp_adapter_options fresh;
    sp_adapter_options_default(&fresh);
    fresh.shadow = m->shadow;
    const double start = now();
    sp_status status = cli_model_load(run, m, false, &model);
    const double loaded = now() - start;
    if (status == SP_OK && !plain && !m->adapter) status = sp_adapter_create(model, config, &fresh);
    const int code = status == SP_OK ? print(run, model, o, loaded) : cli_fail(run);
    sp_model_free(model);
    return code;
}

int cli_bench(int argc, char **argv, const cli_command *command) {
    static const char *const kinds[] = {"train", "prefill", "decode", NULL};
    cli_run run = {0};
    cli_model_options m = {0};
    cli_adapter_options a;
    sp_shadow_config config;
    sp_bench_options o;
    const char *kind = NULL;
    bool plain = false;
    int mode = 0;
    size_t count;
    sp_bench_options_default(&o);
    cli_adapter_default(&a);
    cli_option options[] = {
        {CLI_TEXT, "base", &m.base, "DIR", "The base: a Hugging Face checkpoint", NULL, true, false},
        {CLI_TEXT, "adapter", &m.adapter, "DIR", "The adapter on it; without this option a fresh one", NULL,
         false, false},
        {CLI_TEXT, "shadow", &m.shadow, "DIR", "An explicit shadow", NULL, false, false},
        {CLI_SWITCH, "no-adapter", &plain, NULL, "The plain base", NULL, false, false},
        {CLI_I32, "batch-size", &o.batch_size, "N", "Sequences at once; train and prefill: 8, decode: 1", NULL,
         false, false},
        {CLI_I32, "seq-len", &o.seq_len, "N", "train, prefill: tokens of a sequence", NULL, false, false},
        {CLI_I32, "steps", &o.steps, "N", "train, prefill: how many are timed", NULL, false, false},
        {CLI_I32, "warmup-steps", &o.warmup_steps, "N", "Steps before the timing begins", NULL, false, false},
        {CLI_I32, "prompt-len", &o.prompt_len, "N", "decode: tokens before the first new one", NULL, false,
         false},
        {CLI_I32, "new-tokens", &o.new_tokens, "N", "decode: tokens to add", NULL, false, false},
        {CLI_CHOICE, "mode", &mode, "MODE", "prefill, decode: base_shadow or shadow_only", cli_modes, false,
         false},
        {CLI_SWITCH, "gradient-checkpointing", &o.gradient_checkpointing, NULL, "train: less memory, more time",
         NULL, false, false},
        CLI_DEVICE_OPTIONS(m),
        CLI_QUANTIZE_OPTION(m),
        CLI_ADAPTER_OPTIONS(a),
        CLI_RUN_OPTIONS(run),
        {0}};
    cli_parsed parsed = cli_parse(command, options, argc, argv, &kind, 1, &count);
    if (parsed == CLI_GO_ON) parsed = cli_adapter_config(command, options, &a, &config);
    if (parsed != CLI_GO_ON) return parsed == CLI_DONE ? CLI_OK : CLI_USAGE;
    if (plain && m.adapter) {
        cli_wrong(command, "expected --adapter or --no-adapter, found both");
        return CLI_USAGE;
    }
    int which = 0;
    while (kind && kinds[which] && strcmp(kinds[which], kind) != 0) which++;
    if (!kind || !kinds[which]) {
        cli_wrong(command, "expected train, prefill or decode, found %s", kind ? kind : "nothing");
        return CLI_USAGE;
    }
    o.kind = (sp_bench_kind)which;
    if (o.kind == SP_BENCH_DECODE && !cli_given(options, "batch-size")) o.batch_size = 1;
    o.mode = (sp_mode)mode;
    int code = cli_run_open(&run);
    if (code == CLI_OK) code = bench(&run, &m, &o, &config, plain);
    cli_run_close(&run);
    return code;
}
