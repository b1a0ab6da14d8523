/*
 * Attention's forward pass by Hopper's products of warp groups: bf16, head_dim 64 and 128, packed sequences.
 *
 * In a group the scores of the next keys are made while the weights of those before are multiplied with their
 * values, and the two groups take turns in handing in products, so that one's exponentials fall in the time of
 * the other's products. Scores, running maxima and sums, and the mix of values stay in registers. Limit: the
 * products, 4 head_dim operations for each pair of query and visible key.
 */
#include "tensor/cuda/attention_hopper.cuh"

/* A group's way through the keys of a tile, of which a warp has 16 rows. */
template <int D> struct hopper_walk {
    static constexpr int N = BLOCK / 8;
    const hopper_memory<D, 1> &memory;
    int group, window;
    float unit, into_cap; /* exponents of scores; these are capped before, where it is not 0 */
    int first;            /* position of the warp's first row */
    hopper_stage stage;   /* of the keys whose weights are p */
    float acc[1][D / 8][4];
    uint32_t p[1][BLOCK / 16][4];
    running<1> run;

    __device__ __forceinline__ hopper_walk(const attention_view &a, const hopper_memory<D, 1> &all, int mine)
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
__device__ __forceinline__ void attend_all(const attention_view &a, const hopper_memory<D, 1> &memory,
                                           bf16 *result) {
    const int group = (int)threadIdx.x / GROUP - 1;
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
    hopper_forward(attention_view a, const __grid_constant__ hopper_maps<1> maps) {
    extern __shared__ __align__(1024) bf16 tiles[];
    const hopper_memory<D, 1> memory = {shared_address(tiles)};
    if (threadIdx.x == 0) {
        maps.prefetch();
        memory.make_barriers();
    }
    __syncthreads();
    if (threadIdx.x < GROUP) {
        registers_fewer<24>();
        if (threadIdx.x == 0) bring_all<D, 1>(a, maps, memory);
    } else {
        registers_more<240>();
        attend_all<D>(a, memory, memory.results(tiles));
    }
}

/* ------------------------------------------------------------------ launches */

template <int D> static bool forward(spi_cuda *cuda, const attention_view &a, const hopper_maps<1> &maps) {
    constexpr size_t bytes = hopper_memory<D, 1>::bytes;
    if (!allow_shared(cuda, hopper_forward<D>, bytes)) return false;
    launch(cuda, "attention", hopper_forward<D>, shape(hopper_grid(cuda, a), THREADS, bytes), a, maps);
    return true;
}

bool attention_hopper(spi_cuda *cuda, spi_mat q, spi_mat k, spi_mat v, const attention_view &a) {
    hopper_maps<1> maps = {};
    if (!hopper_suits(cuda, a)) return false;
    if (spi_idle(&cuda->device)) return true;
    if (!spi_cuda_tensor_map(cuda, &maps.q[0], q) || !spi_cuda_tensor_map(cuda, &maps.k, k) ||
        !spi_cuda_tensor_map(cuda, &maps.v, v))
        return false;
    return a.head_dim == 64 ? forward<64>(cuda, a, maps) : forward<128>(cuda, a, maps);
}
