#include "generate/options.h"

#include <math.h>
#include <string.h>

#include "shadow/model.h"

void sp_generate_options_default(sp_generate_options *opts) {
    *opts = (sp_generate_options){.size = sizeof *opts,
                                  .mode = SP_MODE_BASE_SHADOW,
                                  .max_new_tokens = 128,
                                  .temperature = 1.0,
                                  .top_k = 50,
                                  .top_p = 1.0,
                                  .repetition_penalty = 1.0,
                                  .skip_special_tokens = true,
                                  .add_special_tokens = true,
                                  .seed = 42,
                                  .use_cache = true};
}

static void take_real(const json_t *config, const char *key, double *out) {
    const json_t *value = json_object_get(config, key);
    if (json_is_number(value)) *out = json_number_value(value);
}

/* What no int32 holds becomes the nearest one that does, which the check then refuses by name. */
static void take_int(const json_t *config, const char *key, int32_t *out) {
    const json_t *value = json_object_get(config, key);
    if (!json_is_integer(value)) return;
    const json_int_t n = json_integer_value(value);
    *out = n > INT32_MAX ? INT32_MAX : n < INT32_MIN ? INT32_MIN : (int32_t)n;
}

void sp_generate_options_for(const sp_model *model, sp_generate_options *opts) {
    const json_t *config = model->files.generation;
    sp_generate_options_default(opts);
    opts->do_sample = json_is_true(json_object_get(config, "do_sample"));
    take_real(config, "temperature", &opts->temperature);
    take_real(config, "top_p", &opts->top_p);
    take_real(config, "min_p", &opts->min_p);
    take_real(config, "repetition_penalty", &opts->repetition_penalty);
    take_int(config, "top_k", &opts->top_k);
    take_int(config, "max_new_tokens", &opts->max_new_tokens);
}

static sp_status check_warpers(sp_context *ctx, const sp_generate_options *o) {
    if (!(o->temperature >= 0) || !isfinite(o->temperature))
        return spi_fail(ctx, SP_ERR_ARGUMENT, "temperature: expected a number above 0, found %g",
                        o->temperature);
    if (o->do_sample && o->temperature == 0)
        return spi_fail(
            ctx, SP_ERR_ARGUMENT,
            "temperature: expected a number above 0, found 0; without do_sample the likeliest token "
            "is taken");
    if (o->top_k < 0)
        return spi_fail(ctx, SP_ERR_ARGUMENT, "top_k: expected 0 (off) or more, found %d", o->top_k);
    if (!(o->top_p >= 0 && o->top_p <= 1))
        return spi_fail(ctx, SP_ERR_ARGUMENT, "top_p: expected a number from 0 to 1 (off), found %g", o->top_p);
    if (!(o->min_p >= 0 && o->min_p <= 1))
        return spi_fail(ctx, SP_ERR_ARGUMENT, "min_p: expected a number from 0 (off) to 1, found %g", o->min_p);
    return SP_OK;
}

static sp_status check(sp_context *ctx, const sp_generate_options *o, int64_t vocab) {
    if ((unsigned)o->mode > SP_MODE_SHADOW_ONLY)
        return spi_fail(ctx, SP_ERR_ARGUMENT, "mode: expected base_shadow or shadow_only, found number %d",
                        (int)o->mode);
    if (o->max_new_tokens < 1)
        return spi_fail(ctx, SP_ERR_ARGUMENT, "max_new_tokens: expected at least 1, found %d",
                        o->max_new_tokens);
    if (!(o->repetition_penalty > 0) || !isfinite(o->repetition_penalty))
        return spi_fail(ctx, SP_ERR_ARGUMENT, "repetition_penalty: expected a number above 0, found %g",
                        o->repetition_penalty);
    for (size_t i = 0; o->eos_ids && i < o->eos_count; i++)
        if (o->eos_ids[i] < 0 || o->eos_ids[i] >= vocab)
            return spi_fail(ctx, SP_ERR_ARGUMENT, "eos_ids: expected ids below %lld (\"vocab_size\"), found %d",
                            (long long)vocab, o->eos_ids[i]);
    for (size_t i = 0; o->stop && o->stop[i]; i++)
        if (!*o->stop[i]) return spi_fail(ctx, SP_ERR_ARGUMENT, "stop: expected text, found an empty string");
    return check_warpers(ctx, o);
}

sp_status spi_generate_options_read(sp_context *ctx, const sp_generate_options *from, int64_t vocab,
                                    sp_generate_options *out) {
    sp_generate_options_default(out);
    if (from && from->size < sizeof from->size)
        return spi_fail(ctx, SP_ERR_ARGUMENT, "generation options: not filled by sp_generate_options_default");
    if (from) memcpy(out, from, from->size < sizeof *out ? from->size : sizeof *out);
    out->size = sizeof *out;
    return check(ctx, out, vocab);
}
