/*
 * A projection from one model's hidden size to another's by least squares over the vocabulary:
 *
 *   P = pinv(W_large) W_small,   W_large [V, d_large], W_small [V, d_small], P [d_large, d_small],
 *
 * so that a head W_large behind P says what W_small said: ||W_large P - W_small||_F is as small as it can be,
 * and of all such P this is the one of the smallest norm.
 */
#ifndef SPI_SHADOW_PSEUDO_INVERSE_H
#define SPI_SHADOW_PSEUDO_INVERSE_H

#include "format/safetensors.h"

typedef struct spi_projection_fit {
    float *values; /* P [d_large, d_small]; free() it */
    int64_t rank;  /* singular values of W_large that counted */
    double error;  /* ||W_large P - W_small||_F / ||W_small||_F of the unrounded P, exact to about 1e-7; 0 for
                      0/0 */
} spi_projection_fit;

/*
 * Two matrices of the same number of rows, F32, BF16 or F16 (checked by the caller), read once in blocks of
 * rows. Singular values count from max(V, d_large) * 2^-23 * the largest on, as torch.linalg.pinv has it for
 * f32. SP_ERR_FORMAT: a weight is NaN or infinite. SP_ERR_UNSUPPORTED: more columns than LAPACK counts.
 * out->values is NULL after a failure.
 */
sp_status spi_projection_fit_heads(sp_context *ctx, const spi_st_tensor *large, const spi_st_tensor *small,
                                   spi_projection_fit *out);

#endif
