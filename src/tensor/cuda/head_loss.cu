/*
 * A head with its cross-entropy (backend.h), in chunks of rows: logits from product.c, their gradient in their
 * place, products again. Where a gradient is wanted in bf16 the logits are bf16 too, as PyTorch's head gives
 * them; a loss alone, and f32, has them in f32. Limit: at N = 8192 rows, V = 151936, d = 1024 in bf16 the two
 * products take 3.2 ms each; the logits and then their gradient, 2.49 GB each, are written by the first product
 * (which hides it), read and written here (1.7 ms at 3 TB/s), and read by the second.
 *
 *   head_row        a row lies in the registers of a block or a cluster of up to 8, and is read once
 *   head_row_again  one block a row, read twice: rows that no cluster holds, or cards without clusters
 */
#include "tensor/cuda/ptx.cuh"
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

/* 16 bytes of a row, from column c on. Whole words: halves of their own would take a register each. */
template <typename L> struct some_logits {
    static constexpr int count = pack<L>::size;
    uint4 words;

    __device__ __forceinline__ void load(const L *row, int c, int vocab) {
        words = make_uint4(0, 0, 0, 0);
        if (c < vocab) words = *reinterpret_cast<const uint4 *>(row + c);
    }
    __device__ __forceinline__ void store(L *row, int c) const {
        *reinterpret_cast<uint4 *>(row + c) = words;
    }
    __device__ __forceinline__ void set(const float (&x)[count]) {
        words = words_of(x);
    }
};

/* As floats, capped: a row of these would take twice the registers, so they are made anew each time. */
template <bool CAPPED, typename L>
__device__ __forceinline__ void take_logits(float (&x)[some_logits<L>::count], some_logits<L> &logits,
                                            const head_args &a) {
    made_anew(logits.words);
    floats_of(x, logits.words);
#pragma unroll
    for (int i = 0; CAPPED && i < some_logits<L>::count; i++)
        x[i] = x[i] == -INFINITY ? x[i] : a.cap * tanhf(x[i] / a.cap);
}

/* -inf where there are no logits, there and here. */
template <typename L>
__device__ __forceinline__ void mask_logits(float (&x)[some_logits<L>::count], some_logits<L> &logits, int c,
                                            const head_args &a) {
    constexpr int E = some_logits<L>::count;
    float kept[E];
    if (c + E <= a.vocab) return;
    floats_of(kept, logits.words);
#pragma unroll
    for (int i = 0; i < E; i++)
        if (c + i >= a.vocab) x[i] = kept[i] = -INFINITY;
    logits.set(kept);
}

/* The gradient in the logits' place. inverse = scale / sum. */
template <bool CAPPED, typename L>
__device__ __forceinline__ void head_slopes(some_logits<L> &logits, int c, int label, float most, float inverse,
                                            const head_args &a) {
    constexpr int E = some_logits<L>::count;
    float x[E];
    take_logits<CAPPED>(x, logits, a);
#pragma unroll
    for (int i = 0; i < E; i++) {
        const float slope = CAPPED && x[i] > -INFINITY ? 1.0f - x[i] / a.cap * (x[i] / a.cap) : 1.0f;
        x[i] = exponential<L>(x[i] - most) * inverse;
        if (c + i == label) x[i] -= a.scale;
        x[i] *= slope;
    }
    logits.set(x);
}

/* ------------------------------------------------------------------ read once */

template <bool CAPPED, typename L>
__device__ __forceinline__ float label_logit(const L *row, int label, const head_args &a) {
    const float x = to_float(row[label]);
    return CAPPED ? a.cap * tanhf(x / a.cap) : x;
}

/* P times 16 bytes a thread; the threads of a cluster take the row in order, P times. T: exponential's. */
template <typename T, typename L, bool CAPPED, int P, int THREADS, int BLOCKS>
static __global__ void __launch_bounds__(THREADS, BLOCKS)
    head_row(rows_of<L> logits, row_result *results, head_args a) {
    constexpr int E = some_logits<L>::count;
    __shared__ head_part own;
    const int size = cluster_size(), rank = cluster_rank();
    const int64_t t = blockIdx.x / size;
    const int first = (rank * P * (int)blockDim.x + (int)threadIdx.x) * E, step = (int)blockDim.x * E;
    const int label = a.labels[t];
    L *row = logits.row(t);
    some_logits<L> held[P];
    float most = -INFINITY, sum = 0.0f;
    int where = INT_MAX;
    if (threadIdx.x == 0) own.at_label = rank == 0 ? label_logit<CAPPED>(row, label, a) : 0.0f;
#pragma unroll
    for (int n = 0; n < P; n++) held[n].load(row, first + n * step, a.vocab);
#pragma unroll
    for (int n = 0; n < P; n++) {
        float x[E];
        __syncwarp(); /* no more of them as floats at a time than there are registers for */
        take_logits<CAPPED>(x, held[n], a);
        mask_logits(x, held[n], first + n * step, a);
#pragma unroll
        for (int i = 0; i < E; i++) most = fmaxf(most, x[i]);
    }
    most = block_max(most);
    const float base = most == -INFINITY ? 0.0f : most; /* a block with no part of a short row */
#pragma unroll
    for (int n = P - 1; n >= 0; n--) {
        float x[E];
        bool here = false;
        __syncwarp();
        take_logits<CAPPED>(x, held[n], a);
#pragma unroll
        for (int i = 0; i < E; i++) {
            here |= x[i] == most;
            sum += exponential<T>(x[i] - base);
        }
        if (!here) continue;
#pragma unroll
        for (int i = E - 1; i >= 0; i--)
            if (x[i] == most) where = first + n * step + i;
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
        const float inverse = a.scale / whole.sum;
#pragma unroll
        for (int n = 0; n < P; n++) {
            const int c = first + n * step;
            __syncwarp();
            if (c >= a.vocab) continue;
            head_slopes<CAPPED>(held[n], c, label, whole.most, inverse, a);
            held[n].store(row, c);
        }
    }
    cluster_barrier(); /* the others may still read `own` */
}

/* ------------------------------------------------------------------ read twice */

/* A thread's part of a row, going on from what it has seen. */
template <typename T, int E>
__device__ __forceinline__ void take_in(head_part *seen, const float (&x)[E], int c, int label) {
    float most = x[0];
#pragma unroll
    for (int i = 1; i < E; i++) most = fmaxf(most, x[i]);
    if (most > seen->most) {
        seen->sum *= expf(seen->most - most);
        seen->most = most;
        seen->first = INT_MAX;
    }
#pragma unroll
    for (int i = 0; i < E; i++) {
        if (x[i] == seen->most) seen->first = min(seen->first, c + i);
        if (c + i == label) seen->at_label = x[i];
        seen->sum += x[i] == -INFINITY ? 0.0f : exponential<T>(x[i] - seen->most);
    }
}

#define AGAIN_DEPTH 4 /* times 16 bytes a thread on their way */

template <typename T, typename L, bool CAPPED>
static __global__ void __launch_bounds__(AGAIN_THREADS)
    head_row_again(rows_of<L> logits, row_result *results, head_args a) {
    constexpr int E = some_logits<L>::count;
    const int64_t t = blockIdx.x;
    const int label = a.labels[t], step = AGAIN_THREADS * E, vocab = a.vocab;
    L *row = logits.row(t);
    head_part seen = {-INFINITY, 0.0f, 0.0f, INT_MAX};
    for (int c = (int)threadIdx.x * E; c < vocab; c += AGAIN_DEPTH * step) {
        some_logits<L> held[AGAIN_DEPTH];
#pragma unroll
        for (int n = 0; n < AGAIN_DEPTH; n++) held[n].load(row, c + n * step, vocab);
#pragma unroll
        for (int n = 0; n < AGAIN_DEPTH; n++) {
            float x[E];
            if (c + n * step >= vocab) break;
            take_logits<CAPPED>(x, held[n], a);
            mask_logits(x, held[n], c + n * step, a);
            take_in<T>(&seen, x, c + n * step, label);
        }
    }
    const float most = block_max(seen.most);
    const int first = block_least(seen.most == most ? seen.first : INT_MAX);
    const float sum = block_sum(seen.most == -INFINITY ? seen.sum : seen.sum * expf(seen.most - most));
    const float at_label = block_sum(seen.at_label);
    if (threadIdx.x == 0) results[t] = head_result({most, sum, at_label, first}, label);
    if (!a.wanted) return;
    const float inverse = a.scale / sum;
    for (int c = (int)threadIdx.x * E; c < vocab; c += AGAIN_DEPTH * step) {
        some_logits<L> held[AGAIN_DEPTH];
#pragma unroll
        for (int n = 0; n < AGAIN_DEPTH; n++) held[n].load(row, c + n * step, vocab);
#pragma unroll
        for (int n = 0; n < AGAIN_DEPTH; n++) {
            if (c + n * step >= vocab) break;
            head_slopes<CAPPED>(held[n], c + n * step, label, most, inverse, a);
            held[n].store(row, c + n * step);
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

/* Times 16 bytes that a thread holds: of small and of wide vocabularies (clusters of 8 hold 163840 and 262144
 * in f32, of 4 in bf16). */
#define HELD 10
#define HELD_WIDE 8

template <typename T, typename L, bool CAPPED>
static void loss_of_rows(spi_cuda *cuda, spi_mat logits, row_result *results, const head_args &a) {
    constexpr int E = some_logits<L>::count, EACH = HELD * E, EACH_WIDE = HELD_WIDE * E;
    const rows_of<L> x = rows<L>(logits);
    const int blocks = blocks_of_row(cuda, a.vocab, EACH, 512),
              wide = blocks_of_row(cuda, a.vocab, EACH_WIDE, 1024);
    if (blocks)
        launch(cuda, "a loss over a row", head_row<T, L, CAPPED, HELD, 512, 2>,
               shape(logits.rows * blocks, threads_of_row(a.vocab, EACH, blocks), 0, blocks), x, results, a);
    else if (wide)
        launch(cuda, "a loss over a wide row", head_row<T, L, CAPPED, HELD_WIDE, 1024, 1>,
               shape(logits.rows * wide, threads_of_row(a.vocab, EACH_WIDE, wide), 0, wide), x, results, a);
    else
        launch(cuda, "a loss over a row, read twice", head_row_again<T, L, CAPPED>,
               shape(logits.rows, AGAIN_THREADS), x, results, a);
}

/* T: of x and dx. L: of the logits, T where they become a gradient. */
template <typename T, typename L>
static void chunk_loss(spi_cuda *cuda, const spi_head_loss *loss, row_result *results, spi_mat logits,
                       int64_t first) {
    spi_device *dev = &cuda->device;
    const int64_t rows_now = logits.rows, vocab = logits.cols;
    const spi_mat x = some_rows(loss->x, first, rows_now);
    spi_cuda_linear(dev, logits, x, loss->weight, loss->bias, NULL);
    if (dev->status != SP_OK) return;
    const head_args a = {(int)vocab, loss->labels + first, loss->softcap, loss->grad_scale,
                         loss->dx.data != NULL};
    if (a.cap > 0.0f) loss_of_rows<T, L, true>(cuda, logits, results, a);
    else loss_of_rows<T, L, false>(cuda, logits, results, a);
    if (!loss->dx.data || dev->status != SP_OK) return;
    spi_cuda_linear_dx(dev, some_rows(loss->dx, first, rows_now), logits, loss->weight, false);
    if (loss->dw) spi_cuda_linear_dw(dev, loss->dw, NULL, logits, x, loss->weight->transposed);
    if (loss->dw && loss->dbias)
        launch(cuda, "the gradient of a head's bias", add_bias_gradient<L>, shape(blocks_for(vocab, 32), 256),
               loss->dbias, rows<const L>(logits), rows_now, vocab);
}

void spi_cuda_head_loss(spi_device *dev, const spi_head_loss *loss) {
    spi_cuda *cuda = spi_cuda_of(dev);
    const int64_t n = loss->x.rows, vocab = spi_weight_out(loss->weight);
    const sp_dtype dtype = loss->dx.data ? loss->x.dtype : SP_F32;
    if (dev->status != SP_OK || n == 0) return;
    /* As many rows of bf16 as of f32: their products are large enough. */
    const int64_t most =
        chunk_rows(cuda, n, (size_t)padded(vocab) * sizeof(float), 2.0 * (double)vocab * (double)loss->x.cols);
    const size_t results_bytes = ((size_t)n * sizeof(row_result) + 255) / 256 * 256;
    char *memory =
        (char *)spi_cuda_scratch(cuda, results_bytes + (size_t)(most * padded(vocab) * bytes_of(dtype)));
    if (!memory) return;
    row_result *results = reinterpret_cast<row_result *>(memory);
    for (int64_t first = 0; first < n && dev->status == SP_OK; first += most) {
        const spi_mat logits =
            logits_at(memory + results_bytes, dtype, n - first < most ? n - first : most, vocab);
        if (dtype == SP_BF16) chunk_loss<bf16, bf16>(cuda, loss, results + first, logits, first);
        else if (loss->x.dtype == SP_BF16) chunk_loss<bf16, float>(cuda, loss, results + first, logits, first);
        else chunk_loss<float, float>(cuda, loss, results + first, logits, first);
    }
    launch(cuda, "adding losses", add_results, shape(1, 256), loss->acc, (const row_result *)results, n);
}
