/* Choosing the next token: transformers' logits processors and warpers, in the order of GenerationMixin. */
#ifndef SPI_GENERATE_SAMPLING_H
#define SPI_GENERATE_SAMPLING_H

#include "base/context.h"

typedef struct spi_sampling {
    bool do_sample;
    double temperature, top_p, min_p, repetition_penalty;
    int32_t top_k;
    uint64_t seed;
} spi_sampling;

typedef struct spi_candidate {
    float logit;
    int32_t id;
} spi_candidate;

/* Working memory for one vocabulary. */
typedef struct spi_sampler_work {
    spi_candidate *candidates; /* [vocab] */
    uint8_t *seen;             /* [vocab] */
    int64_t vocab;
} spi_sampler_work;

sp_status spi_sampler_work_new(sp_context *ctx, int64_t vocab, spi_sampler_work *out);
void spi_sampler_work_free(spi_sampler_work *work);

/* RepetitionPenaltyLogitsProcessor over the ids so far, in place. */
void spi_penalize(float *logits, const int32_t *ids, size_t count, double penalty, spi_sampler_work *work);

/*
 * What temperature, top-k, top-p and min-p leave of logits [vocab]: candidates in work, largest first (only
 * those left), their number; probabilities sum to 1 in *out, which lives in `probabilities` [vocab].
 */
size_t spi_filter(const float *logits, const spi_sampling *sampling, spi_sampler_work *work,
                  double *probabilities);

/*
 * The next id: argmax, or a draw that depends on (seed, sequence, step) and the logits alone. `logits` is
 * changed by the penalty. `probabilities` has room for vocab numbers.
 */
int32_t spi_choose(float *logits, const int32_t *ids, size_t count, const spi_sampling *sampling,
                   uint64_t sequence, uint64_t step, spi_sampler_work *work, double *probabilities);

#endif
