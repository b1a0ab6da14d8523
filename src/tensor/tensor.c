#include "tensor/tensor.h"

spi_mat spi_mat_columns(spi_mat m, int64_t first, int64_t cols) {
    m.data = (char *)m.data + (size_t)first * spi_dtype_size(m.dtype);
    m.cols = cols;
    return m;
}

spi_mat spi_mat_rows(spi_mat m, int64_t first, int64_t rows) {
    m.data = (char *)m.data + (size_t)(first * m.ld) * spi_dtype_size(m.dtype);
    m.rows = rows;
    return m;
}
