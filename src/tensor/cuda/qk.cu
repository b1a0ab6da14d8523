/*
 * Norms of queries and keys and their rotary positions, forward beside backward.
 *
 * One kernel each way where norms are RMS of heads, or there are none, and heads are up to 256 wide, in 16-byte
 * vectors. LANES threads hold a head, each a pair of vectors, as they turn: (a, b) of elements (j, j + half)
 * become (a c - b s, b c + a s), with -s on the way back. Behind rotary_dim two neighbours are a pair that does
 * not turn. A thread takes the same pair of up to HEADS heads of a row, of queries or of keys, which share its
 * cosines, sines and weights; sums over a head go through shuffles. A block's threads go on through the heads
 * of a row, then to the next row.
 *   With g = dy (offset + weight): dx = (g - x mean(g x) / (mean(x^2) + eps)) / sqrt(mean(x^2) + eps)
 * Limit: memory; x read and written once: [8192, (16 + 8) * 128] in bf16 101 MB, 34 us; backward, with x and dy
 * read, 151 MB, 50 us. The same in kernels of their own for norms and rotation, of queries and of keys: twice
 * that.
 *
 * All else is the norms (norm.cu) and a rotation of its own: by the same kernel, or element by element.
 */
#include "tensor/cuda/ptx.cuh"
#include "tensor/cuda/vec.cuh"

#define THREADS 128
#define BLOCKS 4 /* of a processor, at least: 64 KiB under way */
#define FEW 4    /* heads of a thread where there are many */

/* What the kernels are told. */
struct heads_view {
    int32_t heads, kv_heads, head_dim, half; /* half: rotary_dim / 2 */
    int32_t parts, q_parts;                  /* of a row: HEADS heads each; of them queries */
    uint32_t count;                          /* parts in all rows */
    const float *cos, *sin;
    const int32_t *positions;
    const float *q_weight, *k_weight;
    float eps, offset, share_of_one, sign; /* share_of_one: 1 / head_dim */
    bool norm_last;
};

template <typename T> static __device__ __forceinline__ float rounded(float x) {
    return to_float(from_float<T>(x));
}

/* A pair of vectors of one head, as they lie in memory. */
template <typename T> struct pair {
    static constexpr int each = pack<T>::size;
    uint4 a, b;

    __device__ __forceinline__ void get(float (&u)[each], float (&v)[each]) const {
        vec<T, each> to;
        to.unpack(a, 0);
#pragma unroll
        for (int e = 0; e < each; e++) u[e] = to.v[e];
        to.unpack(b, 0);
#pragma unroll
        for (int e = 0; e < each; e++) v[e] = to.v[e];
    }
    __device__ __forceinline__ void set(const float (&u)[each], const float (&v)[each]) {
        T *p = reinterpret_cast<T *>(&a), *q = reinterpret_cast<T *>(&b);
#pragma unroll
        for (int e = 0; e < each; e++) {
            p[e] = from_float<T>(u[e]);
            q[e] = from_float<T>(v[e]);
        }
    }
};

/* Which heads and which pair of vectors of each are this thread's; LANES threads hold DIM elements. */
template <typename T, int DIM, int HEADS> struct share {
    static constexpr int each = pack<T>::size, lanes = DIM / 2 / each;
    int64_t row;
    int count, first, a, b; /* heads; the first one's first column; columns of the pair in a head */
    bool turns, has_a, has_b, keys;

    __device__ __forceinline__ explicit share(const heads_view &w) {
        const unsigned at = blockIdx.x * (THREADS / lanes) + threadIdx.x / lanes;
        const unsigned i = at < w.count ? at : 0;
        const int lane = threadIdx.x % lanes, turning = w.half / each;
        row = i / (unsigned)w.parts;
        const int part = (int)(i % (unsigned)w.parts);
        keys = part >= w.q_parts;
        const int head = keys ? w.heads + (part - w.q_parts) * HEADS : part * HEADS;
        count = min(HEADS, (keys ? w.heads + w.kv_heads : w.heads) - head);
        if (at >= w.count) count = 0;
        first = head * w.head_dim;
        turns = lane < turning;
        a = turns ? lane * each : 2 * (w.half + (lane - turning) * each);
        b = turns ? a + w.half : a + each;
        has_a = a < w.head_dim;
        has_b = b < w.head_dim;
    }
    __device__ __forceinline__ void load(pair<T> (&to)[HEADS], rows_of<const T> m, const heads_view &w) const {
        const T *from = m.row(row) + first;
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            to[h].a = to[h].b = make_uint4(0, 0, 0, 0);
            if (h < count && has_a) to[h].a = *reinterpret_cast<const uint4 *>(from + h * w.head_dim + a);
            if (h < count && has_b) to[h].b = *reinterpret_cast<const uint4 *>(from + h * w.head_dim + b);
        }
    }
    __device__ __forceinline__ void store(rows_of<T> m, const pair<T> (&from)[HEADS],
                                          const heads_view &w) const {
        T *to = m.row(row) + first;
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            if (h < count && has_a) *reinterpret_cast<uint4 *>(to + h * w.head_dim + a) = from[h].a;
            if (h < count && has_b) *reinterpret_cast<uint4 *>(to + h * w.head_dim + b) = from[h].b;
        }
    }
    /* offset + weight at the pair's columns. */
    __device__ __forceinline__ void weights(float (&u)[each], float (&v)[each], const heads_view &w) const {
        const float *weight = keys ? w.k_weight : w.q_weight;
        vec<float, each> p, q;
#pragma unroll
        for (int e = 0; e < each; e++) p.v[e] = q.v[e] = 0.0f;
        if (has_a) p.load(weight + a);
        if (has_b) q.load(weight + b);
#pragma unroll
        for (int e = 0; e < each; e++) {
            u[e] = w.offset + p.v[e];
            v[e] = w.offset + q.v[e];
        }
    }
    /* Sum over the threads that hold a head, for each of them. */
    __device__ __forceinline__ static float sum(float x) {
#pragma unroll
        for (int i = lanes / 2; i; i >>= 1) x += __shfl_xor_sync(0xffffffffu, x, i);
        return x;
    }
};

/* Cosines and sines of a thread's pair. */
template <int E> struct angles {
    vec<float, E> c, s;

    template <typename SHARE> __device__ __forceinline__ void load(const SHARE &at, const heads_view &w) {
#pragma unroll
        for (int e = 0; e < E; e++) c.v[e] = s.v[e] = 0.0f;
        if (!at.turns || at.count <= 0) return;
        const int64_t from = (int64_t)w.positions[at.row] * w.half + at.a;
        c.load(w.cos + from);
        s.load(w.sin + from);
#pragma unroll
        for (int e = 0; e < E; e++) s.v[e] *= w.sign;
    }
    __device__ __forceinline__ void turn(float (&u)[E], float (&v)[E]) const {
#pragma unroll
        for (int e = 0; e < E; e++) {
            const float x = u[e], y = v[e];
            u[e] = x * c.v[e] - y * s.v[e];
            v[e] = y * c.v[e] + x * s.v[e];
        }
    }
};

/* Heads in memory's form, turned and rounded. */
template <typename T, int HEADS>
static __device__ __forceinline__ void turn_all(pair<T> (&heads)[HEADS], const angles<pack<T>::size> &angle) {
    constexpr int E = pack<T>::size;
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        float u[E], v[E];
        heads[h].get(u, v);
        angle.turn(u, v);
        heads[h].set(u, v);
    }
}

/* ------------------------------------------------------------------ forward */

template <typename T, int DIM, int HEADS, bool NORMS>
static __global__ void __launch_bounds__(THREADS, BLOCKS) qk_forward(rows_of<T> y, rows_of<T> x, heads_view w) {
    typedef share<T, DIM, HEADS> mine;
    constexpr int E = mine::each;
    const mine at(w);
    angles<E> angle;
    pair<T> held[HEADS];
    float a[E], b[E];
    dependents_may_start();
    if constexpr (NORMS) at.weights(a, b, w);
    dependency_wait();
    at.load(held, {x.data, x.ld}, w);
    angle.load(at, w);
    if constexpr (NORMS) {
        float inverse[HEADS];
        if (w.norm_last && w.half > 0) {
            if (at.turns) turn_all(held, angle);
            at.store(x, held, w);
        }
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            float u[E], v[E], squares = 0.0f;
            held[h].get(u, v);
#pragma unroll
            for (int e = 0; e < E; e++) squares += u[e] * u[e] + v[e] * v[e];
            inverse[h] = squares;
        }
#pragma unroll
        for (int h = 0; h < HEADS; h++)
            inverse[h] = 1.0f / sqrtf(mine::sum(inverse[h]) * w.share_of_one + w.eps);
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            float u[E], v[E];
            held[h].get(u, v);
#pragma unroll
            for (int e = 0; e < E; e++) {
                u[e] = rounded<T>(u[e] * inverse[h] * a[e]);
                v[e] = rounded<T>(v[e] * inverse[h] * b[e]);
            }
            if (at.turns && !w.norm_last) angle.turn(u, v);
            held[h].set(u, v);
        }
    } else if (at.turns) {
        turn_all(held, angle);
    }
    at.store(y, held, w);
}

/* ------------------------------------------------------------------ backward */

/* The norms' gradient, with the rotation's before or behind it. */
template <typename T, int DIM, int HEADS>
static __global__ void __launch_bounds__(THREADS, BLOCKS)
    qk_backward(rows_of<T> dx, rows_of<const T> dy, rows_of<const T> x, heads_view w) {
    typedef share<T, DIM, HEADS> mine;
    constexpr int E = mine::each;
    const mine at(w);
    angles<E> angle;
    pair<T> in[HEADS], grad[HEADS];
    float a[E], b[E], squares[HEADS], along[HEADS];
    at.load(in, x, w);
    at.load(grad, dy, w);
    angle.load(at, w);
    at.weights(a, b, w);
    if (at.turns && !w.norm_last) turn_all(grad, angle);
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        float u[E], v[E], p[E], q[E];
        in[h].get(u, v);
        grad[h].get(p, q);
        squares[h] = along[h] = 0.0f;
#pragma unroll
        for (int e = 0; e < E; e++) {
            squares[h] += u[e] * u[e] + v[e] * v[e];
            along[h] += p[e] * a[e] * u[e] + q[e] * b[e] * v[e];
        }
    }
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        const float inverse = 1.0f / sqrtf(mine::sum(squares[h]) * w.share_of_one + w.eps);
        const float mean = mine::sum(along[h]) * inverse * w.share_of_one; /* of g xhat */
        float u[E], v[E], p[E], q[E];
        in[h].get(u, v);
        grad[h].get(p, q);
#pragma unroll
        for (int e = 0; e < E; e++) {
            u[e] = inverse * (p[e] * a[e] - u[e] * inverse * mean);
            v[e] = inverse * (q[e] * b[e] - v[e] * inverse * mean);
        }
        if (at.turns && w.norm_last) {
#pragma unroll
            for (int e = 0; e < E; e++) {
                u[e] = rounded<T>(u[e]);
                v[e] = rounded<T>(v[e]);
            }
            angle.turn(u, v);
        }
        grad[h].set(u, v);
    }
    at.store(dx, grad, w);
}

/* ------------------------------------------------------------------ element by element */

static __global__ void __launch_bounds__(THREADS) turn_plain(either x, heads_view w, int64_t pairs) {
    const int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (i >= pairs) return;
    const int64_t all = (int64_t)(w.heads + w.kv_heads) * w.half, r = i / all;
    const int at = (int)(i % all), j = at % w.half, c = at / w.half * w.head_dim + j;
    const int64_t angle = (int64_t)w.positions[r] * w.half + j;
    const float a = x.get(r, c), b = x.get(r, c + w.half), cosine = w.cos[angle], sine = w.sign * w.sin[angle];
    x.set(r, c, a * cosine - b * sine);
    x.set(r, c + w.half, b * cosine + a * sine);
}

/* ------------------------------------------------------------------ the operations */

static heads_view view_of(const spi_qk *qk, bool norms, float sign) {
    heads_view w = {};
    w.heads = qk->heads;
    w.kv_heads = qk->kv_heads;
    w.head_dim = qk->head_dim;
    w.half = qk->rotary_dim / 2;
    w.cos = qk->cos;
    w.sin = qk->sin;
    w.positions = qk->positions;
    w.sign = sign;
    w.share_of_one = 1.0f / (float)qk->head_dim;
    w.norm_last = qk->norm_last;
    if (!norms) return w;
    w.q_weight = qk->q_norm.weight;
    w.k_weight = qk->k_norm.weight;
    w.eps = qk->q_norm.eps;
    w.offset = qk->q_norm.offset;
    return w;
}

static bool at_16(const void *data) {
    return (uintptr_t)data % 16 == 0;
}

/* Whether heads can be held in pairs of vectors: those of x and y, which are of one dtype. */
static bool can_hold(spi_mat y, spi_mat x, const spi_qk *qk) {
    const int64_t each = x.dtype == SP_BF16 ? 8 : 4;
    return in_vecs(x, each) && in_vecs(y, each) && qk->head_dim % each == 0 && qk->head_dim <= 256 &&
           qk->rotary_dim / 2 % each == 0 && at_16(qk->cos) && at_16(qk->sin) &&
           x.rows * (qk->heads + qk->kv_heads) < INT32_MAX;
}

static bool rms_of_heads(const spi_norm *norm, int32_t heads) {
    return norm->kind == SPI_NORM_RMS && norm->groups == heads && !norm->bias && at_16(norm->weight);
}

/* Whether the kernels know these norms. */
static bool can_norm(const spi_qk *qk) {
    const spi_norm *q = &qk->q_norm, *k = &qk->k_norm;
    return rms_of_heads(q, qk->heads) && rms_of_heads(k, qk->kv_heads) && q->eps == k->eps &&
           q->offset == k->offset;
}

/* Calls f with the width that holds a head, the heads of a thread, all parts of all rows, and the blocks. */
template <typename T, int DIM, int HEADS, typename F> static void launch_as(heads_view w, int64_t rows, F f) {
    constexpr int lanes = share<T, DIM, HEADS>::lanes;
    w.q_parts = (int32_t)blocks_for(w.heads, HEADS);
    w.parts = w.q_parts + (int32_t)blocks_for(w.kv_heads, HEADS);
    w.count = (uint32_t)(rows * w.parts);
    f(count_tag<DIM>(), count_tag<HEADS>(), w, (unsigned)blocks_for(w.count, THREADS / lanes));
}

/* The same by the width of heads; MANY heads to a thread where that leaves enough threads. */
template <typename T, int MANY, typename F>
static void by_width(const spi_cuda *cuda, const heads_view &w, int64_t rows, F f) {
    const bool many = rows * (w.heads + w.kv_heads) > (int64_t)cuda->processors * 64;
    const auto as = [&](auto dim) {
        constexpr int DIM = decltype(dim)::value;
        if (many) launch_as<T, DIM, MANY>(w, rows, f);
        else launch_as<T, DIM, 1>(w, rows, f);
    };
    if (w.head_dim <= 64) as(count_tag<64>());
    else if (w.head_dim <= 128) as(count_tag<128>());
    else as(count_tag<256>());
}

template <bool NORMS>
static void forward_held(spi_cuda *cuda, spi_mat y, spi_mat x, const spi_qk *qk, float sign) {
    by_float(x.dtype, [&](auto tag) {
        typedef typename decltype(tag)::type T;
        by_width<T, FEW>(cuda, view_of(qk, NORMS, sign), x.rows,
                         [&](auto dim, auto heads, const heads_view &w, unsigned blocks) {
                             constexpr int DIM = decltype(dim)::value, HEADS = decltype(heads)::value;
                             launch(cuda, "queries and keys", qk_forward<T, DIM, HEADS, NORMS>,
                                    early(shape(blocks, THREADS)), rows<T>(y), rows<T>(x), w);
                         });
    });
}

static void backward_held(spi_cuda *cuda, spi_mat dx, spi_mat dy, spi_mat x, const spi_qk *qk) {
    by_float(x.dtype, [&](auto tag) {
        typedef typename decltype(tag)::type T;
        by_width<T, 2>(cuda, view_of(qk, true, -1.0f), x.rows,
                       [&](auto dim, auto heads, const heads_view &w, unsigned blocks) {
                           constexpr int DIM = decltype(dim)::value, HEADS = decltype(heads)::value;
                           launch(cuda, "the gradient of queries and keys", qk_backward<T, DIM, HEADS>,
                                  shape(blocks, THREADS), rows<T>(dx), rows<const T>(dy), rows<const T>(x), w);
                       });
    });
}

/* y = x turned; y may be x. */
static void turn(spi_cuda *cuda, spi_mat y, spi_mat x, const spi_qk *qk, float sign) {
    const int64_t pairs = x.rows * (qk->heads + qk->kv_heads) * (qk->rotary_dim / 2);
    if (pairs > 0 && can_hold(y, x, qk)) {
        forward_held<false>(cuda, y, x, qk, sign);
        return;
    }
    if (y.data != x.data) spi_cuda_convert(&cuda->device, y, x);
    if (pairs > 0)
        launch(cuda, "rotary positions", turn_plain, shape((unsigned)blocks_for(pairs, THREADS), THREADS),
               either_of(y), view_of(qk, false, sign), pairs);
}

static spi_mat columns(spi_mat m, int64_t first, int64_t cols) {
    m.data = (char *)m.data + first * bytes_of(m.dtype);
    m.cols = cols;
    return m;
}

static spi_mat queries(spi_mat m, const spi_qk *qk) {
    return columns(m, 0, (int64_t)qk->heads * qk->head_dim);
}

static spi_mat keys(spi_mat m, const spi_qk *qk) {
    return columns(m, (int64_t)qk->heads * qk->head_dim, (int64_t)qk->kv_heads * qk->head_dim);
}

void spi_cuda_qk(spi_device *dev, spi_mat y, spi_mat x, const spi_qk *qk) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK || x.rows == 0) return;
    if (qk->norms && can_norm(qk) && can_hold(y, x, qk)) {
        forward_held<true>(cuda, y, x, qk, 1.0f);
        return;
    }
    if (!qk->norms || qk->norm_last) turn(cuda, qk->norms ? x : y, x, qk, 1.0f);
    if (!qk->norms) return;
    spi_cuda_norm(dev, queries(y, qk), queries(x, qk), &qk->q_norm);
    spi_cuda_norm(dev, keys(y, qk), keys(x, qk), &qk->k_norm);
    if (!qk->norm_last) turn(cuda, y, y, qk, 1.0f);
}

void spi_cuda_qk_backward(spi_device *dev, spi_mat dx, spi_mat dy, spi_mat x, const spi_qk *qk,
                          float *dq_weight, float *dk_weight) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK || dx.rows == 0) return;
    if (qk->norms && !dq_weight && !dk_weight && can_norm(qk) && can_hold(dx, dy, qk) && can_hold(x, x, qk)) {
        backward_held(cuda, dx, dy, x, qk);
        return;
    }
    if (!qk->norms || !qk->norm_last) {
        turn(cuda, dx, dy, qk, -1.0f);
        dy = dx;
    }
    if (!qk->norms) return;
    spi_cuda_norm_backward(dev, queries(dx, qk), queries(dy, qk), queries(x, qk), &qk->q_norm, dq_weight, NULL,
                           false);
    spi_cuda_norm_backward(dev, keys(dx, qk), keys(dy, qk), keys(x, qk), &qk->k_norm, dk_weight, NULL, false);
    if (qk->norm_last) turn(cuda, dx, dx, qk, -1.0f);
}
