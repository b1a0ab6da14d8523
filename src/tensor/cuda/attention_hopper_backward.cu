/*
 * The gradient of attention's queries by Hopper's products of warp groups: bf16, head_dim 64 and 128, packed
 * sequences. Each group goes through the keys of its 64 query rows: s = q k^T, dp = d_o v^T, dq += ds k, with
 * p = 2^(unit s - lse), ds = p (dp - sum) cap'; and sums[h, t] = d_o . o, which tensor_dkv reads afterwards.
 *
 * The scores of the next keys are handed in together with ds k of those before, and dp behind them, as soon as
 * that product is done and the registers of ds are free: s, dp and dq are 192 of them. So p is made in the time
 * of dp, and what ds needs after dp in the time of the other group's products. The sums are made in the time
 * of a tile's first products. Limit: the products, 6 head_dim operations for each pair of query and visible
 * key, or q, d_o, o and dq, read and written once.
 */
#include "tensor/cuda/attention_hopper.cuh"

/* A group's way through the keys of a tile, of which a warp has 16 rows; a thread, rows g and g + 8 of these.
 */
template <int D> struct hopper_dq_walk {
    const attention_view &a;
    const attention_grads &grads;
    const hopper_memory<D, 2> &memory;
    const bf16 *tiles; /* the memory */
    int group;
    float unit, into_cap; /* exponents of scores; these are capped before, where it is not 0 */
    int first;            /* position of the warp's first row */
    hopper_stage stage;   /* of the keys whose ds there are */
    float acc[1][D / 8][4], lse[2], sum[2];
    uint32_t ds[1][BLOCK / 16][4];

    __device__ __forceinline__ hopper_dq_walk(const attention_view &view, const attention_grads &to,
                                              const hopper_memory<D, 2> &all, const bf16 *all_tiles)
        : a(view), grads(to), memory(all), tiles(all_tiles), group((int)threadIdx.x / GROUP - 1), stage{0, 0} {
        unit = (a.softcap > 0 ? a.softcap : a.scale) * LOG2_E;
        into_cap = a.softcap > 0 ? a.scale / a.softcap : 0.0f;
    }

    /* This thread's part of rows of o, 16 bytes of every 64 (zeros where there is no row), and their lse. */
    __device__ __forceinline__ void load_rows(uint4 (&o)[2][D / 32], const hopper_tile &tile) {
        const int lane = threadIdx.x % 32, head = tile.head(group);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = first + half * 8 + lane / 4;
            const bool there = row < tile.seq.rows;
            const int64_t t = tile.seq.first + row;
            const bf16 *from = (const bf16 *)a.o + t * a.o_ld + (int64_t)head * D + lane % 4 * 8;
            lse[half] = there ? a.lse[head * a.tokens + t] * LOG2_E : 0.0f;
#pragma unroll
            for (int i = 0; i < D / 32; i++)
                o[half][i] = there ? *reinterpret_cast<const uint4 *>(from + i * 32) : make_uint4(0, 0, 0, 0);
        }
    }
    /* The sums of this thread's rows, from these parts and d_o in shared memory. */
    __device__ __forceinline__ void make_sums(const uint4 (&o)[2][D / 32], const hopper_tile &tile) {
        const int lane = threadIdx.x % 32, mine = (int)threadIdx.x % GROUP / 32 * 16 + lane / 4;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = first + half * 8 + lane / 4;
            float all = 0.0f;
#pragma unroll
            for (int i = 0; i < D / 32; i++) {
                pack<bf16> x, y;
                x.load(memory.q_piece(tiles, group, 1, mine + half * 8, i * 32 + lane % 4 * 8));
                y.load(reinterpret_cast<const bf16 *>(&o[half][i]));
#pragma unroll
                for (int j = 0; j < 8; j++) all += x.v[j] * y.v[j];
            }
            all += __shfl_xor_sync(0xffffffffu, all, 1);
            all += __shfl_xor_sync(0xffffffffu, all, 2);
            sum[half] = all;
            if (lane % 4 == 0 && row < tile.seq.rows)
                grads.sums[tile.head(group) * a.tokens + tile.seq.first + row] = all;
        }
    }

    /* Raw scores of the keys from k0 on to p cap', 0 where a key is not seen. */
    template <int N> __device__ __forceinline__ void weigh(float (&s)[1][N][4], int k0) {
        if (into_cap > 0) {
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const float capped = tanh_fast(s[0][n][i] * into_cap);
                    s[0][n][i] = exp2_fast(capped * unit - lse[i / 2]) * (1.0f - capped * capped);
                }
        } else {
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) s[0][n][i] = exp2_fast(s[0][n][i] * unit - lse[i / 2]);
        }
        if (k0 + 8 * N - 1 > first || (a.window > 0 && k0 <= first + 15 - a.window))
            mask_scores<1, N>(s, first, k0, a.window, 0.0f);
    }
    /* ds from these and dp, in whose place they come before they are rounded. */
    template <int N>
    __device__ __forceinline__ void make_ds(const float (&weights)[1][N][4], float (&dp)[1][N][4]) {
        uint32_t some[1][N / 2][4];
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) dp[0][n][i] = weights[0][n][i] * (dp[0][n][i] - sum[i / 2]);
        as_weights<1, N / 2>(some, dp);
#pragma unroll
        for (int n = 0; n < N / 2; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) ds[0][n][i] = some[0][n][i];
    }

    /* ds of the tile's last keys, and the sums. */
    template <int HALVES> __device__ __forceinline__ void begin(int k0, const hopper_tile &tile) {
        float s[1][8 * HALVES][4], dp[1][8 * HALVES][4];
        uint4 o[2][D / 32];
        load_rows(o, tile);
        barrier_wait(memory.k_there(stage.at), stage.parity);
        barrier_wait(memory.v_there(stage.at), stage.parity);
        products_begin();
        begin_scores<D, HALVES>(s[0], memory.q(group), memory.k(stage.at));
        begin_scores<D, HALVES>(dp[0], memory.q(group, 1), memory.v(stage.at));
        make_sums(o, tile);
        products_wait<1>();
        settle(s[0]);
        weigh<8 * HALVES>(s, k0);
        products_wait<0>();
        settle(dp[0]);
        have_read(memory.v_read(stage.at));
        make_ds<8 * HALVES>(s, dp);
    }
    /* Adds ds k of the keys whose ds there are (HALVES of them), and makes ds of those before. */
    template <int HALVES> __device__ __forceinline__ void step(int k0) {
        float s[1][16][4], dp[1][16][4];
        hopper_stage next = stage;
        next.advance();
        barrier_wait(memory.k_there(next.at), next.parity);
        turn_wait(1 + group, 2 * GROUP);
        products_begin();
        begin_mix<D, HALVES>(acc[0], ds[0], memory.k(stage.at));
        begin_scores<D, 2>(s[0], memory.q(group), memory.k(next.at));
        turn_pass(2 - group, 2 * GROUP);
        barrier_wait(memory.v_there(next.at), next.parity);
        products_wait<1>();
        settle(acc[0]);
        have_read(memory.k_read(stage.at));
        products_begin();
        begin_scores<D, 2>(dp[0], memory.q(group, 1), memory.v(next.at));
        products_wait<1>();
        settle(s[0]);
        weigh<16>(s, k0);
        products_wait<0>();
        settle(dp[0]);
        have_read(memory.v_read(next.at));
        make_ds<16>(s, dp);
        stage = next;
    }
    template <int HALVES> __device__ __forceinline__ void end() {
        products_begin();
        begin_mix<D, HALVES>(acc[0], ds[0], memory.k(stage.at));
        products_wait<0>();
        settle(acc[0]);
        have_read(memory.k_read(stage.at));
        stage.advance();
    }

    __device__ __forceinline__ void go(const hopper_tile &tile) {
        int k0 = tile.last();
        bool half = tile.halves(k0) == 1;
        first = tile.row(group) + (int)threadIdx.x % GROUP / 32 * 16;
        if (half) begin<1>(k0, tile);
        else begin<2>(k0, tile);
#pragma unroll
        for (int n = 0; n < D / 8; n++) acc[0][n][0] = acc[0][n][1] = acc[0][n][2] = acc[0][n][3] = 0.0f;
        if (half && k0 > tile.begin) {
            step<1>(k0 -= BLOCK);
            half = false;
        }
        while (k0 > tile.begin) step<2>(k0 -= BLOCK);
        have_read(memory.q_read());
        if (half) end<1>();
        else end<2>();
    }
};

template <int D>
__device__ __forceinline__ void make_all_dq(const attention_view &a, const attention_grads &grads,
                                            const hopper_memory<D, 2> &memory, bf16 *tiles) {
    hopper_dq_walk<D> walk(a, grads, memory, tiles);
    hopper_tiles all(a);
    uint32_t parity = 0;
    if (walk.group == 1) turn_pass(1, 2 * GROUP); /* the first group begins */
    for (hopper_tile tile; all.next(tile); parity ^= 1) {
        barrier_wait(memory.q_there(), parity);
        walk.go(tile);
        const float scale[1][2] = {{a.scale, a.scale}};
        const int64_t row = tile.seq.first + walk.first;
        store_rows<D, 1, D / 8>((bf16 *)grads.dq + row * grads.dq_ld + (int64_t)tile.head(walk.group) * D,
                                grads.dq_ld, tile.seq.rows - walk.first, D, memory.results(tiles), walk.acc,
                                scale);
    }
}

template <int D>
__global__ void __launch_bounds__(THREADS, 1)
    hopper_dq(attention_view a, attention_grads grads, const __grid_constant__ hopper_maps<2> maps) {
    extern __shared__ __align__(1024) bf16 tiles[];
    const hopper_memory<D, 2> memory = {shared_address(tiles)};
    if (threadIdx.x == 0) {
        maps.prefetch();
        memory.make_barriers();
    }
    __syncthreads();
    if (threadIdx.x < GROUP) {
        registers_fewer<24>();
        if (threadIdx.x == 0) bring_all<D, 2>(a, maps, memory);
    } else {
        registers_more<240>();
        make_all_dq<D>(a, grads, memory, tiles);
    }
}

/* ------------------------------------------------------------------ launches */

template <int D>
static bool make_dq(spi_cuda *cuda, const attention_view &a, const attention_grads &g,
                    const hopper_maps<2> &maps) {
    constexpr size_t bytes = hopper_memory<D, 2>::bytes;
    if (!allow_shared(cuda, hopper_dq<D>, bytes)) return false;
    launch(cuda, "the gradient of attention", hopper_dq<D>, shape(hopper_grid(cuda, a), THREADS, bytes), a, g,
           maps);
    return true;
}

bool attention_hopper_dq(spi_cuda *cuda, spi_mat q, spi_mat k, spi_mat v, spi_mat d_o, const attention_view &a,
                         const attention_grads &g) {
    hopper_maps<2> maps = {};
    if (!hopper_suits(cuda, a)) return false;
    if (spi_idle(&cuda->device)) return true;
    if (!spi_cuda_tensor_map(cuda, &maps.q[0], q) || !spi_cuda_tensor_map(cuda, &maps.q[1], d_o) ||
        !spi_cuda_tensor_map(cuda, &maps.k, k) || !spi_cuda_tensor_map(cuda, &maps.v, v))
        return false;
    return a.head_dim == 64 ? make_dq<64>(cuda, a, g, maps) : make_dq<128>(cuda, a, g, maps);
}
