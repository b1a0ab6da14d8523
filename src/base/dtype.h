/* Element types: sizes, and conversions of 16-bit floats. */
#ifndef SPI_BASE_DTYPE_H
#define SPI_BASE_DTYPE_H

#include "shadowpeft/shadowpeft.h"

/* Bytes of one element; 0 for SP_DTYPE_AUTO and numbers outside the enum. */
size_t spi_dtype_size(sp_dtype dtype);

/* Converts n elements to f32 from F32, BF16 or F16 (no other dtype); `from` needs no alignment. */
void spi_to_f32(float *to, const void *from, sp_dtype dtype, int64_t n);
/* And back, rounding to nearest even; what is too large for F16 becomes infinite, NaN stays NaN. */
void spi_from_f32(void *to, const float *from, sp_dtype dtype, int64_t n);

#endif
