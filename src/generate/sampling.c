#include "generate/sampling.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"

sp_status spi_sampling_new(sp_context *ctx, int64_t vocab, spi_sampling *out) {
    const size_t n = (size_t)vocab;
    *out = (spi_sampling){.vocab = vocab,
                          .kept = malloc(n * sizeof *out->kept),
                          .pile = malloc(n * sizeof *out->pile),
                          .values = malloc(n * sizeof *out->values),
                          .seen = calloc(n, 1)};
    if (out->kept && out->pile && out->values && out->seen) return SP_OK;
    spi_sampling_free(out);
    return spi_fail_memory(ctx, n * 2 * sizeof *out->kept, "sampling");
}

void spi_sampling_free(spi_sampling *s) {
    free(s->kept);
    free(s->pile);
    free(s->values);
    free(s->seen);
    *s = (spi_sampling){0};
}

void spi_penalize(const spi_sampling *s, float *logits, const int32_t *ids, size_t count, double penalty) {
    const float factor = (float)penalty;
    if (penalty == 1.0) return;
    for (size_t i = 0; i < count; i++) {
        if (s->seen[ids[i]]) continue;
        s->seen[ids[i]] = 1;
        float *x = &logits[ids[i]];
        *x = *x < 0 ? *x * factor : *x / factor;
    }
    for (size_t i = 0; i < count; i++) s->seen[ids[i]] = 0;
}

/* The largest of x [n]; false where one is NaN or +inf, or all are -inf. A compiler may begin the reduction at
 * -FLT_MAX, so `most` alone does not tell the latter. */
static bool find_max(const float *x, int64_t n, float *max) {
    float most = -INFINITY;
    int bad = 0, finite = 0;
#pragma omp simd reduction(max : most) reduction(| : bad, finite)
    for (int64_t i = 0; i < n; i++) {
        most = x[i] > most ? x[i] : most;
        bad |= !(x[i] <= FLT_MAX);
        finite |= x[i] >= -FLT_MAX;
    }
    *max = most;
    return !bad && finite;
}

/* ------------------------------------------------------------------ top-k */

static void swap_floats(float *a, float *b) {
    const float t = *a;
    *a = *b;
    *b = t;
}

/* Reorders x [n] so that its k largest come first; returns the smallest of those (quickselect). */
static float select_largest(float *x, int64_t n, int64_t k) {
    int64_t low = 0, high = n - 1;
    while (low < high) {
        const float pivot = x[low + (high - low) / 2];
        int64_t i = low, j = high;
        while (i <= j) {
            while (x[i] > pivot) i++;
            while (x[j] < pivot) j--;
            if (i <= j) swap_floats(&x[i++], &x[j--]);
        }
        if (k - 1 <= j) high = j;
        else if (k - 1 >= i) low = i;
        else break;
    }
    return x[k - 1];
}

/*
 * The k-th largest of x [n], 0 < k < n. A pile of the largest so far is cut back to k whenever it reaches 2 k,
 * which raises the bar for what comes in: nearly all of a large vocabulary is compared once and passed by.
 */
static float kth_largest(const float *x, int64_t n, int64_t k, float *pile) {
    enum { BLOCK = 64 };
    const int64_t most = 2 * k + BLOCK;
    int64_t count = k;
    memcpy(pile, x, (size_t)k * sizeof *pile);
    float bar = select_largest(pile, k, k);
    for (int64_t i = k; i < n; i += BLOCK) {
        const int64_t end = i + BLOCK < n ? i + BLOCK : n;
        int above = 0;
#pragma omp simd reduction(+ : above)
        for (int64_t j = i; j < end; j++) above += x[j] > bar;
        if (!above) continue;
        for (int64_t j = i; j < end; j++)
            if (x[j] > bar) pile[count++] = x[j];
        if (count + BLOCK <= most) continue;
        bar = select_largest(pile, count, k);
        count = k;
    }
    return select_largest(pile, count, k);
}

/* ------------------------------------------------------------------ top-p */

/* The order in which top-p drops; PyTorch's sort leaves that of equals open, here the smaller ids stay. */
static bool below(spi_candidate a, spi_candidate b) {
    return a.logit < b.logit || (a.logit == b.logit && a.id > b.id);
}

static void swap_candidates(spi_candidate *a, spi_candidate *b) {
    const spi_candidate t = *a;
    *a = *b;
    *b = t;
}

/* Reorders c [n], n >= 1, around one of them: smaller ones before it, larger ones behind. Returns its place. */
static size_t partition(spi_candidate *c, size_t n) {
    size_t place = 0;
    swap_candidates(&c[n / 2], &c[n - 1]);
    for (size_t i = 0; i + 1 < n; i++)
        if (below(c[i], c[n - 1])) swap_candidates(&c[i], &c[place++]);
    swap_candidates(&c[place], &c[n - 1]);
    return place;
}

static double sum_weights(const spi_candidate *c, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += c[i].weight;
    return sum;
}

/*
 * The first of c [n] in rising order where the sum of weights so far passes `budget`; the largest of all if it
 * never does. Expected linear: the side of each partition that cannot hold it is left alone.
 */
static spi_candidate first_above(spi_candidate *c, size_t n, double budget) {
    spi_candidate largest = c[0];
    for (size_t i = 1; i < n; i++)
        if (below(largest, c[i])) largest = c[i];
    while (n > 0) {
        const size_t place = partition(c, n);
        const double left = sum_weights(c, place);
        if (left > budget) {
            n = place;
        } else if (left + c[place].weight > budget) {
            return c[place];
        } else {
            budget -= left + c[place].weight;
            c += place + 1;
            n -= place + 1;
        }
    }
    return largest;
}

/*
 * Drops from the least probable on, as long as what is dropped sums to at most 1 - top_p. `weights` is the sum
 * over s->kept [n]. Whatever has no more than the mean share of that sum goes in any case, without being
 * sorted.
 */
static size_t keep_top_p(spi_sampling *s, size_t n, double weights, double top_p) {
    const double budget = (1.0 - top_p) * weights, share = budget / (double)n;
    double dropped = 0;
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        if (s->kept[i].weight <= share && s->kept[i].weight < 1) dropped += s->kept[i].weight;
        else s->pile[count++] = s->kept[i];
    }
    const spi_candidate cut = first_above(s->pile, count, budget - dropped);
    size_t left = 0;
    for (size_t i = 0; i < n; i++)
        if (!below(s->kept[i], cut)) s->kept[left++] = s->kept[i];
    return left;
}

/* ------------------------------------------------------------------ choosing */

/* Candidates with logits of at least `floor`, by id. */
static size_t collect(spi_sampling *s, const float *logits, float floor, float max) {
    size_t n = 0;
    for (int64_t i = 0; i < s->vocab; i++)
        if (logits[i] >= floor) s->kept[n++] = (spi_candidate){logits[i], expf(logits[i] - max), (int32_t)i};
    return n;
}

size_t spi_filter(spi_sampling *s, float *logits, const sp_generate_options *o) {
    float max, floor = -INFINITY;
    find_max(logits, s->vocab, &max);
    if (o->temperature != 1.0) {
        /* Not so small that the largest logit overflows: the others are out of the draw long before. */
        const float temperature = fmaxf((float)o->temperature, FLT_MIN * fmaxf(1, fabsf(max)));
        for (int64_t i = 0; i < s->vocab; i++) logits[i] /= temperature;
        max /= temperature;
    }
    if (o->top_k > 0 && o->top_k < s->vocab) floor = kth_largest(logits, s->vocab, o->top_k, s->values);
    size_t n = collect(s, logits, floor, max);
    if (o->top_p < 1.0) n = keep_top_p(s, n, sum_weights(s->kept, n), o->top_p);
    if (o->min_p > 0) { /* the largest weight is 1 */
        size_t left = 0;
        for (size_t i = 0; i < n; i++)
            if (s->kept[i].weight >= o->min_p) s->kept[left++] = s->kept[i];
        n = left;
    }
    return n;
}

/* By id, so that a logit's last bit cannot change the places of the others. */
static int32_t draw(const spi_candidate *c, size_t n, uint64_t seed, uint64_t sequence, uint64_t step) {
    uint32_t words[4];
    spi_philox(seed, sequence, step, words);
    const uint64_t bits = (((uint64_t)words[1] << 32) | words[0]) >> 11;
    const double at = (double)bits * 0x1p-53 * sum_weights(c, n);
    double sum = 0;
    size_t last = 0;
    for (size_t i = 0; i < n; i++) {
        sum += c[i].weight;
        if (c[i].weight > 0) last = i;
        if (at < sum) break;
    }
    return c[last].id;
}

sp_status spi_choose_failed(sp_context *ctx, uint64_t sequence, size_t count) {
    return spi_fail(ctx, SP_ERR_DIVERGED,
                    "sequence %llu: expected finite logits for token %zu, found NaN or infinity",
                    (unsigned long long)sequence + 1, count + 1);
}

sp_status spi_choose(sp_context *ctx, spi_sampling *s, float *logits, const int32_t *ids, size_t count,
                     const sp_generate_options *o, uint64_t sequence, uint64_t step, int32_t *id) {
    float max;
    spi_penalize(s, logits, ids, count, o->repetition_penalty);
    if (!find_max(logits, s->vocab, &max)) return spi_choose_failed(ctx, sequence, count);
    if (o->do_sample) {
        const size_t n = spi_filter(s, logits, o);
        *id = draw(s->kept, n, o->seed, sequence, step);
        return SP_OK;
    }
    *id = 0;
    while (logits[*id] != max) ++*id;
    return SP_OK;
}
