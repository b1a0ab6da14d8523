/*
 * What attention's kernels for Hopper share: tiles of query rows, one after the other in blocks that stay on
 * their multiprocessor, and how these rows, keys and values come to shared memory.
 *
 * A tile has 64 query rows for each of two warp groups that compute: rows of two heads that share a key head,
 * or, where such heads are odd in number, 128 rows of one head. A third group's first thread brings what they
 * read, BLOCK keys and values at a time from the last that is visible to the first, as far ahead as shared
 * memory allows: already of the next tile while the groups write the results of this one.
 *
 * What is read behind a sequence's end is the next one's rows, or zeros at the end of all. They weigh 0, so
 * finite values of theirs change nothing.
 */
#pragma once

#include "tensor/cuda/attention_tensor.cuh"
#include "tensor/cuda/ptx_hopper.cuh"
#include "tensor/cuda/tensor_map.h"

#define BLOCK 128 /* keys */
#define ROWS 64   /* query rows of a warp group */
#define STAGES 2  /* blocks of keys, and of values, in shared memory */
#define GROUP 128 /* threads of a warp group */
#define THREADS (3 * GROUP)
#define READERS 8 /* warps that tell when they have read a stage */
#define PIECE (SPI_BOX_ROWS * SPI_BOX_COLUMNS * 2)

/* ------------------------------------------------------------------ tiles */

struct hopper_tile {
    attention_seq seq;
    int heads, head0, kv_head, row0; /* heads: one or two; the first query row */
    int begin, end;                  /* keys that any row sees; begin: of a block */

    __device__ __forceinline__ int head(int group) const {
        return head0 + (heads == 2 ? group : 0);
    }
    __device__ __forceinline__ int row(int group) const {
        return row0 + (heads == 2 ? 0 : group * ROWS);
    }
    /* The block that is taken first. */
    __device__ __forceinline__ int last() const {
        return (end - 1) / BLOCK * BLOCK;
    }
    /* Halves of a block of keys that are visible. */
    __device__ __forceinline__ int halves(int k0) const {
        return end - k0 > BLOCK / 2 ? 2 : 1;
    }
};

/*
 * The tiles of a block, one after the other: those with the most keys first, and in every other round the
 * blocks in reverse order, so that all have nearly as much to do. Every warp counts for itself.
 */
struct hopper_tiles {
    const attention_view &a;
    int heads, sets, levels, round;

    __host__ __device__ __forceinline__ hopper_tiles(const attention_view &view) : a(view), round(0) {
        heads = view.group % 2 == 0 ? 2 : 1;
        sets = view.count * (view.heads / heads);
        levels = (view.longest + rows() - 1) / rows();
    }
    __host__ __device__ __forceinline__ int rows() const {
        return 2 * ROWS / heads;
    }
    /* Whether there is another. */
    __device__ __forceinline__ bool next(hopper_tile &tile) {
        const int blocks = (int)gridDim.x, all = sets * levels;
        while (round * blocks < all) {
            const int mine = round % 2 ? blocks - 1 - (int)blockIdx.x : (int)blockIdx.x;
            const int at = round++ * blocks + mine;
            if (at < all && place(tile, at % sets, levels - 1 - at / sets)) return true;
        }
        return false;
    }
    __device__ __forceinline__ bool place(hopper_tile &tile, int set, int level) const {
        const int each = a.heads / heads;
        tile.seq = sequence_of(a, set / each);
        tile.heads = heads;
        tile.head0 = set % each * heads;
        tile.kv_head = tile.head0 / a.group;
        tile.row0 = level * rows();
        const key_span span(a, tile.row0, rows(), tile.seq.rows);
        tile.begin = span.begin / BLOCK * BLOCK;
        tile.end = span.end;
        return tile.row0 < tile.seq.rows;
    }
};

/* ------------------------------------------------------------------ shared memory */

/* Which stage a block of keys is in, and how often the stage was used, modulo two. */
struct hopper_stage {
    int at;
    uint32_t parity;
    __device__ __forceinline__ void advance() {
        if (++at == STAGES) at = 0, parity ^= 1;
    }
};

/*
 * Tiles are pieces of 64 columns, one after the other; barriers: what is there, and what may be overwritten.
 * SIDES: matrices of query rows, q, and d_o in the backward pass.
 */
template <int D, int SIDES> struct hopper_memory {
    static constexpr uint32_t queries = ROWS * D * 2, keys = BLOCK * D * 2,
                              barrier_bytes = 8 * (2 + 4 * STAGES);
    static constexpr uint32_t results_at = 2 * SIDES * queries + 2 * STAGES * keys;
    static constexpr size_t bytes = results_at + 2 * ROWS * PITCH<D> * 2 + barrier_bytes;
    uint32_t base;

    __device__ __forceinline__ uint32_t q(int group, int side = 0) const {
        return base + (uint32_t)(side * 2 + group) * queries;
    }
    __device__ __forceinline__ uint32_t k(int stage) const {
        return base + 2 * SIDES * queries + (uint32_t)stage * keys;
    }
    __device__ __forceinline__ uint32_t v(int stage) const {
        return k(STAGES + stage);
    }
    /* The 16 bytes from `column` on of a row of q's tile, swapped as copies leave them. */
    static __device__ __forceinline__ const bf16 *q_piece(const bf16 *tiles, int group, int side, int row,
                                                          int column) {
        const int swapped = (column / 8 ^ row) % 8 * 8;
        return tiles + (side * 2 + group) * (ROWS * D) + column / 64 * (PIECE / 2) + row * 64 + swapped;
    }
    /* Of this warp's 16 rows of results, PITCH<D> apart, in `tiles`, which base is the address of. */
    __device__ __forceinline__ bf16 *results(bf16 *tiles) const {
        return tiles + results_at / 2 + ((int)threadIdx.x - GROUP) / 32 * 16 * PITCH<D>;
    }
    __device__ __forceinline__ uint32_t barrier(int i) const {
        return base + (uint32_t)(bytes - barrier_bytes) + (uint32_t)(8 * i);
    }
    __device__ __forceinline__ uint32_t q_there() const {
        return barrier(0);
    }
    __device__ __forceinline__ uint32_t q_read() const {
        return barrier(1);
    }
    __device__ __forceinline__ uint32_t k_there(int stage) const {
        return barrier(2 + stage);
    }
    __device__ __forceinline__ uint32_t k_read(int stage) const {
        return barrier(2 + STAGES + stage);
    }
    __device__ __forceinline__ uint32_t v_there(int stage) const {
        return barrier(2 + 2 * STAGES + stage);
    }
    __device__ __forceinline__ uint32_t v_read(int stage) const {
        return barrier(2 + 3 * STAGES + stage);
    }
    __device__ __forceinline__ void make_barriers() const {
        barrier_make(q_there(), 1);
        barrier_make(q_read(), READERS);
        for (int i = 0; i < STAGES; i++) {
            barrier_make(k_there(i), 1);
            barrier_make(k_read(i), READERS);
            barrier_make(v_there(i), 1);
            barrier_make(v_read(i), READERS);
        }
        barriers_made();
    }
};

/* ------------------------------------------------------------------ the thread that brings */

template <int SIDES> struct hopper_maps {
    CUtensorMap q[SIDES], k, v;
    __device__ __forceinline__ void prefetch() const {
        for (int i = 0; i < SIDES; i++) prefetch_map(&q[i]);
        prefetch_map(&k);
        prefetch_map(&v);
    }
};

/* `halves` times 64 rows of a head, from `row` on. */
template <int D>
__device__ __forceinline__ void bring(uint32_t to, const CUtensorMap *map, uint32_t there, int row, int head,
                                      int halves) {
    for (int c = 0; c < D / 64; c++)
        for (int h = 0; h < halves; h++)
            copy_box(to + (uint32_t)(c * (BLOCK / 64) + h) * PIECE, map, there, row + h * 64,
                     head * D + c * 64);
}

template <int D, int SIDES>
__device__ __forceinline__ void bring_queries(const hopper_maps<SIDES> &maps,
                                              const hopper_memory<D, SIDES> &memory, const hopper_tile &tile) {
    barrier_expect(memory.q_there(), 2 * SIDES * hopper_memory<D, SIDES>::queries);
    for (int side = 0; side < SIDES; side++)
        for (int g = 0; g < 2; g++)
            for (int c = 0; c < D / 64; c++)
                copy_box(memory.q(g, side) + (uint32_t)c * PIECE, &maps.q[side], memory.q_there(),
                         tile.seq.first + tile.row(g), tile.head(g) * D + c * 64);
}

template <int D, int SIDES>
__device__ __forceinline__ void bring_all(const attention_view &a, const hopper_maps<SIDES> &maps,
                                          const hopper_memory<D, SIDES> &memory) {
    hopper_stage stage = {0, 0};
    uint32_t parity = 0;
    hopper_tiles tiles(a);
    for (hopper_tile tile; tiles.next(tile); parity ^= 1) {
        barrier_wait(memory.q_read(), parity ^ 1);
        bring_queries<D, SIDES>(maps, memory, tile);
        for (int k0 = tile.last(); k0 >= tile.begin; k0 -= BLOCK, stage.advance()) {
            const int halves = tile.halves(k0), bytes = halves * PIECE * (D / 64), row = tile.seq.first + k0;
            barrier_wait(memory.k_read(stage.at), stage.parity ^ 1);
            barrier_expect(memory.k_there(stage.at), bytes);
            bring<D>(memory.k(stage.at), &maps.k, memory.k_there(stage.at), row, tile.kv_head, halves);
            barrier_wait(memory.v_read(stage.at), stage.parity ^ 1);
            barrier_expect(memory.v_there(stage.at), bytes);
            bring<D>(memory.v(stage.at), &maps.v, memory.v_there(stage.at), row, tile.kv_head, halves);
        }
    }
}

/* ------------------------------------------------------------------ the groups that compute */

/* s [64, 64 HALVES] = q k^T, a group of products. */
template <int D, int HALVES>
__device__ __forceinline__ void begin_scores(float (&s)[8 * HALVES][4], uint32_t q, uint32_t k) {
    const uint64_t a = matrix_at(q, 0, 1024), b = matrix_at(k, 0, 1024);
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        /* In units of 16 bytes: pieces of 64 columns, and 16 of them. */
        const uint64_t of_q = (uint64_t)(i / 4 * (PIECE >> 4) + i % 4 * 2);
        const uint64_t of_k = (uint64_t)(i / 4 * (BLOCK * 128 >> 4) + i % 4 * 2);
        if constexpr (HALVES == 1) multiply_64(s, a + of_q, b + of_k, i > 0);
        else multiply_128(s, a + of_q, b + of_k, i > 0);
    }
    products_end();
}

/* acc [64, D] += p v over the first 64 HALVES of v's rows (in the backward pass: keys), a group of products. */
template <int D, int HALVES>
__device__ __forceinline__ void begin_mix(float (&acc)[D / 8][4], const uint32_t (&p)[BLOCK / 16][4],
                                          uint32_t v) {
    const uint64_t b = matrix_at(v, BLOCK * 128, 1024);
#pragma unroll
    for (int i = 0; i < 4 * HALVES; i++) {
        const uint64_t at = b + (uint64_t)(i * (16 * 128 >> 4));
        if constexpr (D == 64) multiply_by_64(acc, p[i], at, true);
        else multiply_by_128(acc, p[i], at, true);
    }
    products_end();
}

/* This warp has read what the barrier guards. */
__device__ __forceinline__ void have_read(uint32_t barrier) {
    if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
}

/* ------------------------------------------------------------------ launches */

static inline bool hopper_suits(const spi_cuda *cuda, const attention_view &a) {
    return cuda->capability == 90 && (a.head_dim == 64 || a.head_dim == 128);
}
static inline dim3 hopper_grid(const spi_cuda *cuda, const attention_view &a) {
    const hopper_tiles tiles(a);
    return dim3((unsigned)min(tiles.sets * tiles.levels, cuda->processors));
}
