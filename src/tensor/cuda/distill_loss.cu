/*
 * The distance of a student's logits from a teacher's (backend.h), in chunks of rows: f32 logits of both from
 * product.c, the gradient in the place of the student's, a product again. Limit: at N = 8192, V = 151936 both
 * take 9.96 GB, read twice here (the second time for the gradient alone), and a gradient in bf16 of 2.49
 * GB: 22.4 GB, 7.5 ms, beside 2 N V (2 d_s + d_t) operations of products: 23 ms for d_s = 1024, d_t = 4096. One
 * block a row; a thread sums what it sees, going on to a larger maximum where one comes.
 */
#include "tensor/cuda/row_loss.cuh"

#define THREADS 512

struct distill_args {
    int64_t vocab;
    float cap, temperature, inverse; /* of the teacher; 1 / temperature */
    float kl, mse, scale;
    bool wanted; /* the gradient is */
};

/* softmax(x / T) in parts: sum of exp((x - most) / T) over what has been seen, and where `most` stands first.
 */
struct distill_side {
    float most, sum;
    int first;
};

struct distill_part {
    distill_side s, t;
    float gap, squares; /* sum of exp((t - most_t) / T) (t - s); sum of (s - t)^2 */
};

/* Four logits from column c on; zeros where there are none. */
template <bool CAPPED>
__device__ __forceinline__ void load_four(float (&x)[4], const float *row, int64_t c, int64_t vocab,
                                          float cap) {
    float4 four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (c < vocab) four = *reinterpret_cast<const float4 *>(row + c);
    x[0] = four.x;
    x[1] = four.y;
    x[2] = four.z;
    x[3] = four.w;
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (CAPPED) x[i] = cap * tanhf(x[i] / cap);
}

/* What sums relative to `from` are multiplied by to be relative to `to`. */
__device__ __forceinline__ float moved(float from, float to, float inverse) {
    return from == to ? 1.0f : expf((from - to) * inverse);
}

template <typename T>
__device__ __forceinline__ void take_in(distill_part *seen, float s, float t, int c, const distill_args &a) {
    if (s > seen->s.most) {
        seen->s = {s, seen->s.sum * moved(seen->s.most, s, a.inverse), c};
    }
    if (t > seen->t.most) {
        const float factor = moved(seen->t.most, t, a.inverse);
        seen->t = {t, seen->t.sum * factor, c};
        seen->gap *= factor;
    }
    const float e = exponential<T>((t - seen->t.most) * a.inverse);
    seen->s.sum += exponential<T>((s - seen->s.most) * a.inverse);
    seen->t.sum += e;
    seen->gap += e * (t - s);
    seen->squares += (s - t) * (s - t);
}

/* The block's sums relative to the row's maxima, for every thread. */
__device__ __forceinline__ distill_part join_block(const distill_part &seen, float inverse) {
    distill_part whole;
    whole.s.most = block_max(seen.s.most);
    whole.t.most = block_max(seen.t.most);
    whole.s.first = block_least(seen.s.most == whole.s.most ? seen.s.first : INT_MAX);
    whole.t.first = block_least(seen.t.most == whole.t.most ? seen.t.first : INT_MAX);
    const float factor = moved(seen.t.most, whole.t.most, inverse);
    whole.s.sum = block_sum(seen.s.sum * moved(seen.s.most, whole.s.most, inverse));
    whole.t.sum = block_sum(seen.t.sum * factor);
    whole.gap = block_sum(seen.gap * factor);
    whole.squares = block_sum(seen.squares);
    return whole;
}

/* kl: sum of p ((t - s) / T - log sum exp(t / T) + log sum exp(s / T)) */
__device__ __forceinline__ row_result distill_result(const distill_part &row, const distill_args &a) {
    const double temperature = a.temperature, sum_s = row.s.sum, sum_t = row.t.sum;
    row_result r = {0.0, row.s.first == row.t.first, 0};
    if (a.kl > 0.0f) {
        const double gap = (double)row.gap / sum_t + (double)row.s.most - (double)row.t.most;
        r.loss += (double)a.kl * temperature * temperature * (gap / temperature + log(sum_s / sum_t));
    }
    if (a.mse > 0.0f) r.loss += (double)a.mse * (double)row.squares / (double)a.vocab;
    return r;
}

/* T: of the gradient, which takes the place of the student's logits. */
template <typename T, bool CAPPED>
static __global__ void __launch_bounds__(THREADS, 2)
    distill_row(rows_of<float> student, rows_of<const float> teacher, row_result *results, distill_args a) {
    const int64_t row = blockIdx.x;
    const int vocab = (int)a.vocab, step = THREADS * 4;
    float *s_row = student.row(row);
    const float *t_row = teacher.row(row);
    T *to = reinterpret_cast<T *>(s_row);
    distill_part seen = {{-INFINITY, 0.0f, INT_MAX}, {-INFINITY, 0.0f, INT_MAX}, 0.0f, 0.0f};
    for (int c = (int)threadIdx.x * 4; c < vocab; c += 2 * step) {
        float s[2][4], t[2][4];
#pragma unroll
        for (int n = 0; n < 2; n++) {
            load_four<false>(s[n], s_row, c + n * step, vocab, 0.0f);
            load_four<CAPPED>(t[n], t_row, c + n * step, vocab, a.cap);
        }
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (c + i / 4 * step + i % 4 < vocab)
                take_in<T>(&seen, s[i / 4][i % 4], t[i / 4][i % 4], c + i / 4 * step + i % 4, a);
    }
    const distill_part whole = join_block(seen, a.inverse);
    if (threadIdx.x == 0) results[row] = distill_result(whole, a);
    if (!a.wanted) return;
    const float slope = a.scale * a.kl * a.temperature, pull = 2.0f * a.scale * a.mse / (float)a.vocab;
    const float of_s = slope / whole.s.sum, of_t = slope / whole.t.sum;
    /* In bf16 what is written lies where this or an earlier turn of some thread has read: all wait for that. */
    for (int from = 0; from < vocab; from += 2 * step) {
        float s[2][4], t[2][4];
        const int c = from + (int)threadIdx.x * 4;
#pragma unroll
        for (int n = 0; n < 2; n++) {
            load_four<false>(s[n], s_row, c + n * step, vocab, 0.0f);
            load_four<CAPPED>(t[n], t_row, c + n * step, vocab, a.cap);
        }
        __syncthreads();
#pragma unroll
        for (int n = 0; n < 2; n++) {
            if (c + n * step >= vocab) break;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                float g = pull * (s[n][i] - t[n][i]);
                if (a.kl > 0.0f)
                    g += of_s * exponential<T>((s[n][i] - whole.s.most) * a.inverse) -
                         of_t * exponential<T>((t[n][i] - whole.t.most) * a.inverse);
                s[n][i] = g;
            }
            store_four(to + c + n * step, s[n]);
        }
    }
}

template <typename T>
static void compare_rows(spi_cuda *cuda, spi_mat student, spi_mat teacher, row_result *results,
                         const distill_args &a) {
    launch(cuda, "a distance of logits", a.cap > 0.0f ? distill_row<T, true> : distill_row<T, false>,
           shape(student.rows, THREADS), rows<float>(student), rows<const float>(teacher), results, a);
}

static void chunk_loss(spi_cuda *cuda, const spi_distill_loss *l, row_result *results, spi_mat student,
                       spi_mat teacher, int64_t first) {
    spi_device *dev = &cuda->device;
    const int64_t now = student.rows;
    const distill_args a = {student.cols, l->teacher_softcap, l->temperature,    1.0f / l->temperature, l->kl,
                            l->mse,       l->grad_scale,      l->dx.data != NULL};
    spi_cuda_linear(dev, student, some_rows(l->x, first, now), l->weight, NULL, NULL);
    spi_cuda_linear(dev, teacher, some_rows(l->teacher_x, first, now), l->teacher, NULL, NULL);
    if (dev->status != SP_OK) return;
    if (l->x.dtype == SP_BF16) compare_rows<bf16>(cuda, student, teacher, results, a);
    else compare_rows<float>(cuda, student, teacher, results, a);
    launch(cuda, "adding distances", add_results, shape(1, 256), l->acc, (const row_result *)results, now);
    if (l->dx.data)
        spi_cuda_linear_dx(dev, some_rows(l->dx, first, now), gradient_at(student, l->x.dtype), l->weight,
                           false);
}

void spi_cuda_distill_loss(spi_device *dev, const spi_distill_loss *l) {
    spi_cuda *cuda = spi_cuda_of(dev);
    const int64_t n = l->x.rows, vocab = spi_weight_out(l->weight);
    if (dev->status != SP_OK || n == 0) return;
    const size_t row_bytes = (size_t)padded(vocab) * sizeof(float);
    const double operations = 2.0 * (double)vocab * (double)(l->x.cols + l->teacher_x.cols);
    const int64_t most = chunk_rows(cuda, n, 2 * row_bytes, operations);
    const size_t results_bytes = ((size_t)most * sizeof(row_result) + 255) / 256 * 256;
    const size_t side_bytes = ((size_t)most * row_bytes + 255) / 256 * 256;
    char *memory = (char *)spi_cuda_scratch(cuda, results_bytes + 2 * side_bytes);
    if (!memory) return;
    for (int64_t first = 0; first < n && dev->status == SP_OK; first += most) {
        const int64_t now = n - first < most ? n - first : most;
        chunk_loss(cuda, l, reinterpret_cast<row_result *>(memory),
                   logits_at(memory + results_bytes, SP_F32, now, vocab),
                   logits_at(memory + results_bytes + side_bytes, SP_F32, now, vocab), first);
    }
}
