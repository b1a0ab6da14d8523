/*
 * Attention for any element type and any head_dim up to 512, in f32 throughout: parity runs, odd head sizes.
 *
 *   s = cap(scale q k^T), p = softmax(s over visible keys), o = p v, lse = log sum exp s
 *   ds = p (d_o v^T - d_o . o) cap'(s);  dq = scale ds k;  dk = scale ds^T q;  dv = p^T d_o
 *
 * A block holds a few rows of one head in shared memory and goes through the rows of the other side 32 at a
 * time. A warp has R of the rows: for products over head_dim a lane is one of the 32, for those over the 32 a
 * lane has every 32nd column. Limit: shared-memory reads, (R + 1) / R words for each multiply-add.
 */
#include "tensor/cuda/attention.cuh"

#define WARPS 4
#define TILE 32  /* rows of the other side */
#define CHUNK 64 /* columns of them in shared memory at once */
#define PITCH (CHUNK + 1)
#define ROWS_FORWARD 4 /* R */
#define ROWS_BACKWARD 2
#define MOST_COLUMNS 512

/* rows [0, held) of `from`, times a, to shared memory as f32 [count, columns]; zeros below. */
template <typename T>
__device__ void hold(float *to, const T *from, int64_t ld, int held, int count, int columns, float a) {
    for (int i = threadIdx.x; i < count * columns; i += blockDim.x) {
        const int r = i / columns, c = i % columns;
        to[i] = r < held ? a * to_float(from[r * ld + c]) : 0.0f;
    }
}

/* sum[r] = own row r . row `lane` of the `count` (at most 32) rows at `from`. All threads call it together. */
template <typename T, int R>
__device__ void dots(float (&sum)[R], const float *own, const T *from, int64_t ld, int count, int columns,
                     float *tile) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int r = 0; r < R; r++) sum[r] = 0.0f;
    for (int c0 = 0; c0 < columns; c0 += CHUNK) {
        const int n = min(CHUNK, columns - c0);
        __syncthreads(); /* the tile of before has been read */
        for (int i = threadIdx.x; i < TILE * CHUNK; i += blockDim.x) {
            const int r = i / CHUNK, c = i % CHUNK;
            tile[r * PITCH + c] = r < count && c < n ? to_float(from[r * ld + c0 + c]) : 0.0f;
        }
        __syncthreads();
        for (int c = 0; c < n; c++) {
            const float x = tile[lane * PITCH + c];
#pragma unroll
            for (int r = 0; r < R; r++) sum[r] += own[r * columns + c0 + c] * x;
        }
    }
}

/* acc[r][i] += sum over j of weight[r] of lane j times column lane + 32 i of row j. */
template <typename T, int R, int COLUMNS>
__device__ void mix(float (&acc)[R][COLUMNS], const float (&weight)[R], const T *from, int64_t ld, int count,
                    int columns) {
    const int lane = threadIdx.x % 32;
    for (int j = 0; j < count; j++) {
        float w[R];
#pragma unroll
        for (int r = 0; r < R; r++) w[r] = __shfl_sync(0xffffffffu, weight[r], j);
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) {
            const int c = lane + 32 * i;
            const float x = c < columns ? to_float(from[j * ld + c]) : 0.0f;
#pragma unroll
            for (int r = 0; r < R; r++) acc[r][i] += w[r] * x;
        }
    }
}

template <typename T, int COLUMNS>
__device__ void store_row(T *to, const float (&acc)[COLUMNS], float a, int columns) {
#pragma unroll
    for (int i = 0; i < COLUMNS; i++) {
        const int c = threadIdx.x % 32 + 32 * i;
        if (c < columns) to[c] = from_float<T>(a * acc[i]);
    }
}

__device__ __forceinline__ bool sees(const attention_view &a, int query, int key) {
    return key <= query && (a.window <= 0 || key > query - a.window);
}

/* ------------------------------------------------------------------ forward */

/* grid: sequences * heads, blocks of WARPS * ROWS_FORWARD query rows */
/* K: the type of keys and values, which a cache may hold in another one. */
template <typename T, typename K, int COLUMNS>
__global__ void __launch_bounds__(32 * WARPS) plain_forward(attention_view a) {
    constexpr int R = ROWS_FORWARD, BLOCK = WARPS * R;
    extern __shared__ float memory[];
    float *tile = memory, *own = memory + TILE * PITCH;
    const int s = blockIdx.x / a.heads, head = blockIdx.x % a.heads, row0 = blockIdx.y * BLOCK;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, d = a.head_dim;
    const attention_seq seq = sequence_of(a, s);
    if (row0 >= seq.rows) return;
    const K *k = (const K *)a.k + keys_at(a, s, seq.first, head / a.group, a.k_ld);
    const K *v = (const K *)a.v + keys_at(a, s, seq.first, head / a.group, a.v_ld);
    const T *q = (const T *)a.q + (int64_t)(seq.first + row0) * a.q_ld + (int64_t)head * d;
    const int held = min(BLOCK, seq.rows - row0), mine = warp * R, position0 = seq.past + row0;
    hold(own, q, a.q_ld, held, BLOCK, d, a.scale);

    float most[R], sum[R], acc[R][COLUMNS], p[R];
#pragma unroll
    for (int r = 0; r < R; r++) {
        most[r] = -INFINITY;
        sum[r] = 0.0f;
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) acc[r][i] = 0.0f;
    }
    const int end = position0 + held;
    for (int k0 = a.window > 0 ? max(0, position0 - a.window + 1) : 0; k0 < end; k0 += TILE) {
        const int count = min(TILE, end - k0), key = k0 + lane;
        dots<K, R>(p, own + mine * d, k + k0 * a.k_ld, a.k_ld, count, d, tile);
#pragma unroll
        for (int r = 0; r < R; r++) {
            float x = a.softcap > 0 ? a.softcap * tanhf(p[r] / a.softcap) : p[r];
            if (lane >= count || !sees(a, position0 + mine + r, key)) x = -INFINITY;
            const float m = fmaxf(most[r], warp_max(x)), base = m == -INFINITY ? 0.0f : m;
            const float shrink = expf(most[r] - base);
            p[r] = expf(x - base);
            sum[r] = sum[r] * shrink + warp_sum(p[r]);
            most[r] = m;
#pragma unroll
            for (int i = 0; i < COLUMNS; i++) acc[r][i] *= shrink;
        }
        mix<K, R, COLUMNS>(acc, p, v + k0 * a.v_ld, a.v_ld, count, d);
    }
#pragma unroll
    for (int r = 0; r < R; r++) {
        if (mine + r >= held) break;
        const int64_t row = seq.first + row0 + mine + r;
        store_row<T, COLUMNS>((T *)a.o + row * a.o_ld + (int64_t)head * d, acc[r], 1.0f / sum[r], d);
        if (a.lse && lane == 0) a.lse[head * a.tokens + row] = most[r] + logf(sum[r]);
    }
}

/* ------------------------------------------------------------------ backward */

/* Of a raw dot product x = q . k: p = exp(cap(scale x) - lse), ds = p (dp - sum) cap'. */
__device__ __forceinline__ void score_gradient(const attention_view &a, float x, float dp, float lse, float sum,
                                               bool visible, float *p, float *ds) {
    float score = x * a.scale, slope = 1.0f;
    if (a.softcap > 0) {
        const float t = tanhf(score / a.softcap);
        score = a.softcap * t;
        slope = 1.0f - t * t;
    }
    *p = visible ? expf(score - lse) : 0.0f;
    *ds = visible ? *p * (dp - sum) * slope : 0.0f;
}

/* dq and g.sums. grid: sequences * heads, blocks of WARPS * ROWS_BACKWARD query rows */
template <typename T, int COLUMNS>
__global__ void __launch_bounds__(32 * WARPS) plain_dq(attention_view a, attention_grads g) {
    constexpr int R = ROWS_BACKWARD, BLOCK = WARPS * R;
    extern __shared__ float memory[];
    const int d = a.head_dim;
    float *tile = memory, *own_q = memory + TILE * PITCH, *own_do = own_q + BLOCK * d;
    const int s = blockIdx.x / a.heads, head = blockIdx.x % a.heads, row0 = blockIdx.y * BLOCK;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, mine = warp * R;
    const attention_seq seq = sequence_of(a, s);
    if (row0 >= seq.rows) return;
    const T *k = (const T *)a.k + keys_at(a, s, seq.first, head / a.group, a.k_ld);
    const T *v = (const T *)a.v + keys_at(a, s, seq.first, head / a.group, a.v_ld);
    const int held = min(BLOCK, seq.rows - row0);
    const int64_t first = seq.first + row0, column = (int64_t)head * d;
    hold(own_q, (const T *)a.q + first * a.q_ld + column, a.q_ld, held, BLOCK, d, 1.0f);
    hold(own_do, (const T *)g.d_o + first * g.d_o_ld + column, g.d_o_ld, held, BLOCK, d, 1.0f);
    __syncthreads();

    float sum[R], lse[R], acc[R][COLUMNS], x[R], dp[R];
#pragma unroll
    for (int r = 0; r < R; r++) {
        const int64_t row = first + mine + r;
        const bool there = mine + r < held;
        float part = 0.0f;
        for (int c = lane; there && c < d; c += 32)
            part += own_do[(mine + r) * d + c] * to_float(((const T *)a.o)[row * a.o_ld + column + c]);
        sum[r] = warp_sum(part);
        lse[r] = there ? a.lse[head * a.tokens + row] : 0.0f;
        if (there && lane == 0) g.sums[head * a.tokens + row] = sum[r];
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) acc[r][i] = 0.0f;
    }
    const int end = row0 + held;
    for (int k0 = a.window > 0 ? max(0, row0 - a.window + 1) : 0; k0 < end; k0 += TILE) {
        const int count = min(TILE, end - k0);
        dots<T, R>(x, own_q + mine * d, k + k0 * a.k_ld, a.k_ld, count, d, tile);
        dots<T, R>(dp, own_do + mine * d, v + k0 * a.v_ld, a.v_ld, count, d, tile);
#pragma unroll
        for (int r = 0; r < R; r++) {
            const bool visible = lane < count && sees(a, row0 + mine + r, k0 + lane);
            float p;
            score_gradient(a, x[r], dp[r], lse[r], sum[r], visible, &p, &x[r]);
        }
        mix<T, R, COLUMNS>(acc, x, k + k0 * a.k_ld, a.k_ld, count, d);
    }
#pragma unroll
    for (int r = 0; r < R; r++)
        if (mine + r < held)
            store_row<T, COLUMNS>((T *)g.dq + (first + mine + r) * g.dq_ld + column, acc[r], a.scale, d);
}

/* dk and dv; the query heads of a key head one after another. grid: sequences * kv_heads, blocks of keys */
template <typename T, int COLUMNS>
__global__ void __launch_bounds__(32 * WARPS) plain_dkv(attention_view a, attention_grads g) {
    constexpr int R = ROWS_BACKWARD, BLOCK = WARPS * R;
    extern __shared__ float memory[];
    const int d = a.head_dim;
    float *tile = memory, *own_k = memory + TILE * PITCH, *own_v = own_k + BLOCK * d;
    const int s = blockIdx.x / a.kv_heads, kv = blockIdx.x % a.kv_heads, key0 = blockIdx.y * BLOCK;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, mine = warp * R;
    const attention_seq seq = sequence_of(a, s);
    if (key0 >= seq.rows) return;
    const int held = min(BLOCK, seq.rows - key0);
    const int64_t first = seq.first + key0, column = (int64_t)kv * d;
    hold(own_k, (const T *)a.k + first * a.k_ld + column, a.k_ld, held, BLOCK, d, 1.0f);
    hold(own_v, (const T *)a.v + first * a.v_ld + column, a.v_ld, held, BLOCK, d, 1.0f);

    float dk[R][COLUMNS], dv[R][COLUMNS], p[R], ds[R];
#pragma unroll
    for (int r = 0; r < R; r++)
#pragma unroll
        for (int i = 0; i < COLUMNS; i++) dk[r][i] = dv[r][i] = 0.0f;
    const int end = a.window > 0 ? min(seq.rows, key0 + held - 1 + a.window) : seq.rows;
    for (int head = kv * a.group; head < (kv + 1) * a.group; head++)
        for (int q0 = key0; q0 < end; q0 += TILE) {
            const int count = min(TILE, end - q0);
            const int64_t row = seq.first + q0;
            const T *q = (const T *)a.q + row * a.q_ld + (int64_t)head * d;
            const T *d_o = (const T *)g.d_o + row * g.d_o_ld + (int64_t)head * d;
            const float lse = lane < count ? a.lse[head * a.tokens + row + lane] : 0.0f;
            const float sum = lane < count ? g.sums[head * a.tokens + row + lane] : 0.0f;
            dots<T, R>(p, own_k + mine * d, q, a.q_ld, count, d, tile);
            dots<T, R>(ds, own_v + mine * d, d_o, g.d_o_ld, count, d, tile);
#pragma unroll
            for (int r = 0; r < R; r++) {
                const bool visible = lane < count && sees(a, q0 + lane, key0 + mine + r);
                score_gradient(a, p[r], ds[r], lse, sum, visible, &p[r], &ds[r]);
            }
            mix<T, R, COLUMNS>(dk, ds, q, a.q_ld, count, d);
            mix<T, R, COLUMNS>(dv, p, d_o, g.d_o_ld, count, d);
        }
#pragma unroll
    for (int r = 0; r < R; r++) {
        if (mine + r >= held) break;
        store_row<T, COLUMNS>((T *)g.dk + (first + mine + r) * g.dk_ld + column, dk[r], a.scale, d);
        store_row<T, COLUMNS>((T *)g.dv + (first + mine + r) * g.dv_ld + column, dv[r], 1.0f, d);
    }
}

/* ------------------------------------------------------------------ launches */

static bool fits(spi_cuda *cuda, const attention_view &a) {
    if (a.head_dim <= MOST_COLUMNS) return true;
    cuda->device.status = cuda->host->fail(cuda->device.ctx, SP_ERR_UNSUPPORTED,
                                           "GPU %d: attention: expected a head_dim of at most %d, found %d",
                                           cuda->index, MOST_COLUMNS, a.head_dim);
    return false;
}

/* Shared memory with `kinds` arrays of `rows` rows; at most 42 KiB. */
static size_t shared_bytes(const attention_view &a, int rows, int kinds) {
    return (size_t)(TILE * PITCH + kinds * rows * a.head_dim) * sizeof(float);
}

template <typename T, typename K, int COLUMNS> static void forward(spi_cuda *cuda, const attention_view &a) {
    constexpr int rows = WARPS * ROWS_FORWARD;
    const dim3 grid((unsigned)(a.count * a.heads), (unsigned)blocks_for(a.longest, rows));
    launch(cuda, "attention", plain_forward<T, K, COLUMNS>, shape(grid, 32 * WARPS, shared_bytes(a, rows, 1)),
           a);
}

template <typename T, int COLUMNS>
static void backward(spi_cuda *cuda, const attention_view &a, const attention_grads &g) {
    constexpr int rows = WARPS * ROWS_BACKWARD;
    const unsigned blocks = (unsigned)blocks_for(a.longest, rows);
    const size_t shared = shared_bytes(a, rows, 2);
    const dim3 by_query((unsigned)(a.count * a.heads), blocks),
        by_key((unsigned)(a.count * a.kv_heads), blocks);
    launch(cuda, "the gradient of attention", plain_dq<T, COLUMNS>, shape(by_query, 32 * WARPS, shared), a, g);
    launch(cuda, "the gradient of attention", plain_dkv<T, COLUMNS>, shape(by_key, 32 * WARPS, shared), a, g);
}

template <typename T, typename K> static void forward_of(spi_cuda *cuda, const attention_view &a) {
    if (a.head_dim <= 64) forward<T, K, 2>(cuda, a);
    else if (a.head_dim <= 128) forward<T, K, 4>(cuda, a);
    else if (a.head_dim <= 256) forward<T, K, 8>(cuda, a);
    else forward<T, K, 16>(cuda, a);
}

template <typename T>
static void backward_of(spi_cuda *cuda, const attention_view &a, const attention_grads &g) {
    if (a.head_dim <= 64) backward<T, 2>(cuda, a, g);
    else if (a.head_dim <= 128) backward<T, 4>(cuda, a, g);
    else if (a.head_dim <= 256) backward<T, 8>(cuda, a, g);
    else backward<T, 16>(cuda, a, g);
}

void attention_plain(spi_cuda *cuda, sp_dtype dtype, sp_dtype keys, const attention_view &a) {
    if (!fits(cuda, a)) return;
    if (dtype == SP_BF16 && keys == SP_BF16) forward_of<bf16, bf16>(cuda, a);
    else if (dtype == SP_BF16) forward_of<bf16, float>(cuda, a);
    else if (keys == SP_BF16) forward_of<float, bf16>(cuda, a);
    else forward_of<float, float>(cuda, a);
}

void attention_plain_backward(spi_cuda *cuda, sp_dtype dtype, const attention_view &a,
                              const attention_grads &g) {
    if (!fits(cuda, a)) return;
    if (dtype == SP_BF16) backward_of<bf16>(cuda, a, g);
    else backward_of<float>(cuda, a, g);
}
