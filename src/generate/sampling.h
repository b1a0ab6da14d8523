/*
 * Choosing the next token: transformers' logits processors and warpers in the order of
 * GenerationMixin._get_logits_processor (repetition penalty, temperature, top-k, top-p, min-p), then argmax or
 * a draw. Every step is linear in the vocabulary.
 */
#ifndef SPI_GENERATE_SAMPLING_H
#define SPI_GENERATE_SAMPLING_H

#include "base/context.h"

/* A token that may be drawn, with probability weight / sum of all weights. */
typedef struct spi_candidate {
    float logit, weight;
    int32_t id;
} spi_candidate;

/* Working memory for logits [vocab]. */
typedef struct spi_sampling {
    int64_t vocab;
    spi_candidate *kept; /* [vocab] what spi_filter leaves, by id */
    spi_candidate *pile; /* [vocab] */
    float *values;       /* [vocab] */
    uint8_t *seen;       /* [vocab] zeros */
} spi_sampling;

sp_status spi_sampling_new(sp_context *ctx, int64_t vocab, spi_sampling *out);
void spi_sampling_free(spi_sampling *s);

/* RepetitionPenaltyLogitsProcessor over the ids so far (all below vocab), in place. */
void spi_penalize(const spi_sampling *s, float *logits, const int32_t *ids, size_t count, double penalty);

/*
 * What temperature (> 0), top-k, top-p and min-p of `o` leave of `logits`: s->kept, by id; returns how many, at
 * least one. Logits are finite or -inf, not all of them -inf; the temperature is applied to them in place.
 * Of equal logits at the edge top-k keeps all, as TopKLogitsWarper does, and top-p as many as it needs.
 */
size_t spi_filter(spi_sampling *s, float *logits, const sp_generate_options *o);

/*
 * The id that follows ids [count]: the argmax (the smallest id of equals), or a draw that depends on (o->seed,
 * sequence, step) and the logits alone. Uses `logits` up. SP_ERR_DIVERGED where they are not finite.
 */
sp_status spi_choose(sp_context *ctx, spi_sampling *s, float *logits, const int32_t *ids, size_t count,
                     const sp_generate_options *o, uint64_t sequence, uint64_t step, int32_t *id);

/* The failure of a sequence of `count` ids whose logits are not finite. */
sp_status spi_choose_failed(sp_context *ctx, uint64_t sequence, size_t count);

#endif
