/* The optimizer's arithmetic. */
#include <math.h>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/row.h"
#include "tensor/cpu/split.h"

/* Elements summed by one partial sum, whatever the number of threads. */
#define SUM_PIECE ((int64_t)16384)

SPI_CLONES static double piece_squares(const float *x, int64_t n) {
    double sum = 0.0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += (double)x[i] * (double)x[i];
    return sum;
}

static void add_squares(spi_cpu *cpu, double *acc, const float *x, int64_t n) {
    const int64_t pieces = (n + SUM_PIECE - 1) / SUM_PIECE;
    double *sums = spi_cpu_scratch(cpu, (size_t)(pieces + 1) * sizeof *sums);
    if (!sums) return;
#pragma omp parallel for schedule(static) num_threads(spi_threads_for(cpu->threads, n))
    for (int64_t i = 0; i < pieces; i++) {
        const int64_t at = i * SUM_PIECE;
        sums[i] = piece_squares(x + at, n - at < SUM_PIECE ? n - at : SUM_PIECE);
    }
    for (int64_t i = 0; i < pieces; i++) acc[0] += sums[i];
}

void spi_cpu_sum_squares(spi_device *dev, double *acc, const spi_span *spans, size_t count) {
    for (size_t i = 0; i < count && dev->status == SP_OK; i++)
        add_squares(spi_cpu_of(dev), acc, spans[i].data, spans[i].n);
}

/* rest1 = 1 - beta1, taken before rounding: 1 - 0.999 is off by 1e-5 in f32. rate = lr / (1 - beta1^t),
 * root = sqrt(1 - beta2^t). */
typedef struct step {
    float decay, beta1, rest1, beta2, rest2, rate, root, eps, grad_scale;
} step;

SPI_CLONES static void update(float *restrict p, const float *restrict g, float *restrict m, float *restrict v,
                              step s, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        const float grad = s.grad_scale * g[i];
        m[i] = s.beta1 * m[i] + s.rest1 * grad;
        v[i] = s.beta2 * v[i] + s.rest2 * grad * grad;
        p[i] = s.decay * p[i] - s.rate * m[i] / (sqrtf(v[i]) / s.root + s.eps);
    }
}

SPI_CLONES static void refresh(uint16_t *restrict copy, const float *restrict p, int64_t n) {
    for (int64_t i = 0; i < n; i++) copy[i] = spi_f32_to_bf16(p[i]);
}

void spi_cpu_adamw(spi_device *dev, const spi_adamw_item *items, size_t count, const spi_adamw *adamw) {
    if (spi_idle(dev)) return;
    const double first = 1.0 - pow(adamw->beta1, (double)adamw->step);
    const double second = 1.0 - pow(adamw->beta2, (double)adamw->step);
    for (size_t j = 0; j < count; j++) {
        const spi_adamw_item *it = &items[j];
        const step s = {.decay = (float)(1.0 - (double)it->lr * (double)it->weight_decay),
                        .beta1 = (float)adamw->beta1,
                        .rest1 = (float)(1.0 - adamw->beta1),
                        .beta2 = (float)adamw->beta2,
                        .rest2 = (float)(1.0 - adamw->beta2),
                        .rate = (float)((double)it->lr / first),
                        .root = (float)sqrt(second),
                        .eps = (float)adamw->eps,
                        .grad_scale = adamw->grad_scale};
#pragma omp parallel num_threads(spi_threads_for(spi_cpu_of(dev)->threads, 4 * it->n))
        {
            const spi_range r = spi_my_split(it->n, 64);
            const int64_t n = r.end - r.begin, at = r.begin;
            update(it->param + at, it->grad + at, it->m + at, it->v + at, s, n);
            if (it->copy) refresh((uint16_t *)it->copy + at, it->param + at, n);
        }
    }
}
