/*
 * Attention in the matrix units: bf16, head_dim a multiple of 8 up to 256 (tiles padded with zeros to D
 * columns).
 *
 * A block has a tile of query rows (attention_tensor.cuh) in shared memory and goes through the keys that they
 * see, BLOCK at a time, the next ones being copied meanwhile; a warp has 16 M of the rows to itself: scores,
 * the running maximum and sum of each row (in powers of two), and the mix of values stay in registers. Limit:
 * the products, 4 head_dim operations for each pair of query and visible key.
 */
#include "tensor/cuda/attention_tensor.cuh"

template <int D, int M, int BLOCK> constexpr size_t tensor_forward_bytes() {
    return (size_t)(query_rows<M>::tile + 4 * BLOCK) * PITCH<D> * 2;
}

template <int D, int M, int BLOCK>
__global__ void __launch_bounds__(ATTENTION_THREADS) tensor_forward(attention_view a) {
    constexpr int N = BLOCK / 8, C = D / 8;
    constexpr uint32_t block_bytes = BLOCK * PITCH<D> * 2;
    extern __shared__ __align__(16) bf16 tiles[]; /* queries; keys, values; the next keys, values */
    const query_rows<M> block(a);
    if (block.row0 >= block.seq.rows) return;
    const int mine = threadIdx.x / 32 * 16 * M, row = block.row(mine), first = block.seq.past + row;
    const int total = block.seq.past + block.seq.rows;
    const key_span span(a, block.seq.past + block.row0, block.rows, total);
    const bf16 *k = (const bf16 *)a.k + keys_at(a, block.sequence, block.seq.first, block.kv_head, a.k_ld);
    const bf16 *v = (const bf16 *)a.v + keys_at(a, block.sequence, block.seq.first, block.kv_head, a.v_ld);
    const uint32_t queries = shared_address(tiles), keys = queries + block.tile * PITCH<D> * 2;

    block.template copy<D>(queries, (const bf16 *)a.q, a.q_ld, a.head_dim);
    const auto copy_keys = [&](int k0, uint32_t to) {
        copy_tile<D, BLOCK, ATTENTION_THREADS>(to, k + k0 * a.k_ld, a.k_ld, total - k0, a.head_dim);
        copy_tile<D, BLOCK, ATTENTION_THREADS>(to + block_bytes, v + k0 * a.v_ld, a.v_ld, total - k0,
                                               a.head_dim);
    };
    copy_keys(span.begin, keys);

    float acc[M][C][4] = {}, scale[M][2], shrink[M][2];
    running<M> run;
    const bool caps = a.softcap > 0;
    const float unit = (caps ? a.softcap : a.scale) * LOG2_E;
    const uint32_t lane_q = queries + mine * PITCH<D> * 2 + lane_of_a<D>();
    uint32_t at = keys;
    for (int k0 = span.begin; k0 < span.end; k0 += BLOCK) {
        const uint32_t next = at == keys ? keys + 2 * block_bytes : keys;
        copies_wait();
        __syncthreads(); /* these keys are there, and those of before have been read */
        if (k0 + BLOCK < span.end) copy_keys(k0 + BLOCK, next);
        const bool hidden = k0 > first + 16 * M - 1 || (a.window > 0 && k0 + BLOCK - 1 <= first - a.window);
        if (!hidden) {
            float s[M][N][4];
            uint32_t p[M][N / 2][4];
            multiply_rows<D, M, N>(s, lane_q, at + lane_of_b<D>());
            if (caps) cap_scores<M, N>(s, a.scale / a.softcap);
            if (k0 + BLOCK - 1 > first || (a.window > 0 && k0 <= first + 16 * M - 1 - a.window))
                mask_scores<M, N>(s, first, k0, a.window, -INFINITY);
            soften<M, N>(s, shrink, run, unit);
            scale_rows<M, C>(acc, shrink);
            as_weights<M, N / 2>(p, s);
            multiply_weights<D, M, N / 2, C>(acc, p, at + block_bytes + lane_of_a<D>());
        }
        at = next;
    }

    const int count = block.seq.rows - row, head = block.head(mine);
    const int64_t out = block.seq.first + row;
    finish<M>(run, scale, a.lse ? a.lse + head * a.tokens + out : nullptr, count, unit);
    store_rows<D, M, C>((bf16 *)a.o + out * a.o_ld + (int64_t)head * a.head_dim, a.o_ld, count, a.head_dim,
                        tiles + mine * PITCH<D>, acc, scale);
}

/* ------------------------------------------------------------------ launches */

template <int D, int M, int BLOCK> static bool forward(spi_cuda *cuda, const attention_view &a) {
    constexpr size_t bytes = tensor_forward_bytes<D, M, BLOCK>();
    if (!allow_shared(cuda, tensor_forward<D, M, BLOCK>, bytes)) return false;
    launch(cuda, "attention", tensor_forward<D, M, BLOCK>,
           shape(query_rows<M>::grid(a), ATTENTION_THREADS, bytes), a);
    return true;
}

bool attention_tensor(spi_cuda *cuda, const attention_view &a) {
    if (a.head_dim <= 64) return forward<64, 2, 64>(cuda, a);
    if (a.head_dim <= 96) return forward<96, 2, 64>(cuda, a) || forward<96, 1, 32>(cuda, a);
    if (a.head_dim <= 128) return forward<128, 2, 64>(cuda, a) || forward<128, 1, 32>(cuda, a);
    return a.head_dim <= 256 && forward<256, 1, 32>(cuda, a);
}
