/* What an injection's kernels share (inject.cu, inject_tensor.cu). */
#pragma once

#include "tensor/cuda/shadow.cuh"

struct injection {
    int64_t rows, d, k;
    float alpha;
    const float *down, *up;
    dropout drop;
    bool drop_delta;
};

static inline injection injection_of(const spi_inject *in, int64_t rows, int64_t d) {
    return {rows, d, in->k, in->alpha, in->down, in->up, dropout_of(&in->dropout), in->drop_delta};
}
