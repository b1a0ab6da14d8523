#include "tensor/tensor.h"

size_t spi_dtype_bytes(sp_dtype dtype) {
    switch (dtype) {
    case SP_I64: return 8;
    case SP_F32:
    case SP_I32: return 4;
    case SP_BF16:
    case SP_F16: return 2;
    default: return 1;
    }
}

spi_mat spi_mat_columns(spi_mat m, int64_t first, int64_t cols) {
    m.data = (char *)m.data + (size_t)first * spi_dtype_bytes(m.dtype);
    m.cols = cols;
    return m;
}

spi_mat spi_mat_rows(spi_mat m, int64_t first, int64_t rows) {
    m.data = (char *)m.data + (size_t)(first * m.ld) * spi_dtype_bytes(m.dtype);
    m.rows = rows;
    return m;
}
