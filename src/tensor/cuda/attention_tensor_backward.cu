/*
 * The gradient of attention in the matrix units: bf16, head_dim a multiple of 8 up to 256. Two kernels, each
 * with its sums in registers, so that nothing is added in an order that depends on timing:
 *
 *   tensor_dq   a tile of query rows goes through its keys: s = q k^T, dp = d_o v^T, dq += ds k;
 *               and sums[h, t] = d_o . o, which it needs first and the other kernel reads. On Hopper, where
 *               it can, attention_hopper_backward.cu does this
 *   tensor_dkv  a tile of keys goes through the queries that see them, of all heads of its group:
 *               s^T = k q^T, dp^T = v d_o^T, dv += p^T d_o, dk += ds^T q
 *
 * with p = 2^(unit s - lse), ds = p (dp - sum) cap'. In both the left operand of the first two products stays
 * in shared memory, and the results, which have the rows of a warp, are the left operands of the others without
 * leaving registers. Limit: the products, 14 head_dim operations for each pair of query and visible key, of
 * which 4 are done twice rather than partial gradients written and read.
 */
#include "tensor/cuda/attention_tensor.cuh"

/*
 * Raw scores s and dp to p and ds (before the factor `scale`). unit, lse: in powers of two. lse and sum are
 * given by element. One branch for all of them, not one each: elements are then in flight together.
 */
template <int M, int N, typename Lse, typename Sum>
__device__ __forceinline__ void score_gradients(float (&s)[M][N][4], float (&dp)[M][N][4],
                                                const attention_view &a, Lse lse, Sum sum) {
    const bool caps = a.softcap > 0;
    const float unit = (caps ? a.softcap : a.scale) * LOG2_E;
    const auto each = [&](auto change) {
#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) change(s[m][n][i], dp[m][n][i], m, n, i);
    };
    if (caps) {
        const float into_cap = a.scale / a.softcap;
        each([&](float &x, float &y, int m, int n, int i) {
            x = tanh_fast(x * into_cap);
            y = (y - sum(m, n, i)) * (1.0f - x * x);
        });
    } else {
        each([&](float &, float &y, int m, int n, int i) { y -= sum(m, n, i); });
    }
    each([&](float &x, float &y, int m, int n, int i) {
        x = exp2_fast(x * unit - lse(m, n, i));
        y *= x;
    });
}

/* ------------------------------------------------------------------ dq */

/*
 * sums of a tile's rows, from d_o in shared memory and o; to global memory and to `sums` [tile], zero where
 * there is no row. A warp has its own rows, half of it one row at a time.
 */
template <int D, int M>
__device__ __forceinline__ void row_sums(const attention_view &a, const query_rows<M> &block, const bf16 *d_o,
                                         float *sums, float *out) {
    const int lane = threadIdx.x % 32, mine = threadIdx.x / 32 * 16 * M;
    for (int i = 0; i < 16 * M; i += 2) {
        const int at = mine + i + lane / 16, row = block.row(at), head = block.head(at);
        const int64_t t = block.seq.first + row;
        float sum = 0.0f;
        for (int c = lane % 16 * 8; row < block.seq.rows && c < a.head_dim; c += 128) {
            pack<bf16> x, y;
            x.load(d_o + at * PITCH<D> + c);
            y.load((const bf16 *)a.o + t * a.o_ld + (int64_t)head * a.head_dim + c);
#pragma unroll
            for (int j = 0; j < 8; j++) sum += x.v[j] * y.v[j];
        }
#pragma unroll
        for (int j = 8; j; j >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, j);
        if (lane % 16 == 0) {
            sums[at] = sum;
            if (row < block.seq.rows) out[head * a.tokens + t] = sum;
        }
    }
}

template <int D, int M, int BLOCK> constexpr size_t dq_bytes() {
    return (size_t)(2 * query_rows<M>::tile + 4 * BLOCK) * PITCH<D> * 2 + query_rows<M>::tile * sizeof(float);
}

template <int D, int M, int BLOCK>
__global__ void __launch_bounds__(ATTENTION_THREADS) tensor_dq(attention_view a, attention_grads grads) {
    constexpr int N = BLOCK / 8, C = D / 8;
    constexpr uint32_t block_bytes = BLOCK * PITCH<D> * 2;
    extern __shared__ __align__(16) bf16 tiles[]; /* q; d_o; keys, values; the next keys, values; sums */
    const query_rows<M> block(a);
    if (block.row0 >= block.seq.rows) return;
    const int lane = threadIdx.x % 32, g = lane / 4;
    const int mine = threadIdx.x / 32 * 16 * M, first = block.row(mine), total = block.seq.rows;
    const key_span span(a, block.row0, block.rows, total);
    const bf16 *k = (const bf16 *)a.k + keys_at(a, block.sequence, block.seq.first, block.kv_head, a.k_ld);
    const bf16 *v = (const bf16 *)a.v + keys_at(a, block.sequence, block.seq.first, block.kv_head, a.v_ld);
    bf16 *d_o = tiles + block.tile * PITCH<D>;
    float *sums = reinterpret_cast<float *>(d_o + (block.tile + 4 * BLOCK) * PITCH<D>);
    const uint32_t tile_bytes = block.tile * PITCH<D> * 2;
    const uint32_t queries = shared_address(tiles), keys = queries + 2 * tile_bytes;

    block.template copy<D>(queries, (const bf16 *)a.q, a.q_ld, a.head_dim);
    block.template copy<D>(queries + tile_bytes, (const bf16 *)grads.d_o, grads.d_o_ld, a.head_dim);
    const auto copy_keys = [&](int k0, uint32_t to) {
        copy_tile<D, BLOCK, ATTENTION_THREADS>(to, k + k0 * a.k_ld, a.k_ld, total - k0, a.head_dim);
        copy_tile<D, BLOCK, ATTENTION_THREADS>(to + block_bytes, v + k0 * a.v_ld, a.v_ld, total - k0,
                                               a.head_dim);
    };
    copy_keys(span.begin, keys);
    copies_wait();
    __syncthreads();
    row_sums<D, M>(a, block, d_o, sums, grads.sums);
    __syncwarp();

    const int head = block.head(mine);
    float acc[M][C][4] = {}, lse[M][2], sum[M][2], scale[M][2];
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int row = m * 16 + half * 8 + g;
            const int64_t at = head * a.tokens + block.seq.first + first + row;
            lse[m][half] = first + row < total ? a.lse[at] * LOG2_E : 0.0f;
            sum[m][half] = sums[mine + row];
            scale[m][half] = a.scale;
        }
    const uint32_t lane_q = queries + mine * PITCH<D> * 2 + lane_of_a<D>();
    uint32_t at = keys;
    for (int k0 = span.begin; k0 < span.end; k0 += BLOCK) {
        const uint32_t next = at == keys ? keys + 2 * block_bytes : keys;
        copies_wait();
        __syncthreads(); /* these keys are there, and those of before have been read */
        if (k0 + BLOCK < span.end) copy_keys(k0 + BLOCK, next);
        const bool hidden = k0 > first + 16 * M - 1 || (a.window > 0 && k0 + BLOCK - 1 <= first - a.window);
        if (!hidden) {
            float s[M][N][4], dp[M][N][4];
            uint32_t ds[M][N / 2][4];
            multiply_rows<D, M, N>(dp, lane_q + tile_bytes, at + block_bytes + lane_of_b<D>());
            multiply_rows<D, M, N>(s, lane_q, at + lane_of_b<D>());
            score_gradients<M, N>(
                s, dp, a, [&](int m, int, int i) { return lse[m][i / 2]; },
                [&](int m, int, int i) { return sum[m][i / 2]; });
            if (k0 + BLOCK - 1 > first || (a.window > 0 && k0 <= first + 16 * M - 1 - a.window))
                mask_scores<M, N>(dp, first, k0, a.window, 0.0f);
            as_weights<M, N / 2>(ds, dp);
            multiply_weights<D, M, N / 2, C>(acc, ds, at + lane_of_a<D>());
        }
        at = next;
    }
    store_rows<D, M, C>((bf16 *)grads.dq + (block.seq.first + first) * grads.dq_ld + (int64_t)head * a.head_dim,
                        grads.dq_ld, total - first, a.head_dim, tiles + mine * PITCH<D>, acc, scale);
}

/* ------------------------------------------------------------------ dk, dv */

#define KEYS (16 * ATTENTION_WARPS)

template <int D, int BLOCK> constexpr size_t dkv_bytes() {
    return (size_t)(2 * KEYS + 4 * BLOCK) * PITCH<D> * 2 + 4 * BLOCK * sizeof(float);
}

/*
 * OUT: the columns of dk and dv that a block makes, blockIdx.z * OUT and on; D where registers suffice. grid:
 * sequences * kv_heads, tiles of KEYS keys, D / OUT.
 */
template <int D, int BLOCK, int OUT>
__global__ void __launch_bounds__(ATTENTION_THREADS) tensor_dkv(attention_view a, attention_grads grads) {
    constexpr int N = BLOCK / 8, C = OUT / 8;
    constexpr uint32_t key_bytes = KEYS * PITCH<D> * 2, block_bytes = BLOCK * PITCH<D> * 2;
    extern __shared__ __align__(16) bf16 tiles[]; /* keys, values; q, d_o; the next; lse, sums; the next */
    const int sequence = blockIdx.x / a.kv_heads, kv_head = blockIdx.x % a.kv_heads, k0 = blockIdx.y * KEYS;
    const int column = blockIdx.z * OUT;
    const attention_seq seq = sequence_of(a, sequence);
    if (k0 >= seq.rows) return;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4, mine = threadIdx.x / 32 * 16;
    const int64_t row0 = seq.first + k0;
    const uint32_t keys = shared_address(tiles), queries = keys + 2 * key_bytes;
    bf16 *const query_tiles = tiles + 2 * KEYS * PITCH<D>;
    float *const statistics = reinterpret_cast<float *>(query_tiles + 4 * BLOCK * PITCH<D>);
    const uint32_t statistics_at = shared_address(statistics);

    copy_tile<D, KEYS, ATTENTION_THREADS>(keys, (const bf16 *)a.k + row0 * a.k_ld + kv_head * a.head_dim,
                                          a.k_ld, seq.rows - k0, a.head_dim);
    copy_tile<D, KEYS, ATTENTION_THREADS>(keys + key_bytes,
                                          (const bf16 *)a.v + row0 * a.v_ld + kv_head * a.head_dim, a.v_ld,
                                          seq.rows - k0, a.head_dim);
    const auto copy_queries = [&](int head, int q0, int stage) {
        const int64_t row = seq.first + q0;
        const int left = seq.rows - q0, i = threadIdx.x % BLOCK;
        const uint32_t to = queries + stage * 2 * block_bytes;
        copy_tile<D, BLOCK, ATTENTION_THREADS>(
            to, (const bf16 *)a.q + row * a.q_ld + (int64_t)head * a.head_dim, a.q_ld, left, a.head_dim);
        copy_tile<D, BLOCK, ATTENTION_THREADS>(
            to + block_bytes, (const bf16 *)grads.d_o + row * grads.d_o_ld + (int64_t)head * a.head_dim,
            grads.d_o_ld, left, a.head_dim);
        if (threadIdx.x < 2 * BLOCK) {
            const float *from = (threadIdx.x < BLOCK ? a.lse : grads.sums) + head * a.tokens + row;
            copy4(statistics_at + (stage * 2 * BLOCK + threadIdx.x) * 4, i < left ? from + i : from, i < left);
        }
    };
    const int end = a.window > 0 ? min(seq.rows, k0 + KEYS - 1 + a.window) : seq.rows;
    const int last_head = (kv_head + 1) * a.group - 1;
    copy_queries(kv_head * a.group, k0, 0);

    float dk[1][C][4] = {}, dv[1][C][4] = {};
    const uint32_t lane_k = keys + mine * PITCH<D> * 2 + lane_of_a<D>();
    int stage = 0;
    for (int head = kv_head * a.group, q0 = k0; head <= last_head;) {
        const bool head_ends = q0 + BLOCK >= end;
        const int next_head = head + head_ends, next_q0 = head_ends ? k0 : q0 + BLOCK;
        copies_wait();
        __syncthreads(); /* these queries are there, and those of before have been read */
        if (next_head <= last_head) copy_queries(next_head, next_q0, stage ^ 1);
        const uint32_t at = queries + stage * 2 * block_bytes;
        const float *const lse = statistics + stage * 2 * BLOCK, *const sums = lse + BLOCK;
        float s[1][N][4], dp[1][N][4];
        uint32_t weights[1][N / 2][4];
        multiply_rows<D, 1, N>(dp, lane_k + key_bytes, at + block_bytes + lane_of_b<D>());
        multiply_rows<D, 1, N>(s, lane_k, at + lane_of_b<D>());
        const int key0 = k0 + mine;
        score_gradients<1, N>(
            s, dp, a, [&](int, int n, int i) { return lse[n * 8 + 2 * t + i % 2] * LOG2_E; },
            [&](int, int n, int i) { return sums[n * 8 + 2 * t + i % 2]; });
        if (q0 < key0 + 15 || q0 + BLOCK > seq.rows || (a.window > 0 && key0 <= q0 + BLOCK - 1 - a.window)) {
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int key = key0 + g + i / 2 * 8, query = q0 + n * 8 + 2 * t + i % 2;
                    if (key > query || query >= seq.rows || (a.window > 0 && key <= query - a.window))
                        s[0][n][i] = dp[0][n][i] = 0.0f;
                }
        }
        as_weights<1, N / 2>(weights, s);
        multiply_weights<D, 1, N / 2, C>(dv, weights, at + block_bytes + column * 2 + lane_of_a<D>());
        as_weights<1, N / 2>(weights, dp);
        multiply_weights<D, 1, N / 2, C>(dk, weights, at + column * 2 + lane_of_a<D>());
        head = next_head;
        q0 = next_q0;
        stage ^= 1;
    }
    const float by_scale[1][2] = {{a.scale, a.scale}}, by_one[1][2] = {{1.0f, 1.0f}};
    const int count = seq.rows - k0 - mine, columns = a.head_dim - column;
    const int64_t row = row0 + mine, out = (int64_t)kv_head * a.head_dim + column;
    store_rows<D, 1, C>((bf16 *)grads.dk + row * grads.dk_ld + out, grads.dk_ld, count, columns,
                        tiles + mine * PITCH<D>, dk, by_scale);
    store_rows<D, 1, C>((bf16 *)grads.dv + row * grads.dv_ld + out, grads.dv_ld, count, columns,
                        tiles + (KEYS + mine) * PITCH<D>, dv, by_one);
}

/* ------------------------------------------------------------------ launches */

/* Tiles of 16 M query rows a warp, and BLOCK keys. */
template <int D, int M, int BLOCK>
static bool make_dq(spi_cuda *cuda, const attention_view &a, const attention_grads &g) {
    constexpr size_t bytes = dq_bytes<D, M, BLOCK>();
    if (!allow_shared(cuda, tensor_dq<D, M, BLOCK>, bytes)) return false;
    launch(cuda, "the gradient of attention", tensor_dq<D, M, BLOCK>,
           shape(query_rows<M>::grid(a), ATTENTION_THREADS, bytes), a, g);
    return true;
}

bool attention_tensor_dq(spi_cuda *cuda, const attention_view &a, const attention_grads &g) {
    if (a.head_dim <= 64) return make_dq<64, 2, 32>(cuda, a, g);
    if (a.head_dim <= 96) return make_dq<96, 2, 32>(cuda, a, g) || make_dq<96, 1, 32>(cuda, a, g);
    if (a.head_dim <= 128) return make_dq<128, 2, 32>(cuda, a, g) || make_dq<128, 1, 32>(cuda, a, g);
    return a.head_dim <= 256 && make_dq<256, 1, 32>(cuda, a, g);
}

/* Blocks of BLOCK query rows. */
template <int D, int BLOCK, int OUT>
static bool make_dkv(spi_cuda *cuda, const attention_view &a, const attention_grads &g) {
    constexpr size_t bytes = dkv_bytes<D, BLOCK>();
    if (!allow_shared(cuda, tensor_dkv<D, BLOCK, OUT>, bytes)) return false;
    const dim3 by_key((unsigned)(a.count * a.kv_heads), (unsigned)blocks_for(a.longest, KEYS), D / OUT);
    launch(cuda, "the gradient of attention", tensor_dkv<D, BLOCK, OUT>,
           shape(by_key, ATTENTION_THREADS, bytes), a, g);
    return true;
}

bool attention_tensor_dkv(spi_cuda *cuda, const attention_view &a, const attention_grads &g) {
    if (a.head_dim <= 64) return make_dkv<64, 64, 64>(cuda, a, g);
    if (a.head_dim <= 96) return make_dkv<96, 64, 96>(cuda, a, g) || make_dkv<96, 32, 96>(cuda, a, g);
    if (a.head_dim <= 128) return make_dkv<128, 64, 128>(cuda, a, g) || make_dkv<128, 32, 128>(cuda, a, g);
    return a.head_dim <= 256 && make_dkv<256, 32, 128>(cuda, a, g);
}
