/*
 * Products with at most 8 rows of x, which are bound by reading W: y = x W^T + bias + residual, sums in f32.
 *
 * W [N, K]: a warp takes R rows of W, reads UNROLL vectors of 16 bytes of each at once, a lane every 32nd, and
 * has all rows of x meet them; x comes from the first-level cache, past which W is streamed. Where N is small
 * and K large, up to 4 warps share a row's columns and add up in order. W [K, N]: a block has 8 vectors of
 * columns; its threads and, where N is small, several blocks share the rows. Limit: one read of W: [1024, 1024]
 * in bf16 0.7 us (and a launch's 2 us), [12288, 4096] 34 us, [151936, 1024] 104 us; of 8 bits half of that.
 */
#include "tensor/cuda/vec.cuh"

#define MOST_ROWS 8

/* ------------------------------------------------------------------ what becomes of a sum */

/* y = scale[n] sum + bias[n] + residual; what is NULL is not there. */
typedef struct finish {
    either y, residual;
    const float *scale, *bias;
    int64_t n;
    int32_t rows;
} finish;

/* What is asked of memory before the sum is there; bits of the residual, so that nothing waits for them. */
struct addends {
    float scale, bias;
    unsigned residual;
};

static __device__ __forceinline__ addends fetch_addends(const finish &f, int m, int64_t n) {
    addends a = {1.0f, 0.0f, 0};
    if (m >= f.rows || n >= f.n) return a;
    const int64_t at = m * f.residual.ld + n;
    if (f.scale) a.scale = f.scale[n];
    if (f.bias) a.bias = f.bias[n];
    if (f.residual.data)
        a.residual = f.residual.wide ? static_cast<const unsigned *>(f.residual.data)[at]
                                     : static_cast<const unsigned short *>(f.residual.data)[at];
    return a;
}

static __device__ __forceinline__ void store_sum(const finish &f, int m, int64_t n, float sum,
                                                 const addends &a) {
    if (m >= f.rows || n >= f.n) return;
    const float old = __uint_as_float(f.residual.wide ? a.residual : a.residual << 16);
    f.y.set(m, n, sum * a.scale + a.bias + old);
}

/* ------------------------------------------------------------------ W [N, K] */

#define WARPS 4
#define UNROLL 4

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

/*
 * Sums of V values over a warp, V a power of two: lanes [i * 32 / V, (i + 1) * 32 / V) get that of v[i]. Each
 * step halves the values that a lane is left with.
 */
template <int V> static __device__ __forceinline__ float fold(float (&v)[V], int lane) {
    int left = V;
#pragma unroll
    for (int apart = 16; apart; apart /= 2) {
        if (left > 1) {
            left /= 2;
            const bool upper = lane & apart;
#pragma unroll
            for (int i = 0; i < V / 2; i++) {
                if (i >= left) continue;
                const float mine = upper ? v[i + left] : v[i], theirs = upper ? v[i] : v[i + left];
                v[i] = mine + __shfl_xor_sync(0xffffffffu, theirs, apart);
            }
        } else {
            v[0] += __shfl_xor_sync(0xffffffffu, v[0], apart);
        }
    }
    return v[0];
}

/* M: rows of x, at least f.rows; R: rows of W a warp; split: warps that share them, 1, 2 or 4. */
template <typename W, typename X, int E, int M, int R>
static __global__ void __launch_bounds__(WARPS * 32)
    by_rows(finish f, rows_of<const X> x, rows_of<const W> w, int64_t vecs, int split) {
    typedef typename vec<W, E>::word_type word_type;
    typedef typename vec<X, E>::word_type x_word_type;
    constexpr int V = R * M, x_words = vec<X, E>::words;
    /* Few rows of x are asked for together with W; registers do not hold more. */
    constexpr bool early = M * x_words * UNROLL <= 8;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, part = warp % split;
    const int64_t first = ((int64_t)blockIdx.x * (WARPS / split) + warp / split) * R;
    const int i = lane / (32 / V);
    const bool leads = lane % (32 / V) == 0;
    const addends added = fetch_addends(f, leads ? i % M : MOST_ROWS, first + i / M);
    const W *from[R];
    const X *in[M];
    float sum[V];
#pragma unroll
    for (int r = 0; r < R; r++) from[r] = w.row(first + r < f.n ? first + r : f.n - 1);
#pragma unroll
    for (int m = 0; m < M; m++) in[m] = x.row(m < f.rows ? m : 0);
#pragma unroll
    for (int v = 0; v < V; v++) sum[v] = 0.0f;
    for (int64_t base = part * UNROLL * 32; base < vecs; base += split * UNROLL * 32) {
        word_type bits[UNROLL][R];
        x_word_type x_bits[UNROLL][M][x_words];
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const int64_t at = base + u * 32 + lane;
#pragma unroll
            for (int r = 0; r < R; r++) {
                if (at < vecs) bits[u][r] = __ldcs(reinterpret_cast<const word_type *>(from[r]) + at);
                else clear(bits[u][r]);
            }
            if constexpr (early) {
#pragma unroll
                for (int m = 0; m < M; m++) fetch<X, E>(x_bits[u][m], in[m] + at * E, at < vecs);
            }
        }
        /* The compiler would put loads off until their values are needed: neither this nor the branch below
         * lets it mix them with sums. */
        if constexpr (!early) __syncwarp();
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            const int64_t at = base + u * 32 + lane;
            if (early && at >= vecs) continue;
            float wide[R][E];
#pragma unroll
            for (int r = 0; r < R; r++) widen<W, E>(wide[r], bits[u][r]);
#pragma unroll
            for (int m = 0; m < M; m++) {
                vec<X, E> v;
                if constexpr (!early) fetch<X, E>(x_bits[u][m], in[m] + at * E, at < vecs);
#pragma unroll
                for (int k = 0; k < x_words; k++) v.unpack(x_bits[u][m][k], k);
#pragma unroll
                for (int r = 0; r < R; r++)
#pragma unroll
                    for (int e = 0; e < E; e++) sum[r * M + m] += wide[r][e] * v.v[e];
            }
        }
    }
    float total = fold<V>(sum, lane);
    if (split > 1) {
        __shared__ float shared[WARPS][V];
        if (leads) shared[warp][i] = total;
        __syncthreads();
        if (part) return;
        total = 0.0f;
        for (int p = 0; p < split; p++) total += shared[warp + p][i];
    }
    if (leads) store_sum(f, i % M, first + i / M, total, added);
}

/* As many warps as keep memory busy: about 16 a processor. */
template <typename W, typename X, int E, int M, int R>
static void launch_rows(spi_cuda *cuda, const finish &f, spi_mat x, spi_mat w) {
    const int64_t vecs = w.cols / E, groups = blocks_for(f.n, R), enough = 16 * (int64_t)cuda->processors;
    int split = 1;
    while (split < WARPS && groups * split < enough && vecs > split * UNROLL * 32) split *= 2;
    launch(cuda, "a product with few rows", by_rows<W, X, E, M, R>,
           shape((unsigned)blocks_for(groups, WARPS / split), WARPS * 32), f, rows<const X>(x),
           rows<const W>(w), vecs, split);
}

template <typename W, typename X, int M>
static void choose_rows(spi_cuda *cuda, const finish &f, spi_mat x, spi_mat w) {
    constexpr int E = 16 / (int)sizeof(W);
    const int64_t enough = 16 * (int64_t)cuda->processors;
    if (!in_vecs(w, E) || !in_vecs(x, E)) launch_rows<W, X, 1, M, 1>(cuda, f, x, w);
    else if (f.n < 2 * enough) launch_rows<W, X, E, M, 1>(cuda, f, x, w);
    else launch_rows<W, X, E, M, 2>(cuda, f, x, w);
}

/* ------------------------------------------------------------------ W [K, N] */

#define ACROSS 8            /* vectors of columns of a block */
#define DOWN (256 / ACROSS) /* rows of W that it reads at once */
#define DOWN_IN_WARP (32 / ACROSS)

/* Rows [blockIdx.y * each, + each) of W: into part blockIdx.y of `parts` [parts, f.rows, N], or finished where
 * there is one part only. */
template <typename T, int E, int M>
static __global__ void __launch_bounds__(256)
    by_columns(finish f, float *parts, rows_of<const T> x, rows_of<const T> w, int64_t k, int64_t each) {
    __shared__ float shared[DOWN / DOWN_IN_WARP][M][ACROSS * E];
    const int across = threadIdx.x % ACROSS, down = threadIdx.x / ACROSS;
    const int64_t c = ((int64_t)blockIdx.x * ACROSS + across) * E, first = blockIdx.y * each;
    const int64_t end = first + each < k ? first + each : k;
    float sum[M][E];
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int e = 0; e < E; e++) sum[m][e] = 0.0f;
    if (c < f.n) {
#pragma unroll 4
        for (int64_t r = first + down; r < end; r += DOWN) {
            vec<T, E> v;
            v.load(w.row(r) + c);
#pragma unroll
            for (int m = 0; m < M; m++) {
                const float value = to_float(x.row(m < f.rows ? m : 0)[r]);
#pragma unroll
                for (int e = 0; e < E; e++) sum[m][e] += value * v.v[e];
            }
        }
    }
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int e = 0; e < E; e++) {
#pragma unroll
            for (int apart = ACROSS; apart < 32; apart *= 2)
                sum[m][e] += __shfl_xor_sync(0xffffffffu, sum[m][e], apart);
            if (down % DOWN_IN_WARP == 0) shared[down / DOWN_IN_WARP][m][across * E + e] = sum[m][e];
        }
    __syncthreads();
    for (int i = threadIdx.x; i < M * ACROSS * E; i += 256) {
        const int m = i / (ACROSS * E), j = i % (ACROSS * E);
        const int64_t n = (int64_t)blockIdx.x * ACROSS * E + j;
        float total = 0.0f;
#pragma unroll
        for (int s = 0; s < DOWN / DOWN_IN_WARP; s++) total += shared[s][m][j];
        if (!parts) store_sum(f, m, n, total, fetch_addends(f, m, n));
        else if (m < f.rows && n < f.n) parts[(blockIdx.y * (int64_t)f.rows + m) * f.n + n] = total;
    }
}

static __global__ void finish_columns(finish f, const float *parts, int64_t count) {
    const int64_t n = (int64_t)blockIdx.x * blockDim.x + threadIdx.x, m = blockIdx.y;
    float sum = 0.0f;
    if (n >= f.n) return;
    for (int64_t p = 0; p < count; p++) sum += parts[(p * f.rows + m) * f.n + n];
    store_sum(f, (int)m, n, sum, fetch_addends(f, (int)m, n));
}

template <typename T, int E, int M>
static void launch_columns(spi_cuda *cuda, const finish &f, spi_mat x, spi_mat w) {
    const int64_t k = w.rows, across = blocks_for(f.n, ACROSS * E);
    /* Two blocks a processor, each with 2 rows for a thread at least. */
    int64_t count = blocks_for(2 * (int64_t)cuda->processors, across);
    if (count > blocks_for(k, 2 * DOWN)) count = blocks_for(k, 2 * DOWN);
    if (count < 1) count = 1;
    const int64_t each = blocks_for(k, count);
    float *parts = NULL;
    if (count > 1) {
        parts = (float *)spi_cuda_room(cuda, (size_t)(count * f.rows * f.n) * sizeof *parts);
        if (!parts) return;
    }
    launch(cuda, "a product with few rows", by_columns<T, E, M>,
           shape(dim3((unsigned)across, (unsigned)count), 256), f, parts, rows<const T>(x), rows<const T>(w), k,
           each);
    if (parts)
        launch(cuda, "a product with few rows", finish_columns,
               shape(dim3((unsigned)blocks_for(f.n, 128), (unsigned)f.rows), 128), f, parts, count);
}

template <typename T, int M> static void choose_columns(spi_cuda *cuda, const finish &f, spi_mat x, spi_mat w) {
    constexpr int E = pack<T>::size;
    if (in_vecs(w, E)) launch_columns<T, E, M>(cuda, f, x, w);
    else launch_columns<T, 1, M>(cuda, f, x, w);
}

/* ------------------------------------------------------------------ the operation */

template <int M> static void choose(spi_cuda *cuda, const finish &f, spi_mat x, const spi_weight *w) {
    by_float(x.dtype, [&](auto tag) {
        typedef typename decltype(tag)::type T;
        if (w->transposed) choose_columns<T, M>(cuda, f, x, w->m);
        else if (w->scale) choose_rows<int8_t, T, M>(cuda, f, x, w->m);
        else choose_rows<T, T, M>(cuda, f, x, w->m);
    });
}

bool spi_cuda_gemv(spi_cuda *cuda, spi_mat y, spi_mat x, const spi_weight *w, const float *bias,
                   const spi_mat *residual) {
    if (x.rows > MOST_ROWS || (!w->scale && w->m.dtype != x.dtype) || (w->scale && w->transposed)) return false;
    if (cuda->device.status != SP_OK || x.rows == 0 || y.cols == 0) return true;
    finish f = {};
    f.y = either_of(y);
    if (residual) f.residual = either_of(*residual);
    f.scale = w->scale;
    f.bias = bias;
    f.n = y.cols;
    f.rows = (int32_t)x.rows;
    if (x.rows == 1) choose<1>(cuda, f, x, w);
    else if (x.rows == 2) choose<2>(cuda, f, x, w);
    else if (x.rows <= 4) choose<4>(cuda, f, x, w);
    else choose<8>(cuda, f, x, w);
    return true;
}
