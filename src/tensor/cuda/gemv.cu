/*
 * Products with at most 8 rows of x, which are bound by reading W: y = x W^T + bias + residual, sums in f32;
 * one, or some that read the same x. (W [K, N]: gemv_columns.cu.)
 *
 * W [N, K]: a warp takes R rows of W, reads UNROLL vectors of 16 bytes of each at once, a lane every 32nd, and
 * has all rows of x meet them; x comes from the first-level cache, past which W is streamed. Where N is small
 * and K large, up to 4 warps share a row's columns and add up in order. Rows of several products are one range,
 * R at a time; of paired products a warp takes the same row of both, and makes act(gate) * up of them.
 *
 * A kernel asks for its first vectors of W before the kernels before it have ended (launch.cuh).
 *
 * With a norm every block makes norm(x) for itself, in shared memory, while its first vectors of W are under
 * way: x is small, and a kernel of its own would take longer to start and end than this.
 *
 * Limit: one read of W: [1024, 1024] in bf16 0.7 us (and a launch's 2 us), [12288, 4096] 34 us, [151936, 1024]
 * 104 us; of 8 bits half of that.
 */
#include "tensor/cuda/activation.cuh"
#include "tensor/cuda/gemv_norm.cuh"
#include "tensor/cuda/ptx.cuh"

#define WARPS 4
#define UNROLL 4

/* ------------------------------------------------------------------ vectors of W and x */

static __device__ __forceinline__ void clear(uint4 &bits) {
    bits = make_uint4(0, 0, 0, 0);
}
static __device__ __forceinline__ void clear(unsigned int &bits) {
    bits = 0;
}
static __device__ __forceinline__ void clear(unsigned short &bits) {
    bits = 0;
}
static __device__ __forceinline__ void clear(unsigned char &bits) {
    bits = 0;
}

/* The vector at `from`, or zeros: without a branch, so that loads go out together. */
template <typename X, int E>
static __device__ __forceinline__ void fetch(typename vec<X, E>::word_type (&bits)[vec<X, E>::words],
                                             const X *from, bool there) {
#pragma unroll
    for (int i = 0; i < vec<X, E>::words; i++) {
        if (there) bits[i] = reinterpret_cast<const typename vec<X, E>::word_type *>(from)[i];
        else clear(bits[i]);
    }
}

/* Elements of a vector of W as floats. */
template <typename W, int E>
static __device__ __forceinline__ void widen(float (&v)[E], const typename vec<W, E>::word_type &bits) {
    if constexpr (sizeof(W) == 1 && E == 16) {
        /* A byte below the exponent of 2^23 is a float: quicker than a conversion. */
        const unsigned word[4] = {bits.x ^ 0x80808080u, bits.y ^ 0x80808080u, bits.z ^ 0x80808080u,
                                  bits.w ^ 0x80808080u};
#pragma unroll
        for (int e = 0; e < 16; e++)
            v[e] = __uint_as_float(__byte_perm(word[e / 4], 0x4b000000u, 0x7440u + e % 4)) - 8388736.0f;
    } else {
        vec<W, E> to;
        to.unpack(bits, 0);
#pragma unroll
        for (int e = 0; e < E; e++) v[e] = to.v[e];
    }
}

/* ------------------------------------------------------------------ what becomes of sums */

static __device__ __forceinline__ int product_of(const row_products &p, int group) {
    return group >= p.list[2].first ? 2 : group >= p.list[1].first ? 1 : 0;
}

template <typename X> static __device__ __forceinline__ float activated(spi_activation act, float x) {
    switch (act) {
    case SPI_ACT_SILU: return activate<X, SPI_ACT_SILU>(x).y;
    case SPI_ACT_GELU_TANH: return activate<X, SPI_ACT_GELU_TANH>(x).y;
    case SPI_ACT_GELU_ERF: return activate<X, SPI_ACT_GELU_ERF>(x).y;
    default: return activate<X, SPI_ACT_RELU>(x).y;
    }
}

/* Sums of row n of gate in the lower lanes, of up in the upper ones; those that lead one have `m` < 8. Rounded
 * to X before anything is made of them, as if they had been stored. */
template <typename X>
static __device__ __forceinline__ void store_pair(const row_products &p, const finish &f, int m, int n,
                                                  float sum, const addends &added) {
    const float mine = to_float(from_float<X>(finished(f, sum, added)));
    const float other = __shfl_xor_sync(0xffffffffu, mine, 16);
    if (m >= f.rows || n >= f.n) return;
    if (p.keep) f.y.set(m, n, mine);
    if (threadIdx.x % 32 < 16) p.gated.set(m, n, activated<X>(p.act, mine) * other);
}

/* ------------------------------------------------------------------ the kernel */

/* Blocks that a multiprocessor should have room for, V sums a lane: with a norm all rows of a small model's
 * weights are asked for at once, and nothing has to leave registers. 0: as the compiler would. */
template <typename W, int V, bool NORM> static constexpr int resident() {
    constexpr bool small = sizeof(W) == 1;
    if (small && V == 16) return 2;
    if (!NORM || V == 16) return 0;
    return V == 1 ? (small ? 7 : 8) : V == 2 ? (small ? 5 : 6) : V == 4 ? 5 : 4;
}

/* M: rows of x, at least those that there are; R: rows of W a warp; split: warps that share them, 1, 2 or 4. */
template <typename W, typename X, int E, int M, int R, bool NORM, bool PAIRED>
static __global__ void __launch_bounds__(WARPS * 32, resident<W, R * M, NORM>())
    by_rows(const __grid_constant__ row_products p, rows_of<const X> x, int vecs, int split) {
    typedef typename vec<W, E>::word_type word_type;
    typedef typename vec<X, E>::word_type x_word_type;
    constexpr int V = R * M, x_words = vec<X, E>::words;
    /* Few rows of x are asked for at once; registers do not hold more. */
    constexpr bool at_once = !NORM && M * x_words * UNROLL <= 8;
    extern __shared__ __align__(16) uint4 memory[]; /* norm(x) */
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = warp % split;
    const int group = (int)blockIdx.x * (WARPS / split) + warp / split;
    const row_product &own = p.list[PAIRED ? 0 : product_of(p, group)];
    const int first = PAIRED ? group : (group - own.first) * R;
    const int i = lane / (32 / V);
    const bool leads = lane % (32 / V) == 0;
    const finish &f = PAIRED ? p.list[i / M].f : own.f; /* of the sum that this lane is left with */
    const int n = first + (PAIRED ? 0 : i / M);
    const int m_own = leads ? i % M : MOST_ROWS;
    addends added;
    const int rows = own.f.rows;
    const W *from[R];
    const X *in[NORM ? 1 : M];
    float sum[V];
#pragma unroll
    for (int r = 0; r < R; r++) {
        const row_product &q = PAIRED ? p.list[r] : own;
        const int row = PAIRED ? first : first + r;
        from[r] = static_cast<const W *>(q.w) + (row < q.f.n ? row : q.f.n - 1) * q.ld;
    }
#pragma unroll
    for (int m = 0; m < (NORM ? 1 : M); m++) in[m] = x.row(m < rows ? m : 0);
#pragma unroll
    for (int v = 0; v < V; v++) sum[v] = 0.0f;
    norm_of_rows<X, M, x_words, WARPS> norm;
    dependents_may_start();
    if constexpr (NORM) {
        norm.to = memory;
        norm.rows = rows;
        norm.vecs = vecs;
        /* What is asked for behind W's rows comes behind them: x, unless these are asked for while it is made.
         */
        if (!BEGINS_EARLY) norm.begin(x);
        norm.begin_weight(p.norm);
    }
    int base = part * UNROLL * 32;
    do { /* once at least: all warps of a block come to the barrier */
        word_type bits[UNROLL][R];
        x_word_type x_bits[UNROLL][M][x_words];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const int at = base + u * 32 + lane;
#pragma unroll
            for (int r = 0; r < R; r++) {
                if (at < vecs) bits[u][r] = __ldcs(reinterpret_cast<const word_type *>(from[r]) + at);
                else clear(bits[u][r]);
            }
        }
        if (base == part * UNROLL * 32) {
            dependency_wait();
            added = fetch_addends < !NORM && !PAIRED > (f, m_own, n);
            if constexpr (NORM) {
                if (BEGINS_EARLY) norm.begin(x);
                norm.finish(p.norm);
                __syncthreads();
            }
        }
        if constexpr (at_once) {
#pragma unroll
            for (int u = 0; u < UNROLL; u++)
#pragma unroll
                for (int m = 0; m < M; m++) {
                    const int at = base + u * 32 + lane;
                    fetch<X, E>(x_bits[u][m], in[m] + at * E, at < vecs);
                }
        }
        /* The compiler would put loads off until their values are needed: neither this nor the branch below
         * lets it mix them with sums. */
        if constexpr (!at_once) __syncwarp();
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const int at = base + u * 32 + lane;
            if ((at_once || NORM) && at >= vecs) continue;
            float wide[R][E];
#pragma unroll
            for (int r = 0; r < R; r++) widen<W, E>(wide[r], bits[u][r]);
#pragma unroll
            for (int m = 0; m < M; m++) {
                vec<X, E> v;
                if constexpr (NORM) {
#pragma unroll
                    for (int k = 0; k < x_words; k++)
                        x_bits[u][m][k] = memory[((m < rows ? m : 0) * x_words + k) * vecs + at];
                } else if constexpr (!at_once) {
                    fetch<X, E>(x_bits[u][m], in[m] + at * E, at < vecs);
                }
#pragma unroll
                for (int k = 0; k < x_words; k++) v.unpack(x_bits[u][m][k], k);
#pragma unroll
                for (int r = 0; r < R; r++)
#pragma unroll
                    for (int e = 0; e < E; e++) sum[r * M + m] += wide[r][e] * v.v[e];
            }
        }
        base += split * UNROLL * 32;
    } while (base < vecs);
    float total = fold<V>(sum, lane);
    if (split > 1) {
        __shared__ float shared[WARPS][V];
        if (leads) shared[warp][i] = total;
        __syncthreads();
        if (part) return;
        total = 0.0f;
        for (int q = 0; q < split; q++) total += shared[warp + q][i];
    }
    if constexpr (PAIRED) store_pair<X>(p, f, m_own, n, total, added);
    else if (leads) store_sum(f, m_own, n, total, added);
}

/* ------------------------------------------------------------------ the launch */

/* Warps that keep memory busy: about 16 a processor. */
static int64_t enough_warps(const spi_cuda *cuda) {
    return 16 * (int64_t)cuda->processors;
}

template <typename W, typename X, int E, int M, int R, bool NORM, bool PAIRED>
static void launch_rows(spi_cuda *cuda, row_products *p, const row_choice &choice, spi_mat x) {
    const int vecs = (int)(choice.k / E), each = PAIRED ? 1 : R;
    int64_t groups = 0;
    int split = 1;
    for (int i = 0; i < MOST_PRODUCTS; i++) {
        p->list[i].first = i < choice.count ? groups : INT32_MAX;
        if (i < (PAIRED ? 1 : choice.count)) groups += blocks_for(p->list[i].f.n, each);
    }
    if (groups == 0) return;
    while (split < WARPS && groups * split < enough_warps(cuda) && vecs > split * UNROLL * 32) split *= 2;
    launch(cuda, "a product with few rows", by_rows<W, X, E, M, R, NORM, PAIRED>,
           early(shape((unsigned)blocks_for(groups, WARPS / split), WARPS * 32,
                       NORM ? (size_t)(x.rows * choice.k) * sizeof(X) : 0)),
           *p, rows<const X>(x), vecs, split);
}

template <typename W, typename X, int M>
static void choose_rows(spi_cuda *cuda, row_products *p, const row_choice &choice, spi_mat x) {
    constexpr int E = 16 / (int)sizeof(W);
    int64_t n = 0;
    for (int i = 0; i < choice.count; i++) n += p->list[i].f.n;
    if (!choice.in_vecs) launch_rows<W, X, 1, M, 1, false, false>(cuda, p, choice, x);
    else if (choice.paired && choice.norm) launch_rows<W, X, E, M, 2, true, true>(cuda, p, choice, x);
    else if (choice.paired) launch_rows<W, X, E, M, 2, false, true>(cuda, p, choice, x);
    else if (n < 2 * enough_warps(cuda) && choice.norm)
        launch_rows<W, X, E, M, 1, true, false>(cuda, p, choice, x);
    else if (n < 2 * enough_warps(cuda)) launch_rows<W, X, E, M, 1, false, false>(cuda, p, choice, x);
    else if (choice.norm) launch_rows<W, X, E, M, 2, true, false>(cuda, p, choice, x);
    else launch_rows<W, X, E, M, 2, false, false>(cuda, p, choice, x);
}

void spi_cuda_gemv_rows(spi_cuda *cuda, row_products *products, const row_choice &choice, spi_mat x) {
    by_float(x.dtype, [&](auto tag) {
        by_rows_of_x(x.rows, [&](auto count) {
            typedef typename decltype(tag)::type T;
            constexpr int M = decltype(count)::value;
            if (choice.dtype == SP_I8) choose_rows<int8_t, T, M>(cuda, products, choice, x);
            else choose_rows<T, T, M>(cuda, products, choice, x);
        });
    });
}

bool spi_cuda_gemv(spi_cuda *cuda, spi_mat y, spi_mat x, const spi_weight *w, const float *bias,
                   const spi_mat *residual) {
    if (x.rows > MOST_ROWS || (!w->scale && w->m.dtype != x.dtype) || (w->scale && w->transposed)) return false;
    if (cuda->device.status != SP_OK || x.rows == 0 || y.cols == 0) return true;
    finish f = finish_of(y, w, bias);
    if (residual) f.residual = either_of(*residual);
    if (w->transposed) {
        spi_cuda_gemv_columns(cuda, f, x, w->m);
        return true;
    }
    const int64_t each = 16 / bytes_of(w->m.dtype);
    row_choice choice = {};
    row_products products = {};
    choice.count = 1;
    choice.in_vecs = in_vecs(w->m, each) && in_vecs(x, each);
    choice.dtype = w->m.dtype;
    choice.k = x.cols;
    products.list[0] = {f, w->m.data, w->m.ld, 0};
    spi_cuda_gemv_rows(cuda, &products, choice, x);
    return true;
}
