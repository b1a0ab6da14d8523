/*
 * Rotary positions: rotate_half of transformers, in place. (a, b) of pairs (j, j + rotary_dim / 2) become
 * (a c - b s, b c + a s), with -s when it turns back.
 *
 * A block's threads lie along x over a token's heads and pairs, along y over tokens. A thread takes a vector of
 * 16 bytes of each half (or one element) of up to 4 heads, which share its cosines and sines.
 * Limit: memory; x read and written once: q [8192, 16 * 128] in bf16 67 MB, 22 us; k half of that.
 */
#include "tensor/cuda/vec.cuh"

#define HEADS 4
#define THREADS 256

template <typename T, int E>
static __global__ void __launch_bounds__(THREADS)
    rotate(rows_of<T> x, spi_rope rope, int64_t rows, float sign) {
    const int half = rope.rotary_dim / 2, vecs = half / E;
    const int work = (rope.heads + HEADS - 1) / HEADS * vecs;
    for (int64_t r = (int64_t)blockIdx.x * blockDim.y + threadIdx.y; r < rows;
         r += (int64_t)gridDim.x * blockDim.y) {
        const int64_t angles = (int64_t)rope.positions[r] * half;
        for (int i = threadIdx.x; i < work; i += blockDim.x) {
            const int j = i % vecs * E, head = i / vecs * HEADS;
            T *at = x.row(r) + (int64_t)head * rope.head_dim + j;
            vec<T, E> a[HEADS], b[HEADS];
            vec<float, E> c, s;
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
                if (head + h >= rope.heads) continue;
                a[h].load(at + h * rope.head_dim);
                b[h].load(at + h * rope.head_dim + half);
            }
            c.load(rope.cos + angles + j);
            s.load(rope.sin + angles + j);
#pragma unroll
            for (int h = 0; h < HEADS; h++) {
                if (head + h >= rope.heads) continue;
#pragma unroll
                for (int e = 0; e < E; e++) {
                    const float u = a[h].v[e], w = b[h].v[e], sine = sign * s.v[e];
                    a[h].v[e] = u * c.v[e] - w * sine;
                    b[h].v[e] = w * c.v[e] + u * sine;
                }
                a[h].store(at + h * rope.head_dim);
                b[h].store(at + h * rope.head_dim + half);
            }
        }
    }
}

static bool at_16(const void *data) {
    return (uintptr_t)data % 16 == 0;
}

template <typename T, int E>
static void rotate_as(spi_cuda *cuda, spi_mat x, const spi_rope *rope, float sign) {
    const int64_t work = blocks_for(rope->heads, HEADS) * (rope->rotary_dim / 2 / E);
    const unsigned across = (unsigned)(work < THREADS ? work : THREADS), down = THREADS / across;
    const int64_t blocks = blocks_for(x.rows, down);
    launch(cuda, "rotary positions", rotate<T, E>,
           shape((unsigned)(blocks < INT32_MAX ? blocks : INT32_MAX), dim3(across, down)), rows<T>(x), *rope,
           x.rows, sign);
}

void spi_cuda_rope(spi_device *dev, spi_mat x, const spi_rope *rope, bool inverse) {
    spi_cuda *cuda = spi_cuda_of(dev);
    const float sign = inverse ? -1.0f : 1.0f;
    if (dev->status != SP_OK || x.rows == 0 || rope->heads == 0 || rope->rotary_dim < 2) return;
    by_float(x.dtype, [&](auto tag) {
        typedef typename decltype(tag)::type T;
        constexpr int E = pack<T>::size;
        if (in_vecs(x, E) && rope->head_dim % E == 0 && rope->rotary_dim / 2 % E == 0 && at_16(rope->cos) &&
            at_16(rope->sin))
            rotate_as<T, E>(cuda, x, rope, sign);
        else rotate_as<T, 1>(cuda, x, rope, sign);
    });
}
