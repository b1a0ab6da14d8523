/* Vectors of the products with few rows, for weights of floats and quantised ones. */
#ifndef SPI_TENSOR_CPU_GEMV_WIDE_H
#define SPI_TENSOR_CPU_GEMV_WIDE_H

#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* The sums of a block fill the registers of AVX2. */
#define WIDTH 8
typedef float wide __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));

/* Rows of W and of x in one block. */
#define W_ROWS 4
#define X_ROWS 4

INLINE float sum_of(const wide *v) {
    float lane[WIDTH];
    memcpy(lane, v, sizeof lane);
    for (int half = WIDTH / 2; half; half /= 2)
        for (int i = 0; i < half; i++) lane[i] += lane[i + half];
    return lane[0];
}

#endif
