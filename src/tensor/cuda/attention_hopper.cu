/*
 * Attention's forward pass by Hopper's products of warp groups: bf16, head_dim 64 and 128, packed sequences.
 *
 * A block stays on its multiprocessor and takes tile after tile. A tile has 64 query rows for each of two warp
 * groups: rows of two heads that share a key head, or, where such heads are odd in number, 128 rows of one
 * head. A third group's first thread brings what they read, BLOCK keys and values at a time from the last that
 * is visible to the first, as far ahead as shared memory allows: already of the next tile while the groups
 * write the results of this one. In a group the scores of the next keys are made while the weights of those
 * before are multiplied with their values, and the two groups take turns in handing in products, so that one's
 * exponentials fall in the time of the other's products. Scores, running maxima and sums, and the mix of values
 * stay in registers. Limit: the products, 4 head_dim operations for each pair of query and visible key.
 *
 * What is read behind a sequence's end is the next one's rows, or zeros at the end of all. They weigh 0, so
 * finite values of theirs change nothing.
 */
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

/* Tiles are pieces of 64 columns, one after the other; barriers: what is there, and what may be overwritten. */
template <int D> struct hopper_memory {
    static constexpr uint32_t queries = ROWS * D * 2, keys = BLOCK * D * 2,
                              barrier_bytes = 8 * (2 + 4 * STAGES);
    static constexpr uint32_t results = 2 * ROWS * PITCH<D> * 2;
    static constexpr size_t bytes = 2 * queries + 2 * STAGES * keys + results + barrier_bytes;
    uint32_t base;

    __device__ __forceinline__ uint32_t q(int group) const {
        return base + (uint32_t)group * queries;
    }
    __device__ __forceinline__ uint32_t k(int stage) const {
        return base + 2 * queries + (uint32_t)stage * keys;
    }
    __device__ __forceinline__ uint32_t v(int stage) const {
        return k(STAGES + stage);
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

struct hopper_maps {
    CUtensorMap q, k, v;
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

template <int D>
__device__ __forceinline__ void bring_all(const attention_view &a, const hopper_maps &maps,
                                          const hopper_memory<D> &memory) {
    hopper_stage stage = {0, 0};
    uint32_t parity = 0;
    hopper_tiles tiles(a);
    for (hopper_tile tile; tiles.next(tile); parity ^= 1) {
        barrier_wait(memory.q_read(), parity ^ 1);
        barrier_expect(memory.q_there(), 2 * hopper_memory<D>::queries);
        for (int g = 0; g < 2; g++)
            for (int c = 0; c < D / 64; c++)
                copy_box(memory.q(g) + (uint32_t)c * PIECE, &maps.q, memory.q_there(),
                         tile.seq.first + tile.row(g), tile.head(g) * D + c * 64);
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

/* acc [64, D] += p v over the first 64 HALVES values, a group of products. */
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

/* A group's way through the keys of a tile, of which a warp has 16 rows. */
template <int D> struct hopper_walk {
    static constexpr int N = BLOCK / 8;
    const hopper_memory<D> &memory;
    int group, window;
    float unit, into_cap; /* exponents of scores; these are capped before, where it is not 0 */
    int first;            /* position of the warp's first row */
    hopper_stage stage;   /* of the keys whose weights are p */
    float acc[1][D / 8][4];
    uint32_t p[1][BLOCK / 16][4];
    running<1> run;

    __device__ __forceinline__ hopper_walk(const attention_view &a, const hopper_memory<D> &all, int mine)
        : memory(all), group(mine), window(a.window), stage{0, 0} {
        unit = (a.softcap > 0 ? a.softcap : a.scale) * LOG2_E;
        into_cap = a.softcap > 0 ? a.scale / a.softcap : 0.0f;
    }

    /* Raw scores of the keys from k0 on to weights; `shrink` as soften tells. */
    template <int HALVES>
    __device__ __forceinline__ void weigh(float (&s)[1][8 * HALVES][4], float (&shrink)[1][2], int k0) {
        if (into_cap > 0) cap_scores<1, 8 * HALVES>(s, into_cap);
        if (k0 + 64 * HALVES - 1 > first || (window > 0 && k0 <= first + 15 - window))
            mask_scores<1, 8 * HALVES>(s, first, k0, window, -INFINITY);
        soften<1, 8 * HALVES>(s, shrink, run, unit);
    }
    template <int HALVES> __device__ __forceinline__ void keep_weights(const float (&s)[1][8 * HALVES][4]) {
        uint32_t some[1][4 * HALVES][4];
        as_weights<1, 4 * HALVES>(some, s);
#pragma unroll
        for (int i = 0; i < 4 * HALVES; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) p[0][i][j] = some[0][i][j];
    }

    /* The weights of the tile's last keys. */
    template <int HALVES> __device__ __forceinline__ void begin(int k0) {
        float s[1][8 * HALVES][4], shrink[1][2];
        barrier_wait(memory.k_there(stage.at), stage.parity);
        products_begin();
        begin_scores<D, HALVES>(s[0], memory.q(group), memory.k(stage.at));
        products_wait<0>();
        settle(s[0]);
        have_read(memory.k_read(stage.at));
        weigh<HALVES>(s, shrink, k0);
        keep_weights<HALVES>(s);
    }
    /* Mixes the values whose weights there are (HALVES of them), while the weights of the keys before come. */
    template <int HALVES> __device__ __forceinline__ void step(int k0) {
        float s[1][N][4], shrink[1][2];
        hopper_stage next = stage;
        next.advance();
        barrier_wait(memory.k_there(next.at), next.parity);
        barrier_wait(memory.v_there(stage.at), stage.parity);
        turn_wait(1 + group, 2 * GROUP);
        products_begin();
        begin_scores<D, 2>(s[0], memory.q(group), memory.k(next.at));
        begin_mix<D, HALVES>(acc[0], p[0], memory.v(stage.at));
        turn_pass(2 - group, 2 * GROUP);
        products_wait<1>();
        settle(s[0]);
        have_read(memory.k_read(next.at));
        weigh<2>(s, shrink, k0);
        products_wait<0>();
        settle(acc[0]);
        have_read(memory.v_read(stage.at));
        scale_rows<1, D / 8>(acc, shrink);
        keep_weights<2>(s);
        stage = next;
    }
    template <int HALVES> __device__ __forceinline__ void end() {
        barrier_wait(memory.v_there(stage.at), stage.parity);
        products_begin();
        begin_mix<D, HALVES>(acc[0], p[0], memory.v(stage.at));
        products_wait<0>();
        settle(acc[0]);
        have_read(memory.v_read(stage.at));
        stage.advance();
    }

    __device__ __forceinline__ void go(const hopper_tile &tile) {
        int k0 = tile.last();
        bool half = tile.halves(k0) == 1;
        first = tile.row(group) + (int)threadIdx.x % GROUP / 32 * 16;
        run = running<1>();
#pragma unroll
        for (int n = 0; n < D / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) acc[0][n][i] = 0.0f;
        if (half) begin<1>(k0);
        else begin<2>(k0);
        k0 -= BLOCK;
        if (half && k0 >= tile.begin) {
            step<1>(k0);
            half = false;
            k0 -= BLOCK;
        }
        for (; k0 >= tile.begin; k0 -= BLOCK) step<2>(k0);
        have_read(memory.q_read());
        if (half) end<1>();
        else end<2>();
    }
};

template <int D>
__device__ __forceinline__ void attend_all(const attention_view &a, const hopper_memory<D> &memory,
                                           bf16 *results) {
    const int group = (int)threadIdx.x / GROUP - 1, warp = (int)threadIdx.x % GROUP / 32;
    bf16 *result = results + (group * ROWS + warp * 16) * PITCH<D>;
    hopper_walk<D> walk(a, memory, group);
    hopper_tiles tiles(a);
    uint32_t parity = 0;
    if (group == 1) turn_pass(1, 2 * GROUP); /* the first group begins */
    for (hopper_tile tile; tiles.next(tile); parity ^= 1) {
        barrier_wait(memory.q_there(), parity);
        walk.go(tile);
        const int count = tile.seq.rows - walk.first, head = tile.head(group);
        const int64_t out = tile.seq.first + walk.first;
        float scale[1][2];
        finish<1>(walk.run, scale, a.lse ? a.lse + head * a.tokens + out : nullptr, count, walk.unit);
        store_rows<D, 1, D / 8>((bf16 *)a.o + out * a.o_ld + (int64_t)head * D, a.o_ld, count, D, result,
                                walk.acc, scale);
    }
}

template <int D>
__global__ void __launch_bounds__(THREADS, 1)
    hopper_forward(attention_view a, const __grid_constant__ hopper_maps maps) {
    extern __shared__ __align__(1024) bf16 tiles[];
    const hopper_memory<D> memory = {shared_address(tiles)};
    if (threadIdx.x == 0) {
        prefetch_map(&maps.q);
        prefetch_map(&maps.k);
        prefetch_map(&maps.v);
        memory.make_barriers();
    }
    __syncthreads();
    if (threadIdx.x < GROUP) {
        registers_fewer<24>();
        if (threadIdx.x == 0) bring_all<D>(a, maps, memory);
    } else {
        registers_more<240>();
        attend_all<D>(a, memory,
                      tiles + (2 * hopper_memory<D>::queries + 2 * STAGES * hopper_memory<D>::keys) / 2);
    }
}

/* ------------------------------------------------------------------ launches */

template <int D> static bool forward(spi_cuda *cuda, const attention_view &a, const hopper_maps &maps) {
    constexpr size_t bytes = hopper_memory<D>::bytes;
    const hopper_tiles tiles(a);
    const int blocks = min(tiles.sets * tiles.levels, cuda->processors);
    if (!allow_shared(cuda, hopper_forward<D>, bytes)) return false;
    launch(cuda, "attention", hopper_forward<D>, shape(dim3((unsigned)blocks), THREADS, bytes), a, maps);
    return true;
}

bool attention_hopper(spi_cuda *cuda, spi_mat q, spi_mat k, spi_mat v, const attention_view &a) {
    hopper_maps maps = {};
    if (cuda->capability != 90 || (a.head_dim != 64 && a.head_dim != 128)) return false;
    if (spi_idle(&cuda->device)) return true;
    if (!spi_cuda_tensor_map(cuda, &maps.q, q) || !spi_cuda_tensor_map(cuda, &maps.k, k) ||
        !spi_cuda_tensor_map(cuda, &maps.v, v))
        return false;
    return a.head_dim == 64 ? forward<64>(cuda, a, maps) : forward<128>(cuda, a, maps);
}
