/*
 * RMSNorm and LayerNorm over segments of rows, forward beside backward.
 *
 * A segment of n = cols / groups elements is held in the registers of some threads, P vectors of 16 bytes each:
 * of 8, 16 or 32 lanes of a warp (a head of 128 in bf16 is 16 vectors: 8 lanes, so that a warp has 4 heads), or
 * of a whole block. So x is read once. Longer or unaligned segments are gone through several times by a block.
 * Limit: memory. [8192, 1024] in bf16 forward 34 MB, 11 us; backward 50 MB, 17 us, and 17 MB more where dx
 * adds; heads of q [8192, 16 * 128] twice that.
 *
 * With xhat = (x - mean) / sqrt(var + eps) and g = dy (offset + weight):
 *   dx = (g - xhat mean(g xhat) [- mean(g)]) / sqrt(var + eps);  dweight += dy xhat;  dbias += dy
 * Gradients of weight and bias are summed by each block over its segments, [blocks, n] in scratch memory.
 */
#include "tensor/cuda/ptx.cuh"
#include "tensor/cuda/sums.cuh"
#include "tensor/cuda/vec.cuh"

#define SMALL_BLOCK 128 /* threads of a block whose segments take at most a warp each */
#define PLAIN_BLOCK 256

/* What all kernels are told. */
typedef struct segments {
    int64_t count; /* segments */
    int32_t groups, n;
    float eps, offset;
    bool centre; /* LAYER */
    const float *weight, *bias;
} segments;

/* Mean and 1 / sqrt(var + eps) of a segment; the mean of RMS is 0. */
struct statistics {
    float mean, inverse;
};

/* Sum over the threads that share a segment, for each of them. */
template <int LANES> static __device__ __forceinline__ float lanes_sum(float x) {
    if constexpr (LANES > 32) {
        return block_sum(x);
    } else {
#pragma unroll
        for (int i = LANES / 2; i; i >>= 1) x += __shfl_xor_sync(0xffffffffu, x, i);
        return x;
    }
}

/* Vectors of one segment: vector i is lane i % LANES's, the (i / LANES)th of it. */
template <typename T, int LANES, int P> struct segment {
    static constexpr int each = vec<T, 1>::access == 2 ? 8 : 4;
    uint4 bits[P];

    __device__ __forceinline__ void load(const T *from, int lane, int vecs) {
#pragma unroll
        for (int p = 0; p < P; p++) {
            const int i = lane + p * LANES;
            bits[p] = i < vecs ? reinterpret_cast<const uint4 *>(from)[i] : make_uint4(0, 0, 0, 0);
        }
    }
    __device__ __forceinline__ void get(float (&v)[each], int p) const {
        vec<T, each> to;
        to.unpack(bits[p], 0);
#pragma unroll
        for (int e = 0; e < each; e++) v[e] = to.v[e];
    }
};

template <int E> static __device__ __forceinline__ void load_vector(float (&v)[E], const float *from) {
    vec<float, E> to;
    to.load(from);
#pragma unroll
    for (int e = 0; e < E; e++) v[e] = to.v[e];
}

/*
 * The first mean carries the rounding of a sum of large numbers where the mean is far from zero; what is left
 * of it in the deviations is taken out of both results.
 */
template <typename T, int LANES, int P>
static __device__ __forceinline__ statistics measure(const segment<T, LANES, P> &x, int lane, int vecs,
                                                     const segments &s) {
    constexpr int E = segment<T, LANES, P>::each;
    const float n = (float)s.n;
    float v[E], sum = 0.0f, rest = 0.0f, squares = 0.0f, mean = 0.0f;
    if (s.centre) {
#pragma unroll
        for (int p = 0; p < P; p++) {
            x.get(v, p);
#pragma unroll
            for (int e = 0; e < E; e++) sum += v[e];
        }
        mean = lanes_sum<LANES>(sum) / n;
    }
#pragma unroll
    for (int p = 0; p < P; p++) {
        if (lane + p * LANES >= vecs) continue;
        x.get(v, p);
#pragma unroll
        for (int e = 0; e < E; e++) {
            const float deviation = v[e] - mean;
            rest += deviation;
            squares += deviation * deviation;
        }
    }
    squares = lanes_sum<LANES>(squares) / n;
    if (!s.centre) return {0.0f, 1.0f / sqrtf(squares + s.eps)};
    rest = lanes_sum<LANES>(rest) / n;
    return {mean + rest, 1.0f / sqrtf(squares - rest * rest + s.eps)};
}

/* Which segment a thread works on: the `sub`th of its block. */
template <int LANES> struct place {
    static constexpr int threads = LANES > 32 ? LANES : SMALL_BLOCK, per_block = threads / LANES;
    int lane, sub;
    __device__ __forceinline__ place() : lane(threadIdx.x % LANES), sub(threadIdx.x / LANES) {
    }
};

/* Where segment i begins. */
template <typename T>
static __device__ __forceinline__ T *segment_at(rows_of<T> m, int64_t i, const segments &s) {
    if (s.groups == 1) return m.row(i);
    const unsigned at = (unsigned)i, row = at / (unsigned)s.groups;
    return m.row(row) + (int64_t)(at - row * (unsigned)s.groups) * s.n;
}

/* ------------------------------------------------------------------ forward */

template <typename T, int LANES, int P>
static __global__ void __launch_bounds__(place<LANES>::threads)
    norm_held(rows_of<T> y, rows_of<const T> x, segments s) {
    typedef segment<T, LANES, P> held;
    constexpr int E = held::each;
    const place<LANES> at;
    const int vecs = s.n / E;
    const int64_t i = (int64_t)blockIdx.x * place<LANES>::per_block + at.sub;
    const bool mine = i < s.count;
    held in;
    dependents_may_start();
    dependency_wait();
    in.load(segment_at(x, mine ? i : 0, s), at.lane, mine ? vecs : 0);
    const statistics st = measure(in, at.lane, vecs, s);
    if (!mine) return;
    T *to = segment_at(y, i, s);
#pragma unroll
    for (int p = 0; p < P; p++) {
        const int first = (at.lane + p * LANES) * E;
        if (first >= s.n) continue;
        float v[E], w[E];
        vec<T, E> out;
        in.get(v, p);
        load_vector<E>(w, s.weight + first);
#pragma unroll
        for (int e = 0; e < E; e++) out.v[e] = (v[e] - st.mean) * st.inverse * (s.offset + w[e]);
        if (s.bias) {
            load_vector<E>(w, s.bias + first);
#pragma unroll
            for (int e = 0; e < E; e++) out.v[e] += w[e];
        }
        out.store(to + first);
    }
}

/* Statistics of elements [first, first + n) of row r, over a block. */
static __device__ statistics measure_plain(either x, int64_t r, int64_t first, const segments &s) {
    const float n = (float)s.n;
    float sum = 0.0f, rest = 0.0f, squares = 0.0f, mean = 0.0f;
    if (s.centre) {
        for (int c = threadIdx.x; c < s.n; c += PLAIN_BLOCK) sum += x.get(r, first + c);
        mean = block_sum(sum) / n;
    }
    for (int c = threadIdx.x; c < s.n; c += PLAIN_BLOCK) {
        const float deviation = x.get(r, first + c) - mean;
        rest += deviation;
        squares += deviation * deviation;
    }
    squares = block_sum(squares) / n;
    if (!s.centre) return {0.0f, 1.0f / sqrtf(squares + s.eps)};
    rest = block_sum(rest) / n;
    return {mean + rest, 1.0f / sqrtf(squares - rest * rest + s.eps)};
}

static __global__ void __launch_bounds__(PLAIN_BLOCK) norm_plain(either y, either x, segments s) {
    for (int64_t i = blockIdx.x; i < s.count; i += gridDim.x) {
        const int64_t r = i / s.groups, first = i % s.groups * s.n;
        const statistics st = measure_plain(x, r, first, s);
        for (int c = threadIdx.x; c < s.n; c += PLAIN_BLOCK) {
            const float v = (x.get(r, first + c) - st.mean) * st.inverse * (s.offset + s.weight[c]);
            y.set(r, first + c, s.bias ? v + s.bias[c] : v);
        }
    }
}

/* ------------------------------------------------------------------ backward */

/* Sums over a thread's segments; `parts` [blocks, n] of each gradient, or NULL. */
typedef struct gradients {
    float *weight, *bias;
} gradients;

/* One gradient of a block: what its threads hold of the same columns is added in order of `sub`. */
template <int E, int LANES, int P>
static __device__ __forceinline__ void leave_part(float *to, const float (&sum)[P][E], const place<LANES> &at,
                                                  int n) {
    if constexpr (LANES > 32) {
#pragma unroll
        for (int p = 0; p < P; p++)
#pragma unroll
            for (int e = 0; e < E; e++)
                if ((at.lane + p * LANES) * E + e < n) to[(at.lane + p * LANES) * E + e] = sum[p][e];
    } else {
        __shared__ float all[SMALL_BLOCK * E];
#pragma unroll
        for (int p = 0; p < P; p++) {
            __syncthreads(); /* `all` may still be read from the vector before */
#pragma unroll
            for (int e = 0; e < E; e++) all[threadIdx.x * E + e] = sum[p][e];
            __syncthreads();
            for (int i = threadIdx.x; i < LANES * E; i += SMALL_BLOCK) {
                float total = 0.0f;
                for (int sub = 0; sub < place<LANES>::per_block; sub++) total += all[sub * LANES * E + i];
                if (p * LANES * E + i < n) to[p * LANES * E + i] = total;
            }
        }
    }
}

template <typename T, int LANES, int P, bool GRADS>
static __global__ void __launch_bounds__(place<LANES>::threads)
    norm_backward_held(rows_of<T> dx, rows_of<const T> dy, rows_of<const T> x, segments s, gradients parts,
                       bool accumulate) {
    typedef segment<T, LANES, P> held;
    constexpr int E = held::each, per_block = place<LANES>::per_block;
    const place<LANES> at;
    const int vecs = s.n / E;
    float dweight[GRADS ? P : 1][E], dbias[GRADS ? P : 1][E];
    if constexpr (GRADS) {
#pragma unroll
        for (int p = 0; p < P; p++)
#pragma unroll
            for (int e = 0; e < E; e++) dweight[p][e] = dbias[p][e] = 0.0f;
    }
    for (int64_t from = (int64_t)blockIdx.x * per_block; from < s.count;
         from += (int64_t)gridDim.x * per_block) {
        const int64_t i = from + at.sub;
        const bool mine = i < s.count;
        const int here = mine ? vecs : 0;
        held in, grad;
        in.load(segment_at(x, mine ? i : 0, s), at.lane, here);
        grad.load(segment_at(dy, mine ? i : 0, s), at.lane, here);
        const statistics st = measure(in, at.lane, vecs, s);
        float along = 0.0f, sum = 0.0f, v[E], d[E], w[E];
#pragma unroll
        for (int p = 0; p < P; p++) {
            const int k = at.lane + p * LANES;
            if (k >= here) continue;
            in.get(v, p);
            grad.get(d, p);
            load_vector<E>(w, s.weight + k * E);
#pragma unroll
            for (int e = 0; e < E; e++) {
                const float g = d[e] * (s.offset + w[e]), xhat = (v[e] - st.mean) * st.inverse;
                along += g * xhat;
                sum += g;
                if constexpr (GRADS) {
                    dweight[p][e] += d[e] * xhat;
                    dbias[p][e] += d[e];
                }
            }
        }
        along = lanes_sum<LANES>(along) / (float)s.n;
        sum = s.centre ? lanes_sum<LANES>(sum) / (float)s.n : 0.0f;
        T *to = segment_at(dx, mine ? i : 0, s);
#pragma unroll
        for (int p = 0; p < P; p++) {
            const int k = at.lane + p * LANES;
            if (k >= here) continue;
            vec<T, E> out;
            if (accumulate) {
                out.load(to + k * E);
            } else {
#pragma unroll
                for (int e = 0; e < E; e++) out.v[e] = 0.0f;
            }
            in.get(v, p);
            grad.get(d, p);
            load_vector<E>(w, s.weight + k * E);
#pragma unroll
            for (int e = 0; e < E; e++)
                out.v[e] +=
                    st.inverse * (d[e] * (s.offset + w[e]) - (v[e] - st.mean) * st.inverse * along - sum);
            out.store(to + k * E);
        }
    }
    if constexpr (GRADS) {
        leave_part<E, LANES, P>(parts.weight + (int64_t)blockIdx.x * s.n, dweight, at, s.n);
        if (parts.bias) leave_part<E, LANES, P>(parts.bias + (int64_t)blockIdx.x * s.n, dbias, at, s.n);
    }
}

/* A thread has the same columns in all segments of its block, and so adds to the block's part alone. */
static __global__ void __launch_bounds__(PLAIN_BLOCK)
    norm_backward_plain(either dx, either dy, either x, segments s, gradients parts, bool accumulate) {
    float *dweight = parts.weight ? parts.weight + (int64_t)blockIdx.x * s.n : NULL;
    float *dbias = parts.bias ? parts.bias + (int64_t)blockIdx.x * s.n : NULL;
    for (int c = threadIdx.x; c < s.n; c += PLAIN_BLOCK) {
        if (dweight) dweight[c] = 0.0f;
        if (dbias) dbias[c] = 0.0f;
    }
    for (int64_t i = blockIdx.x; i < s.count; i += gridDim.x) {
        const int64_t r = i / s.groups, first = i % s.groups * s.n;
        const statistics st = measure_plain(x, r, first, s);
        float along = 0.0f, sum = 0.0f;
        for (int c = threadIdx.x; c < s.n; c += PLAIN_BLOCK) {
            const float d = dy.get(r, first + c), g = d * (s.offset + s.weight[c]);
            const float xhat = (x.get(r, first + c) - st.mean) * st.inverse;
            along += g * xhat;
            sum += g;
            if (dweight) dweight[c] += d * xhat;
            if (dbias) dbias[c] += d;
        }
        along = block_sum(along) / (float)s.n;
        sum = block_sum(sum);
        sum = s.centre ? sum / (float)s.n : 0.0f;
        for (int c = threadIdx.x; c < s.n; c += PLAIN_BLOCK) {
            const float xhat = (x.get(r, first + c) - st.mean) * st.inverse;
            const float v = st.inverse * (dy.get(r, first + c) * (s.offset + s.weight[c]) - xhat * along - sum);
            dx.set(r, first + c, accumulate ? dx.get(r, first + c) + v : v);
        }
    }
}

/* ------------------------------------------------------------------ the operations */

static segments segments_of(spi_mat x, const spi_norm *norm) {
    return {x.rows * norm->groups,
            (int32_t)norm->groups,
            (int32_t)(x.cols / norm->groups),
            norm->eps,
            norm->offset,
            norm->kind == SPI_NORM_LAYER,
            norm->weight,
            norm->bias};
}

static bool at_16(const void *data) {
    return (uintptr_t)data % 16 == 0;
}

/* Whether segments can be held: of 16-byte vectors, few enough, all of one dtype. */
static bool can_hold(const segments &s, spi_mat x, spi_mat y) {
    const int64_t each = x.dtype == SP_BF16 ? 8 : 4;
    return x.dtype == y.dtype && in_vecs(x, each) && in_vecs(y, each) && s.n % each == 0 &&
           s.n / each <= 2048 && s.count < INT32_MAX && at_16(s.weight) && at_16(s.bias);
}

/* Calls f with the lanes and the vectors of each that hold `vecs` vectors. */
template <typename F> static void by_length(int64_t vecs, F f) {
    if (vecs <= 16) f(count_tag<8>(), count_tag<2>());
    else if (vecs <= 32) f(count_tag<16>(), count_tag<2>());
    else if (vecs <= 64) f(count_tag<32>(), count_tag<2>());
    else if (vecs <= 128) f(count_tag<32>(), count_tag<4>());
    else if (vecs <= 512) f(count_tag<128>(), count_tag<4>());
    else if (vecs <= 1024) f(count_tag<256>(), count_tag<4>());
    else f(count_tag<512>(), count_tag<4>());
}

void spi_cuda_norm(spi_device *dev, spi_mat y, spi_mat x, const spi_norm *norm) {
    spi_cuda *cuda = spi_cuda_of(dev);
    const segments s = segments_of(x, norm);
    if (dev->status != SP_OK || s.count == 0 || s.n == 0) return;
    if (can_hold(s, x, y)) {
        by_float(x.dtype, [&](auto tag) {
            typedef typename decltype(tag)::type T;
            by_length(s.n / pack<T>::size, [&](auto lanes, auto vectors) {
                constexpr int LANES = decltype(lanes)::value, P = decltype(vectors)::value;
                typedef place<LANES> where;
                const unsigned blocks = (unsigned)blocks_for(s.count, where::per_block);
                launch(cuda, "a norm", norm_held<T, LANES, P>, early(shape(blocks, where::threads)), rows<T>(y),
                       rows<const T>(x), s);
            });
        });
    } else {
        const unsigned blocks = (unsigned)(s.count < (1 << 20) ? s.count : 1 << 20);
        launch(cuda, "a norm", norm_plain, shape(blocks, PLAIN_BLOCK), either_of(y), either_of(x), s);
    }
}

/* Blocks that share the segments where each leaves a part: a few for each processor. */
static int64_t blocks_with_parts(const spi_cuda *cuda, int64_t blocks, int threads) {
    const int64_t most = cuda->processors * (int64_t)(threads <= 128 ? 4 : threads <= 256 ? 2 : 1);
    return blocks < most ? blocks : most;
}

/* Scratch memory for `blocks` parts of each gradient that is wanted. */
static bool take_parts(spi_cuda *cuda, gradients *parts, int64_t blocks, int64_t n, bool bias) {
    float *p = (float *)spi_cuda_scratch(cuda, (size_t)(blocks * n * (bias ? 2 : 1)) * sizeof *p);
    *parts = {p, bias && p ? p + blocks * n : NULL};
    return p != NULL;
}

void spi_cuda_norm_backward(spi_device *dev, spi_mat dx, spi_mat dy, spi_mat x, const spi_norm *norm,
                            float *dweight, float *dbias, bool accumulate) {
    spi_cuda *cuda = spi_cuda_of(dev);
    const segments s = segments_of(x, norm);
    const bool grads = dweight || dbias;
    gradients parts = {NULL, NULL};
    int64_t blocks = s.count < (1 << 20) ? s.count : 1 << 20;
    if (dev->status != SP_OK || s.count == 0 || s.n == 0) return;
    if (can_hold(s, x, dy) && can_hold(s, x, dx)) {
        by_float(x.dtype, [&](auto tag) {
            typedef typename decltype(tag)::type T;
            by_length(s.n / pack<T>::size, [&](auto lanes, auto vectors) {
                constexpr int LANES = decltype(lanes)::value, P = decltype(vectors)::value;
                typedef place<LANES> where;
                blocks = blocks_for(s.count, where::per_block);
                if (grads) {
                    blocks = blocks_with_parts(cuda, blocks, where::threads);
                    if (!take_parts(cuda, &parts, blocks, s.n, dbias != NULL)) return;
                    launch(cuda, "a norm's gradient", norm_backward_held<T, LANES, P, true>,
                           shape((unsigned)blocks, where::threads), rows<T>(dx), rows<const T>(dy),
                           rows<const T>(x), s, parts, accumulate);
                } else {
                    launch(cuda, "a norm's gradient", norm_backward_held<T, LANES, P, false>,
                           shape((unsigned)blocks, where::threads), rows<T>(dx), rows<const T>(dy),
                           rows<const T>(x), s, parts, accumulate);
                }
            });
        });
    } else {
        if (grads) {
            blocks = blocks_with_parts(cuda, blocks, PLAIN_BLOCK);
            if (!take_parts(cuda, &parts, blocks, s.n, dbias != NULL)) return;
        }
        launch(cuda, "a norm's gradient", norm_backward_plain, shape((unsigned)blocks, PLAIN_BLOCK),
               either_of(dx), either_of(dy), either_of(x), s, parts, accumulate);
    }
    if (cuda->device.status != SP_OK) return;
    if (dweight) spi_cuda_add_parts(cuda, dweight, parts.weight, blocks, s.n);
    if (dbias) spi_cuda_add_parts(cuda, dbias, parts.bias, blocks, s.n);
}
