/*
 * What the tests of injection and update share: shapes, the mask of a dropout, finite differences of
 * double-precision references. Both operations come in two forms, shadow_peft's and PEFT's (tensor/backend.h).
 */
#ifndef TESTS_UNIT_SHADOW_CHECK_H
#define TESTS_UNIT_SHADOW_CHECK_H

#include "check.h"

typedef struct shape {
    const char *name;
    sp_dtype dtype;
    int64_t tokens, d, inner; /* inner: k of an injection, g of an update */
    float dropout;
} shape;

static const shape shapes[] = {
    {"one row", SP_F32, 1, 32, 16, 0},         {"few rows", SP_F32, 5, 37, 10, 0},
    {"dropout", SP_F32, 29, 48, 10, 0.2f},     {"odd", SP_F32, 53, 41, 7, 0.5f},
    {"wide inner", SP_F32, 17, 24, 40, 0.1f},  {"blocks", SP_F32, 211, 64, 16, 0.3f},
    {"inner of one", SP_F32, 20, 16, 1, 0.2f}, {"bf16", SP_BF16, 130, 96, 16, 0.2f},
    {"bf16, one row", SP_BF16, 1, 64, 10, 0},  {"bf16, few rows", SP_BF16, 7, 33, 3, 0.4f},
};
#define SHAPES (sizeof shapes / sizeof *shapes)

static inline double rounding(sp_dtype dtype) {
    return dtype == SP_F32 ? 0.0 : 1.01 * BF16_ROUND;
}

static inline double *doubles_of(const float *x, int64_t n) {
    return values(spi_mat_of((void *)x, SP_F32, 1, n));
}

/* x [n] -= its old values, so that what was added remains. */
static inline void subtract(float *x, const double *old, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = (float)((double)x[i] - old[i]);
}

static inline double mask(const spi_dropout *drop, int64_t index) {
    if (drop->p <= 0) return 1.0;
    return spi_uniform(drop->seed, drop->stream, (uint64_t)index) >= drop->p ? 1.0 / (1.0 - (double)drop->p)
                                                                             : 0.0;
}

static inline bool same(spi_mat a, spi_mat b) {
    for (int64_t r = 0; r < a.rows; r++)
        for (int64_t c = 0; c < a.cols; c++)
            if (get(a, r, c) != get(b, r, c)) return false;
    return true;
}

/* NaN everywhere: what an operation has to overwrite. */
static inline void poison(spi_mat m) {
    for (int64_t i = 0; i < m.rows * m.cols; i++) set(m, i / m.cols, i % m.cols, NAN);
}

/* One step of a finite difference, and how far slopes may be off: rounding of f32 and of the difference. */
#define STEP 1e-5
#define SLOPE_RELATIVE 2e-5

/* d objective / dx [n] by central differences. */
typedef double (*objective)(const void *problem);

static inline double *slopes(objective of, const void *problem, double *x, int64_t n) {
    double *slope = zeros(n);
    for (int64_t i = 0; i < n; i++) {
        const double old = x[i];
        x[i] = old + STEP;
        const double up = of(problem);
        x[i] = old - STEP;
        slope[i] = (up - of(problem)) / (2 * STEP);
        x[i] = old;
    }
    return slope;
}

static const shape small_shapes[] = {
    {"plain", SP_F32, 3, 9, 4, 0}, {"dropout", SP_F32, 11, 7, 5, 0.3f}, {"blocks", SP_F32, 60, 5, 2, 0.4f}};
#define SMALL_SHAPES (sizeof small_shapes / sizeof *small_shapes)

/* Both forms. */
enum { SHADOW_PEFT, PEFT, FORMS };
static const char *const form_name[FORMS] = {"shadow_peft", "PEFT"};

#endif
