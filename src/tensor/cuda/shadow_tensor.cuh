/*
 * Injection and update of bf16 hidden states in the matrix units, as tf32 products: a bf16 is a tf32, and
 * rounding the rest to 2^-12 is far below the rounding of what is stored. Narrow matrices W [columns of d][16
 * values], or two of them, stand in scratch as the lanes want them (`pack_chunk`), rounded, with zeros
 * around. Of lane 4 g + t; a chunk is 32 columns from c = 32 q on:
 *   - rows: a warp has 16 rows, a lane rows g and g + 8, columns c + 8 t + [0, 8): what sums over d. Step s
 *     of a product takes columns s and 4 + s of each lane's eight as its k = t and t + 4, and one that widens
 *     gives them.
 *   - columns: a warp has 8 rows, a lane rows 2 t and 2 t + 1, columns c + 4 g + [0, 4): what sums over T, rows
 *     2 t and 2 t + 1 being k = t and t + 4; a product that widens has the columns as its m and the rows as its
 *     n.
 * So nothing that is wide is exchanged between lanes, but for what the columns kernels copy ahead of themselves
 * (`column_step`), and each is read 16 or 8 bytes at a time.
 */
#pragma once

#include "tensor/cuda/shadow.cuh"

#define CHUNK 32      /* columns */
#define BLOCK_ROWS 32 /* of the rows kernels: two halves of 16, each of SLICES warps beside each other */
#define SLICES 8
#define ROWS_THREADS (2 * SLICES * 32)
#define COLUMNS_THREADS 256 /* two chunks of columns, each by SHARES warps that take turns at the rows */
#define SHARES 4
#define PACKED (CHUNK * 16) /* floats of a chunk of one narrow matrix */

/* ------------------------------------------------------------------ narrow matrices */

/* Value j < count of column c is data[j * of_j + c * of_c], times scale[c] if there is one. */
struct narrow {
    const float *data;
    int64_t count, of_j, of_c;
    const float *scale;
};
struct packing {
    narrow from;
    float *to;
    int stride;   /* floats from chunk to chunk */
    bool narrows; /* for sums over d; else for products that widen */
};
#define MOST_PACKINGS 6
struct packings {
    packing list[MOST_PACKINGS];
    int count;
    int64_t d;
};

#define PACK_THREADS 128

static inline int64_t chunks_of(int64_t d) {
    return blocks_for(d, CHUNK);
}
/* Blocks of PACK_THREADS that pack all of them, each a chunk of one matrix. */
static inline int64_t pieces_of(const packings &all) {
    return all.count * chunks_of(all.d);
}

/* A thread makes float4 (s, lane) of the chunk. */
__device__ __forceinline__ void pack_chunk(const packings &all, int piece) {
    const int which = piece % all.count;
    const int64_t chunk = piece / all.count;
    packing p = all.list[0];
#pragma unroll
    for (int i = 1; i < MOST_PACKINGS; i++)
        if (which == i) p = all.list[i];
    const int s = (int)threadIdx.x / 32, g = (int)threadIdx.x % 32 / 4, t = (int)threadIdx.x % 4;
    float v[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int j = p.narrows ? i / 2 * 8 + g : 4 * t + i;
        const int64_t c = chunk * CHUNK + (p.narrows ? 8 * t + i % 2 * 4 + s : 4 * g + s);
        const bool real = j < p.from.count && c < all.d;
        float x = real ? p.from.data[j * p.from.of_j + c * p.from.of_c] : 0.0f;
        if (real && p.from.scale) x *= p.from.scale[c];
        v[i] = tf32(x);
    }
    reinterpret_cast<float4 *>(p.to + chunk * p.stride)[threadIdx.x] = make_float4(v[0], v[1], v[2], v[3]);
}

/* Step s of a chunk. */
__device__ __forceinline__ float4 packed_at(const float *chunk, int s) {
    return reinterpret_cast<const float4 *>(chunk)[s * 32 + (int)threadIdx.x % 32];
}

/* ------------------------------------------------------------------ rows */

struct row_place {
    int g, t, half, slice;
    int64_t first; /* row of g; the other is 8 below */
    __device__ __forceinline__ row_place()
        : g((int)threadIdx.x % 32 / 4), t((int)threadIdx.x % 4), half((int)threadIdx.x / 32 % 2),
          slice((int)threadIdx.x / 64), first((int64_t)blockIdx.x * BLOCK_ROWS + half * 16 + g) {
    }
};

/* Columns [c, c + 8) of both rows, zeros where there are none. */
__device__ __forceinline__ void load_two(raw<bf16> (&x)[2], rows_of<const bf16> m, const row_place &at,
                                         int64_t c, int64_t rows, int64_t d) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        x[i].bits = make_uint4(0, 0, 0, 0);
        if (at.first + 8 * i < rows && c < d) x[i].load(m.row(at.first + 8 * i) + c);
    }
}
__device__ __forceinline__ void store_two(rows_of<bf16> m, const float (&x)[2][8], const row_place &at,
                                          int64_t c, int64_t rows, int64_t d) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (at.first + 8 * i >= rows || c >= d) continue;
        pack<bf16> out;
#pragma unroll
        for (int e = 0; e < 8; e++) out.v[e] = x[i][e];
        out.store(m.row(at.first + 8 * i) + c);
    }
}

/* sum += x W over step s's columns: 16 values. x0, x1: the two rows' columns s and 4 + s. */
__device__ __forceinline__ void narrow_step(float (&sum)[2][4], float x0, float x1, float y0, float y1,
                                            float4 w) {
    mma_tf32(sum[0], x0, x1, y0, y1, w.x, w.y);
    mma_tf32(sum[1], x0, x1, y0, y1, w.z, w.w);
}

/* c = a W: c[0], c[1] columns s and 4 + s of row g, c[2], c[3] of the other. a0, a1: values 4 t + [0, 4) of
 * them. */
__device__ __forceinline__ void widen_step(float (&c)[4], float4 a0, float4 a1, float4 w) {
    mma_tf32(c, a0.x, a1.x, a0.y, a1.y, w.x, w.y);
    mma_tf32(c, a0.z, a1.z, a0.w, a1.w, w.z, w.w);
}

/* part [SLICES][BLOCK_ROWS][pitch]: this warp's sums, from value `from` on. */
__device__ __forceinline__ void leave_sums(float *part, int pitch, int from, const float (&sum)[2][4],
                                           const row_place &at) {
    float *to = part + (at.slice * BLOCK_ROWS + at.half * 16 + at.g) * pitch + from + 2 * at.t;
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int i = 0; i < 2; i++)
            *reinterpret_cast<float2 *>(to + i * 8 * pitch + n * 8) =
                make_float2(sum[n][2 * i], sum[n][2 * i + 1]);
}
template <int S = SLICES>
__device__ __forceinline__ float sum_slices(const float *part, int pitch, int row, int j) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < S; i++) sum += part[(i * BLOCK_ROWS + row) * pitch + j];
    return sum;
}

/* ------------------------------------------------------------------ columns */

struct column_place {
    int g, t, share;
    int64_t chunk, c;
    __device__ __forceinline__ column_place()
        : g((int)threadIdx.x % 32 / 4), t((int)threadIdx.x % 4), share((int)threadIdx.x / 64),
          chunk((int64_t)blockIdx.x * 2 + threadIdx.x / 32 % 2), c(chunk * CHUNK + 4 * g) {
    }
};

/* Rows of a range: a multiple of what the shares of a block take at once. */
static inline column_split split_chunks(const spi_cuda *cuda, int64_t rows, int64_t d) {
    column_split split;
    split.tiles = blocks_for(d, 2 * CHUNK);
    const int64_t wanted = 2 * (int64_t)cuda->processors / split.tiles, steps = blocks_for(rows, 8 * SHARES);
    split.each = blocks_for(steps, wanted < 1 ? 1 : wanted < steps ? wanted : steps) * 8 * SHARES;
    split.ranges = blocks_for(rows, split.each);
    return split;
}

/*
 * What a warp reads in a step of 8 rows: N wide matrices, and the rows' 32 narrow values. The warp copies it to
 * shared memory of its own while it works on the steps before, so that what is under way takes no registers: a
 * ring of `depth` steps, as many as a block of COLUMNS_THREADS has memory for without asking. A tile is 8 rows
 * of four pieces of 16 bytes, which `place` mixes so that nothing that reads them, eight lanes g, g + 1 of a
 * piece each or sixteen lanes t of half a piece, meets a bank twice.
 */
template <int N> struct column_step {
    static constexpr int depth = 48 * 1024 / (COLUMNS_THREADS / 32 * (N + 2) * 512);
    uint4 tile[N + 2][32]; /* the last two: narrow values 0 to 15, and from 16 on */

    static __device__ __forceinline__ int place(int row, int piece) {
        const int slot = (row / 2 ^ row % 2) + row % 2 * 4;
        return slot * 4 + (piece ^ (slot & 2));
    }
    /* Rows from `first` on of matrix `which`, zeros where there are none. */
    __device__ __forceinline__ void fetch(int which, rows_of<const bf16> m, int64_t first,
                                          const column_place &at, int64_t rows, int64_t d) {
        const int64_t c = at.chunk * CHUNK + at.t * 8;
        const bool real = first + at.g < rows && c < d;
        copy16(shared_address(&tile[which][place(at.g, at.t)]), real ? m.row(first + at.g) + c : m.data, real);
    }
    /* values [rows up to a whole step][32] */
    __device__ __forceinline__ void fetch_narrow(const float *values, int64_t first, const column_place &at) {
#pragma unroll
        for (int half = 0; half < 2; half++)
            copy16(shared_address(&tile[N + half][place(at.g, at.t)]),
                   values + (first + at.g) * 32 + half * 16 + at.t * 4, true);
    }
    /* Narrow values 16 `half` + 4 t + [0, 4) of row g; and 16 `half` + 2 g, 2 g + 1 of row 2 t + i. */
    __device__ __forceinline__ float4 across(int half, const column_place &at) const {
        return reinterpret_cast<const float4 *>(tile[N + half])[place(at.g, at.t)];
    }
    __device__ __forceinline__ float2 down(int half, int i, const column_place &at) const {
        return reinterpret_cast<const float2 *>(tile[N + half] + place(2 * at.t + i, at.g / 2))[at.g % 2];
    }
};

/* The next step of a ring is there, and the one before it has been read by all of the warp. */
template <typename STEP> __device__ __forceinline__ void next_step() {
    copies_wait_but<STEP::depth - 2>();
    __syncwarp();
}

/* A lane's four columns of rows 2 t and 2 t + 1 of a step, as they are. */
struct column_bits {
    uint2 bits[2];
    template <int N>
    __device__ __forceinline__ column_bits(const column_step<N> &from, int which, const column_place &at) {
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const uint4 *piece = from.tile[which] + column_step<N>::place(2 * at.t + i, at.g / 2);
            bits[i] = reinterpret_cast<const uint2 *>(piece)[at.g % 2];
        }
    }
    __device__ __forceinline__ float at(int i, int e) const {
        return to_float(reinterpret_cast<const bf16 *>(&bits[i])[e]);
    }
};
__device__ __forceinline__ void store_columns(rows_of<bf16> m, const float (&x)[2][4], int64_t first,
                                              const column_place &at, int64_t rows, int64_t d) {
#pragma unroll
    for (int i = 0; i < 2; i++)
        if (first + 2 * at.t + i < rows && at.c < d) store_run(m.row(first + 2 * at.t + i) + at.c, x[i]);
}

/* x[i][e] = row i, column e of small W; small: values 4 t + [0, 4) of row g. */
__device__ __forceinline__ void widen_columns(float (&x)[2][4], const float4 (&w)[4], float4 small) {
#pragma unroll
    for (int m = 0; m < 2; m++) {
        const float4 a = w[2 * m], b = w[2 * m + 1];
        float c[4] = {};
        mma_tf32(c, a.x, b.x, a.y, b.y, small.x, small.y);
        mma_tf32(c, a.z, b.z, a.w, b.w, small.z, small.w);
        x[0][2 * m] = c[0];
        x[1][2 * m] = c[1];
        x[0][2 * m + 1] = c[2];
        x[1][2 * m + 1] = c[3];
    }
}

/*
 * sum += small^T x over the 8 rows; low, high: values 2 g, 2 g + 1 of rows 2 t and 2 t + 1. Of sum[4 e + i]:
 * values 2 g, 2 g, 2 g + 1, 2 g + 1; columns 8 t + e, 8 t + 4 + e in turn.
 */
__device__ __forceinline__ void sum_columns(float *sum, const float (&x)[2][4], float2 low, float2 high) {
#pragma unroll
    for (int e = 0; e < 4; e++) {
        float c[4] = {sum[4 * e], sum[4 * e + 1], sum[4 * e + 2], sum[4 * e + 3]};
        mma_tf32(c, low.x, low.y, high.x, high.y, tf32(x[0][e]), tf32(x[1][e]));
#pragma unroll
        for (int i = 0; i < 4; i++) sum[4 * e + i] = c[i];
    }
}

/* v of share 0 += those of the other shares, in order. room: R * 64 floats that nobody reads any more. */
template <int R> __device__ __forceinline__ void add_shares(float *room, float (&v)[R], int share) {
    float(*part)[64] = reinterpret_cast<float(*)[64]>(room);
    for (int other = 1; other < SHARES; other++) {
        __syncthreads();
        if (share == other) {
#pragma unroll
            for (int i = 0; i < R; i++) part[i][threadIdx.x % 64] = v[i];
        }
        __syncthreads();
        if (share == 0) {
#pragma unroll
            for (int i = 0; i < R; i++) v[i] += part[i][threadIdx.x % 64];
        }
    }
}

/* The 16 lines of a sum, from `to` on. */
__device__ __forceinline__ void store_sum(float *to, const float *sum, const column_place &at, int64_t d) {
    const int64_t c = at.chunk * CHUNK + 8 * at.t;
    if (c >= d) return;
#pragma unroll
    for (int i = 0; i < 4; i++)
        *reinterpret_cast<float4 *>(to + (2 * at.g + i / 2) * d + c + i % 2 * 4) =
            make_float4(sum[i], sum[4 + i], sum[8 + i], sum[12 + i]);
}
/* One line: the sum over the lanes t of what each has of its four columns. */
__device__ __forceinline__ void store_line(float *to, const float *v, const column_place &at, int64_t d) {
    float x[4];
#pragma unroll
    for (int e = 0; e < 4; e++) {
        x[e] = v[e] + __shfl_xor_sync(0xffffffffu, v[e], 1);
        x[e] += __shfl_xor_sync(0xffffffffu, x[e], 2);
    }
    if (at.t == 0 && at.c < d) *reinterpret_cast<float4 *>(to + at.c) = make_float4(x[0], x[1], x[2], x[3]);
}
