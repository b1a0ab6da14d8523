/*
 * Helpers for tests of tensor operations: random matrices, and comparisons with double-precision references
 * that say where numbers differ.
 */
#ifndef TESTS_UNIT_CHECK_H
#define TESTS_UNIT_CHECK_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "tensor/backend.h"

/* Unit roundoff: the largest relative error of one rounding. */
#define F32_ROUND 0x1p-24
#define BF16_ROUND 0x1p-8

static inline double unit_roundoff(sp_dtype dtype) {
    return dtype == SP_F32 ? F32_ROUND : BF16_ROUND;
}

/* ------------------------------------------------------------------ devices */

/* cmocka setup and teardown: *state is an spi_device with two threads. */
static inline int setup_device(void **state) {
    sp_context *ctx = sp_context_new();
    spi_device *dev = NULL;
    if (!ctx) return -1;
    sp_context_set_threads(ctx, 2);
    if (spi_device_open(ctx, "cpu", &dev) != SP_OK) return -1;
    *state = dev;
    return 0;
}

static inline int teardown_device(void **state) {
    spi_device *dev = *state;
    sp_context *ctx = dev->ctx;
    spi_device_close(dev);
    sp_context_free(ctx);
    return 0;
}

static inline void check_device(const spi_device *dev) {
    if (spi_device_status(dev) != SP_OK) fail_msg("%s", sp_last_error(dev->ctx));
}

/* ------------------------------------------------------------------ matrices */

static inline double get(spi_mat m, int64_t row, int64_t col) {
    const char *at = (const char *)m.data + (size_t)(row * m.ld + col) * spi_dtype_size(m.dtype);
    float value;
    spi_to_f32(&value, at, m.dtype, 1);
    return value;
}

static inline void set(spi_mat m, int64_t row, int64_t col, double value) {
    const float f = (float)value;
    spi_from_f32((char *)m.data + (size_t)(row * m.ld + col) * spi_dtype_size(m.dtype), &f, m.dtype, 1);
}

/*
 * A matrix with `gap` elements of NaN after each row: what reads them spoils its result, and gaps_intact
 * notices who writes them. Elements are uniform in [-1, 1) from `stream`; free the data.
 */
static inline spi_mat random_mat(sp_dtype dtype, int64_t rows, int64_t cols, int64_t gap, uint64_t stream) {
    spi_mat m = {NULL, dtype, rows, cols, cols + gap};
    m.data = malloc((size_t)(rows * m.ld + 1) * spi_dtype_size(dtype));
    assert_non_null(m.data);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < m.ld; c++)
            set(m, r, c, c < cols ? 2.0 * spi_uniform(11, stream, (uint64_t)(r * cols + c)) - 1.0 : NAN);
    return m;
}

/* A copy with the same gaps. */
static inline spi_mat copy_mat(spi_mat m) {
    spi_mat copy = m;
    copy.data = malloc((size_t)(m.rows * m.ld + 1) * spi_dtype_size(m.dtype));
    assert_non_null(copy.data);
    memcpy(copy.data, m.data, (size_t)(m.rows * m.ld) * spi_dtype_size(m.dtype));
    return copy;
}

static inline void check_gaps(const char *what, spi_mat m) {
    for (int64_t r = 0; r < m.rows; r++)
        for (int64_t c = m.cols; c < m.ld; c++)
            if (!isnan(get(m, r, c))) fail_msg("%s: written beyond row %lld", what, (long long)r);
}

static inline float *random_vector(int64_t n, uint64_t stream) {
    return random_mat(SP_F32, 1, n, 0, stream).data;
}

/* rows * cols zeros, for references. */
static inline double *zeros(int64_t count) {
    double *p = calloc((size_t)count + 1, sizeof *p);
    assert_non_null(p);
    return p;
}

/* The elements of a matrix, [rows, cols]. */
static inline double *values(spi_mat m) {
    double *p = zeros(m.rows * m.cols);
    for (int64_t i = 0; i < m.rows * m.cols; i++) p[i] = get(m, i / m.cols, i % m.cols);
    return p;
}

/* ------------------------------------------------------------------ comparisons */

/*
 * Fails unless |got - want| <= relative |want| + absolute[i] (or `floor` where absolute is NULL) for every
 * element; `want` and `absolute` are [rows, cols].
 */
static inline void check_mat(const char *what, spi_mat got, const double *want, double relative,
                             const double *absolute, double floor) {
    double worst = 0.0;
    int64_t at = -1;
    for (int64_t i = 0; i < got.rows * got.cols; i++) {
        const double limit = relative * fabs(want[i]) + (absolute ? absolute[i] : floor);
        const double error = fabs(get(got, i / got.cols, i % got.cols) - want[i]);
        const double excess = limit > 0.0 ? error / limit : error > 0.0 ? INFINITY : 0.0;
        if (!(excess <= worst)) { /* NaN counts as worse */
            worst = excess;
            at = i;
        }
    }
    check_gaps(what, got);
    if (!(worst <= 1.0))
        fail_msg("%s: (%lld, %lld) of [%lld, %lld]: expected %.9g, found %.9g, %.3g times the tolerance", what,
                 (long long)(at / got.cols), (long long)(at % got.cols), (long long)got.rows,
                 (long long)got.cols, want[at], get(got, at / got.cols, at % got.cols), worst);
}

/* Vectors of f32. */
static inline void check_vector(const char *what, const float *got, const double *want, int64_t n,
                                double relative, double floor) {
    check_mat(what, spi_mat_of((void *)got, SP_F32, 1, n), want, relative, NULL, floor);
}

#endif
