/*
 * What CUDA's language has no words for: single instructions of the GPU, each a function, and nothing else.
 * lane = 4 g + t. Fragments of mma.m16n8k16, two bf16 a register:
 *   A (16 x 16)  registers: rows g, g + 8, g, g + 8; columns 2t, 2t + 1, of the last two 8 more
 *   B (16 x 8)   rows 2t, 2t + 1, then 8 more; column g
 *   C (16 x 8)   c[0], c[1]: row g, columns 2t, 2t + 1; c[2], c[3]: row g + 8
 */
#pragma once

#include "tensor/cuda/kernel.cuh"

__device__ __forceinline__ uint32_t shared_address(const void *p) {
    return (uint32_t)__cvta_generic_to_shared(p);
}

/* 16 bytes to shared memory, later; zeros where not `valid` (`from` must be an address all the same). */
__device__ __forceinline__ void copy16(uint32_t to, const void *from, bool valid) {
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy4(uint32_t to, const void *from, bool valid) {
    const int bytes = valid ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
/* All copies of this thread have arrived. */
__device__ __forceinline__ void copies_wait() {
    asm volatile("cp.async.wait_all;" ::: "memory");
}
/* Ends a group of copies of this thread. */
__device__ __forceinline__ void copies_close() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/* All of this thread's groups have arrived but the last LEFT. */
template <int LEFT> __device__ __forceinline__ void copies_wait_but() {
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
}
__device__ __forceinline__ void load_transposed(uint32_t (&r)[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(from)
                 : "memory");
}

/* c += a b */
__device__ __forceinline__ void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* 2^x within 2^-22; 0 for -inf. */
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* x rounded to tf32 */
__device__ __forceinline__ float tf32(float x) {
    uint32_t bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
    return __uint_as_float(bits);
}

/* c += a b, m16n8k8: A's rows g, g + 8, g, g + 8 at k = t, t, t + 4, t + 4; B's column g at k = t, t + 4. */
__device__ __forceinline__ void mma_tf32(float (&c)[4], float a0, float a1, float a2, float a3, float b0,
                                         float b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(__float_as_uint(a0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(a2)),
          "r"(__float_as_uint(a3)), "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
}

/* No instruction: what was made of `words` before is made anew, instead of being kept in registers. */
__device__ __forceinline__ void made_anew(uint4 &words) {
    asm volatile("" : "+r"(words.x), "+r"(words.y), "+r"(words.z), "+r"(words.w));
}
/* Kernels that begin early (launch.cuh). Where blocks of the next kernel find room they may come in from now
 * on; and: all kernels before this one have ended, and what they wrote is seen. Nothing elsewhere. */
#if __CUDA_ARCH__ >= 900
#define BEGINS_EARLY true
__device__ __forceinline__ void dependents_may_start() {
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}
__device__ __forceinline__ void dependency_wait() {
    asm volatile("griddepcontrol.wait;" ::: "memory");
}
#else
#define BEGINS_EARLY false
__device__ __forceinline__ void dependents_may_start() {
}
__device__ __forceinline__ void dependency_wait() {
}
#endif

/* Brings what is at `data` to the second-level cache. */
__device__ __forceinline__ void prefetch(const void *data) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(data));
}
