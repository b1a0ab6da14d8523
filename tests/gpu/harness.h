/*
 * Checking one device against another, operation by operation.
 *
 * A check writes its operation down once, as a body that asks for inputs and outputs and calls the device. The
 * body runs three times on the same numbers: on the reference device in f32, and twice on the tested device in
 * the case's dtype. Where that is BF16, all numbers given to activations are rounded to it first, so that the
 * reference is what the operation would be without any rounding of its own.
 *
 *   - An output starts as a pattern of NaN; an input may be added to. Every array has guards before and behind
 *     it and in the gap after each row, which must keep their pattern; inputs must keep their numbers.
 *   - The error of an output is ||out - reference|| / ||reference||, which passes no NaN.
 *   - Both runs on the tested device must give the same bits.
 */
#ifndef TESTS_GPU_HARNESS_H
#define TESTS_GPU_HARNESS_H

#include <stdio.h>

#include "tensor/backend.h"

/*
 * Bounds of the error. Sums of a thousand products of random signs in f32, in whatever order, are within 1e-6
 * of each other; 1e-5 leaves room for ten such steps in a row and for tanhf and erff of 2 ulp. One rounding to
 * bf16 is 2^-8 at most, 1.7e-3 in the mean square; an operation in bf16 rounds its result once and some of its
 * intermediates (probabilities, activations, deltas) another time each: 1e-2 leaves room for a handful of
 * roundings that add up as squares, and none for a sum kept in bf16. A few numbers of bf16 may be what is left
 * of larger ones: their error is that relative to 1, if they are smaller.
 */
#define F32_BOUND 1e-5
#define BF16_BOUND 1e-2

/* Of arrays of doubles, which no tensor has: nothing here is of I64. */
#define DOUBLES SP_I64

/* How rows lie: VIEW_GAP keeps rows at multiples of 16 bytes, VIEW_ODD neither their start nor their length. */
typedef enum view { VIEW_PLAIN, VIEW_GAP, VIEW_ODD, VIEWS } view;

typedef struct buffer {
    const char *name;
    void *base; /* device: guard, elements, guard */
    sp_dtype dtype;
    int64_t rows, cols, ld, shift; /* in elements; shift: of the first one behind the guard */
    size_t bytes;
    void *sent; /* what was uploaded, base and all */
    bool output;
    double bound, absolute; /* 0: the case's own; absolute: |out - reference| instead, where not 0 */
    double norm;            /* that the error is relative to; 0: that of the reference */
} buffer;

#define MOST_BUFFERS 1024

/* One run of a body on a device. */
typedef struct run {
    spi_device *dev;
    bool reference;
    bool exact;     /* the reference computes in the case's dtypes too: the same bits are expected */
    sp_dtype dtype; /* of the case */
    view view;
    uint64_t seed;
    size_t count;
    buffer buffers[MOST_BUFFERS];
} run;

typedef void body_fn(run *r, const void *params);

/* The dtype in which a run holds what is of `dtype` in the case: F32 in the reference's. */
sp_dtype held(const run *r, sp_dtype dtype);

/* Random numbers, uniform in [low, high), the same in all runs of a case. f32 vectors have no gaps. */
spi_mat in_mat(run *r, int64_t rows, int64_t cols, float spread);
spi_mat in_mat_of(run *r, sp_dtype dtype, int64_t rows, int64_t cols, float spread);
float *in_vector(run *r, int64_t n, float low, float high);
/* These numbers, f32 [rows, cols] in host memory, as activations; those, as they are. */
spi_mat in_values(run *r, const float *values, int64_t rows, int64_t cols);
void *in_array(run *r, sp_dtype dtype, const void *values, int64_t n);
int32_t *in_ints(run *r, const int32_t *values, int64_t n);

/* A weight [out, in], or transposed, or I8 with scales (F32 of the same numbers in the reference's run). */
typedef enum weight_kind { WEIGHT, WEIGHT_TRANSPOSED, WEIGHT_I8, WEIGHT_KINDS } weight_kind;
spi_weight in_weight(run *r, weight_kind kind, int64_t out, int64_t in);

/* Outputs, which are compared: poisoned ones; ones that start as random numbers and are changed or added to. */
spi_mat out_mat(run *r, const char *name, int64_t rows, int64_t cols);
spi_mat out_mat_of(run *r, const char *name, sp_dtype dtype, int64_t rows, int64_t cols);
spi_mat inout_mat(run *r, const char *name, int64_t rows, int64_t cols, float spread);
float *out_vector(run *r, const char *name, int64_t n);
float *inout_vector(run *r, const char *name, int64_t n, float low, float high);
double *inout_doubles(run *r, const char *name, int64_t n);
/* An array of this dtype in the reference's run too. */
void *out_array(run *r, const char *name, sp_dtype dtype, int64_t n);
void *inout_array(run *r, const char *name, sp_dtype dtype, const void *values, int64_t n);
/* Guarded working memory that starts poisoned and is not compared. */
void *work_array(run *r, sp_dtype dtype, int64_t n);
spi_mat work_mat(run *r, sp_dtype dtype, int64_t rows, int64_t cols);

/* Of the output asked for last: another bound, or one on the absolute difference of each element. */
void bound(run *r, double f32, double bf16);
void bound_absolute(run *r, double f32, double bf16);
/* Of the output asked for last: its error is ||out - reference|| / norm, where the reference is 0 but for
 * rounding. */
void relative_to(run *r, double norm);

/* What has been seen of one operation. */
typedef struct checks {
    spi_device *ref, *test;
    const char *op;
    bool verbose;
    int64_t every;  /* run one of so many cases */
    size_t largest; /* leave out those whose arrays take more bytes together; 0: none */
    int64_t seen, cases, failures;
    double worst[2]; /* f32, bf16: error */
    char worst_case[2][160];
    uint64_t seed;
} checks;

/* Compares the runs of a body; the text says which case it is. */
void compare(checks *c, sp_dtype dtype, view v, body_fn *body, const void *params, const char *fmt, ...)
    SP_PRINTF(6, 7);
/* Host numbers that `body` leaves in its outputs on the reference device in f32, one after the other. */
void on_reference(checks *c, sp_dtype dtype, body_fn *body, const void *params, float *outputs[], size_t count);
/* A failure of another kind. */
void complain(checks *c, const char *fmt, ...) SP_PRINTF(2, 3);

/* The sequence of random numbers of a stream. */
uint64_t random_bits(uint64_t *state);
float random_float(uint64_t *state, float low, float high);
int32_t random_below(uint64_t *state, int32_t n);

/* Sizes that checks go through. */
extern const int64_t token_counts[];
#define TOKEN_COUNTS 6
extern const sp_dtype dtypes[2];
const char *view_name(view v);

/* One line of the table each. */
typedef struct check {
    const char *name;
    void (*fn)(checks *c);
} check;
extern const check product_checks[], project_checks[], row_checks[], qk_checks[], attention_checks[],
    shadow_checks[], loss_checks[];

/* times.c: timings of the tested device, of operations whose name holds `only` (NULL: all). */
int time_operations(spi_device *dev, const char *only);

#endif
