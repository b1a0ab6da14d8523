/* What the kinds of benchmark share: clocks, random tokens, the JSON that they print. */
#ifndef SPI_BENCH_MEASURE_H
#define SPI_BENCH_MEASURE_H

#include <jansson.h>

#include "shadow/adapted.h"
#include "tensor/profile.h"

/* What is timed: once, with its run as `user`. */
typedef sp_status (*spi_bench_fn)(void *user);

/* Seconds that it takes `times` times; with a profile (else NULL) each operation of the device is timed into
 * it. */
sp_status spi_bench_time(spi_device *dev, spi_bench_fn fn, void *user, int64_t times, spi_profile *profile,
                         double *seconds);

/* Random ids below the model's vocabulary, always the same. */
void spi_bench_tokens(const sp_model *model, int32_t *ids, int64_t count);

/* Keys of every kind of run: device, dtype, threads, family, sizes of model and adapter. NULL: out of memory.
 */
json_t *spi_bench_facts(const sp_model *model, const char *kind, const sp_bench_options *o);

/*
 * The profile as milliseconds for each of `steps`, with "other" for what lies between the operations, so that
 * all parts together are `seconds`.
 */
json_t *spi_bench_breakdown(const spi_profile *profile, double seconds, int64_t steps);

/* Bytes of the most memory that the process has had in use (the peak resident set size). */
int64_t spi_bench_peak_rss(void);

/* Bytes of the device's memory in use: on the CPU by this process, files that it maps aside. 0: nobody can
 * tell.
 */
int64_t spi_bench_memory(spi_device *dev);

/* The runs themselves: each fills `out`. */
sp_status spi_bench_train(sp_model *model, const sp_bench_options *o, json_t *out);
sp_status spi_bench_prefill(sp_model *model, const sp_bench_options *o, json_t *out);
sp_status spi_bench_decode(sp_model *model, const sp_bench_options *o, json_t *out);

#endif
