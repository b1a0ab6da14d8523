/*
 * Sums of columns, in an order that does not depend on timing.
 *
 * A block sums some rows of 32 vectors of columns: its 8 warps share the rows, a lane has the same columns
 * throughout. Parts of blocks go to scratch memory, [parts, n], and are added by spi_cuda_add_parts.
 * Limit: one read of x; [8192, 1024] in bf16 are 17 MB, 6 us.
 */
#include "tensor/cuda/sums.cuh"

#include "tensor/cuda/vec.cuh"

#define WARPS 8

/* ------------------------------------------------------------------ parts */

#define SLICES 16

/* Blocks of 32 columns; a warp sums every sixteenth part. */
static __global__ void add_parts(float *to, const float *parts, int64_t count, int64_t n) {
    __shared__ float slice[SLICES][32];
    const int64_t c = (int64_t)blockIdx.x * 32 + threadIdx.x;
    float sum = 0.0f;
    if (c < n) {
#pragma unroll 4
        for (int64_t p = threadIdx.y; p < count; p += SLICES) sum += parts[p * n + c];
    }
    slice[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y || c >= n) return;
    sum = 0.0f;
#pragma unroll
    for (int i = 0; i < SLICES; i++) sum += slice[i][threadIdx.x];
    to[c] += sum;
}

void spi_cuda_add_parts(spi_cuda *cuda, float *to, const float *parts, int64_t count, int64_t n) {
    if (cuda->device.status != SP_OK || n == 0) return;
    launch(cuda, "adding parts of a sum", add_parts, shape((unsigned)blocks_for(n, 32), dim3(32, SLICES)), to,
           parts, count, n);
}

/* ------------------------------------------------------------------ columns */

/* Rows [blockIdx.y * each, + each) of x: into row blockIdx.y of `parts`, or added to `sums` where there is one
 * part only. */
template <typename T, int E>
static __global__ void sum_columns(float *sums, float *parts, rows_of<const T> x, int64_t rows, int64_t cols,
                                   int64_t each) {
    __shared__ float part[WARPS][32 * E];
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int64_t vec_at = (int64_t)blockIdx.x * 32 + lane, first = blockIdx.y * each;
    const int64_t end = first + each < rows ? first + each : rows;
    float sum[E];
#pragma unroll
    for (int e = 0; e < E; e++) sum[e] = 0.0f;
    if (vec_at * E < cols) {
#pragma unroll 4
        for (int64_t r = first + warp; r < end; r += WARPS) {
            vec<T, E> v;
            v.load(x.row(r) + vec_at * E);
#pragma unroll
            for (int e = 0; e < E; e++) sum[e] += v.v[e];
        }
    }
#pragma unroll
    for (int e = 0; e < E; e++) part[warp][lane * E + e] = sum[e];
    __syncthreads();
    for (int i = threadIdx.x; i < 32 * E; i += WARPS * 32) {
        const int64_t c = (int64_t)blockIdx.x * 32 * E + i;
        float total = 0.0f;
#pragma unroll
        for (int w = 0; w < WARPS; w++) total += part[w][i];
        if (c >= cols) continue;
        if (parts) parts[blockIdx.y * cols + c] = total;
        else sums[c] += total;
    }
}

template <typename T, int E> static void launch(spi_cuda *cuda, float *sums, spi_mat x) {
    const int64_t across = blocks_for(x.cols, 32 * E);
    /* Four blocks a processor, of 64 rows at least. */
    int64_t count = blocks_for(4 * (int64_t)cuda->processors, across);
    if (count > blocks_for(x.rows, 64)) count = blocks_for(x.rows, 64);
    if (count > 65535) count = 65535;
    const int64_t each = blocks_for(x.rows, count);
    count = blocks_for(x.rows, each);
    float *parts = NULL;
    if (count > 1) {
        parts = (float *)spi_cuda_scratch(cuda, (size_t)(count * x.cols) * sizeof *parts);
        if (!parts) return;
    }
    launch(cuda, "summing columns", sum_columns<T, E>,
           shape(dim3((unsigned)across, (unsigned)count), WARPS * 32), sums, parts, rows<const T>(x), x.rows,
           x.cols, each);
    if (parts) spi_cuda_add_parts(cuda, sums, parts, count, x.cols);
}

void spi_cuda_column_sums(spi_cuda *cuda, float *sums, spi_mat x) {
    if (cuda->device.status != SP_OK || x.rows == 0 || x.cols == 0) return;
    by_float(x.dtype, [&](auto t) {
        typedef typename decltype(t)::type T;
        if (packs(x)) launch<T, pack<T>::size>(cuda, sums, x);
        else launch<T, 1>(cuda, sums, x);
    });
}
