/* Every kernel is launched through one function. */
#pragma once

#include <cuda_runtime.h>

#include "tensor/cuda/cuda.h"

struct launch_shape {
    dim3 grid, block;
    size_t shared;
    int cluster; /* divides grid.x */
};

static inline launch_shape shape(dim3 grid, dim3 block, size_t shared = 0, int cluster = 1) {
    return {grid, block, shared, cluster};
}

template <typename... Params, typename... Args>
static inline void launch(spi_cuda *cuda, const char *what, void (*kernel)(Params...), launch_shape shape,
                          Args... args) {
    if (spi_idle(&cuda->device)) return;
    cudaLaunchConfig_t config = {};
    cudaLaunchAttribute attribute = {};
    config.gridDim = shape.grid;
    config.blockDim = shape.block;
    config.dynamicSmemBytes = shape.shared;
    config.stream = cuda->stream;
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = (unsigned)shape.cluster;
    attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
    config.attrs = &attribute;
    config.numAttrs = shape.cluster > 1;
    spi_cuda_check(cuda, cudaLaunchKernelEx(&config, kernel, Params(args)...), what);
}
