/* Norms in double precision. */
#ifndef TESTS_UNIT_NORM_REFERENCE_H
#define TESTS_UNIT_NORM_REFERENCE_H

#include "check.h"

/* One segment of n. */
static inline void norm_reference(double *y, const double *x, const spi_norm *norm, int64_t n) {
    double mean = 0.0, square = 0.0;
    if (norm->kind == SPI_NORM_LAYER)
        for (int64_t i = 0; i < n; i++) mean += x[i] / (double)n;
    for (int64_t i = 0; i < n; i++) square += (x[i] - mean) * (x[i] - mean) / (double)n;
    for (int64_t i = 0; i < n; i++)
        y[i] = (x[i] - mean) / sqrt(square + (double)norm->eps) *
                   ((double)norm->offset + (double)norm->weight[i]) +
               (norm->bias ? (double)norm->bias[i] : 0.0);
}

#endif
