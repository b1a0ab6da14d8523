/* The language-model head with its cross-entropy, in chunks of rows, forward and backward together. */
#include <math.h>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/row.h"
#include "tensor/cpu/split.h"
#include "tensor/cpu/vecmath.h"

/* Logits of a chunk take at most this many bytes (but at least one row): the more rows, the less it weighs that
 * a product lays out the whole vocabulary's weights anew. */
#define CHUNK_BYTES ((int64_t)160 << 20)

/* What one row gives. */
typedef struct row_result {
    double loss;
    int32_t correct;
} row_result;

SPI_CLONES static void soft_cap(float *x, float cap, int64_t n) {
    for (int64_t i = 0; i < n; i++) x[i] = cap * spi_tanhf(x[i] / cap);
}

/* Elements at a time: they are read again while they are in the nearest cache. */
#define BLOCK ((int64_t)4096)

SPI_CLONES static float largest(const float *x, int64_t n) {
    float m = x[0];
#pragma omp simd reduction(max : m)
    for (int64_t i = 0; i < n; i++) m = x[i] > m ? x[i] : m;
    return m;
}

SPI_CLONES static float sum_exp(const float *x, float m, int64_t n) {
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++) sum += spi_expf(x[i] - m);
    return sum;
}

/* log(sum of exp(x)) and the largest x, in one pass over memory. */
static double log_sum_exp(const float *x, int64_t n, float *max) {
    double total = 0.0;
    float m = -INFINITY;
    for (int64_t at = 0; at < n; at += BLOCK) {
        const int64_t count = n - at < BLOCK ? n - at : BLOCK;
        const float here = largest(x + at, count);
        if (here > m) {
            total *= exp((double)m - here);
            m = here;
        }
        total += (double)sum_exp(x + at, m, count);
    }
    *max = m;
    return (double)m + log(total);
}

/* g = scale exp(x - lse), times the derivative of the cap where there is one. */
SPI_CLONES static void gradient(float *g, const float *x, float lse, float scale, float cap, int64_t n) {
    if (cap > 0) {
        for (int64_t i = 0; i < n; i++) {
            const float t = x[i] / cap;
            g[i] = scale * spi_expf(x[i] - lse) * (1.0f - t * t);
        }
    } else {
        for (int64_t i = 0; i < n; i++) g[i] = scale * spi_expf(x[i] - lse);
    }
}

/* The first index of the largest value, as torch.argmax gives on the CPU. */
static bool is_argmax(const float *x, int64_t n, int32_t label, float m) {
    if (x[label] != m) return false;
    for (int64_t i = 0; i < label && i < n; i++)
        if (x[i] == m) return false;
    return true;
}

SPI_CLONES static void store(void *to, const float *from, sp_dtype dtype, int64_t n) {
    spi_row_store(to, from, dtype, n);
}

/* A row's logits x become their gradient, in one pass over memory. In bf16 it takes the first half of the row:
 * the part that is written has been read. */
static void row_gradient(float *x, sp_dtype dtype, int64_t n, int32_t label, float cap, float lse,
                         float scale) {
    const float of_cap = x[label] / cap, slope = cap > 0 ? 1.0f - of_cap * of_cap : 1.0f;
    float part[BLOCK];
    for (int64_t at = 0; at < n; at += BLOCK) {
        const int64_t count = n - at < BLOCK ? n - at : BLOCK;
        gradient(part, x + at, lse, scale, cap, count);
        if (label >= at && label < at + count) part[label - at] -= scale * slope;
        store((char *)x + (size_t)at * spi_dtype_size(dtype), part, dtype, count);
    }
}

/* Logits x become their gradient where it is wanted. */
static row_result row(float *x, int64_t n, int32_t label, const spi_head_loss *loss) {
    const float cap = loss->softcap;
    if (cap > 0) soft_cap(x, cap, n);
    float m;
    const double lse = log_sum_exp(x, n, &m);
    const row_result r = {lse - (double)x[label], is_argmax(x, n, label, m)};
    if (loss->dx.data) row_gradient(x, loss->x.dtype, n, label, cap, (float)lse, loss->grad_scale);
    return r;
}

/* Memory of a chunk: f32 logits, whose gradient takes their place (in bf16 the first half of each row's), and
 * results. */
typedef struct chunk {
    spi_mat logits, gradient;
    row_result *results;
} chunk;

static size_t chunk_bytes(int64_t rows, int64_t vocab) {
    return (size_t)rows * ((size_t)vocab * sizeof(float) + sizeof(row_result)) + 64;
}

static chunk chunk_of(void *memory, int64_t rows, int64_t vocab, sp_dtype dtype) {
    char *at = (char *)memory + (((size_t)rows * sizeof(row_result)) + 63) / 64 * 64;
    const int64_t ld = vocab * (int64_t)(sizeof(float) / spi_dtype_size(dtype));
    return (chunk){.logits = spi_mat_of(at, SP_F32, rows, vocab),
                   .gradient = {at, dtype, rows, vocab, ld},
                   .results = memory};
}

static void chunk_rows(spi_device *dev, const spi_head_loss *loss, const chunk *c, int64_t first) {
    spi_cpu_linear(dev, c->logits, spi_mat_rows(loss->x, first, c->logits.rows), loss->weight, loss->bias,
                   NULL);
    if (spi_idle(dev)) return;
#pragma omp parallel for schedule(static) num_threads(spi_cpu_of(dev)->threads)
    for (int64_t i = 0; i < c->logits.rows; i++)
        c->results[i] = row(spi_mat_at(c->logits, i, 0), c->logits.cols, loss->labels[first + i], loss);
    for (int64_t i = 0; i < c->logits.rows; i++) {
        loss->acc[0] += c->results[i].loss;
        loss->acc[1] += c->results[i].correct;
    }
}

void spi_cpu_head_loss(spi_device *dev, const spi_head_loss *loss) {
    spi_cpu *cpu = spi_cpu_of(dev);
    const int64_t n = loss->x.rows, vocab = spi_weight_out(loss->weight);
    int64_t most = CHUNK_BYTES / (vocab * 4);
    most = most < 1 ? 1 : most > n ? n : most;
    if (dev->status != SP_OK || n == 0) return;
    void *memory = spi_cpu_scratch(cpu, chunk_bytes(most, vocab));
    if (dev->plan) memory = loss->x.data; /* the products in here take memory, too; any address will do */
    if (!memory) return;
    for (int64_t first = 0; first < n && dev->status == SP_OK; first += most) {
        const int64_t rows = n - first < most ? n - first : most;
        const chunk c = chunk_of(memory, rows, vocab, loss->x.dtype);
        chunk_rows(dev, loss, &c, first);
        if (!loss->dx.data) continue;
        spi_cpu_linear_dx(dev, spi_mat_rows(loss->dx, first, rows), c.gradient, loss->weight, false);
        if (loss->dw)
            spi_cpu_linear_dw(dev, loss->dw, loss->dbias, c.gradient, spi_mat_rows(loss->x, first, rows),
                              loss->weight->transposed);
    }
}
