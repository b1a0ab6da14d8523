/*
 * Instructions of Hopper (sm_90a, no other card has them), each a function, and nothing else, as in ptx.cuh:
 * barriers in shared memory, copies of boxes of a matrix, and products of warp groups.
 */
#pragma once

#include <cuda.h>

#include "tensor/cuda/ptx.cuh"

/* ------------------------------------------------------------------ barriers in shared memory (8 bytes) */

/* Goes to its next phase when `count` threads have arrived and the bytes that were announced are there. */
__device__ __forceinline__ void barrier_make(uint32_t barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
/* Barriers that this thread made are seen by copies too. The block's other threads: after __syncthreads. */
__device__ __forceinline__ void barriers_made() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
/* Arrives, and announces bytes that copies will bring in this phase. */
__device__ __forceinline__ void barrier_expect(uint32_t barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}
/* Until the phase of that parity is over: 0 of the first, then 1, 0 ... At the beginning that of 1 is. */
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
    uint32_t over;
    do {
        asm volatile("{\n"
                     ".reg .pred over;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 over, [%1], %2;\n"
                     "selp.b32 %0, 1, 0, over;\n"
                     "}\n"
                     : "=r"(over)
                     : "r"(barrier), "r"(parity)
                     : "memory");
    } while (!over);
}

/* ------------------------------------------------------------------ barriers of some of a block's warps */

/* Barrier `id` (1 to 15) opens when `threads` have come to wait or passed. */
__device__ __forceinline__ void turn_wait(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
__device__ __forceinline__ void turn_pass(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/* ------------------------------------------------------------------ copies of boxes */

/* The box of `map` whose first element is at (row, column), zeros outside of the matrix; `barrier` is told. */
__device__ __forceinline__ void copy_box(uint32_t to, const CUtensorMap *map, uint32_t barrier, int row,
                                         int column) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], "
        "[%2];" ::"r"(to),
        "l"(map), "r"(barrier), "r"(column), "r"(row)
        : "memory");
}
__device__ __forceinline__ void prefetch_map(const CUtensorMap *map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* ------------------------------------------------------------------ registers of a warp group */

/* This warp group's threads have `COUNT` registers each from now on: fewer, or more that others gave back. */
template <int COUNT> __device__ __forceinline__ void registers_fewer() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT> __device__ __forceinline__ void registers_more() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

/* ------------------------------------------------------------------ products of a warp group */

/*
 * A matrix in shared memory as products read it: rows of 128 bytes, 64 bf16, whose 16-byte pieces are swapped
 * (piece ^ row % 8, as copy_box leaves them), from a multiple of 1024 bytes on.
 * With k along the rows: bytes between eight rows and the next (`stride`); 16 k are 32 bytes.
 * With k down the rows: bytes between eight k and the next (`stride`), and between 64 columns and the next
 * (`leading`); 16 k are two strides.
 */
__device__ __forceinline__ uint64_t matrix_at(uint32_t address, uint32_t leading, uint32_t stride) {
    return (uint64_t)1 << 62 | (uint64_t)(stride >> 4) << 32 | (uint64_t)(leading >> 4) << 16 |
           (address & 0x3ffff) >> 4;
}

/* Registers and shared memory that this thread wrote are seen by products after this. */
__device__ __forceinline__ void products_begin() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
/* The products since the last call are a group. */
__device__ __forceinline__ void products_end() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/* All groups but the last `COUNT` are done: accumulators hold their sums, operands may be overwritten. */
template <int COUNT> __device__ __forceinline__ void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(COUNT) : "memory");
}
/* To be called behind a wait: the compiler does not read the accumulators before it. */
template <int T> __device__ __forceinline__ void settle(float (&d)[T][4]) {
#pragma unroll
    for (int n = 0; n < T; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) asm volatile("" : "+f"(d[n][i])::"memory");
}

#define FOUR(d, n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define ACCUMULATORS(d, n)                                                                      \
    FOUR(d, n), FOUR(d, n + 1), FOUR(d, n + 2), FOUR(d, n + 3), FOUR(d, n + 4), FOUR(d, n + 5), \
        FOUR(d, n + 6), FOUR(d, n + 7)

/*
 * d [64, 64 or 128] = A B, or d += A B with `keep`, over 16 k; later (products_wait). Thread 32 w + 4 g + t of
 * the warp group has rows 16 w + g, and 8 more, of columns 8 n + 2 t, 8 n + 2 t + 1, as in an mma's C.
 *
 * multiply_64, multiply_128: A and B^T in shared memory, k along their rows.
 */
template <int T>
__device__ __forceinline__ void multiply_64(float (&d)[T][4], uint64_t a, uint64_t b, bool keep) {
    static_assert(T >= 8, "64 columns");
    asm volatile("{\n"
                 ".reg .pred keep;\n"
                 "setp.ne.b32 keep, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, "
                 "%7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
                 "%24, %25, %26, %27, %28, %29, %30, %31},"
                 " %32, %33, keep, 1, 1, 0, 0;\n"
                 "}\n"
                 : ACCUMULATORS(d, 0)
                 : "l"(a), "l"(b), "r"((int)keep)
                 : "memory");
}
template <int T>
__device__ __forceinline__ void multiply_128(float (&d)[T][4], uint64_t a, uint64_t b, bool keep) {
    static_assert(T >= 16, "128 columns");
    asm volatile("{\n"
                 ".reg .pred keep;\n"
                 "setp.ne.b32 keep, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, "
                 "%7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
                 "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, "
                 "%41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, "
                 "%58, %59, %60, %61, %62, %63},"
                 " %64, %65, keep, 1, 1, 0, 0;\n"
                 "}\n"
                 : ACCUMULATORS(d, 0), ACCUMULATORS(d, 8)
                 : "l"(a), "l"(b), "r"((int)keep)
                 : "memory");
}

/* multiply_by_64, multiply_by_128: A in registers as an mma's, B in shared memory with k down its rows. */
template <int T>
__device__ __forceinline__ void multiply_by_64(float (&d)[T][4], const uint32_t (&a)[4], uint64_t b,
                                               bool keep) {
    static_assert(T >= 8, "64 columns");
    asm volatile("{\n"
                 ".reg .pred keep;\n"
                 "setp.ne.b32 keep, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, "
                 "%7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
                 "%24, %25, %26, %27, %28, %29, %30, %31},"
                 " {%32, %33, %34, %35}, %36, keep, 1, 1, 1;\n"
                 "}\n"
                 : ACCUMULATORS(d, 0)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)keep)
                 : "memory");
}
template <int T>
__device__ __forceinline__ void multiply_by_128(float (&d)[T][4], const uint32_t (&a)[4], uint64_t b,
                                                bool keep) {
    static_assert(T >= 16, "128 columns");
    asm volatile("{\n"
                 ".reg .pred keep;\n"
                 "setp.ne.b32 keep, %69, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, "
                 "%7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
                 "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, "
                 "%41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, "
                 "%58, %59, %60, %61, %62, %63},"
                 " {%64, %65, %66, %67}, %68, keep, 1, 1, 1;\n"
                 "}\n"
                 : ACCUMULATORS(d, 0), ACCUMULATORS(d, 8)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)keep)
                 : "memory");
}

#undef ACCUMULATORS
#undef FOUR
