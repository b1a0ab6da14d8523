#include "bench/measure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "base/rng.h"

/* Seconds of a clock that only goes forward. */
static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

sp_status spi_bench_time(spi_device *dev, spi_bench_fn fn, void *user, int64_t times, spi_profile *profile,
                         double *seconds) {
    sp_status status = SP_OK;
    if (profile) spi_profile_start(dev, profile);
    const double start = now();
    for (int64_t i = 0; i < times && status == SP_OK; i++) status = fn(user);
    dev->op->sync(dev);
    *seconds = now() - start;
    spi_profile_stop(dev);
    return status;
}

int64_t spi_bench_peak_rss(void) {
    struct rusage usage;
    return getrusage(RUSAGE_SELF, &usage) == 0 ? (int64_t)usage.ru_maxrss * 1024 : 0;
}

/* "RssAnon:     1234 kB" of Linux's /proc/self/status. */
static int64_t anonymous_memory(void) {
    static const char key[] = "RssAnon:";
    char line[256];
    int64_t bytes = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, key, strlen(key)) == 0) bytes = 1024 * (int64_t)strtoll(line + strlen(key), NULL, 10);
    if (file) fclose(file);
    return bytes;
}

int64_t spi_bench_memory(spi_device *dev) {
    size_t unused = 0, total = 0;
    if (dev->op->host_memory) return anonymous_memory();
    dev->op->memory(dev, &unused, &total);
    return (int64_t)(total - unused);
}

void spi_bench_tokens(const sp_model *model, int32_t *ids, int64_t count) {
    const double vocab = (double)model->base->arch.vocab_size;
    for (int64_t i = 0; i < count; i++)
        ids[i] = (int32_t)(vocab * (double)spi_uniform(1, 2, (uint64_t)i) * 0.999);
}

json_t *spi_bench_facts(const sp_model *model, const char *kind, const sp_bench_options *o) {
    sp_model_info info = {.size = sizeof info};
    sp_model_get_info(model, &info);
    json_t *out =
        json_pack("{s:s,s:s,s:s,s:i,s:s,s:I,s:I,s:I,s:i}", "bench", kind, "device", model->dev->op->name,
                  "dtype", sp_dtype_name(info.compute_dtype), "threads", spi_threads(model->ctx), "model_type",
                  info.model_type, "base_parameters", (json_int_t)info.base_parameters, "adapter_parameters",
                  (json_int_t)info.adapter_parameters, "trainable_parameters",
                  (json_int_t)info.trainable_parameters, "batch_size", (int)o->batch_size);
    const sp_dtype held = info.quantized ? info.quantized : info.compute_dtype;
    json_object_set_new(out, "base_dtype", json_string(sp_dtype_name(held)));
    json_object_set_new(out, "base_bytes", json_integer(info.base_bytes));
    return out;
}

json_t *spi_bench_breakdown(const spi_profile *profile, double seconds, int64_t steps) {
    const double each = 1000.0 / (double)steps;
    double rest = seconds;
    json_t *out = json_object();
    for (int kind = 0; out && kind < SPI_PROFILE_KINDS; kind++) {
        rest -= profile->seconds[kind];
        json_object_set_new(out, spi_profile_name((spi_profile_kind)kind),
                            json_real(profile->seconds[kind] * each));
    }
    if (out) json_object_set_new(out, "other", json_real(rest * each));
    return out;
}
