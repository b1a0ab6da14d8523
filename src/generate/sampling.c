#include "generate/sampling.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

sp_status spi_sampler_work_new(sp_context *ctx, int64_t vocab, spi_sampler_work *out) {
    *out = (spi_sampler_work){.candidates = malloc((size_t)vocab * sizeof *out->candidates),
                              .seen = calloc((size_t)vocab, 1),
                              .vocab = vocab};
    if (out->candidates && out->seen) return SP_OK;
    spi_sampler_work_free(out);
    return spi_fail_memory(ctx, (size_t)vocab * sizeof *out->candidates, "sampling");
}

void spi_sampler_work_free(spi_sampler_work *work) {
    free(work->candidates);
    free(work->seen);
    *work = (spi_sampler_work){0};
}

void spi_penalize(float *logits, const int32_t *ids, size_t count, double penalty, spi_sampler_work *work) {
    const float factor = (float)penalty;
    if (penalty == 1.0) return;
    for (size_t i = 0; i < count; i++) {
        if (work->seen[ids[i]]) continue;
        work->seen[ids[i]] = 1;
        float *x = &logits[ids[i]];
        *x = *x < 0 ? *x * factor : *x / factor;
    }
    for (size_t i = 0; i < count; i++) work->seen[ids[i]] = 0;
}

static int32_t argmax(const float *x, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return (int32_t)best;
}

/* Larger logits first, smaller ids first among equal ones: an order that nothing else decides. */
static bool before(spi_candidate a, spi_candidate b) {
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static int by_logit(const void *a, const void *b) {
    const spi_candidate x = *(const spi_candidate *)a, y = *(const spi_candidate *)b;
    return before(x, y) ? -1 : before(y, x) ? 1 : 0;
}

/* The k-th largest first k places (quickselect); the rest in any order. */
static void select_largest(spi_candidate *c, int64_t n, int64_t k) {
    int64_t low = 0, high = n - 1;
    while (low < high) {
        const spi_candidate pivot = c[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (before(c[i], pivot)) i++;
            while (before(pivot, c[j])) j--;
            if (i > j) break;
            const spi_candidate swap = c[i];
            c[i++] = c[j];
            c[j--] = swap;
        }
        if (k <= j) high = j;
        else if (k >= i) low = i;
        else return;
    }
}

/* Probabilities of candidates that are sorted; returns their number, which does not change. */
static void softmax(const spi_candidate *c, size_t n, double *p) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += p[i] = exp((double)c[i].logit - (double)c[0].logit);
    for (size_t i = 0; i < n; i++) p[i] /= sum;
}

/*
 * TopPLogitsWarper keeps the smallest set of the most probable tokens whose sum reaches top_p: it drops, from
 * the least probable on, those whose cumulated probability is at most 1 - top_p.
 */
static size_t keep_top_p(const double *p, size_t n, double top_p) {
    double tail = 0;
    size_t left = n;
    if (top_p >= 1.0) return n;
    while (left > 1) {
        tail += p[left - 1];
        if (tail > 1.0 - top_p) break;
        left--;
    }
    return left;
}

/* MinPLogitsWarper: at least min_p times the largest probability. */
static size_t keep_min_p(const double *p, size_t n, double min_p) {
    size_t left = n;
    while (left > 1 && min_p > 0 && p[left - 1] < min_p * p[0]) left--;
    return left;
}

size_t spi_filter(const float *logits, const spi_sampling *s, spi_sampler_work *work, double *p) {
    spi_candidate *c = work->candidates;
    const float inverse = (float)(1.0 / s->temperature);
    for (int64_t i = 0; i < work->vocab; i++)
        c[i] = (spi_candidate){s->temperature == 1.0 ? logits[i] : logits[i] * inverse, (int32_t)i};
    size_t n = (size_t)work->vocab;
    if (s->top_k > 0 && (size_t)s->top_k < n) {
        select_largest(c, work->vocab, s->top_k - 1);
        n = (size_t)s->top_k;
    }
    qsort(c, n, sizeof *c, by_logit);
    softmax(c, n, p);
    n = keep_top_p(p, n, s->top_p);
    softmax(c, n, p);
    n = keep_min_p(p, n, s->min_p);
    softmax(c, n, p);
    return n;
}

int32_t spi_choose(float *logits, const int32_t *ids, size_t count, const spi_sampling *s, uint64_t sequence,
                   uint64_t step, spi_sampler_work *work, double *p) {
    spi_penalize(logits, ids, count, s->repetition_penalty, work);
    if (!s->do_sample) return argmax(logits, work->vocab);
    const size_t n = spi_filter(logits, s, work, p);
    uint32_t words[4];
    spi_philox(s->seed, sequence, step, words);
    const double u = ((double)words[0] * 4294967296.0 + (double)words[1]) / 18446744073709551616.0;
    double sum = 0;
    for (size_t i = 0; i + 1 < n; i++) {
        sum += p[i];
        if (u < sum) return work->candidates[i].id;
    }
    return work->candidates[n - 1].id;
}
