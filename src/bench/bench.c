/* sp_bench: options, and which run they ask for. */
#include <stdlib.h>
#include <string.h>

#include "bench/measure.h"

void sp_bench_options_default(sp_bench_options *opts) {
    *opts = (sp_bench_options){.size = sizeof *opts,
                               .kind = SP_BENCH_TRAIN,
                               .batch_size = 8,
                               .seq_len = 256,
                               .steps = 5,
                               .warmup_steps = 1,
                               .prompt_len = 128,
                               .new_tokens = 128};
}

static sp_status check(const sp_model *model, const sp_bench_options *o) {
    const struct {
        const char *name;
        int64_t value, least;
    } sizes[] = {{"batch_size", o->batch_size, 1}, {"seq_len", o->seq_len, 2},
                 {"steps", o->steps, 1},           {"warmup_steps", o->warmup_steps, 0},
                 {"prompt_len", o->prompt_len, 1}, {"new_tokens", o->new_tokens, 0}};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value < sizes[i].least)
            return spi_fail(model->ctx, SP_ERR_ARGUMENT, "%s: expected at least %lld, found %lld",
                            sizes[i].name, (long long)sizes[i].least, (long long)sizes[i].value);
    if (model->task != SP_TASK_CAUSAL_LM)
        return spi_fail(model->ctx, SP_ERR_ARGUMENT,
                        "bench: expected a causal LM, found a sequence classifier");
    return SP_OK;
}

/* What the card has in use, by all programs and CUDA itself: no memory is given back before the model is. */
static void add_device_memory(spi_device *dev, json_t *out) {
    size_t unused = 0, total = 0;
    if (dev->op->host_memory) return;
    dev->op->memory(dev, &unused, &total);
    if (total) json_object_set_new(out, "device_memory_bytes", json_integer((json_int_t)(total - unused)));
}

sp_status sp_bench(sp_model *model, const sp_bench_options *opts, char **json) {
    static const char *const kinds[] = {"train", "prefill", "decode"};
    sp_bench_options o;
    *json = NULL;
    sp_bench_options_default(&o);
    if (opts) memcpy(&o, opts, opts->size < sizeof o ? opts->size : sizeof o);
    if ((unsigned)o.kind > SP_BENCH_DECODE)
        return spi_fail(model->ctx, SP_ERR_ARGUMENT, "bench: no such kind: %d", (int)o.kind);
    SPI_TRY(check(model, &o));
    json_t *out = spi_bench_facts(model, kinds[o.kind], &o);
    if (!out) return spi_fail_memory(model->ctx, 1024, "a benchmark");
    sp_status status = o.kind == SP_BENCH_TRAIN     ? spi_bench_train(model, &o, out)
                       : o.kind == SP_BENCH_PREFILL ? spi_bench_prefill(model, &o, out)
                                                    : spi_bench_decode(model, &o, out);
    if (status == SP_OK) {
        json_object_set_new(out, "peak_rss_bytes", json_integer(spi_bench_peak_rss()));
        add_device_memory(model->dev, out);
        *json = json_dumps(out, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(6));
        if (!*json) status = spi_fail_memory(model->ctx, 1024, "a benchmark");
    }
    json_decref(out);
    return status;
}
