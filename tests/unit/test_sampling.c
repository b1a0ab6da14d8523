/*
 * Sampling: what is left of logits against transformers' processors (tests/fixtures/make_sampling.py), draws
 * against the probabilities they stand for.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/rng.h"
#include "format/safetensors.h"
#include "generate/sampling.h"

static sp_context *ctx;

static int setup(void **state) {
    (void)state;
    ctx = sp_context_new();
    return ctx ? 0 : -1;
}

static int teardown(void **state) {
    (void)state;
    sp_context_free(ctx);
    return 0;
}

static spi_sampling sampler(int64_t vocab) {
    spi_sampling s;
    assert_int_equal(spi_sampling_new(ctx, vocab, &s), SP_OK);
    return s;
}

static double weight_sum(const spi_sampling *s, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += s->kept[i].weight;
    return sum;
}

/* ------------------------------------------------------------------ against transformers */

static sp_generate_options case_options(const json_t *c) {
    sp_generate_options o;
    sp_generate_options_default(&o);
    o.do_sample = true;
    o.temperature = json_number_value(json_object_get(c, "temperature"));
    o.top_k = (int32_t)json_integer_value(json_object_get(c, "top_k"));
    o.top_p = json_number_value(json_object_get(c, "top_p"));
    o.min_p = json_number_value(json_object_get(c, "min_p"));
    o.repetition_penalty = json_number_value(json_object_get(c, "repetition_penalty"));
    return o;
}

/* Of the tokens with logits as token i has, how many more were kept than have a score. */
static int surplus(const spi_sampling *s, const uint8_t *kept, const float *logits, const float *scores,
                   int64_t i) {
    int n = 0;
    for (int64_t j = 0; j < s->vocab; j++)
        if (logits[j] == logits[i]) n += kept[j] - (scores[j] >= -FLT_MAX);
    return n;
}

/* The kept ones are those with a score, with that score and the probability that it gives. Which of equal
 * logits top-p keeps is chance in PyTorch: as many must be kept. */
static void compare(const spi_sampling *s, size_t n, const float *logits, const float *scores, size_t number) {
    const double weights = weight_sum(s, n);
    double max = -INFINITY, sum = 0;
    uint8_t kept[512] = {0};
    assert_true(s->vocab <= 512);
    for (int64_t i = 0; i < s->vocab; i++) max = fmax(max, (double)scores[i]);
    for (int64_t i = 0; i < s->vocab; i++) sum += exp((double)scores[i] - max);
    for (size_t i = 0; i < n; i++) {
        const double x = s->kept[i].logit;
        kept[s->kept[i].id] = x >= -FLT_MAX; /* else never drawn: as good as dropped */
        if (scores[s->kept[i].id] >= -FLT_MAX && x != scores[s->kept[i].id])
            fail_msg("case %zu: token %d: %.9g, not %.9g", number, (int)s->kept[i].id, x,
                     (double)scores[s->kept[i].id]);
        /* The difference to the largest is rounded to f32 before it becomes an exponent, in PyTorch too. */
        const double p = exp(x - max) / sum, limit = x < -FLT_MAX ? 0 : (max - x + 4) * 0x1p-24 * p + FLT_MIN;
        if (fabs(s->kept[i].weight / weights - p) > limit)
            fail_msg("case %zu: token %d: probability %.9g, not %.9g", number, (int)s->kept[i].id,
                     s->kept[i].weight / weights, p);
    }
    for (int64_t i = 0; i < s->vocab; i++)
        if (surplus(s, kept, logits, scores, i) != 0)
            fail_msg("case %zu: token %d is %s", number, (int)i, kept[i] ? "kept" : "dropped");
}

static void run_case(const json_t *c, const spi_st_set *set, size_t number) {
    char name[32];
    snprintf(name, sizeof name, "scores.%zu", number);
    const spi_st_tensor *logits = spi_st_find(set, json_string_value(json_object_get(c, "logits")));
    const spi_st_tensor *scores = spi_st_find(set, name);
    const json_t *listed = json_object_get(c, "ids");
    int32_t ids[16];
    assert_non_null(logits);
    assert_non_null(scores);
    for (size_t i = 0; i < json_array_size(listed); i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(listed, i));
    const sp_generate_options o = case_options(c);
    spi_sampling s = sampler(logits->count);
    float *x = malloc(logits->bytes), *want = malloc(scores->bytes);
    assert_non_null(x);
    assert_non_null(want);
    memcpy(x, logits->data, logits->bytes);
    memcpy(want, scores->data, scores->bytes);
    spi_penalize(&s, x, ids, json_array_size(listed), o.repetition_penalty);
    compare(&s, spi_filter(&s, x, &o), x, want, number);
    for (int64_t i = 0; i < s.vocab; i++) assert_int_equal(s.seen[i], 0);
    free(x);
    free(want);
    spi_sampling_free(&s);
}

static void test_transformers(void **state) {
    (void)state;
    json_t *top;
    spi_st_set *set;
    assert_int_equal(spi_json_load(ctx, TEST_DATA "/sampling/cases.json", &top), SP_OK);
    assert_int_equal(spi_st_open(ctx, TEST_DATA "/sampling/expected.safetensors", &set), SP_OK);
    const json_t *cases = json_object_get(top, "cases");
    assert_true(json_array_size(cases) > 100);
    for (size_t i = 0; i < json_array_size(cases); i++) run_case(json_array_get(cases, i), set, i);
    spi_st_close(set);
    json_decref(top);
}

/* ------------------------------------------------------------------ against sorting everything */

static int falling(const void *a, const void *b) {
    const float x = *(const float *)a, y = *(const float *)b;
    return x > y ? -1 : x < y;
}

/* Vocabularies of real size, every k near the places where the selection changes its ways. */
static void test_top_k_selects(void **state) {
    (void)state;
    static const int32_t ks[] = {1, 2, 31, 50, 63, 64, 65, 1000, 20000, 49998, 49999};
    const int64_t vocab = 50000;
    spi_sampling s = sampler(vocab);
    float *x = malloc((size_t)vocab * sizeof *x), *sorted = malloc((size_t)vocab * sizeof *x);
    assert_true(x && sorted);
    for (int shape = 0; shape < 4; shape++) {
        spi_fill_normal(x, vocab, 3, 5, (uint64_t)shape, 1);
        for (int64_t i = 0; i < vocab; i++) {
            if (shape == 1) x[i] = (float)i;         /* rising: every token is a new largest */
            if (shape == 2) x[i] = (float)-i;        /* falling: none is */
            if (shape == 3) x[i] = roundf(x[i] * 4); /* most are equal to many others */
        }
        memcpy(sorted, x, (size_t)vocab * sizeof *x);
        qsort(sorted, (size_t)vocab, sizeof *x, falling);
        for (size_t j = 0; j < sizeof ks / sizeof *ks; j++) {
            sp_generate_options o;
            sp_generate_options_default(&o);
            o.top_k = ks[j];
            size_t wanted = (size_t)ks[j];
            while (wanted < (size_t)vocab && sorted[wanted] == sorted[ks[j] - 1]) wanted++;
            const size_t n = spi_filter(&s, x, &o);
            assert_int_equal(n, wanted);
            for (size_t i = 0; i < n; i++) {
                assert_true(s.kept[i].logit >= sorted[ks[j] - 1]);
                assert_true(i == 0 || s.kept[i].id > s.kept[i - 1].id);
            }
        }
    }
    free(x);
    free(sorted);
    spi_sampling_free(&s);
}

/* The kept sum reaches top_p and would not without the least of the kept; nothing dropped is above it. */
static void test_top_p_selects(void **state) {
    (void)state;
    static const double ps[] = {0.05, 0.3, 0.9, 0.99, 0.9999};
    const int64_t vocab = 50000;
    spi_sampling s = sampler(vocab);
    float *x = malloc((size_t)vocab * sizeof *x);
    uint8_t *kept = malloc((size_t)vocab);
    assert_true(x && kept);
    for (int shape = 0; shape < 3; shape++) {
        for (size_t j = 0; j < sizeof ps / sizeof *ps; j++) {
            sp_generate_options o;
            sp_generate_options_default(&o);
            o.top_k = 0;
            spi_fill_normal(x, vocab, shape == 0 ? 3 : shape == 1 ? 0.01f : 1, 6, (uint64_t)shape, 1);
            const double all = weight_sum(&s, spi_filter(&s, x, &o));
            o.top_p = ps[j];
            const size_t n = spi_filter(&s, x, &o);
            const double sum = weight_sum(&s, n);
            float least = INFINITY, weight = 0;
            memset(kept, 0, (size_t)vocab);
            for (size_t i = 0; i < n; i++) {
                kept[s.kept[i].id] = 1;
                if (s.kept[i].logit < least) {
                    least = s.kept[i].logit;
                    weight = s.kept[i].weight;
                }
            }
            for (int64_t i = 0; i < vocab; i++) assert_true(kept[i] || x[i] <= least);
            assert_true(sum >= ps[j] * all * (1 - 1e-9));
            assert_true(sum - weight < ps[j] * all * (1 + 1e-9));
        }
    }
    free(x);
    free(kept);
    spi_sampling_free(&s);
}

/* ------------------------------------------------------------------ choosing */

static int32_t chosen(spi_sampling *s, const float *logits, const sp_generate_options *o, uint64_t sequence,
                      uint64_t step) {
    float x[64];
    int32_t id = -1;
    memcpy(x, logits, (size_t)s->vocab * sizeof *x);
    assert_int_equal(spi_choose(ctx, s, x, NULL, 0, o, sequence, step, &id), SP_OK);
    assert_in_range(id, 0, s->vocab - 1);
    return id;
}

static void test_greedy(void **state) {
    (void)state;
    static const float x[8] = {-3, 2, 5, -INFINITY, 5, 4.9f, 5, 0};
    static const int32_t ids[] = {2};
    sp_generate_options o;
    sp_generate_options_default(&o);
    spi_sampling s = sampler(8);
    assert_int_equal(chosen(&s, x, &o, 0, 0), 2); /* the first of equals, as torch.argmax */
    float copy[8];
    int32_t id;
    memcpy(copy, x, sizeof copy);
    o.repetition_penalty = 2;
    assert_int_equal(spi_choose(ctx, &s, copy, ids, 1, &o, 0, 0, &id), SP_OK);
    assert_int_equal(id, 4);
    spi_sampling_free(&s);
}

/*
 * 20,000 draws: each token's share is within five standard deviations of its probability, over the steps of one
 * sequence as over the sequences of one step.
 */
static void test_draws(void **state) {
    (void)state;
    enum { DRAWS = 20000 };
    static const float x[6] = {1, -0.5f, 2, 0, -20, 0.7f};
    sp_generate_options o;
    sp_generate_options_default(&o);
    o.do_sample = true;
    o.temperature = 1.5;
    o.top_k = 5;
    spi_sampling s = sampler(6);
    double sum = 0;
    for (int i = 0; i < 6; i++) sum += i == 4 ? 0 : exp(x[i] / 1.5);
    for (int over = 0; over < 2; over++) {
        int counts[6] = {0};
        for (uint64_t i = 0; i < DRAWS; i++) counts[chosen(&s, x, &o, over ? i : 3, over ? 3 : i)]++;
        for (int i = 0; i < 6; i++) {
            const double p = i == 4 ? 0 : exp(x[i] / 1.5) / sum;
            assert_true(fabs(counts[i] - DRAWS * p) <= 5 * sqrt(DRAWS * p * (1 - p)));
        }
    }
    spi_sampling_free(&s);
}

static void test_seeds(void **state) {
    (void)state;
    static const float x[16] = {0};
    sp_generate_options o;
    sp_generate_options_default(&o);
    o.do_sample = true;
    spi_sampling s = sampler(16);
    int same = 0;
    for (uint64_t i = 0; i < 64; i++) {
        o.seed = 1;
        const int32_t first = chosen(&s, x, &o, 0, i);
        assert_int_equal(chosen(&s, x, &o, 0, i), first);
        o.seed = 2;
        same += chosen(&s, x, &o, 0, i) == first;
    }
    assert_in_range(same, 0, 16); /* 4 expected */
    spi_sampling_free(&s);
}

/* The colder, the surer; no temperature above 0 makes numbers that are none. */
static void test_tiny_temperature(void **state) {
    (void)state;
    static const float x[4] = {-70, 88.5f, 88, 3}, low[4] = {-2e30f, -1e30f, -3e38f, -3e30f};
    static const double temperatures[] = {1e-3, 1e-30, 1e-300, DBL_MIN};
    sp_generate_options o;
    sp_generate_options_default(&o);
    o.do_sample = true;
    spi_sampling s = sampler(4);
    for (size_t i = 0; i < sizeof temperatures / sizeof *temperatures; i++) {
        o.temperature = temperatures[i];
        for (uint64_t step = 0; step < 50; step++) {
            assert_int_equal(chosen(&s, x, &o, 0, step), 1);
            assert_int_equal(chosen(&s, low, &o, 0, step), 1);
        }
    }
    spi_sampling_free(&s);
}

static void test_no_numbers(void **state) {
    (void)state;
    static const float bad[3] = {NAN, INFINITY, -INFINITY};
    sp_generate_options o;
    sp_generate_options_default(&o);
    spi_sampling s = sampler(40);
    for (int kind = 0; kind < 3; kind++) {
        for (int sampled = 0; sampled < 2; sampled++) {
            float x[40] = {0};
            const int32_t ids[2] = {0};
            int32_t id;
            o.do_sample = sampled;
            for (int i = kind == 2 ? 0 : 37; i < (kind == 2 ? 40 : 38); i++) x[i] = bad[kind];
            assert_int_equal(spi_choose(ctx, &s, x, ids, 2, &o, 6, 0, &id), SP_ERR_DIVERGED);
            assert_string_equal(sp_last_error(ctx),
                                "sequence 7: expected finite logits for token 3, found NaN or infinity");
        }
    }
    spi_sampling_free(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_transformers),
        cmocka_unit_test(test_top_k_selects),
        cmocka_unit_test(test_top_p_selects),
        cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_draws),
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_tiny_temperature),
        cmocka_unit_test(test_no_numbers),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
