/*
 * The language of CUDA's kernels as C++: threads of a block are fibers, which run until they meet a barrier or
 * an operation of their warp (threads.cpp). `__shared__` is memory of the thread of the host that runs the
 * block.
 */
#pragma once

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <functional>

#include "cuda_runtime_api.h"

using std::max;
using std::min;

#define __device__
#define __global__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define __shared__ thread_local
#define __CUDA_ARCH__ 900
#define __CUDA_ARCH_LIST__ 900

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {
    }
};
struct uint3 {
    unsigned x, y, z;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
static inline uint2 make_uint2(unsigned x, unsigned y) {
    return {x, y};
}
static inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) {
    return {x, y, z, w};
}
static inline float2 make_float2(float x, float y) {
    return {x, y};
}
static inline float4 make_float4(float x, float y, float z, float w) {
    return {x, y, z, w};
}

namespace emulator {

/* What a thread hands to its warp. */
struct message {
    uint32_t word[8];
};

/* The running thread's place in its warp. */
extern thread_local int lane;

/* What all threads of a warp do together. */
enum operation {
    SYNCWARP,
    SHFL,
    SHFL_XOR,
    SHFL_UP,
    BALLOT,
    LDMATRIX,
    LDMATRIX_TRANS,
    MMA_BF16,
    MMA_TF32,
    WGMMA
};

/* A barrier of the block. */
void wait_block();
/* All threads of the warp meet here, for the same operation, with a message each: the 32 of them, until the
 * next meeting but one. Threads that have returned may be missing from a meeting without messages only. */
const message *meet(operation what, const message &mine);
void wait_warp();

/* Copies to shared memory of this thread that are under way. */
void copy_later(void *to, const void *from, size_t bytes, bool valid);
void wait_copies();
void close_copies();
void wait_copies_but(int groups);

/* Work of this thread that is done at once or as late as it may: in groups, of which all but the last `left`
 * are waited for. Work that meets the warp must be handed in by all its threads. */
void later(std::function<void()> work);
void end_group();
void wait_groups(int left);

/* Barriers in shared memory, 8 bytes at an address, and copies that tell them (at once or as late as they may).
 */
void make_barrier(uint32_t barrier, int count);
void arrive_at(uint32_t barrier, int expected_bytes);
void wait_barrier(uint32_t barrier, uint32_t parity);
void copy_telling(uint32_t barrier, int bytes, std::function<void()> work);

/* Barriers of some of the block's threads. */
void wait_turn(int id, int threads);
void pass_turn(int id, int threads);

/* Addresses of shared memory as the 32 bits that instructions take. */
uint32_t shared_address(const void *p);
char *shared_at(uint32_t address);
/* The address of the block's `tiles` whose last 18 bits these are, more than which descriptors do not hold. */
uint32_t whole_address(uint32_t last_bits);

/* Clusters. */
int cluster_rank();
int cluster_size();
void wait_cluster();
void *in_cluster(void *own, int rank);

/* Kernels that begin early: all before this one has happened. */
void wait_dependency();

/* early: it may begin before the work that was recorded before it. */
cudaError_t launch(cudaStream_t stream, const void *kernel, dim3 blocks, dim3 threads, size_t shared,
                   int cluster, bool early, std::function<void()> body);
cudaError_t set_shared(const void *kernel, int bytes);

template <typename T> static inline T exchange(operation what, T mine, int from) {
    message m;
    T other;
    static_assert(sizeof(T) <= sizeof m.word, "a word or two");
    memcpy(m.word, &mine, sizeof mine);
    memcpy(&other, meet(what, m)[from & 31].word, sizeof other);
    return other;
}

} // namespace emulator

extern thread_local uint3 threadIdx, blockIdx;
extern thread_local dim3 blockDim, gridDim;

/* ------------------------------------------------------------------ launches */

enum { cudaLaunchAttributeClusterDimension = 4, cudaLaunchAttributeProgrammaticStreamSerialization = 6 };
struct cudaLaunchAttribute {
    int id;
    struct {
        struct {
            unsigned x, y, z;
        } clusterDim;
        int programmaticStreamSerializationAllowed;
    } val;
};
struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes;
    cudaStream_t stream;
    cudaLaunchAttribute *attrs;
    unsigned numAttrs;
};

template <typename... Params>
static inline cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t *config, void (*kernel)(Params...),
                                             std::type_identity_t<Params>... args) {
    int cluster = 1;
    bool early = false;
    for (unsigned i = 0; i < config->numAttrs; i++) {
        const cudaLaunchAttribute &a = config->attrs[i];
        if (a.id == cudaLaunchAttributeClusterDimension) cluster = (int)a.val.clusterDim.x;
        else early = a.val.programmaticStreamSerializationAllowed;
    }
    return emulator::launch(config->stream, reinterpret_cast<const void *>(kernel), config->gridDim,
                            config->blockDim, config->dynamicSmemBytes, cluster, early,
                            [=] { kernel(args...); });
}

static inline cudaError_t cudaFuncSetAttribute(const void *kernel, cudaFuncAttribute attribute, int value) {
    if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize) return cudaSuccess;
    return emulator::set_shared(kernel, value);
}
template <typename... Params>
static inline cudaError_t cudaFuncSetAttribute(void (*kernel)(Params...), cudaFuncAttribute attribute,
                                               int value) {
    return cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel), attribute, value);
}

/* ------------------------------------------------------------------ functions of the language */

static inline void __syncthreads() {
    emulator::wait_block();
}
static inline void __syncwarp(unsigned = 0xffffffffu) {
    emulator::wait_warp();
}
template <typename T> static inline T __shfl_sync(unsigned, T value, int lane) {
    return emulator::exchange(emulator::SHFL, value, lane);
}
template <typename T> static inline T __shfl_xor_sync(unsigned, T value, int mask) {
    return emulator::exchange(emulator::SHFL_XOR, value, emulator::lane ^ mask);
}
template <typename T> static inline T __shfl_up_sync(unsigned, T value, unsigned by) {
    const int from = emulator::lane - (int)by;
    return emulator::exchange(emulator::SHFL_UP, value, from < 0 ? emulator::lane : from);
}
static inline unsigned __ballot_sync(unsigned, int predicate) {
    const emulator::message *all = emulator::meet(emulator::BALLOT, {{predicate != 0}});
    unsigned bits = 0;
    for (int i = 0; i < 32; i++) bits |= all[i].word[0] << i;
    return bits;
}

static inline unsigned atomicAdd(unsigned *to, unsigned value) {
    return __atomic_fetch_add(to, value, __ATOMIC_RELAXED);
}
static inline int atomicExch(int *to, int value) {
    return __atomic_exchange_n(to, value, __ATOMIC_RELAXED);
}

static inline unsigned __float_as_uint(float x) {
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
static inline float __uint_as_float(unsigned bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}
#define __expf expf
static inline float __fdividef(float a, float b) {
    return a / b;
}
static inline int __float2int_rn(float x) {
    return (int)rintf(x);
}
static inline unsigned long long __float2ull_rz(float x) {
    return (unsigned long long)x;
}
static inline int __popc(unsigned x) {
    return __builtin_popcount(x);
}
static inline int __ffs(int x) {
    return __builtin_ffs(x);
}
static inline unsigned __byte_perm(unsigned x, unsigned y, unsigned which) {
    const uint64_t all = (uint64_t)y << 32 | x;
    unsigned bits = 0;
    for (int i = 0; i < 4; i++) bits |= (unsigned)(all >> (which >> 4 * i & 7) * 8 & 255) << 8 * i;
    return bits;
}
template <typename T> static inline T __ldcs(const T *from) {
    return *from;
}
template <typename T> static inline T __ldcg(const T *from) {
    return *from;
}
static inline void __threadfence() {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
