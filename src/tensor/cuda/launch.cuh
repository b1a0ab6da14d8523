/* Every kernel is launched through one function. */
#pragma once

#include <cuda_runtime.h>

#include "tensor/cuda/cuda.h"

struct launch_shape {
    dim3 grid, block;
    size_t shared;
    int cluster; /* divides grid.x */
    bool early;
};

static inline launch_shape shape(dim3 grid, dim3 block, size_t shared = 0, int cluster = 1) {
    return {grid, block, shared, cluster, false};
}

/*
 * Begins, in a recorded step, as soon as all blocks of the kernel before it have called dependents_may_start()
 * or have ended (ptx.cuh). Every thread of such a kernel calls dependency_wait(), after which all kernels
 * before it have ended: before that it writes nothing, and reads only what no kernel of a recorded step writes
 * but the last, which ends it: weights, tables, and of sequences where they begin and how far they are. In
 * other steps, where weights may change, nothing begins early; nor does what follows no kernel.
 */
static inline launch_shape early(launch_shape shape) {
    shape.early = true;
    return shape;
}

/* The newest architecture that the kernels are built for, 900 for sm_90. */
static constexpr int newest_code() {
    const int list[] = {__CUDA_ARCH_LIST__};
    int newest = 0;
    for (int code : list) newest = code > newest ? code : newest;
    return newest;
}

/* Whether both the card and the kernels that run on it know what came with compute capability 9.0. */
static inline bool knows_90(const spi_cuda *cuda) {
    return cuda->capability >= 90 && newest_code() >= 900;
}

template <typename... Params, typename... Args>
static inline void launch(spi_cuda *cuda, const char *what, void (*kernel)(Params...), launch_shape shape,
                          Args... args) {
    if (spi_idle(&cuda->device)) return;
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attributes[2] = {};
    config.gridDim = shape.grid;
    config.blockDim = shape.block;
    config.dynamicSmemBytes = shape.shared;
    config.stream = cuda->stream;
    config.attrs = attributes;
    if (shape.cluster > 1) {
        cudaLaunchAttribute &attribute = attributes[config.numAttrs++];
        attribute.id = cudaLaunchAttributeClusterDimension;
        attribute.val.clusterDim.x = (unsigned)shape.cluster;
        attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    }
    if (shape.early && cuda->recording && cuda->after_kernel && cuda->records_early && knows_90(cuda)) {
        cudaLaunchAttribute &attribute = attributes[config.numAttrs++];
        attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute.val.programmaticStreamSerializationAllowed = 1;
    }
    cuda->after_kernel = true;
    spi_cuda_check(cuda, cudaLaunchKernelEx(&config, kernel, Params(args)...), what);
}
