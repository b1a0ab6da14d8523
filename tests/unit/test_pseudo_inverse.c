/* Projections against torch.linalg.pinv in f64 (tests/data/wrap/fits.*), and weights that are no numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "scratch.h"
#include "shadow/pseudo_inverse.h"

static const spi_st_tensor *find(const spi_st_set *set, const char *name, const char *what) {
    char key[64];
    snprintf(key, sizeof key, "%s.%s", name, what);
    const spi_st_tensor *t = spi_st_find(set, key);
    if (!t) fail_msg("no %s", key);
    return t;
}

/* max|ours - theirs| / max|theirs|, or max|ours| where theirs is nothing but zeros. */
static double difference(const float *ours, const spi_st_tensor *theirs) {
    float *want = malloc(theirs->bytes);
    assert_non_null(want);
    memcpy(want, theirs->data, theirs->bytes);
    double worst = 0, largest = 0;
    for (int64_t i = 0; i < theirs->count; i++) {
        if (!isfinite(ours[i])) fail_msg("%s: %g", theirs->name, ours[i]);
        worst = fmax(worst, fabs((double)ours[i] - want[i]));
        largest = fmax(largest, fabs(want[i]));
    }
    free(want);
    return largest > 0 ? worst / largest : worst;
}

static void test_against_torch(void **state) {
    scratch *s = *state;
    json_t *facts;
    spi_st_set *set;
    const char *name;
    json_t *want;
    assert_int_equal(spi_json_load(s->ctx, TEST_DATA "/wrap/fits.json", &facts), SP_OK);
    assert_int_equal(spi_st_open(s->ctx, TEST_DATA "/wrap/fits.safetensors", &set), SP_OK);
    assert_int_equal(json_object_size(json_object_get(facts, "fits")), 12);
    json_object_foreach(json_object_get(facts, "fits"), name, want) {
        spi_projection_fit fit;
        const spi_st_tensor *large = find(set, name, "large"), *small = find(set, name, "small");
        if (spi_projection_fit_heads(s->ctx, large, small, &fit) != SP_OK)
            fail_msg("%s: %s", name, sp_last_error(s->ctx));
        const double off = difference(fit.values, find(set, name, "projection"));
        const double error = json_number_value(json_object_get(want, "error"));
        if (fit.rank != json_integer_value(json_object_get(want, "rank")))
            fail_msg("%s: expected rank %lld, found %lld", name,
                     (long long)json_integer_value(json_object_get(want, "rank")), (long long)fit.rank);
        if (!(off <= 2e-6)) fail_msg("%s: the projection is off by %g", name, off);
        if (!(fabs(fit.error - error) <= 1e-7)) fail_msg("%s: error %.9g for %.9g", name, fit.error, error);
        free(fit.values);
    }
    json_decref(facts);
    spi_st_close(set);
}

/* One value of ones [3, 2] replaced. */
static spi_st_tensor ones(float values[6], float replaced) {
    for (int i = 0; i < 6; i++) values[i] = 1.0f;
    values[3] = replaced;
    return (spi_st_tensor){.name = "w",
                           .dtype = SP_F32,
                           .ndim = 2,
                           .shape = {3, 2},
                           .count = 6,
                           .data = values,
                           .bytes = 24,
                           .file = "f.safetensors"};
}

static void test_not_finite(void **state) {
    scratch *s = *state;
    const float bad[] = {NAN, INFINITY, -INFINITY};
    for (int i = 0; i < 3; i++)
        for (int side = 0; side < 2; side++) {
            float a[6], b[6];
            spi_projection_fit fit;
            spi_st_tensor large = ones(a, side ? 1.0f : bad[i]), small = ones(b, side ? bad[i] : 1.0f);
            large.name = "large";
            small.name = "small";
            assert_int_equal(spi_projection_fit_heads(s->ctx, &large, &small, &fit), SP_ERR_FORMAT);
            assert_null(fit.values);
            assert_non_null(strstr(sp_last_error(s->ctx), side ? "\"small\"" : "\"large\""));
            assert_non_null(strstr(sp_last_error(s->ctx), "expected finite weights, found NaN or infinity"));
        }
}

static void test_zero_small(void **state) {
    scratch *s = *state;
    float a[6], b[6];
    spi_projection_fit fit;
    spi_st_tensor large = ones(a, 2.0f), small = ones(b, 1.0f);
    memset(b, 0, sizeof b);
    assert_int_equal(spi_projection_fit_heads(s->ctx, &large, &small, &fit), SP_OK);
    assert_int_equal(fit.rank, 2);
    assert_true(fit.error == 0.0);
    for (int i = 0; i < 4; i++) assert_true(fit.values[i] == 0.0f);
    free(fit.values);
}

static void test_too_wide(void **state) {
    scratch *s = *state;
    float a[6], b[6];
    spi_projection_fit fit;
    spi_st_tensor large = ones(a, 1.0f), small = ones(b, 1.0f);
    large.shape[1] = 40000;
    assert_int_equal(spi_projection_fit_heads(s->ctx, &large, &small, &fit), SP_ERR_UNSUPPORTED);
    assert_non_null(strstr(sp_last_error(s->ctx), "found 40000"));
}

/* The same bits for a number of threads. */
static void test_repeats(void **state) {
    scratch *s = *state;
    spi_st_set *set;
    spi_projection_fit one, two;
    assert_int_equal(spi_st_open(s->ctx, TEST_DATA "/wrap/fits.safetensors", &set), SP_OK);
    sp_context_set_threads(s->ctx, 2);
    const spi_st_tensor *large = find(set, "blocks", "large"), *small = find(set, "blocks", "small");
    assert_int_equal(spi_projection_fit_heads(s->ctx, large, small, &one), SP_OK);
    assert_int_equal(spi_projection_fit_heads(s->ctx, large, small, &two), SP_OK);
    assert_memory_equal(one.values, two.values, (size_t)(large->shape[1] * small->shape[1]) * sizeof(float));
    free(one.values);
    free(two.values);
    spi_st_close(set);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_against_torch, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_not_finite, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_zero_small, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_too_wide, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_repeats, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
