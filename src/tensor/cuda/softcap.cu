/*
 * Gemma 2's final_logit_softcapping, on logits that are fetched; the loss applies it as it goes. y = cap tanh(y
 * / cap), f32 in place, a vector of 16 bytes (or one element) a thread. Limit: memory.
 */
#include "tensor/cuda/vec.cuh"

template <int E> static __global__ void cap_all(rows_of<float> y, float cap, int64_t rows, int64_t vecs) {
    const int64_t c = tile_column() * E;
    if (tile_column() >= vecs) return;
    for (int64_t r = tile_row(); r < rows; r += tile_rows()) {
        vec<float, E> v;
        v.load(y.row(r) + c);
#pragma unroll
        for (int e = 0; e < E; e++) v.v[e] = cap * tanhf(v.v[e] / cap);
        v.store(y.row(r) + c);
    }
}

void spi_cuda_softcap(spi_device *dev, spi_mat y, float cap) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK || y.rows == 0 || y.cols == 0) return;
    const int64_t vecs = packs(y) ? y.cols / 4 : y.cols;
    const tiling t = tile(y.rows, vecs);
    if (packs(y))
        launch(cuda, "capping logits", cap_all<4>, shape(t.grid, t.block), rows<float>(y), cap, y.rows, vecs);
    else launch(cuda, "capping logits", cap_all<1>, shape(t.grid, t.block), rows<float>(y), cap, y.rows, vecs);
}
