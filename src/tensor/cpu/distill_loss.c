/* The distance of a student's logits from a teacher's, in chunks of rows, forward and backward together. */
#include <math.h>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/row.h"
#include "tensor/cpu/vecmath.h"

/* Both models' logits of a chunk take at most this many bytes (but at least one row each). */
#define CHUNK_BYTES ((int64_t)64 << 20)
/* Elements that are summed in f32 before the sum goes on in f64. */
#define BLOCK 4096

/* What one row gives. */
typedef struct row_result {
    double loss;
    int32_t agrees;
} row_result;

/* softmax(x / T) = exp((x - most) / T) / sum */
typedef struct softmax {
    float most;
    double sum;
} softmax;

SPI_CLONES static float largest(const float *x, int64_t n) {
    float m = x[0];
#pragma omp simd reduction(max : m)
    for (int64_t i = 0; i < n; i++) m = x[i] > m ? x[i] : m;
    return m;
}

/* The first of the largest values, as torch.argmax gives on the CPU; n where there is none. */
static int64_t first_at(const float *x, int64_t n, float m) {
    int64_t i = 0;
    while (i < n && x[i] != m) i++;
    return i;
}

SPI_CLONES static double sum_exp(const float *x, float m, float inverse, int64_t n) {
    double total = 0.0;
    for (int64_t at = 0; at < n; at += BLOCK) {
        const int64_t end = at + BLOCK < n ? at + BLOCK : n;
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = at; i < end; i++) sum += spi_expf((x[i] - m) * inverse);
        total += (double)sum;
    }
    return total;
}

/* sum of exp((t - m) / T) (t - s) */
SPI_CLONES static double weighted_gap(const float *s, const float *t, float m, float inverse, int64_t n) {
    double total = 0.0;
    for (int64_t at = 0; at < n; at += BLOCK) {
        const int64_t end = at + BLOCK < n ? at + BLOCK : n;
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = at; i < end; i++) sum += spi_expf((t[i] - m) * inverse) * (t[i] - s[i]);
        total += (double)sum;
    }
    return total;
}

SPI_CLONES static double square_gap(const float *s, const float *t, int64_t n) {
    double total = 0.0;
    for (int64_t at = 0; at < n; at += BLOCK) {
        const int64_t end = at + BLOCK < n ? at + BLOCK : n;
        float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
        for (int64_t i = at; i < end; i++) sum += (s[i] - t[i]) * (s[i] - t[i]);
        total += (double)sum;
    }
    return total;
}

/* s = slope (q - p) + pull (s - t), with q and p as factors on exp((. - most) / T). */
typedef struct slopes {
    float student_most, teacher_most, inverse, student, teacher, pull;
} slopes;

SPI_CLONES static void both_slopes(float *s, const float *t, slopes g, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        s[i] = g.student * spi_expf((s[i] - g.student_most) * g.inverse) -
               g.teacher * spi_expf((t[i] - g.teacher_most) * g.inverse) + g.pull * (s[i] - t[i]);
}

SPI_CLONES static void pull_slopes(float *s, const float *t, float pull, int64_t n) {
    for (int64_t i = 0; i < n; i++) s[i] = pull * (s[i] - t[i]);
}

static void gradient(const spi_distill_loss *l, float *s, const float *t, const softmax *q, const softmax *p,
                     int64_t n) {
    const float pull = (float)(2.0 * (double)l->grad_scale * (double)l->mse / (double)n);
    const double slope = (double)l->grad_scale * (double)l->kl * (double)l->temperature;
    const slopes g = {.student_most = q->most,
                      .teacher_most = p->most,
                      .inverse = 1.0f / l->temperature,
                      .student = (float)(slope / q->sum),
                      .teacher = (float)(slope / p->sum),
                      .pull = pull};
    if (l->kl > 0) both_slopes(s, t, g, n);
    else pull_slopes(s, t, pull, n);
}

/* Logits s become their gradient when it is wanted. */
static row_result row(const spi_distill_loss *l, float *s, const float *t, int64_t n) {
    const double temperature = (double)l->temperature;
    const float inverse = 1.0f / l->temperature;
    softmax q = {largest(s, n), 1}, p = {largest(t, n), 1};
    const int64_t at = first_at(s, n, q.most);
    row_result r = {0, at < n && at == first_at(t, n, p.most)};
    if (l->kl > 0) {
        q.sum = sum_exp(s, q.most, inverse, n);
        p.sum = sum_exp(t, p.most, inverse, n);
        /* sum of p ((t - s) / T - log sum exp(t / T) + log sum exp(s / T)) */
        const double gap = weighted_gap(s, t, p.most, inverse, n) / p.sum + (double)q.most - (double)p.most;
        const double kl = gap / temperature + log(q.sum / p.sum);
        r.loss += (double)l->kl * temperature * temperature * kl;
    }
    if (l->mse > 0) r.loss += (double)l->mse * square_gap(s, t, n) / (double)n;
    if (l->dx.data) gradient(l, s, t, &q, &p, n);
    return r;
}

/* Memory of a chunk: the logits of both, results. The teacher's make room for a gradient in bf16. */
typedef struct chunk {
    spi_mat student, teacher, gradient;
    row_result *results;
} chunk;

static size_t aligned(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

static size_t chunk_bytes(int64_t rows, int64_t vocab) {
    return aligned((size_t)rows * sizeof(row_result)) + 2 * aligned((size_t)(rows * vocab) * sizeof(float));
}

static chunk chunk_of(void *memory, int64_t rows, int64_t vocab, sp_dtype dtype) {
    char *at = (char *)memory + aligned((size_t)rows * sizeof(row_result));
    chunk c = {.results = memory, .student = spi_mat_of(at, SP_F32, rows, vocab)};
    at += aligned((size_t)(rows * vocab) * sizeof(float));
    c.teacher = spi_mat_of(at, SP_F32, rows, vocab);
    c.gradient = dtype == SP_F32 ? c.student : spi_mat_of(at, dtype, rows, vocab);
    return c;
}

static void chunk_rows(spi_device *dev, const spi_distill_loss *l, const chunk *c, int64_t first) {
    const int64_t rows = c->student.rows;
    spi_cpu_linear(dev, c->student, spi_mat_rows(l->x, first, rows), l->weight, NULL, NULL);
    spi_cpu_linear(dev, c->teacher, spi_mat_rows(l->teacher_x, first, rows), l->teacher, NULL, NULL);
    if (l->teacher_softcap > 0) spi_cpu_softcap(dev, c->teacher, l->teacher_softcap);
    if (spi_idle(dev)) return;
#pragma omp parallel for schedule(static) num_threads(spi_cpu_of(dev)->threads)
    for (int64_t i = 0; i < rows; i++)
        c->results[i] = row(l, spi_mat_at(c->student, i, 0), spi_mat_at(c->teacher, i, 0), c->student.cols);
    for (int64_t i = 0; i < rows; i++) {
        l->acc[0] += c->results[i].loss;
        l->acc[1] += c->results[i].agrees;
    }
}

void spi_cpu_distill_loss(spi_device *dev, const spi_distill_loss *l) {
    const int64_t n = l->x.rows, vocab = spi_weight_out(l->weight);
    int64_t most = CHUNK_BYTES / (vocab * 2 * (int64_t)sizeof(float));
    most = most < 1 ? 1 : most > n ? n : most;
    if (dev->status != SP_OK || n == 0) return;
    void *memory = spi_cpu_scratch(spi_cpu_of(dev), chunk_bytes(most, vocab));
    if (dev->plan) memory = l->x.data; /* the products in here take memory, too; any address will do */
    if (!memory) return;
    for (int64_t first = 0; first < n && dev->status == SP_OK; first += most) {
        const int64_t rows = n - first < most ? n - first : most;
        const chunk c = chunk_of(memory, rows, vocab, l->x.dtype);
        chunk_rows(dev, l, &c, first);
        if (!l->dx.data) continue;
        if (c.gradient.data != c.student.data) spi_cpu_convert(dev, c.gradient, c.student);
        spi_cpu_linear_dx(dev, spi_mat_rows(l->dx, first, rows), c.gradient, l->weight, false);
    }
}
