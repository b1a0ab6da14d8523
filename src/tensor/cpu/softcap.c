/* Gemma 2's final_logit_softcapping, on logits that are fetched; the loss applies it as it goes. */
#include "tensor/cpu/cpu.h"
#include "tensor/cpu/row.h"
#include "tensor/cpu/split.h"
#include "tensor/cpu/vecmath.h"

SPI_CLONES static void cap_row(float *restrict y, int64_t n, float cap) {
    for (int64_t i = 0; i < n; i++) y[i] = cap * spi_tanhf(y[i] / cap);
}

void spi_cpu_softcap(spi_device *dev, spi_mat y, float cap) {
    if (spi_idle(dev)) return;
    /* Rows are few and long: each is cut into pieces. */
    const int64_t piece = 4096, pieces = (y.cols + piece - 1) / piece;
#pragma omp parallel for num_threads(spi_threads_for(spi_cpu_of(dev)->threads, y.rows *y.cols)) schedule(static)
    for (int64_t i = 0; i < y.rows * pieces; i++) {
        const int64_t first = i % pieces * piece, n = y.cols - first < piece ? y.cols - first : piece;
        cap_row(spi_mat_at(y, i / pieces, first), n, cap);
    }
}
