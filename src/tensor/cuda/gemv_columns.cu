/*
 * Products with at most 8 rows of x and W [K, N] (gemv.cu has the others): a block has 8 vectors of columns;
 * its threads and, where N is small, several blocks share the rows. Limit: one read of W.
 */
#include "tensor/cuda/gemv.cuh"
#include "tensor/cuda/ptx.cuh"

#define ACROSS 8            /* vectors of columns of a block */
#define DOWN (256 / ACROSS) /* rows of W that it reads at once */
#define DOWN_IN_WARP (32 / ACROSS)

/* Rows [blockIdx.y * each, + each) of W: into part blockIdx.y of `parts` [parts, f.rows, N], or finished where
 * there is one part only. */
template <typename T, int E, int M>
static __global__ void __launch_bounds__(256)
    by_columns(finish f, float *parts, rows_of<const T> x, rows_of<const T> w, int64_t k, int64_t each) {
    __shared__ float shared[DOWN / DOWN_IN_WARP][M][ACROSS * E];
    const int across = threadIdx.x % ACROSS, down = threadIdx.x / ACROSS;
    const int64_t c = ((int64_t)blockIdx.x * ACROSS + across) * E, first = blockIdx.y * each;
    const int64_t end = first + each < k ? first + each : k;
    float sum[M][E];
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int e = 0; e < E; e++) sum[m][e] = 0.0f;
    dependents_may_start();
    if (c < f.n) {
        for (int64_t r = first + down; r < end && r < first + 4 * DOWN; r += DOWN) prefetch(w.row(r) + c);
    }
    dependency_wait();
    if (c < f.n) {
#pragma unroll 4
        for (int64_t r = first + down; r < end; r += DOWN) {
            vec<T, E> v;
            v.load(w.row(r) + c);
#pragma unroll
            for (int m = 0; m < M; m++) {
                const float value = to_float(x.row(m < f.rows ? m : 0)[r]);
#pragma unroll
                for (int e = 0; e < E; e++) sum[m][e] += value * v.v[e];
            }
        }
    }
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int e = 0; e < E; e++) {
#pragma unroll
            for (int apart = ACROSS; apart < 32; apart *= 2)
                sum[m][e] += __shfl_xor_sync(0xffffffffu, sum[m][e], apart);
            if (down % DOWN_IN_WARP == 0) shared[down / DOWN_IN_WARP][m][across * E + e] = sum[m][e];
        }
    __syncthreads();
    for (int i = threadIdx.x; i < M * ACROSS * E; i += 256) {
        const int m = i / (ACROSS * E), j = i % (ACROSS * E);
        const int64_t n = (int64_t)blockIdx.x * ACROSS * E + j;
        float total = 0.0f;
#pragma unroll
        for (int s = 0; s < DOWN / DOWN_IN_WARP; s++) total += shared[s][m][j];
        if (!parts) store_sum(f, m, n, total, fetch_addends(f, m, n));
        else if (m < f.rows && n < f.n) parts[(blockIdx.y * (int64_t)f.rows + m) * f.n + n] = total;
    }
}

static __global__ void finish_columns(finish f, const float *parts, int64_t count) {
    const int64_t n = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, m = blockIdx.y;
    float sum = 0.0f;
    dependents_may_start();
    dependency_wait();
    if (n >= f.n) return;
    for (int64_t p = 0; p < count; p++) sum += parts[(p * f.rows + m) * f.n + n];
    store_sum(f, (int)m, n, sum, fetch_addends(f, (int)m, n));
}

template <typename T, int E, int M>
static void launch_columns(spi_cuda *cuda, const finish &f, spi_mat x, spi_mat w) {
    const int64_t k = w.rows, across = blocks_for(f.n, ACROSS * E);
    /* Two blocks a processor, each with 2 rows for a thread at least. */
    int64_t count = blocks_for(2 * (int64_t)cuda->processors, across);
    if (count > blocks_for(k, 2 * DOWN)) count = blocks_for(k, 2 * DOWN);
    if (count < 1) count = 1;
    const int64_t each = blocks_for(k, count);
    float *parts = NULL;
    if (count > 1) {
        parts = (float *)spi_cuda_room(cuda, (size_t)(count * f.rows * f.n) * sizeof *parts);
        if (!parts) return;
    }
    launch(cuda, "a product with few rows", by_columns<T, E, M>,
           early(shape(dim3((unsigned)across, (unsigned)count), 256)), f, parts, rows<const T>(x),
           rows<const T>(w), k, each);
    if (parts)
        launch(cuda, "a product with few rows", finish_columns,
               early(shape(dim3((unsigned)blocks_for(f.n, 128), (unsigned)f.rows), 128)), f, parts, count);
}

template <typename T, int M> static void choose_columns(spi_cuda *cuda, const finish &f, spi_mat x, spi_mat w) {
    constexpr int E = pack<T>::size;
    if (in_vecs(w, E)) launch_columns<T, E, M>(cuda, f, x, w);
    else launch_columns<T, 1, M>(cuda, f, x, w);
}

void spi_cuda_gemv_columns(spi_cuda *cuda, const finish &f, spi_mat x, spi_mat w) {
    by_float(x.dtype, [&](auto tag) {
        by_rows_of_x(x.rows, [&](auto count) {
            choose_columns<typename decltype(tag)::type, decltype(count)::value>(cuda, f, x, w);
        });
    });
}
