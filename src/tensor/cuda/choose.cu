/*
 * choose: the next token of N rows of logits [N, V], as src/generate/sampling.c chooses it, and the next step's
 * input. The largest logit: `look` goes through each row in PARTS pieces, one block each, `take` puts the
 * pieces together; 4 N V bytes are read once (0.6 MB a row of Qwen3: a few us, the launches).
 *
 * A draw: `measure` turns logits into distances from the largest, then `draw` works on one row with one block,
 * which goes through the row once for each third of a distance's bits that top-k and top-p look for, and once
 * for the draw itself: 1 to 7 times, each as long as one multiprocessor takes for 4 V bytes out of the L2 cache
 * (about 7 us). Everything is in whole numbers, which add up to the same in any order:
 *   distance  (largest - logit) / temperature in units of 2^-27: what is nearer together counts as equal
 *   weight    exp(-distance) in units of 2^-40: what is less is not drawn
 */
#include <float.h>

#include "tensor/cuda/kernel.cuh"
#include "tensor/cuda/philox.cuh"
#include "tensor/cuda/ptx.cuh"

#define PARTS 128
#define LOOKING 256 /* threads of a block that looks through a piece */
#define DRAWING 1024
#define WARPS (DRAWING / 32)
#define BINS 2048

#define ALL 0xffffffffu
#define FAR 32.0f /* exp(-32) is no weight */
#define NONE 0xffffffffu
#define DISTANCE_UNITS 0x1p27f
#define WEIGHT_UNITS 0x1p40f

typedef unsigned long long wide;

/* ------------------------------------------------------------------ the largest logit */

/* A logit and its place; place -1: one that is NaN or +inf. */
struct best {
    float value;
    int32_t id;
};

__device__ __forceinline__ best better(best a, best b) {
    if (a.id < 0) return a;
    if (b.id < 0) return b;
    return b.value > a.value || (b.value == a.value && b.id < a.id) ? b : a;
}

__device__ __forceinline__ best warp_best(best b) {
#pragma unroll
    for (int i = 16; i; i >>= 1)
        b = better(b, {__shfl_xor_sync(ALL, b.value, i), __shfl_xor_sync(ALL, b.id, i)});
    return b;
}

/* Of a row, from its pieces, for every lane of a warp; id -1 where there is nothing to choose from. */
__device__ __forceinline__ best row_best(const best *part) {
    best b = {-INFINITY, INT32_MAX};
    for (int i = (int)threadIdx.x % 32; i < PARTS; i += 32) b = better(b, part[i]);
    b = warp_best(b);
    if (b.value < -FLT_MAX) b.id = -1;
    return b;
}

/* Blocks: PARTS a row. Also applies the penalty to what its sequence has seen. */
static __global__ void __launch_bounds__(LOOKING)
    look(rows_of<float> logits, int32_t vocab, const uint8_t *seen, float penalty, best *part) {
    __shared__ best of_warp[LOOKING / 32];
    const int64_t row = blockIdx.x / PARTS;
    const int32_t each = (vocab + PARTS - 1) / PARTS, begin = (int32_t)(blockIdx.x % PARTS) * each;
    const int32_t end = min(begin + each, vocab);
    const uint8_t *has = seen ? seen + row * vocab : nullptr;
    float *x = logits.row(row);
    best b = {-INFINITY, INT32_MAX};
    dependents_may_start();
    dependency_wait();
#pragma unroll 4
    for (int32_t i = begin + (int32_t)threadIdx.x; i < end; i += LOOKING) {
        float v = x[i];
        if (has && has[i]) {
            v = v < 0 ? v * penalty : v / penalty;
            x[i] = v;
        }
        b = better(b, {v, v <= FLT_MAX ? i : -1});
    }
    b = warp_best(b);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = b;
    __syncthreads();
    if (threadIdx.x >= 32) return;
    b = threadIdx.x < LOOKING / 32 ? of_warp[threadIdx.x] : best{-INFINITY, INT32_MAX};
    b = warp_best(b);
    if (threadIdx.x == 0) part[blockIdx.x] = b;
}

/* One thread: id, or -1, is row `row`'s. */
__device__ __forceinline__ void finish(const spi_choice &c, int64_t row, int32_t vocab, int32_t id) {
    c.chosen[row] = id;
    c.ids[row] = max(id, 0);
    if (c.seen && id >= 0) c.seen[row * vocab + id] = 1;
    c.past[row] = min(c.past[row] + 1, c.last);
}

/* Blocks: one warp a row. */
static __global__ void __launch_bounds__(32) take(int32_t vocab, const best *part, const spi_choice c) {
    dependency_wait();
    const best b = row_best(part + (int64_t)blockIdx.x * PARTS);
    if (threadIdx.x == 0) finish(c, blockIdx.x, vocab, b.id);
}

/* ------------------------------------------------------------------ distances and weights */

/* Blocks: PARTS a row. Distances take the logits' places; NONE: too far. */
static __global__ void __launch_bounds__(LOOKING)
    measure(rows_of<float> logits, int32_t vocab, float temperature, const best *part) {
    const int64_t row = blockIdx.x / PARTS;
    const int32_t each = (vocab + PARTS - 1) / PARTS, begin = (int32_t)(blockIdx.x % PARTS) * each;
    const int32_t end = min(begin + each, vocab);
    dependents_may_start();
    dependency_wait();
    const best top = row_best(part + row * PARTS);
    if (top.id < 0) return;
    float *x = logits.row(row);
    /* Not so small that the largest logit overflows. */
    const float cold = fmaxf(temperature, FLT_MIN * fmaxf(1.0f, fabsf(top.value)));
    const float most = top.value / cold;
#pragma unroll 4
    for (int32_t i = begin + (int32_t)threadIdx.x; i < end; i += LOOKING) {
        const float far = most - x[i] / cold;
        x[i] = __uint_as_float(far < FAR ? (uint32_t)(far * DISTANCE_UNITS) : NONE);
    }
}

/* exp(-distance), 1 for the largest logit */
__device__ __forceinline__ float share_of(uint32_t distance) {
    return expf(-(float)distance * (1.0f / DISTANCE_UNITS));
}
__device__ __forceinline__ wide weight_of(uint32_t distance) {
    return __float2ull_rz(share_of(distance) * WEIGHT_UNITS);
}

/* ------------------------------------------------------------------ one block, one row */

struct work {
    uint32_t low[BINS], high[BINS]; /* amounts of 64 bits in two halves: there are no such atomics here */
    wide sums[WARPS];
    uint32_t ties[WARPS];
    uint32_t digit;
    wide nearer;
};

struct line {
    const float *x; /* [vocab] distances */
    int32_t vocab;
    __device__ __forceinline__ uint32_t at(int32_t i) const {
        return __float_as_uint(x[i]);
    }
};

__device__ __forceinline__ wide warp_scan(wide x) {
#pragma unroll
    for (int i = 1; i < 32; i <<= 1) {
        const wide before = __shfl_up_sync(ALL, x, i);
        if ((int)threadIdx.x % 32 >= i) x += before;
    }
    return x;
}

__device__ __forceinline__ wide warp_total(wide x) {
#pragma unroll
    for (int i = 16; i; i >>= 1) x += __shfl_xor_sync(ALL, x, i);
    return x;
}

/* The sum of x over the threads before this one, and over all. */
__device__ __forceinline__ wide sum_before(work &s, wide x, wide *total) {
    const wide with = warp_scan(x);
    wide before = 0, all = 0;
    __syncthreads(); /* `sums` may still be read from the call before */
    if (threadIdx.x % 32 == 31) s.sums[threadIdx.x / 32] = with;
    __syncthreads();
    for (int w = 0; w < WARPS; w++) {
        if (w < (int)threadIdx.x / 32) before += s.sums[w];
        all += s.sums[w];
    }
    *total = all;
    return before + with - x;
}

__device__ __forceinline__ void add_to_bin(work &s, uint32_t bin, wide amount) {
    const uint32_t low = (uint32_t)amount, old = atomicAdd(&s.low[bin], low);
    const uint32_t high = (uint32_t)(amount >> 32) + (old + low < old ? 1u : 0u);
    if (high) atomicAdd(&s.high[bin], high);
}

__device__ __forceinline__ wide bin_of(const work &s, uint32_t bin) {
    return (wide)s.high[bin] << 32 | s.low[bin];
}

/* Distances below `distance` are in; of those that are equal to it the first `equals`. */
struct edge {
    uint32_t distance, equals;
};

/*
 * The least distance up to which the distances in `so_far` come to `need`: of them, in number (top-k; all that
 * are equal stay), or of their weights, where what stays away has at most `drop` of the whole (top-p; of equals
 * stay as many as it takes). `so_far` itself where they never do. Eleven bits of the distance at a time, then
 * eleven, then ten: amounts by digit, then the digit at which their running sum passes `need`.
 */
template <bool WEIGHTED>
__device__ __forceinline__ edge find_edge(work &s, line l, edge so_far, wide need, double drop) {
    uint32_t prefix = 0;
    wide nearer = 0;
    for (int round = 0; round < 3; round++) {
        const int shift = round == 0 ? 21 : round == 1 ? 10 : 0, bits = round == 2 ? 10 : 11;
        for (int i = (int)threadIdx.x; i < BINS; i += DRAWING) s.low[i] = s.high[i] = 0;
        __syncthreads();
#pragma unroll 4
        for (int32_t i = (int32_t)threadIdx.x; i < l.vocab; i += DRAWING) {
            const uint32_t d = l.at(i);
            if (d > so_far.distance || (round > 0 && d >> (shift + bits) != prefix)) continue;
            add_to_bin(s, d >> shift & ((1u << bits) - 1), WEIGHTED ? weight_of(d) : 1);
        }
        __syncthreads();
        const uint32_t bin = 2 * threadIdx.x;
        const wide first = bin_of(s, bin), second = bin_of(s, bin + 1);
        wide total;
        const wide before = nearer + sum_before(s, first + second, &total);
        if (round == 0) {
            if (WEIGHTED) need = max(total - min(total, (wide)(drop * (double)total)), (wide)1);
            if (total < need) return so_far;
        }
        if (before < need && need <= before + first + second) { /* one thread */
            const bool passed = before + first < need;
            s.digit = bin + (passed ? 1 : 0);
            s.nearer = passed ? before + first : before;
        }
        __syncthreads();
        prefix = prefix << bits | s.digit;
        nearer = s.nearer;
    }
    if (!WEIGHTED) return {prefix, ALL};
    const wide each = weight_of(prefix);
    return {prefix, (uint32_t)((need - nearer + each - 1) / each)};
}

/* ------------------------------------------------------------------ the draw */

/* src/base/rng.h: 64 bits for counter (stream, index) under key `seed`. */
__device__ __forceinline__ wide random_bits(uint64_t seed, uint64_t stream, uint64_t index) {
    const uint4 words = philox(seed, stream, index);
    return (wide)words.y << 32 | words.x;
}

/* Part of a row in which the drawn id is, how far into its weights, and the equals at the edge before it. */
struct span {
    int32_t begin, end;
    wide at;
    uint32_t ties;
};

/* Weights of what is nearer than the edge; `min_p` of the largest one is the least. */
__device__ __forceinline__ wide drawn(uint32_t distance, double min_p) {
    const float share = share_of(distance);
    return share >= min_p ? __float2ull_rz(share * WEIGHT_UNITS) : 0;
}

/* s.sums, s.ties: of each warp's share of [begin, end), `each` ids: weights before the edge, how many are at
 * it. */
__device__ __forceinline__ void sum_spans(work &s, line l, edge e, double min_p, span at, int32_t each) {
    const int32_t begin = at.begin + (int32_t)(threadIdx.x / 32) * each, end = min(begin + each, at.end);
    wide sum = 0, ties = 0;
#pragma unroll 4
    for (int32_t i = begin + (int32_t)threadIdx.x % 32; i < end; i += 32) {
        const uint32_t d = l.at(i);
        if (d < e.distance) sum += drawn(d, min_p);
        ties += d == e.distance;
    }
    sum = warp_total(sum);
    ties = warp_total(ties);
    __syncthreads(); /* both may still be read from the call before */
    if (threadIdx.x % 32 == 0) {
        s.sums[threadIdx.x / 32] = sum;
        s.ties[threadIdx.x / 32] = (uint32_t)ties;
    }
    __syncthreads();
}

/* The weight of warp w's share, behind `ties` equals. */
__device__ __forceinline__ wide share_weight(const work &s, int w, edge e, uint32_t ties, wide at_edge) {
    const uint32_t left = e.equals > ties ? e.equals - ties : 0;
    return s.sums[w] + min(s.ties[w], left) * at_edge;
}

/* The id, known to the first warp: by id, so that a logit's last bit cannot change the places of the others. */
__device__ __forceinline__ int32_t draw_id(work &s, line l, edge e, double min_p, wide bits) {
    const wide at_edge = drawn(e.distance, min_p);
    span at = {0, l.vocab, 0, 0};
    for (bool first = true; first || at.end - at.begin > 32; first = false) {
        const int32_t each = ((at.end - at.begin + WARPS - 1) / WARPS + 31) / 32 * 32;
        sum_spans(s, l, e, min_p, at, each);
        if (first) {
            wide total = 0;
            uint32_t ties = 0;
            for (int w = 0; w < WARPS; w++) {
                total += share_weight(s, w, e, ties, at_edge);
                ties += s.ties[w];
            }
            at.at = min((wide)((double)(bits >> 11) * 0x1p-53 * (double)total), total - 1);
        }
        int w = 0;
        for (; w < WARPS - 1; w++) {
            const wide here = share_weight(s, w, e, at.ties, at_edge);
            if (at.at < here) break;
            at.at -= here;
            at.ties += s.ties[w];
        }
        at.begin += w * each;
        at.end = min(at.begin + each, at.end);
    }
    const uint32_t lane = threadIdx.x % 32;
    const int32_t id = at.begin + (int32_t)lane;
    const uint32_t d = id < at.end ? l.at(id) : NONE;
    const bool tie = id < at.end && d == e.distance;
    const uint32_t rank = at.ties + (uint32_t)__popc(__ballot_sync(ALL, tie) & ((1u << lane) - 1));
    const wide weight = tie ? (rank < e.equals ? at_edge : 0) : d < e.distance ? drawn(d, min_p) : 0;
    const uint32_t behind = __ballot_sync(ALL, at.at < warp_scan(weight));
    return at.begin + __ffs((int)behind) - 1;
}

/* Blocks: one a row. */
static __global__ void __launch_bounds__(DRAWING)
    draw(rows_of<float> logits, int32_t vocab, const best *part, const spi_choice c) {
    __shared__ work s;
    const int64_t row = blockIdx.x;
    const line l = {logits.row(row), vocab};
    dependency_wait();
    if (row_best(part + row * PARTS).id < 0) {
        if (threadIdx.x == 0) finish(c, row, vocab, -1);
        return;
    }
    const wide bits = random_bits(c.seed, (uint64_t)c.sequence[row], (uint64_t)(c.past[row] - c.first[row]));
    edge e = {NONE - 1, ALL};
    if (c.top_k > 0 && c.top_k < vocab) e = find_edge<false>(s, l, e, (wide)c.top_k, 0);
    if (c.top_p < 1.0) e = find_edge<true>(s, l, e, 0, 1.0 - c.top_p);
    const int32_t id = draw_id(s, l, e, c.min_p, bits);
    if (threadIdx.x == 0) finish(c, row, vocab, id);
}

extern "C" void spi_cuda_choose(spi_device *dev, spi_mat logits, const spi_choice *choice) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK || logits.rows == 0) return;
    const int32_t vocab = (int32_t)logits.cols;
    const unsigned int count = (unsigned int)logits.rows, pieces = count * PARTS;
    best *part = static_cast<best *>(spi_cuda_scratch(cuda, pieces * sizeof(best)));
    if (!part) return;
    launch(cuda, "choosing tokens", look, early(shape(pieces, LOOKING)), rows<float>(logits), vocab,
           choice->seen, (float)choice->penalty, part);
    if (choice->draw) {
        launch(cuda, "choosing tokens", measure, early(shape(pieces, LOOKING)), rows<float>(logits), vocab,
               (float)choice->temperature, part);
        launch(cuda, "choosing tokens", draw, early(shape(count, DRAWING)), rows<float>(logits), vocab, part,
               *choice);
    } else {
        launch(cuda, "choosing tokens", take, early(shape(count, 32)), vocab, part, *choice);
    }
}
