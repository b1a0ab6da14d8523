/*
 * Attention over a cache. A slot's keys lie as [kv_heads, capacity, head_dim], values likewise: one head's are
 * one run of memory.
 *
 * One new row a sequence (decoding): the keys that it sees are cut into at most `splits` runs. A block has one
 * run of one key head and up to HEADS of the query heads that share it; a row of 16-byte pieces is read by
 * LANES threads, KEYS rows at a time for each of them, with a softmax of its own; the block's are put together,
 * and the block that leaves its run last puts the runs together, both in a fixed order. The grid depends on the
 * batch, the capacity and the card only, so that a captured launch serves any `past`: blocks without keys
 * leave. The new row is read from where it was projected and never from the cache; one block of each key head
 * stores it there, so that nothing is launched for that alone. Limit: reading the visible keys and values once.
 *
 * More new rows, and heads that have no whole pieces: new rows are stored first, then the kernels for packed
 * sequences attend.
 */
#include "tensor/cuda/attention.cuh"
#include "tensor/cuda/ptx.cuh"

#define DECODE_THREADS 128
#define KEYS 4
#define LEAST_RUN 32 /* keys */
#define MOST_SPLITS 64

/* ------------------------------------------------------------------ storing */

struct new_rows {
    const void *k, *v;
    void *cache_k, *cache_v;
    int64_t k_ld, v_ld, capacity;
    const int32_t *start, *slot, *past;
    int kv_heads, head_dim;
};

/* grid: the most new rows of a sequence, sequences */
template <typename T, typename C> __global__ void __launch_bounds__(256) store_new(new_rows a) {
    const int s = blockIdx.y, first = a.start[s], r = blockIdx.x;
    if (r >= a.start[s + 1] - first) return;
    const T *k = (const T *)a.k + (first + r) * a.k_ld, *v = (const T *)a.v + (first + r) * a.v_ld;
    const int64_t slot = (int64_t)a.slot[s] * a.kv_heads, position = a.past[s] + r;
    for (int i = threadIdx.x; i < a.kv_heads * a.head_dim; i += blockDim.x) {
        const int64_t to = ((slot + i / a.head_dim) * a.capacity + position) * a.head_dim + i % a.head_dim;
        ((C *)a.cache_k)[to] = from_float<C>(to_float(k[i]));
        ((C *)a.cache_v)[to] = from_float<C>(to_float(v[i]));
    }
}

static void store(spi_cuda *cuda, spi_mat k, spi_mat v, const spi_kv *kv, const spi_cached_seqs *seqs,
                  const spi_attn *attn) {
    const new_rows a = {k.data,       v.data,      kv->k,      kv->v,      k.ld,           v.ld,
                        kv->capacity, seqs->start, seqs->slot, seqs->past, attn->kv_heads, attn->head_dim};
    const dim3 grid((unsigned)seqs->max_new, (unsigned)seqs->count);
    if (k.dtype == SP_BF16 && kv->dtype == SP_BF16)
        launch(cuda, "storing keys and values", store_new<bf16, bf16>, shape(grid, 256), a);
    else if (k.dtype == SP_BF16)
        launch(cuda, "storing keys and values", store_new<bf16, float>, shape(grid, 256), a);
    else if (kv->dtype == SP_BF16)
        launch(cuda, "storing keys and values", store_new<float, bf16>, shape(grid, 256), a);
    else launch(cuda, "storing keys and values", store_new<float, float>, shape(grid, 256), a);
}

/* ------------------------------------------------------------------ decoding */

struct decode_view {
    const void *q, *k, *v; /* new rows */
    void *o, *cache_k, *cache_v;
    int64_t q_ld, k_ld, v_ld, o_ld, capacity;
    const int32_t *start, *slot, *past;
    float *mixes;      /* [count, heads, splits, head_dim]: values weighted by exp(score - the run's largest) */
    float2 *sums;      /* [count, heads, splits]: the run's largest score, the sum of its weights */
    unsigned *arrived; /* [count, blocks of heads]: runs that have been left; zeros before and after */
    int heads, kv_heads, head_dim, group, splits, window;
    float scale, softcap;
};

/* What the new row sees, in runs of `run` keys. */
struct runs_of {
    int position, begin, run, count;
    __device__ __forceinline__ runs_of(const decode_view &a, int s) {
        position = a.past[s];
        begin = a.window > 0 ? max(0, position + 1 - a.window) : 0;
        const int n = position + 1 - begin, each = (n + a.splits - 1) / a.splits;
        run = (each + LEAST_RUN - 1) / LEAST_RUN * LEAST_RUN;
        count = (n + run - 1) / run;
    }
};

template <typename T> __device__ __forceinline__ float exp_of(float x);
template <> __device__ __forceinline__ float exp_of<float>(float x) {
    return expf(x);
}
template <> __device__ __forceinline__ float exp_of<bf16>(float x) {
    return __expf(x);
}

template <typename T> __device__ __forceinline__ void unpack(float *to, uint4 bits) {
    const T *t = reinterpret_cast<const T *>(&bits);
#pragma unroll
    for (int i = 0; i < 16 / (int)sizeof(T); i++) to[i] = to_float(t[i]);
}

/* A softmax under way: the largest score, the sum of exponentials, and this thread's columns of the mix. */
template <int HEADS, int WIDTH> struct mixing { float most[HEADS], sum[HEADS], mix[HEADS][WIDTH]; };

/* What this thread has goes to shared memory as [LANES' group, head, head_dim], and from there to the output.
 */
template <typename T, int LANES, int PIECES, int HEADS, int WIDTH>
__device__ __forceinline__ void put_together(const decode_view &a, const mixing<HEADS, WIDTH> &m, float *mixes,
                                             int row, int s, int head0, int heads, bool only) {
    constexpr int GROUPS = DECODE_THREADS / LANES, EACH = 16 / (int)sizeof(T);
    const int group = threadIdx.x / LANES, lane = threadIdx.x % LANES, d = a.head_dim;
    float *most = mixes + GROUPS * HEADS * d, *sums = most + GROUPS * HEADS;
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
#pragma unroll
        for (int i = 0; i < WIDTH; i++) {
            const int c = (lane + i / EACH * LANES) * EACH + i % EACH;
            if (c < d) mixes[(group * HEADS + h) * d + c] = m.mix[h][i];
        }
        if (lane == 0) most[group * HEADS + h] = m.most[h], sums[group * HEADS + h] = m.sum[h];
    }
    __syncthreads();
    for (int i = threadIdx.x; i < heads * d; i += DECODE_THREADS) {
        const int h = i / d, c = i % d, head = head0 + h;
        float top = -INFINITY, sum = 0.0f, mix = 0.0f;
#pragma unroll
        for (int j = 0; j < GROUPS; j++) top = fmaxf(top, most[j * HEADS + h]);
#pragma unroll
        for (int j = 0; j < GROUPS; j++) {
            const float weight = exp_of<T>(most[j * HEADS + h] - top);
            sum += weight * sums[j * HEADS + h];
            mix += weight * mixes[(j * HEADS + h) * d + c];
        }
        const int64_t at = ((int64_t)s * a.heads + head) * a.splits + blockIdx.y;
        if (only) {
            ((T *)a.o)[row * a.o_ld + (int64_t)head * d + c] = from_float<T>(mix / sum);
        } else {
            a.mixes[at * d + c] = mix;
            if (c == 0) a.sums[at] = make_float2(top, sum);
        }
    }
}

/* Whether this block is the last of `count` to come here, each with its run in memory: it then sees all runs.
 */
__device__ __forceinline__ bool comes_last(unsigned *arrived, int count) {
    __shared__ bool last;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(arrived, 1u) == (unsigned)count - 1;
        if (last) *arrived = 0;
    }
    __syncthreads();
    if (last) __threadfence();
    return last;
}

/* weights [heads, MOST_SPLITS] = what each run's mix counts for in o. A warp a head. */
template <typename T>
__device__ __forceinline__ void weigh_runs(float *weights, const decode_view &a, int64_t first, int heads,
                                           int count) {
    const int lane = threadIdx.x % 32, h = threadIdx.x / 32;
    if (h >= heads) return;
    const float2 *sums = a.sums + (first + h) * a.splits, none = make_float2(-INFINITY, 0.0f);
    const float2 low = lane < count ? __ldcg(sums + lane) : none;
    const float2 high = lane + 32 < count ? __ldcg(sums + lane + 32) : none;
    const float top = warp_max(fmaxf(low.x, high.x));
    const float of_low = exp_of<T>(low.x - top), of_high = exp_of<T>(high.x - top);
    const float sum = warp_sum(of_low * low.y + of_high * high.y);
    weights[h * MOST_SPLITS + lane] = of_low / sum;
    weights[h * MOST_SPLITS + lane + 32] = of_high / sum;
}

/*
 * o from the runs: a thread takes 4 columns of a head, and where that leaves threads, `parts` of them share the
 * runs. `first`: the first head's place in a.sums; mixes [parts, heads, head_dim] in shared memory.
 */
template <typename T, int GROUPS, int HEADS>
__device__ __forceinline__ void combine(const decode_view &a, float *mixes, int row, int head0, int64_t first,
                                        int heads, int count) {
    __shared__ float weights[HEADS * MOST_SPLITS];
    const int d = a.head_dim, quads = heads * d / 4, fit = min(GROUPS, DECODE_THREADS / quads);
    const int parts = max(fit, 1), part = parts > 1 ? (int)threadIdx.x / quads : 0;
    weigh_runs<T>(weights, a, first, heads, count);
    __syncthreads();
    for (int i = parts > 1 ? threadIdx.x % quads : threadIdx.x; i < quads && part < parts;
         i += DECODE_THREADS) {
        const int h = i / (d / 4), c = i % (d / 4) * 4;
        const float *from = a.mixes + (first + h) * a.splits * d + c;
        float4 mix = make_float4(0, 0, 0, 0);
#pragma unroll 8
        for (int r = part; r < count; r += parts) {
            const float4 x = __ldcg(reinterpret_cast<const float4 *>(from + (int64_t)r * d));
            const float weight = weights[h * MOST_SPLITS + r];
            mix.x += weight * x.x;
            mix.y += weight * x.y;
            mix.z += weight * x.z;
            mix.w += weight * x.w;
        }
        *reinterpret_cast<float4 *>(mixes + (part * heads + h) * d + c) = mix;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < heads * d; i += DECODE_THREADS) {
        float mix = 0.0f;
        for (int p = 0; p < parts; p++) mix += mixes[p * heads * d + i];
        ((T *)a.o)[row * a.o_ld + (int64_t)head0 * d + i] = from_float<T>(mix);
    }
}

/* grid: kv_heads * blocks of HEADS query heads, splits, sequences */
template <typename T, int LANES, int PIECES, int HEADS>
__global__ void __launch_bounds__(DECODE_THREADS) decode(decode_view a) {
    constexpr int GROUPS = DECODE_THREADS / LANES, EACH = 16 / (int)sizeof(T), WIDTH = PIECES * EACH;
    extern __shared__ __align__(16) float shared[];
    const int s = blockIdx.z, row = a.start[s];
    const runs_of runs(a, s);
    dependents_may_start();
    if (a.start[s + 1] == row || (int)blockIdx.y >= runs.count) {
        dependency_wait();
        return;
    }
    const int from = runs.begin + (int)blockIdx.y * runs.run, to = min(from + runs.run, runs.position + 1);
    const int blocks = (a.group + HEADS - 1) / HEADS, kv_head = blockIdx.x / blocks;
    const int head0 = kv_head * a.group + blockIdx.x % blocks * HEADS;
    const int heads = min(HEADS, (kv_head + 1) * a.group - head0);
    const int group = threadIdx.x / LANES, lane = threadIdx.x % LANES, d = a.head_dim;
    const int64_t head_at = ((int64_t)a.slot[s] * a.kv_heads + kv_head) * a.capacity * d;
    T *cache_k = (T *)a.cache_k + head_at, *cache_v = (T *)a.cache_v + head_at;
    const T *new_k = (const T *)a.k + row * a.k_ld + (int64_t)kv_head * d;
    const T *new_v = (const T *)a.v + row * a.v_ld + (int64_t)kv_head * d;

    /* Its first rows of the cache come nearer while queries and the new row are made. */
#pragma unroll
    for (int u = 0; u < KEYS; u++) {
        const int64_t j = from + u * GROUPS + group;
        if (j >= to || j == runs.position || lane * EACH >= d) continue;
        prefetch(cache_k + j * d + lane * EACH);
        prefetch(cache_v + j * d + lane * EACH);
    }
    dependency_wait();

    /* The new row is read from where it comes from, and stored by the one block of its run and key head. */
    if (to == runs.position + 1 && blockIdx.x % blocks == 0)
        for (int c = threadIdx.x; c < d; c += DECODE_THREADS) {
            cache_k[(int64_t)runs.position * d + c] = new_k[c];
            cache_v[(int64_t)runs.position * d + c] = new_v[c];
        }

    float q[HEADS][WIDTH];
    mixing<HEADS, WIDTH> m;
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        m.most[h] = -INFINITY;
        m.sum[h] = 0.0f;
#pragma unroll
        for (int p = 0; p < PIECES; p++) {
            const int c = (lane + p * LANES) * EACH;
            uint4 bits = make_uint4(0, 0, 0, 0);
            if (h < heads && c < d)
                bits = *(const uint4 *)((const T *)a.q + row * a.q_ld + (int64_t)(head0 + h) * d + c);
            unpack<T>(&q[h][p * EACH], bits);
        }
#pragma unroll
        for (int i = 0; i < WIDTH; i++) q[h][i] *= a.scale, m.mix[h][i] = 0.0f;
    }

    for (int j0 = from; j0 < to; j0 += GROUPS * KEYS) {
        uint4 k[KEYS][PIECES], v[KEYS][PIECES];
        float score[HEADS][KEYS];
#pragma unroll
        for (int u = 0; u < KEYS; u++) {
            const int j = j0 + u * GROUPS + group;
            const T *key = j == runs.position ? new_k : cache_k + (int64_t)j * d;
            const T *value = j == runs.position ? new_v : cache_v + (int64_t)j * d;
#pragma unroll
            for (int p = 0; p < PIECES; p++) {
                const int c = (lane + p * LANES) * EACH;
                k[u][p] = v[u][p] = make_uint4(0, 0, 0, 0);
                if (j < to && c < d) {
                    k[u][p] = *(const uint4 *)(key + c);
                    v[u][p] = *(const uint4 *)(value + c);
                }
            }
        }
#pragma unroll
        for (int u = 0; u < KEYS; u++) {
            float x[WIDTH];
#pragma unroll
            for (int p = 0; p < PIECES; p++) unpack<T>(&x[p * EACH], k[u][p]);
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
                float sum = 0.0f;
#pragma unroll
                for (int i = 0; i < WIDTH; i++) sum += q[h][i] * x[i];
#pragma unroll
                for (int i = LANES / 2; i; i >>= 1) sum += __shfl_xor_sync(0xffffffffu, sum, i);
                if (a.softcap > 0) sum = a.softcap * tanhf(sum / a.softcap);
                score[h][u] = j0 + u * GROUPS + group < to ? sum : -INFINITY;
            }
        }
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            float most = m.most[h];
#pragma unroll
            for (int u = 0; u < KEYS; u++) most = fmaxf(most, score[h][u]);
            const float base = most == -INFINITY ? 0.0f : most, shrink = exp_of<T>(m.most[h] - base);
            m.most[h] = most;
            m.sum[h] *= shrink;
#pragma unroll
            for (int i = 0; i < WIDTH; i++) m.mix[h][i] *= shrink;
#pragma unroll
            for (int u = 0; u < KEYS; u++) {
                score[h][u] = exp_of<T>(score[h][u] - base);
                m.sum[h] += score[h][u];
            }
        }
#pragma unroll
        for (int u = 0; u < KEYS; u++) {
            float x[WIDTH];
#pragma unroll
            for (int p = 0; p < PIECES; p++) unpack<T>(&x[p * EACH], v[u][p]);
#pragma unroll
            for (int h = 0; h < HEADS; h++)
#pragma unroll
                for (int i = 0; i < WIDTH; i++) m.mix[h][i] += score[h][u] * x[i];
        }
    }
    put_together<T, LANES, PIECES, HEADS, WIDTH>(a, m, shared, row, s, head0, heads, runs.count == 1);
    if (runs.count > 1 && comes_last(a.arrived + s * gridDim.x + blockIdx.x, runs.count))
        combine<T, GROUPS, HEADS>(a, shared, row, head0, (int64_t)s * a.heads + head0, heads, runs.count);
}

/* ------------------------------------------------------------------ launches */

template <typename T, int LANES, int PIECES, int HEADS>
static void launch(spi_cuda *cuda, decode_view a, int count) {
    const int blocks = a.kv_heads * (int)blocks_for(a.group, HEADS);
    const int64_t most = blocks_for(a.capacity, LEAST_RUN), fill = 2 * cuda->processors / (blocks * count);
    a.splits = (int)(fill < 1 ? 1 : fill < most ? fill : most);
    if (a.splits > MOST_SPLITS) a.splits = MOST_SPLITS;
    if (a.splits > 1) {
        const size_t runs = (size_t)count * a.heads * a.splits;
        a.mixes = static_cast<float *>(spi_cuda_scratch(cuda, runs * (a.head_dim + 2) * sizeof(float)));
        if (!a.mixes) return;
        a.sums = reinterpret_cast<float2 *>(a.mixes + runs * a.head_dim); /* head_dim is even */
        a.arrived = cuda->counters; /* splits > 1: no more blocks of all sequences than processors */
    }
    const dim3 grid((unsigned)blocks, (unsigned)a.splits, (unsigned)count);
    const size_t shared = (size_t)(DECODE_THREADS / LANES * HEADS * (a.head_dim + 2)) * sizeof(float);
    launch(cuda, "attention over a cache", decode<T, LANES, PIECES, HEADS>,
           early(shape(grid, DECODE_THREADS, shared)), a);
}

template <typename T, int LANES, int PIECES>
static void by_heads(spi_cuda *cuda, const decode_view &a, int count) {
    if (a.group == 1) launch<T, LANES, PIECES, 1>(cuda, a, count);
    else if (a.group == 2) launch<T, LANES, PIECES, 2>(cuda, a, count);
    else launch<T, LANES, PIECES, 4>(cuda, a, count);
}

/* Threads that read a row together: as many as it has pieces, or the next power of two. */
template <typename T> static void by_width(spi_cuda *cuda, const decode_view &a, int count) {
    const int pieces = a.head_dim * (int)sizeof(T) / 16;
    if (pieces <= 8) by_heads<T, 8, 1>(cuda, a, count);
    else if (pieces <= 16) by_heads<T, 16, 1>(cuda, a, count);
    else if (pieces <= 32) by_heads<T, 32, 1>(cuda, a, count);
    else by_heads<T, 32, 2>(cuda, a, count);
}

static bool decodes(spi_cuda *cuda, spi_mat o, spi_mat q, spi_mat k, spi_mat v, const spi_kv *kv,
                    const spi_cached_seqs *seqs, const spi_attn *attn) {
    const int64_t bytes = attn->head_dim * (q.dtype == SP_BF16 ? 2 : 4);
    if (seqs->max_new != 1 || kv->dtype != q.dtype || bytes % 16 || bytes > 1024) return false;
    if (!packs(q) || !packs(k) || !packs(v)) return false;
    decode_view a = {};
    a.q = q.data, a.q_ld = q.ld;
    a.k = k.data, a.k_ld = k.ld;
    a.v = v.data, a.v_ld = v.ld;
    a.o = o.data, a.o_ld = o.ld;
    a.cache_k = kv->k;
    a.cache_v = kv->v;
    a.capacity = kv->capacity;
    a.start = seqs->start;
    a.slot = seqs->slot;
    a.past = seqs->past;
    describe(a, attn);
    if (q.dtype == SP_BF16) by_width<bf16>(cuda, a, seqs->count);
    else by_width<float>(cuda, a, seqs->count);
    return true;
}

/* New rows that have been stored, as the kernels for packed sequences see them. */
static attention_view view_of(spi_mat o, spi_mat q, const spi_kv *kv, const spi_cached_seqs *seqs,
                              const spi_attn *attn) {
    attention_view a = {};
    a.q = q.data, a.q_ld = q.ld;
    a.o = o.data, a.o_ld = o.ld;
    a.k = kv->k, a.k_ld = attn->head_dim;
    a.v = kv->v, a.v_ld = attn->head_dim;
    a.head_stride = kv->capacity * attn->head_dim;
    a.slot_stride = a.head_stride * attn->kv_heads;
    a.tokens = q.rows;
    a.start = seqs->start;
    a.slot = seqs->slot;
    a.past = seqs->past;
    a.count = seqs->count;
    a.longest = seqs->max_new;
    describe(a, attn);
    return a;
}

void spi_cuda_attention_cached(spi_device *dev, spi_mat o, spi_mat q, spi_mat k, spi_mat v, const spi_kv *kv,
                               const spi_cached_seqs *seqs, const spi_attn *attn) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK || q.rows == 0 || seqs->max_new == 0) return;
    if (decodes(cuda, o, q, k, v, kv, seqs, attn)) return;
    store(cuda, k, v, kv, seqs, attn);
    const attention_view a = view_of(o, q, kv, seqs, attn);
    if (q.dtype == SP_BF16 && kv->dtype == SP_BF16 && packs(q) && packs(o) && attn->head_dim % 8 == 0 &&
        attention_tensor(cuda, a))
        return;
    attention_plain(cuda, q.dtype, kv->dtype, a);
}
