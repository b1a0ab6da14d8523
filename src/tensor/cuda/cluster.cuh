/*
 * Clusters: blocks of one launch that run at the same time and read each other's shared memory. Before compute
 * capability 9.0 every cluster is one block.
 */
#pragma once

#include <cooperative_groups.h>

#include "tensor/cuda/kernel.cuh"

#define MOST_CLUSTER 8 /* blocks of a cluster that every card of 9.0 can run */

/* The most blocks that a cluster can have. */
static inline int most_cluster(const spi_cuda *cuda) {
    return knows_90(cuda) ? MOST_CLUSTER : 1;
}

__device__ __forceinline__ int cluster_rank() {
#if __CUDA_ARCH__ >= 900
    return (int)cooperative_groups::this_cluster().block_rank();
#else
    return 0;
#endif
}

__device__ __forceinline__ int cluster_size() {
#if __CUDA_ARCH__ >= 900
    return (int)cooperative_groups::this_cluster().num_blocks();
#else
    return 1;
#endif
}

/* A barrier over all threads of the cluster; what they wrote in shared memory is seen after it. */
__device__ __forceinline__ void cluster_barrier() {
#if __CUDA_ARCH__ >= 900
    if (cluster_size() > 1) cooperative_groups::this_cluster().sync();
    else __syncthreads();
#else
    __syncthreads();
#endif
}

/* The same barrier in two halves: what a thread does between them does not wait for others. What was written
 * before the first half is seen after the second. */
__device__ __forceinline__ void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
    if (cluster_size() > 1) cooperative_groups::this_cluster().barrier_arrive();
#endif
}
__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
    if (cluster_size() > 1) cooperative_groups::this_cluster().barrier_wait();
#endif
}

/* Where block `rank` of the cluster has what this block has at `own` in shared memory. */
template <typename T> __device__ __forceinline__ T *cluster_at(T *own, int rank) {
#if __CUDA_ARCH__ >= 900
    return cooperative_groups::this_cluster().map_shared_rank(own, rank);
#else
    (void)rank;
    return own;
#endif
}
