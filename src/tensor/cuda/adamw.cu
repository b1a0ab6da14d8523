/*
 * The optimizer's arithmetic.
 *
 * adamw: one launch for up to 64 tensors, which travel as the kernel's parameters (so nothing of the host's
 * memory is read after the call); a block has 4096 elements of one of them. Limit: memory, 28 bytes an element
 * and 2 more with a bf16 copy; 15 M elements 0.45 GB, 150 us. sum_squares: one launch for up to 200 tensors,
 * which travel in the same way, a block for 16384 elements of one of them, in double; and one that adds the
 * blocks' sums in order. 4 bytes an element.
 */
#include <math.h>

#include "tensor/cuda/vec.cuh"

#define THREADS 256

/* Which of `count` > 0 tensors a block belongs to: that whose blocks [first[i], first[i + 1]) it is among. */
static __device__ __forceinline__ int tensor_of(int32_t block, const int32_t *first, int count) {
    int low = 0, high = count - 1;
    while (low < high) {
        const int middle = (low + high + 1) / 2;
        if (first[middle] <= block) low = middle;
        else high = middle - 1;
    }
    return low;
}

/* ------------------------------------------------------------------ adamw */

#define ITEMS 64
#define PIECE 4096

/* rate = lr / (1 - beta1^t), decay = 1 - lr wd */
typedef struct item {
    float *param, *m, *v;
    const float *grad;
    bf16 *copy;
    int64_t n;
    float decay, rate;
} item;

/* rest1 = 1 - beta1, taken before rounding: 1 - 0.999 is off by 1e-5 in f32. root = sqrt(1 - beta2^t). */
typedef struct table {
    item items[ITEMS];
    int32_t first[ITEMS + 1];
    int32_t count;
    float beta1, rest1, beta2, rest2, root, eps, grad_scale;
} table;
static_assert(sizeof(table) <= 4096, "more than a kernel's parameters may take");

template <int E> static __device__ __forceinline__ void update(const table &t, const item &it, int64_t at) {
    vec<float, E> p, g, m, v;
    g.load(it.grad + at);
    m.load(it.m + at);
    v.load(it.v + at);
    p.load(it.param + at);
#pragma unroll
    for (int e = 0; e < E; e++) {
        const float grad = t.grad_scale * g.v[e];
        m.v[e] = t.beta1 * m.v[e] + t.rest1 * grad;
        v.v[e] = t.beta2 * v.v[e] + t.rest2 * grad * grad;
        p.v[e] = it.decay * p.v[e] - it.rate * m.v[e] / (sqrtf(v.v[e]) / t.root + t.eps);
    }
    m.store(it.m + at);
    v.store(it.v + at);
    p.store(it.param + at);
    if (it.copy) {
        vec<bf16, E> copy;
#pragma unroll
        for (int e = 0; e < E; e++) copy.v[e] = p.v[e];
        copy.store(it.copy + at);
    }
}

static __device__ __forceinline__ bool four_at_a_time(const item &it) {
    const uintptr_t all = (uintptr_t)it.param | (uintptr_t)it.grad | (uintptr_t)it.m | (uintptr_t)it.v;
    return all % 16 == 0 && (uintptr_t)it.copy % 8 == 0;
}

static __global__ void __launch_bounds__(THREADS) update_all(const __grid_constant__ table t) {
    const int32_t block = (int32_t)blockIdx.x;
    const int at = tensor_of(block, t.first, t.count);
    const item it = t.items[at];
    const int64_t begin = (int64_t)(block - t.first[at]) * PIECE;
    const int64_t end = begin + PIECE < it.n ? begin + PIECE : it.n;
    int64_t rest = begin;
    if (four_at_a_time(it)) {
        rest = begin + (end - begin) / 4 * 4;
        for (int64_t at = begin + threadIdx.x * 4; at < rest; at += THREADS * 4) update<4>(t, it, at);
    }
    for (int64_t at = rest + threadIdx.x; at < end; at += THREADS) update<1>(t, it, at);
}

void spi_cuda_adamw(spi_device *dev, const spi_adamw_item *items, size_t count, const spi_adamw *adamw) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK) return;
    const double first = 1.0 - pow(adamw->beta1, (double)adamw->step);
    const double second = 1.0 - pow(adamw->beta2, (double)adamw->step);
    table t = {};
    t.beta1 = (float)adamw->beta1;
    t.rest1 = (float)(1.0 - adamw->beta1);
    t.beta2 = (float)adamw->beta2;
    t.rest2 = (float)(1.0 - adamw->beta2);
    t.root = (float)sqrt(second);
    t.eps = (float)adamw->eps;
    t.grad_scale = adamw->grad_scale;
    for (size_t j = 0; j < count;) {
        t.count = 0;
        for (; j < count && t.count < ITEMS; j++) {
            const spi_adamw_item *it = &items[j];
            if (it->n == 0) continue;
            t.items[t.count] = {it->param,
                                it->m,
                                it->v,
                                it->grad,
                                static_cast<bf16 *>(it->copy),
                                it->n,
                                (float)(1.0 - (double)it->lr * (double)it->weight_decay),
                                (float)((double)it->lr / first)};
            t.first[t.count + 1] = t.first[t.count] + (int32_t)blocks_for(it->n, PIECE);
            t.count++;
        }
        if (t.count == 0) return;
        launch(cuda, "the optimizer's step", update_all, shape((unsigned)t.first[t.count], THREADS), t);
        if (cuda->device.status != SP_OK) return;
    }
}

/* ------------------------------------------------------------------ sum of squares */

#define SUM_THREADS 512
#define SUM_PIECE ((int64_t)16384)

static __device__ double block_sum_double(double x) {
    __shared__ double part[SUM_THREADS / 32];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
    for (int i = 16; i; i >>= 1) x += __shfl_xor_sync(0xffffffffu, x, i);
    if (lane == 0) part[warp] = x;
    __syncthreads();
    x = lane < SUM_THREADS / 32 ? part[lane] : 0.0;
#pragma unroll
    for (int i = 16; i; i >>= 1) x += __shfl_xor_sync(0xffffffffu, x, i);
    return x;
}

#define SPANS 200

struct span_table {
    spi_span spans[SPANS];
    int32_t first[SPANS + 1];
    int32_t count;
};
static_assert(sizeof(span_table) + sizeof(double *) <= 4096, "more than a kernel's parameters may take");

/* parts[block] = sum of squares of the block's piece */
static __global__ void __launch_bounds__(SUM_THREADS)
    square_pieces(double *parts, const __grid_constant__ span_table t) {
    const int32_t block = (int32_t)blockIdx.x;
    const int which = tensor_of(block, t.first, t.count);
    const float *x = t.spans[which].data;
    const int64_t begin = (block - t.first[which]) * SUM_PIECE, left = t.spans[which].n - begin;
    const int64_t end = begin + (left < SUM_PIECE ? left : SUM_PIECE);
    int64_t rest = begin;
    double sum = 0.0;
    if ((uintptr_t)x % 16 == 0) {
        rest = begin + (end - begin) / 4 * 4;
#pragma unroll 4
        for (int64_t at = begin + threadIdx.x * 4; at < rest; at += SUM_THREADS * 4) {
            vec<float, 4> v;
            v.load(x + at);
#pragma unroll
            for (int e = 0; e < 4; e++) sum += (double)v.v[e] * (double)v.v[e];
        }
    }
    for (int64_t at = rest + threadIdx.x; at < end; at += SUM_THREADS) sum += (double)x[at] * (double)x[at];
    sum = block_sum_double(sum);
    if (threadIdx.x == 0) parts[block] = sum;
}

static __global__ void __launch_bounds__(SUM_THREADS)
    add_pieces(double *acc, const double *parts, int64_t count) {
    double sum = 0.0;
    for (int64_t i = threadIdx.x; i < count; i += SUM_THREADS) sum += parts[i];
    sum = block_sum_double(sum);
    if (threadIdx.x == 0) acc[0] += sum;
}

void spi_cuda_sum_squares(spi_device *dev, double *acc, const spi_span *spans, size_t count) {
    spi_cuda *cuda = spi_cuda_of(dev);
    int64_t pieces = 0, done = 0;
    for (size_t i = 0; i < count; i++) pieces += blocks_for(spans[i].n, SUM_PIECE);
    if (dev->status != SP_OK || pieces == 0) return;
    double *parts = (double *)spi_cuda_scratch(cuda, (size_t)pieces * sizeof *parts);
    if (!parts) return;
    for (size_t i = 0; i < count;) {
        span_table t = {};
        for (; i < count && t.count < SPANS; i++) {
            if (spans[i].n == 0) continue;
            t.spans[t.count] = spans[i];
            t.first[t.count + 1] = t.first[t.count] + (int32_t)blocks_for(spans[i].n, SUM_PIECE);
            t.count++;
        }
        if (t.count == 0) break;
        launch(cuda, "a sum of squares", square_pieces, shape((unsigned)t.first[t.count], SUM_THREADS),
               parts + done, t);
        done += t.first[t.count];
    }
    launch(cuda, "a sum of squares", add_pieces, shape(1, SUM_THREADS), acc, parts, pieces);
}
