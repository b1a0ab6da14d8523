/* The elementary functions of the CPU kernels against the C library's in double precision. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tensor/cpu/vecmath.h"

static float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* |got - want| in units of the last place of `want` as f32. */
static double ulps(float got, double want) {
    int exponent;
    frexp(want, &exponent);
    const double unit = ldexp(1.0, exponent - 24 < -149 ? -149 : exponent - 24);
    return fabs((double)got - want) / unit;
}

/* The worst of some four million floats of all magnitudes and both signs within [low, high]. */
static void check(const char *name, float (*f)(float), double (*g)(double), float low, float high,
                  double limit) {
    double worst = 0.0;
    float at = 0.0f;
    for (uint64_t bits = 0; bits <= UINT32_MAX; bits += 1021) {
        const float x = float_of((uint32_t)bits);
        if (!(x >= low && x <= high)) continue;
        const double error = ulps(f(x), g((double)x));
        if (!(error <= worst)) {
            worst = error;
            at = x;
        }
    }
    if (!(worst <= limit))
        fail_msg("%s(%.9g): expected %.9g, found %.9g: %.2f units in the last place", name, (double)at,
                 g((double)at), (double)f(at), worst);
}

static double sigmoid(double x) {
    return 1.0 / (1.0 + exp(-x));
}

static double silu(double x) {
    return x * sigmoid(x);
}

static void test_accuracy(void **state) {
    (void)state;
    check("exp", spi_expf, exp, -103.0f, 88.7f, 1.5);
    check("tanh", spi_tanhf, tanh, -100.0f, 100.0f, 2.5);
    check("erf", spi_erff, erf, -100.0f, 100.0f, 2.5);
    check("sigmoid", spi_sigmoid, sigmoid, -80.0f, 100.0f, 3.0);
    check("silu", spi_silu, silu, -80.0f, 100.0f, 3.0);
}

/* d silu / dx passes through zero, so that its error is absolute; 1 - sigmoid(x) is rounded and times x. */
static void test_silu_grad(void **state) {
    (void)state;
    for (int i = -3000; i <= 3000; i++) {
        const double x = i * 0.01, h = 1e-5;
        const double want = (silu(x + h) - silu(x - h)) / (2 * h);
        assert_true(fabs((double)spi_silu_grad((float)x) - want) < 4e-7 + 0x1p-24 * fabs(x));
    }
}

/* gelu and its derivative at x, as exact as the distribution that they are x times: their errors are absolute.
 */
static void test_gelu(void **state) {
    (void)state;
    for (int i = -3000; i <= 3000; i++) {
        const double x = (double)((float)i * 0.01f);
        const double below = 0.5 * erfc(-x / sqrt(2.0)), density = exp(-0.5 * x * x) / sqrt(2.0 * M_PI);
        const double limit = 0x1p-23 * (1.0 + fabs(x));
        assert_true(fabs((double)spi_gelu((float)x) - x * below) < limit);
        assert_true(fabs((double)spi_gelu_grad((float)x) - (below + x * density)) < limit);
    }
}

static void test_limits(void **state) {
    (void)state;
    assert_true(spi_expf(89.0f) == INFINITY && spi_expf(INFINITY) == INFINITY);
    assert_true(spi_expf(-104.0f) == 0.0f && spi_expf(-INFINITY) == 0.0f);
    assert_true(spi_expf(0.0f) == 1.0f && spi_expf(-0.0f) == 1.0f);
    assert_true(spi_tanhf(INFINITY) == 1.0f && spi_tanhf(-INFINITY) == -1.0f);
    assert_true(spi_erff(INFINITY) == 1.0f && spi_erff(-INFINITY) == -1.0f);
    assert_true(spi_sigmoid(INFINITY) == 1.0f && spi_sigmoid(-INFINITY) == 0.0f);
    assert_true(isnan(spi_expf(NAN)) && isnan(spi_tanhf(NAN)) && isnan(spi_erff(NAN)) && isnan(spi_silu(NAN)));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accuracy),
        cmocka_unit_test(test_silu_grad),
        cmocka_unit_test(test_gelu),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
