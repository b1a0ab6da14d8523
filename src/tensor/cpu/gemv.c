#include "tensor/cpu/gemv.h"

#include "tensor/cpu/row.h"
#include "tensor/cpu/split.h"

SPI_CLONES static float dot_f32(const float *restrict w, const float *restrict x, int64_t k) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < k; i++) sum += w[i] * x[i];
    return sum;
}

SPI_CLONES static float dot_bf16(const uint16_t *restrict w, const float *restrict x, int64_t k) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < k; i++) sum += spi_bf16_to_f32(w[i]) * x[i];
    return sum;
}

/* Four rows of W at once: four streams keep more reads in flight than one does. */
SPI_CLONES static void dot4_bf16(float sums[4], const uint16_t *restrict w, int64_t ld, const float *restrict x,
                                 int64_t k) {
    const uint16_t *w0 = w, *w1 = w + ld, *w2 = w + 2 * ld, *w3 = w + 3 * ld;
    float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (int64_t i = 0; i < k; i++) {
        s0 += spi_bf16_to_f32(w0[i]) * x[i];
        s1 += spi_bf16_to_f32(w1[i]) * x[i];
        s2 += spi_bf16_to_f32(w2[i]) * x[i];
        s3 += spi_bf16_to_f32(w3[i]) * x[i];
    }
    sums[0] = s0;
    sums[1] = s1;
    sums[2] = s2;
    sums[3] = s3;
}

static void put(spi_mat y, int64_t r, int64_t n, float sum, const float *bias, const spi_mat *residual) {
    float extra = 0.0f;
    if (bias) sum += bias[n];
    if (residual) spi_row_load(&extra, spi_mat_at(*residual, r, n), residual->dtype, 1);
    sum += extra;
    spi_row_store(spi_mat_at(y, r, n), &sum, y.dtype, 1);
}

static void rows_of_w(spi_range r, spi_mat y, const float *x, spi_mat w, const float *bias,
                      const spi_mat *residual) {
    int64_t n = r.begin;
    const int64_t k = w.cols;
    if (w.dtype == SP_BF16)
        for (; n + 4 <= r.end; n += 4)
            for (int64_t m = 0; m < y.rows; m++) {
                float sums[4];
                dot4_bf16(sums, spi_mat_at(w, n, 0), w.ld, x + m * k, k);
                for (int64_t j = 0; j < 4; j++) put(y, m, n + j, sums[j], bias, residual);
            }
    for (; n < r.end; n++)
        for (int64_t m = 0; m < y.rows; m++)
            put(y, m, n,
                w.dtype == SP_BF16 ? dot_bf16(spi_mat_at(w, n, 0), x + m * k, k)
                                   : dot_f32(spi_mat_at(w, n, 0), x + m * k, k),
                bias, residual);
}

void spi_cpu_gemv(int threads, spi_mat y, spi_mat x, spi_mat w, const float *bias, const spi_mat *residual,
                  float *work) {
    for (int64_t m = 0; m < x.rows; m++) spi_row_load(work + m * x.cols, spi_mat_at(x, m, 0), x.dtype, x.cols);
#pragma omp parallel num_threads(spi_threads_for(threads, w.rows *w.cols))
    rows_of_w(spi_my_split(w.rows, 4), y, work, w, bias, residual);
}
