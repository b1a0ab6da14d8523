/*
 * bf16 products in the matrix units, from tiles in shared memory.
 *
 * A tile is rows of D elements, PITCH<D> = D + 8 apart: an odd number of 16-byte pieces, so that the eight rows
 * that an ldmatrix reads lie in different banks. Fragments are those of mma.m16n8k16 (ptx.cuh): C of two
 * neighbouring column tiles is, rounded, an A.
 */
#pragma once

#include "tensor/cuda/ptx.cuh"

template <int D> constexpr int PITCH = D + 8;

/* tanh from an exponential: exact to 2^-22 of 1, as caps need it. */
__device__ __forceinline__ float tanh_fast(float x) {
    return 1.0f - __fdividef(2.0f, 1.0f + exp2_fast(x * 2.8853900817779268f));
}

/* Bytes from a tile to what this lane hands ldmatrix: for A, and for B of which a row is a k (transposed). */
template <int D> __device__ __forceinline__ uint32_t lane_of_a() {
    const uint32_t lane = threadIdx.x % 32;
    return ((lane & 15) * PITCH<D> + (lane >> 4) * 8) * 2;
}
/* The same for B of which a row is a column n. */
template <int D> __device__ __forceinline__ uint32_t lane_of_b() {
    const uint32_t lane = threadIdx.x % 32;
    return (((lane & 7) + (lane >> 4) * 8) * PITCH<D> + ((lane >> 3) & 1) * 8) * 2;
}

/* acc [16 M, 8 N] = A B^T over D; a, b: the rows of A and of B, lane_of_a and lane_of_b added. */
template <int D, int M, int N>
__device__ __forceinline__ void multiply_rows(float (&acc)[M][N][4], uint32_t a, uint32_t b) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) acc[m][n][i] = 0.0f;
#pragma unroll
    for (int k = 0; k < D; k += 16) {
        uint32_t fa[M][4], fb[4];
#pragma unroll
        for (int m = 0; m < M; m++) load_matrices(fa[m], a + (m * 16 * PITCH<D> + k) * 2);
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            load_matrices(fb, b + (n * 8 * PITCH<D> + k) * 2);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma(acc[m][n], fa[m], fb[0], fb[1]);
                mma(acc[m][n + 1], fa[m], fb[2], fb[3]);
            }
        }
    }
}

/* acc [16 M, 8 N] += P B, P [16 M, 16 K] in registers, B the first 8 N columns of rows at b, lane_of_a added.
 */
template <int D, int M, int K, int N>
__device__ __forceinline__ void multiply_weights(float (&acc)[M][N][4], const uint32_t (&p)[M][K][4],
                                                 uint32_t b) {
#pragma unroll
    for (int k = 0; k < K; k++)
#pragma unroll
        for (int n = 0; n < N; n += 2) {
            uint32_t fb[4];
            load_transposed(fb, b + (k * 16 * PITCH<D> + n * 8) * 2);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma(acc[m][n], p[m][k], fb[0], fb[1]);
                mma(acc[m][n + 1], p[m][k], fb[2], fb[3]);
            }
        }
}

/* p = c rounded, as an A. */
template <int M, int K>
__device__ __forceinline__ void as_weights(uint32_t (&p)[M][K][4], const float (&c)[M][2 * K][4]) {
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int k = 0; k < K; k++) {
            p[m][k][0] = two_bf16(c[m][2 * k][0], c[m][2 * k][1]);
            p[m][k][1] = two_bf16(c[m][2 * k][2], c[m][2 * k][3]);
            p[m][k][2] = two_bf16(c[m][2 * k + 1][0], c[m][2 * k + 1][1]);
            p[m][k][3] = two_bf16(c[m][2 * k + 1][2], c[m][2 * k + 1][3]);
        }
}

/*
 * How THREADS copy a tile of rows of D elements: each has the 16 bytes from `column` on of every STEP-th row,
 * from `row` on; some have none, where the 16 bytes of a row are not a power of two in number.
 */
template <int D, int THREADS> struct copier {
    static constexpr int pieces = D <= 64 ? 8 : D <= 128 ? 16 : 32, step = THREADS / pieces;
    static_assert(D <= 256 && THREADS % pieces == 0, "a row is copied at once");
    int row, column;
    __device__ __forceinline__ copier()
        : row((int)threadIdx.x / pieces), column((int)threadIdx.x % pieces * 8) {
    }
    __device__ __forceinline__ uint32_t to(uint32_t tile) const {
        return tile + (uint32_t)(row * PITCH<D> + column) * 2;
    }
};

/*
 * Rows [0, count) of `from`, of `columns` elements (a multiple of 8), to a tile of ROWS rows by all THREADS;
 * zeros below and right of them, up to D.
 */
template <int D, int ROWS, int THREADS>
__device__ __forceinline__ void copy_tile(uint32_t tile, const bf16 *from, int64_t ld, int count, int columns) {
    const copier<D, THREADS> mine;
    static_assert(ROWS % mine.step == 0, "every thread copies as many rows");
    if (mine.column >= D) return;
    const uint32_t to = mine.to(tile);
    const bf16 *piece = from + mine.row * ld + mine.column;
    const int left = mine.column < columns ? count - mine.row : 0;
#pragma unroll
    for (int r = 0; r < ROWS; r += mine.step) {
        copy16(to + (uint32_t)(r * PITCH<D> * 2), r < left ? piece : from, r < left);
        piece += mine.step * ld;
    }
}

/*
 * acc [16 M, 8 N], row i times scale[m][half], to rows [0, count) of `to`: through `tile`, M * 16 rows of
 * shared memory that belong to this warp alone, so that it is written 16 bytes at a time. `columns` of the 8 N
 * exist.
 */
template <int D, int M, int N>
__device__ __forceinline__ void store_rows(bf16 *to, int64_t ld, int count, int columns, bf16 *tile,
                                           const float (&acc)[M][N][4], const float (&scale)[M][2]) {
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    __syncwarp(); /* what was in the tile has been read */
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int half = 0; half < 2; half++)
                *reinterpret_cast<uint32_t *>(tile + (m * 16 + half * 8 + g) * PITCH<D> + n * 8 + 2 * t) =
                    two_bf16(acc[m][n][2 * half] * scale[m][half], acc[m][n][2 * half + 1] * scale[m][half]);
    __syncwarp();
    for (int i = lane; i < M * 16 * N; i += 32) {
        const int r = i / N, c = i % N * 8;
        if (r < count && c < columns)
            *reinterpret_cast<uint4 *>(to + r * ld + c) =
                *reinterpret_cast<const uint4 *>(tile + r * PITCH<D> + c);
    }
}
