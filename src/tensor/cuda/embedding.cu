/*
 * The embedding, forward beside backward.
 *
 * Forward: a thread takes 8 neighbouring elements of a row (or one). Limit: memory; [8192, 1024] in bf16 are
 * 34 MB, 11 us.
 * Backward: rows of dy whose ids are the same are chained in order, next[t] being the next of t's id; a block
 * for each token that is its id's first, and each 256 columns, goes along its chain. Finding the chains takes
 * T^2 comparisons (8192 tokens: about 30 us), the sums one read of dy and the touched rows of dtable. A chain
 * is gone along one row at a time: an id that is most of the batch takes about 1 us a row.
 */
#include "tensor/cuda/vec.cuh"

#define EACH 8
#define THREADS 256

/* ------------------------------------------------------------------ forward */

typedef struct embedded {
    const int32_t *ids, *positions;
    const float *scales; /* of a table of I8, else NULL */
    const void *position_table;
    int64_t position_ld, rows, vecs;
    float scale;
    bool wide_positions; /* the table of positions is F32 */
} embedded;

template <int E>
static __device__ __forceinline__ void add_position(float (&v)[E], const embedded &in, int64_t at) {
    if (in.wide_positions) {
        vec<float, E> more;
        more.load(static_cast<const float *>(in.position_table) + at);
#pragma unroll
        for (int e = 0; e < E; e++) v[e] += more.v[e];
    } else {
        vec<bf16, E> more;
        more.load(static_cast<const bf16 *>(in.position_table) + at);
#pragma unroll
        for (int e = 0; e < E; e++) v[e] += more.v[e];
    }
}

template <typename Y, typename W, int E>
static __global__ void embed(rows_of<Y> y, rows_of<const W> table, embedded in) {
    const int64_t c = tile_column() * E;
    if (tile_column() >= in.vecs) return;
    for (int64_t r = tile_row(); r < in.rows; r += tile_rows()) {
        const int32_t id = in.ids[r];
        const float scale = in.scales ? in.scale * in.scales[id] : in.scale;
        vec<W, E> w;
        vec<Y, E> v;
        w.load(table.row(id) + c);
#pragma unroll
        for (int e = 0; e < E; e++) v.v[e] = scale * w.v[e];
        if (in.position_table) add_position<E>(v.v, in, in.positions[r] * in.position_ld + c);
        v.store(y.row(r) + c);
    }
}

template <typename Y, typename W>
static void embed_as(spi_cuda *cuda, spi_mat y, spi_mat table, embedded in, bool wide) {
    in.vecs = wide ? y.cols / EACH : y.cols;
    const tiling t = tile(in.rows, in.vecs);
    if (wide)
        launch(cuda, "the embedding", embed<Y, W, EACH>, shape(t.grid, t.block), rows<Y>(y),
               rows<const W>(table), in);
    else
        launch(cuda, "the embedding", embed<Y, W, 1>, shape(t.grid, t.block), rows<Y>(y), rows<const W>(table),
               in);
}

void spi_cuda_embedding(spi_device *dev, spi_mat y, const spi_weight *table, const int32_t *ids, float scale,
                        const spi_mat *position_table, const int32_t *positions) {
    spi_cuda *cuda = spi_cuda_of(dev);
    const spi_mat m = table->m;
    if (dev->status != SP_OK || y.rows == 0 || y.cols == 0) return;
    embedded in = {};
    in.ids = ids;
    in.positions = positions;
    in.scales = table->scale;
    in.rows = y.rows;
    in.scale = scale;
    bool wide = in_vecs(y, EACH) && in_vecs(m, EACH);
    if (position_table) {
        in.position_table = position_table->data;
        in.position_ld = position_table->ld;
        in.wide_positions = position_table->dtype == SP_F32;
        wide = wide && in_vecs(*position_table, EACH);
    }
    by_float(y.dtype, [&](auto tag) {
        typedef typename decltype(tag)::type Y;
        if (m.dtype == SP_I8) embed_as<Y, int8_t>(cuda, y, m, in, wide);
        else if (m.dtype == SP_BF16) embed_as<Y, bf16>(cuda, y, m, in, wide);
        else embed_as<Y, float>(cuda, y, m, in, wide);
    });
}

/* ------------------------------------------------------------------ backward */

/* Ids compared at a time. */
#define PIECE 1024

/* next[t]: the first token after t with its id, or -1. first[t]: whether none before t has it. */
static __global__ void chain(int32_t *next, int32_t *first, const int32_t *ids, int32_t n) {
    __shared__ int32_t piece[PIECE];
    const int64_t t = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    const int32_t id = t < n ? ids[t] : 0;
    int64_t after = n;
    bool before = false;
    for (int64_t from = 0; from < n; from += PIECE) {
        const int count = (int)(n - from < PIECE ? n - from : PIECE);
        __syncthreads();
        for (int i = threadIdx.x; i < count; i += THREADS) piece[i] = ids[from + i];
        __syncthreads();
        for (int i = 0; i < count; i++) {
            if (piece[i] != id) continue;
            const int64_t other = from + i;
            if (other < t) before = true;
            else if (other > t && other < after) after = other;
        }
    }
    if (t >= n) return;
    next[t] = after < n ? (int32_t)after : -1;
    first[t] = !before;
}

template <typename T>
static __global__ void add_chains(float *dtable, rows_of<const T> dy, const int32_t *ids, const int32_t *next,
                                  const int32_t *first, float scale, int64_t cols) {
    const int32_t t = (int32_t)blockIdx.x;
    const int64_t c = (int64_t)blockIdx.y * THREADS + threadIdx.x;
    if (!first[t] || c >= cols) return;
    float *to = dtable + ids[t] * cols + c;
    float sum = *to;
    for (int32_t at = t; at >= 0;) {
        const int32_t following = next[at];
        sum += scale * to_float(dy.row(at)[c]);
        at = following;
    }
    *to = sum;
}

void spi_cuda_embedding_backward(spi_device *dev, float *dtable, spi_mat dy, const int32_t *ids, float scale) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK || dy.rows == 0 || dy.cols == 0) return;
    int32_t *next = (int32_t *)spi_cuda_scratch(cuda, (size_t)dy.rows * 2 * sizeof *next);
    if (!next) return;
    int32_t *first = next + dy.rows;
    launch(cuda, "finding rows of the same id", chain, shape((unsigned)blocks_for(dy.rows, THREADS), THREADS),
           next, first, ids, (int32_t)dy.rows);
    if (cuda->device.status != SP_OK) return;
    const dim3 grid((unsigned)dy.rows, (unsigned)blocks_for(dy.cols, THREADS));
    by_float(dy.dtype, [&](auto tag) {
        typedef typename decltype(tag)::type T;
        launch(cuda, "the embedding's gradient", add_chains<T>, shape(grid, THREADS), dtable, rows<const T>(dy),
               ids, next, first, scale, dy.cols);
    });
}
