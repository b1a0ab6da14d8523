/*
 * What the kernels of injection and update share. Their products are narrow: hidden states of d columns times
 * matrices of k or 2g columns, too few for the matrix units to pay in true f32. Three ways of dividing the
 * work: tile     a block takes some rows, a warp a few of them, its lanes the columns: sums over d. The narrow
 * matrix is brought to shared memory a tile at a time and read once for all rows of the warp. columns  a thread
 * takes two columns and goes down a range of rows, with the two columns' weights and gradients in registers:
 * sums over T. Each range leaves a partial gradient; `sum_parts` adds them in order. row      a block, or a
 * cluster, takes one row: for few rows, and for shapes that the others do not take.
 */
#pragma once

#include "tensor/cuda/cluster.cuh"
#include "tensor/cuda/philox.cuh"
#include "tensor/cuda/ptx.cuh"

#define SHADOW_THREADS 256 /* of the tile kernels: 8 warps */
#define SHADOW_COLUMNS 128 /* threads of the columns kernels, two columns each */
#define SHADOW_ROWS 32     /* rows whose small vectors a columns kernel holds in shared memory */
#define ROW_THREADS 512
#define FEW_ROWS 128 /* up to so many the row kernels are quicker than the tile kernels */

/* ------------------------------------------------------------------ dropout: spi_uniform of base/rng.h, bit
 * for bit */

struct dropout {
    float p, keep; /* p = 0: none */
    uint64_t seed, stream;
};

static inline dropout dropout_of(const spi_dropout *drop) {
    return {drop->p, 1.0f / (1.0f - drop->p), drop->seed, drop->stream};
}

__device__ __forceinline__ float kept(const dropout &drop, uint32_t word) {
    return (float)(word >> 8) * 0x1p-24f >= drop.p ? drop.keep : 0.0f;
}

/* What element `index` of the matrix is multiplied by. */
__device__ __forceinline__ float drop_factor(const dropout &drop, int64_t index) {
    if (drop.p <= 0.0f) return 1.0f;
    const uint4 words = philox(drop.seed, drop.stream, (uint64_t)index / 4);
    const int at = (int)(index % 4);
    return kept(drop, at < 2 ? (at == 0 ? words.x : words.y) : (at == 2 ? words.z : words.w));
}

/* x[i] times the mask of element index + i; index is a multiple of N or 4, whichever is less. N: 2 or multiples
 * of 4.
 */
template <int N> __device__ __forceinline__ void drop_run(float (&x)[N], const dropout &drop, int64_t index) {
    if (drop.p <= 0.0f) return;
    if constexpr (N == 2) {
        const uint4 words = philox(drop.seed, drop.stream, (uint64_t)index / 4);
        x[0] *= kept(drop, index % 4 ? words.z : words.x);
        x[1] *= kept(drop, index % 4 ? words.w : words.y);
    } else {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            const uint4 words = philox(drop.seed, drop.stream, (uint64_t)(index + i) / 4);
            x[i] *= kept(drop, words.x);
            x[i + 1] *= kept(drop, words.y);
            x[i + 2] *= kept(drop, words.z);
            x[i + 3] *= kept(drop, words.w);
        }
    }
}

/* ------------------------------------------------------------------ two or four neighbours of a row */

template <typename T, int N> struct run;
template <> struct run<float, 2> { typedef float2 bits; };
template <> struct run<float, 4> { typedef float4 bits; };
template <> struct run<bf16, 2> { typedef uint32_t bits; };
template <> struct run<bf16, 4> { typedef uint2 bits; };

template <typename T, int N> __device__ __forceinline__ void load_run(float (&x)[N], const T *from) {
    const typename run<T, N>::bits bits = *reinterpret_cast<const typename run<T, N>::bits *>(from);
    const T *t = reinterpret_cast<const T *>(&bits);
#pragma unroll
    for (int i = 0; i < N; i++) x[i] = to_float(t[i]);
}

template <typename T, int N> __device__ __forceinline__ void store_run(T *to, const float (&x)[N]) {
    typename run<T, N>::bits bits;
    T *t = reinterpret_cast<T *>(&bits);
#pragma unroll
    for (int i = 0; i < N; i++) t[i] = from_float<T>(x[i]);
    *reinterpret_cast<typename run<T, N>::bits *>(to) = bits;
}

/* 16 bytes of a row as they are: in few registers until each element is wanted. */
template <typename T> struct raw {
    uint4 bits;
    __device__ __forceinline__ void load(const T *from) {
        bits = *reinterpret_cast<const uint4 *>(from);
    }
    __device__ __forceinline__ float at(int i) const {
        return to_float(reinterpret_cast<const T *>(&bits)[i]);
    }
};

/* ------------------------------------------------------------------ sums over a warp and a block */

/*
 * Sums of N values over the warp's lanes, in about N shuffles: at each step a lane gives away half of what it
 * holds. run: v[i] becomes the sum of the value (return value) + i, i < count. Where N has few factors of 2
 * several lanes hold the same; `first_holder` is one of them.
 */
template <int N, int M = 16> struct fold {
    static constexpr bool halves = N % 2 == 0;
    static constexpr int left = halves ? N / 2 : N;
    static constexpr int count = fold<left, M / 2>::count;

    static __device__ __forceinline__ int run(float *v) {
        const bool upper = (threadIdx.x & M) != 0;
#pragma unroll
        for (int i = 0; i < left; i++) {
            if constexpr (halves) {
                const float give = upper ? v[i] : v[i + left], keep = upper ? v[i + left] : v[i];
                v[i] = keep + __shfl_xor_sync(0xffffffffu, give, M);
            } else {
                v[i] += __shfl_xor_sync(0xffffffffu, v[i], M);
            }
        }
        return (halves && upper ? left : 0) + fold<left, M / 2>::run(v);
    }
    static __device__ __forceinline__ bool first_holder() {
        return (halves || (threadIdx.x & M) == 0) && fold<left, M / 2>::first_holder();
    }
};
template <int N> struct fold<N, 0> {
    static constexpr int count = N;
    static __device__ __forceinline__ int run(float *) {
        return 0;
    }
    static __device__ __forceinline__ bool first_holder() {
        return true;
    }
};

/* to[j] = sum of v[j] over the block's threads, j < wanted <= 16. Seen by others after a barrier. */
__device__ __forceinline__ void block_sums(float *to, float (&v)[16], int wanted) {
    __shared__ float part[32][16];
    const int at = fold<16>::run(v);
    __syncthreads();
    part[threadIdx.x / 32][at] = v[0];
    __syncthreads();
    if ((int)threadIdx.x >= wanted) return;
    float sum = 0.0f;
    for (unsigned w = 0; w < blockDim.x / 32; w++) sum += part[w][threadIdx.x];
    to[threadIdx.x] = sum;
}

/* ------------------------------------------------------------------ one row, held in registers by a cluster
 *
 * A thread has one of the row's columns, with its values of both narrow matrices, all asked for at once. The N
 * sums over the row meet once: each block hands its part to all others, which need no second meeting.
 */

#define HELD_COLUMNS 128 /* columns of a block, where the row has so few that not all blocks are full */

/* Blocks of a row's cluster and threads of each; `threads` 0: the row is too long. */
struct held_row {
    int cluster, threads;
};
static inline held_row hold_row(const spi_cuda *cuda, int64_t d) {
    int cluster = 1;
    while (cluster < most_cluster(cuda) && cluster * HELD_COLUMNS < d) cluster *= 2;
    const int64_t threads = ((d + cluster - 1) / cluster + 31) / 32 * 32;
    return {cluster, threads <= ROW_THREADS ? (int)threads : 0};
}

/* w[j] = from[j], j < count, zeros behind them; `wide` floats, 1, 2 or 4, come in one access. */
template <int N>
__device__ __forceinline__ void load_narrow(float (&w)[N], const float *from, int count, int wide) {
    if (N % 4 == 0 && wide == 4) {
#pragma unroll
        for (int j = 0; j + 3 < N; j += 4) {
            float4 four = make_float4(0, 0, 0, 0);
            if (j < count) four = *reinterpret_cast<const float4 *>(from + j);
            w[j] = four.x, w[j + 1] = four.y, w[j + 2] = four.z, w[j + 3] = four.w;
        }
    } else if (wide >= 2) {
#pragma unroll
        for (int j = 0; j < N; j += 2) {
            float2 two = make_float2(0, 0);
            if (j < count) two = *reinterpret_cast<const float2 *>(from + j);
            w[j] = two.x, w[j + 1] = two.y;
        }
    } else {
#pragma unroll
        for (int j = 0; j < N; j++) w[j] = j < count ? from[j] : 0.0f;
    }
}

/* How rows of `count` floats that follow each other can be read by load_narrow. */
static inline int narrow_width(const float *data, int64_t count) {
    const int64_t both = (int64_t)((uintptr_t)data / sizeof(float)) | count;
    return both % 4 == 0 ? 4 : both % 2 == 0 ? 2 : 1;
}

/*
 * Sums of v[j] over the cluster's threads, N at most 32: lane j of each warp gets that of v[j], added in the
 * same order by every block. All threads come here, once, and have come to cluster_arrive() before.
 */
template <int N> __device__ __forceinline__ float cluster_sums(float (&v)[N]) {
    __shared__ float part[ROW_THREADS / 32 * N], inbox[MOST_CLUSTER * N];
    const int lane = (int)threadIdx.x % 32, warps = (int)blockDim.x / 32, size = cluster_size();
    const int at = fold<N>::run(v);
    if (fold<N>::first_holder()) {
#pragma unroll
        for (int i = 0; i < fold<N>::count; i++) part[(int)threadIdx.x / 32 * N + at + i] = v[i];
    }
    __syncthreads();
    cluster_wait(); /* the others run, and have an inbox */
    for (int i = (int)threadIdx.x; i < N * size; i += (int)blockDim.x) {
        float sum = 0.0f;
#pragma unroll 4
        for (int w = 0; w < warps; w++) sum += part[w * N + i % N];
        *cluster_at(inbox + cluster_rank() * N + i % N, i / N) = sum;
    }
    cluster_barrier();
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < MOST_CLUSTER; i++)
        if (i < size && lane < N) sum += inbox[i * N + lane];
    return sum;
}

/* ------------------------------------------------------------------ tiles: sums over d */

/*
 * A tile of the narrow matrix in shared memory: columns [first, first + 32 P) of d, N values each. Lane l owns
 * columns l P + e, e < P; four values of it lie together, and lanes beside each other: float4 [N / 4][P][32].
 * `weight` gives value j of a column; `across`: its j are neighbours in memory, else its columns are.
 */
template <int N, int P, typename W>
__device__ __forceinline__ void load_tile(float *tile, const W &weight, int64_t first, int64_t d) {
    constexpr int columns = 32 * P;
    for (int i = (int)threadIdx.x; i < N * columns; i += (int)blockDim.x) {
        const int j = W::across ? i % N : i / columns, c = W::across ? i / N : i % columns;
        tile[((j / 4 * P + c % P) * 32 + c / P) * 4 + j % 4] = first + c < d ? weight(j, first + c) : 0.0f;
    }
}

template <int P> __device__ __forceinline__ float4 tile_at(const float *tile, int quad, int e) {
    return reinterpret_cast<const float4 *>(tile)[(quad * P + e) * 32 + (int)threadIdx.x % 32];
}

/*
 * sum[r N + j] = this lane's part of the sum over d of x[r, c] weight(j, c), for the warp's R rows.
 * source.load(x, r, c): P values of row r from column c on, zeros where there are none.
 */
template <int N, int P, int R, typename S, typename W>
__device__ __forceinline__ void project(float (&sum)[R * N], float *tile, const S &source, const W &weight,
                                        int64_t d) {
#pragma unroll
    for (int i = 0; i < R * N; i++) sum[i] = 0.0f;
    for (int64_t first = 0; first < d; first += 32 * P) {
        float x[R][P];
#pragma unroll
        for (int r = 0; r < R; r++) source.load(x[r], r, first + threadIdx.x % 32 * P);
        __syncthreads();
        load_tile<N, P>(tile, weight, first, d);
        __syncthreads();
#pragma unroll
        for (int e = 0; e < P; e++)
#pragma unroll
            for (int q = 0; q < N / 4; q++) {
                const float4 w = tile_at<P>(tile, q, e);
#pragma unroll
                for (int r = 0; r < R; r++) {
                    float *at = sum + r * N + 4 * q;
                    at[0] += x[r][e] * w.x;
                    at[1] += x[r][e] * w.y;
                    at[2] += x[r][e] * w.z;
                    at[3] += x[r][e] * w.w;
                }
            }
    }
}

/* ------------------------------------------------------------------ columns: sums over T */

/* How the columns kernels divide [rows, d]: `ranges` of `each` rows. */
struct column_split {
    int64_t tiles, ranges, each;
};

/* `blocks` of them run on a multiprocessor at a time. */
static inline column_split split_columns(const spi_cuda *cuda, int64_t rows, int64_t d, int blocks) {
    column_split split;
    split.tiles = blocks_for(d, 2 * SHADOW_COLUMNS);
    const int64_t wanted = blocks_for(blocks * (int64_t)cuda->processors, split.tiles);
    const int64_t most = blocks_for(rows, SHADOW_ROWS);
    split.each = blocks_for(rows, wanted < most ? wanted : most);
    split.ranges = blocks_for(rows, split.each);
    return split;
}

/* Partial gradients [ranges][lines][ld]; lines [first, first + count) belong to one parameter, whose element
 * for line first + j and column c is to[j * of_line + c * of_column]. NULL: not wanted. */
struct parameter {
    float *to;
    int first, count;
    int64_t of_line, of_column;
};
#define MOST_PARAMETERS 8
struct parameters {
    parameter list[MOST_PARAMETERS];
    int count;
};

/* to += the sum over the ranges, in order: eight threads a sum, 32 columns a block, blockIdx.y the line. */
static __global__ void __launch_bounds__(256)
    sum_parts(parameters to, const float *part, int64_t ranges, int64_t lines, int64_t ld, int64_t columns) {
    __shared__ float sums[8][32];
    const int line = (int)blockIdx.y, lane = (int)threadIdx.x % 32, share = (int)threadIdx.x / 32;
    const int64_t c = (int64_t)blockIdx.x * 32 + lane;
    float *out = NULL;
#pragma unroll
    for (int i = 0; i < MOST_PARAMETERS; i++) {
        const parameter &p = to.list[i];
        if (i < to.count && p.to && line >= p.first && line < p.first + p.count)
            out = p.to + (line - p.first) * p.of_line + c * p.of_column;
    }
    if (!out) return; /* the whole block: it has one line, and NULL + an offset is never made */
    float sum = 0.0f;
    if (c < columns) {
#pragma unroll 4
        for (int64_t i = share; i < ranges; i += 8) sum += part[(i * lines + line) * ld + c];
    }
    sums[share][lane] = sum;
    __syncthreads();
    if (share != 0 || c >= columns) return;
    for (int i = 1; i < 8; i++) sum += sums[i][lane];
    *out += sum;
}

/* ------------------------------------------------------------------ choices */

static inline bool at_16_bytes(const void *data) {
    return (uintptr_t)data % 16 == 0;
}

/* Blocks that share a row where rows are few: each takes some 512 columns. */
static inline int row_cluster(const spi_cuda *cuda, int64_t d) {
    int cluster = 1;
    while (cluster < most_cluster(cuda) && cluster * ROW_THREADS < d) cluster *= 2;
    return cluster;
}

/* Brings n floats towards the multiprocessors: this block's share of the cluster's. */
__device__ __forceinline__ void prefetch_share(const float *data, int64_t n) {
    const int64_t step = (int64_t)cluster_size() * blockDim.x * 32;
    for (int64_t i = ((int64_t)cluster_rank() * blockDim.x + threadIdx.x) * 32; i < n; i += step)
        prefetch(data + i);
}
