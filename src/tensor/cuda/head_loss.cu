/*
 * A head with its cross-entropy (backend.h), in chunks of rows: f32 logits from product.c, their gradient in
 * their place, products again. Limit: at N = 8192 rows, V = 151936, d = 1024 the two products take 3.2 ms each;
 * the logits, 4.98 GB, are written by the first, which hardly overlaps with its sums (2 ms), and read here, and
 * their gradient in bf16, 2.49 GB, is written here (together 2.5 ms at 3 TB/s) and read by the second, which
 * hides it. In bf16 the logits would take half of that, and with their last digits lose those of the loss and
 * up to 6 % of a probability (where they are above 16): they stay f32.
 *
 *   head_row        a row lies in the registers of a block or a cluster of up to 8, and is read once
 *   head_row_again  one block a row, read twice: rows that no cluster holds, or cards without clusters
 */
#include "tensor/cuda/row_loss.cuh"

#define AGAIN_THREADS 512

struct head_args {
    int vocab;
    const int32_t *labels; /* of the chunk's rows */
    float cap, scale;
    bool wanted; /* the gradient is */
};
/* Kernels are made apart for heads with a cap: a choice for each element would keep loads from being in flight
 * together. */

/* What a block knows of its part of a row, of x = logit - most. */
struct head_part {
    float most, sum, at_label;
    int first; /* where `most` stands */
};

/* Parts in the order of their columns. */
__device__ __forceinline__ void join(head_part *a, const head_part &b) {
    const float most = fmaxf(a->most, b.most);
    a->sum = (a->most == most ? a->sum : a->sum * expf(a->most - most)) +
             (b.most == most ? b.sum : b.sum * expf(b.most - most));
    a->first = a->most >= b.most ? a->first : b.first;
    a->most = most;
    a->at_label += b.at_label;
}

__device__ __forceinline__ row_result head_result(const head_part &whole, int32_t label) {
    return {(double)whole.most + log((double)whole.sum) - (double)whole.at_label, whole.first == label, 0};
}

/* Four logits from column c on, as they are. */
__device__ __forceinline__ void load_logits(float (&x)[4], const float *row, int c, int vocab) {
    float4 four = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
    if (c < vocab) four = *reinterpret_cast<const float4 *>(row + c);
    x[0] = four.x;
    x[1] = four.y;
    x[2] = four.z;
    x[3] = four.w;
}

/* The same, capped; -inf where there are none. */
template <bool CAPPED> __device__ __forceinline__ void finish_logits(float (&x)[4], int c, const head_args &a) {
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (CAPPED) x[i] = a.cap * tanhf(x[i] / a.cap);
    if (c + 4 <= a.vocab) return;
#pragma unroll
    for (int i = 0; i < 4; i++)
        if (c + i >= a.vocab) x[i] = -INFINITY;
}

/* The four's gradient in their place. inverse = scale / sum. */
template <typename T, bool CAPPED>
__device__ __forceinline__ void head_slopes(float (&x)[4], int c, int label, float most, float inverse,
                                            const head_args &a) {
    float slope[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        slope[i] = CAPPED ? 1.0f - x[i] / a.cap * (x[i] / a.cap) : 1.0f;
        x[i] = exponential<T>(x[i] - most) * inverse;
    }
    if ((unsigned)(label - c) < 4) {
#pragma unroll
        for (int i = 0; i < 4; i++) x[i] -= c + i == label ? a.scale : 0.0f;
    }
#pragma unroll
    for (int i = 0; CAPPED && i < 4; i++) x[i] *= slope[i];
}

/* ------------------------------------------------------------------ read once */

/* T: of the gradient. 4 P elements a thread; the threads of a cluster take the row in order, P times. */
template <typename T, bool CAPPED, int P, int THREADS, int BLOCKS>
static __global__ void __launch_bounds__(THREADS, BLOCKS)
    head_row(rows_of<float> logits, row_result *results, head_args a) {
    __shared__ head_part own;
    const int size = cluster_size(), rank = cluster_rank();
    const int64_t t = blockIdx.x / size;
    const int first = (rank * P * (int)blockDim.x + (int)threadIdx.x) * 4, step = (int)blockDim.x * 4;
    const int label = a.labels[t];
    float *row = logits.row(t), x[P][4], most = -INFINITY, sum = 0.0f;
    int where = INT_MAX;
    if (rank == 0 && threadIdx.x == 0) own.at_label = CAPPED ? a.cap * tanhf(row[label] / a.cap) : row[label];
    if (rank != 0 && threadIdx.x == 0) own.at_label = 0.0f;
#pragma unroll
    for (int n = 0; n < P; n++) load_logits(x[n], row, first + n * step, a.vocab);
#pragma unroll
    for (int n = 0; n < P; n++) {
        finish_logits<CAPPED>(x[n], first + n * step, a);
        most = fmaxf(most, fmaxf(fmaxf(x[n][0], x[n][1]), fmaxf(x[n][2], x[n][3])));
    }
    most = block_max(most);
    const float base = most == -INFINITY ? 0.0f : most; /* a block with no part of a short row */
#pragma unroll
    for (int n = P - 1; n >= 0; n--) {
        if (x[n][0] == most || x[n][1] == most || x[n][2] == most || x[n][3] == most)
            where = first + n * step + (x[n][0] == most ? 0 : x[n][1] == most ? 1 : x[n][2] == most ? 2 : 3);
#pragma unroll
        for (int i = 0; i < 4; i++) sum += exponential<T>(x[n][i] - base);
    }
    sum = block_sum(sum);
    where = block_least(where);
    if (threadIdx.x == 0) {
        own.most = most;
        own.sum = sum;
        own.first = where;
    }
    cluster_barrier(); /* and every logit has been read */
    head_part whole = *cluster_at(&own, 0);
    for (int i = 1; i < size; i++) join(&whole, *cluster_at(&own, i));
    if (rank == 0 && threadIdx.x == 0) results[t] = head_result(whole, label);
    if (a.wanted) {
        T *to = reinterpret_cast<T *>(row);
        const float inverse = a.scale / whole.sum;
#pragma unroll
        for (int n = 0; n < P; n++) {
            const int c = first + n * step;
            if (c >= a.vocab) break;
            head_slopes<T, CAPPED>(x[n], c, label, whole.most, inverse, a);
            store_four(to + c, x[n]);
        }
    }
    cluster_barrier(); /* the others may still read `own` */
}

/* ------------------------------------------------------------------ read twice */

/* A thread's part of a row, going on from what it has seen. */
template <typename T>
__device__ __forceinline__ void take_in(head_part *seen, const float (&x)[4], int c, int label) {
    const float most = fmaxf(fmaxf(x[0], x[1]), fmaxf(x[2], x[3]));
    if (most > seen->most) {
        seen->sum *= expf(seen->most - most);
        seen->most = most;
        seen->first = INT_MAX;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (x[i] == seen->most) seen->first = min(seen->first, c + i);
        if (c + i == label) seen->at_label = x[i];
        seen->sum += x[i] == -INFINITY ? 0.0f : exponential<T>(x[i] - seen->most);
    }
}

template <typename T, bool CAPPED>
static __global__ void __launch_bounds__(AGAIN_THREADS)
    head_row_again(rows_of<float> logits, row_result *results, head_args a) {
    const int64_t t = blockIdx.x;
    const int label = a.labels[t], step = AGAIN_THREADS * 4, vocab = a.vocab;
    float *row = logits.row(t);
    T *to = reinterpret_cast<T *>(row);
    head_part seen = {-INFINITY, 0.0f, 0.0f, INT_MAX};
    for (int c = (int)threadIdx.x * 4; c < vocab; c += 4 * step) {
        float x[4][4];
#pragma unroll
        for (int n = 0; n < 4; n++) load_logits(x[n], row, c + n * step, vocab);
#pragma unroll
        for (int n = 0; n < 4; n++) {
            if (c + n * step >= vocab) break;
            finish_logits<CAPPED>(x[n], c + n * step, a);
            take_in<T>(&seen, x[n], c + n * step, label);
        }
    }
    const float most = block_max(seen.most);
    const int first = block_least(seen.most == most ? seen.first : INT_MAX);
    const float sum = block_sum(seen.most == -INFINITY ? seen.sum : seen.sum * expf(seen.most - most));
    const float at_label = block_sum(seen.at_label);
    if (threadIdx.x == 0) results[t] = head_result({most, sum, at_label, first}, label);
    if (!a.wanted) return;
    const float inverse = a.scale / sum;
    /* In bf16 what is written lies where this or an earlier turn of some thread has read: all wait for that. */
    for (int from = 0; from < vocab; from += 4 * step) {
        float x[4][4];
        const int c = from + (int)threadIdx.x * 4;
#pragma unroll
        for (int n = 0; n < 4; n++) load_logits(x[n], row, c + n * step, vocab);
        __syncthreads();
#pragma unroll
        for (int n = 0; n < 4; n++) {
            if (c + n * step >= vocab) break;
            finish_logits<CAPPED>(x[n], c + n * step, a);
            head_slopes<T, CAPPED>(x[n], c + n * step, label, most, inverse, a);
            store_four(to + c + n * step, x[n]);
        }
    }
}

/* dbias += column sums of the gradient, in order: 32 columns a block, 8 threads each. */
template <typename T>
static __global__ void __launch_bounds__(256)
    add_bias_gradient(float *dbias, rows_of<const T> gradient, int64_t rows, int64_t vocab) {
    __shared__ float sums[8][32];
    const int lane = (int)threadIdx.x % 32, share = (int)threadIdx.x / 32;
    const int64_t c = (int64_t)blockIdx.x * 32 + lane;
    float sum = 0.0f;
    if (c < vocab) {
#pragma unroll 4
        for (int64_t t = share; t < rows; t += 8) sum += to_float(gradient.row(t)[c]);
    }
    sums[share][lane] = sum;
    __syncthreads();
    if (share != 0 || c >= vocab) return;
    for (int i = 1; i < 8; i++) sum += sums[i][lane];
    dbias[c] += sum;
}

/* ------------------------------------------------------------------ the operation */

/* Elements a thread holds: of small and of wide vocabularies (up to 163840 and 262144 with clusters of 8). */
#define HELD 40
#define HELD_WIDE 32

template <typename T, bool CAPPED>
static void loss_of_rows(spi_cuda *cuda, spi_mat logits, row_result *results, const head_args &a) {
    const rows_of<float> x = rows<float>(logits);
    const int blocks = blocks_of_row(cuda, a.vocab, HELD, 512),
              wide = blocks_of_row(cuda, a.vocab, HELD_WIDE, 1024);
    if (blocks)
        launch(cuda, "a loss over a row", head_row<T, CAPPED, HELD / 4, 512, 2>,
               shape(logits.rows * blocks, threads_of_row(a.vocab, HELD, blocks), 0, blocks), x, results, a);
    else if (wide)
        launch(cuda, "a loss over a wide row", head_row<T, CAPPED, HELD_WIDE / 4, 1024, 1>,
               shape(logits.rows * wide, threads_of_row(a.vocab, HELD_WIDE, wide), 0, wide), x, results, a);
    else
        launch(cuda, "a loss over a row, read twice", head_row_again<T, CAPPED>,
               shape(logits.rows, AGAIN_THREADS), x, results, a);
}

template <typename T>
static void chunk_loss(spi_cuda *cuda, const spi_head_loss *loss, row_result *results, spi_mat logits,
                       int64_t first) {
    spi_device *dev = &cuda->device;
    const int64_t rows_now = logits.rows, vocab = logits.cols;
    const spi_mat x = some_rows(loss->x, first, rows_now), gradient = gradient_at(logits, loss->x.dtype);
    spi_cuda_linear(dev, logits, x, loss->weight, loss->bias, NULL);
    if (dev->status != SP_OK) return;
    const head_args a = {(int)vocab, loss->labels + first, loss->softcap, loss->grad_scale,
                         loss->dx.data != NULL};
    if (a.cap > 0.0f) loss_of_rows<T, true>(cuda, logits, results, a);
    else loss_of_rows<T, false>(cuda, logits, results, a);
    if (!loss->dx.data || dev->status != SP_OK) return;
    spi_cuda_linear_dx(dev, some_rows(loss->dx, first, rows_now), gradient, loss->weight, false);
    if (loss->dw) spi_cuda_linear_dw(dev, loss->dw, NULL, gradient, x, loss->weight->transposed);
    if (loss->dw && loss->dbias)
        launch(cuda, "the gradient of a head's bias", add_bias_gradient<T>, shape(blocks_for(vocab, 32), 256),
               loss->dbias, rows<const T>(gradient), rows_now, vocab);
}

void spi_cuda_head_loss(spi_device *dev, const spi_head_loss *loss) {
    spi_cuda *cuda = spi_cuda_of(dev);
    const int64_t n = loss->x.rows, vocab = spi_weight_out(loss->weight);
    if (dev->status != SP_OK || n == 0) return;
    const size_t row_bytes = (size_t)padded(vocab) * sizeof(float);
    const int64_t most = chunk_rows(cuda, n, row_bytes);
    const size_t results_bytes = ((size_t)n * sizeof(row_result) + 255) / 256 * 256;
    char *memory = (char *)spi_cuda_scratch(cuda, results_bytes + (size_t)most * row_bytes);
    if (!memory) return;
    row_result *results = reinterpret_cast<row_result *>(memory);
    for (int64_t first = 0; first < n && dev->status == SP_OK; first += most) {
        const spi_mat logits = logits_at(memory + results_bytes, n - first < most ? n - first : most, vocab);
        if (loss->x.dtype == SP_BF16) chunk_loss<bf16>(cuda, loss, results + first, logits, first);
        else chunk_loss<float>(cuda, loss, results + first, logits, first);
    }
    launch(cuda, "adding losses", add_results, shape(1, 256), loss->acc, (const row_result *)results, n);
}
