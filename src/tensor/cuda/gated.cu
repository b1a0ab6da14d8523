/*
 * Activations of the MLP, gated or not, forward beside backward.
 *
 * A thread takes a vector of 16 bytes (or one element) of two rows at a time; it reads all that it needs before
 * it writes, so that results may lie over what they are made of.
 * Limit: memory. [8192, 3072] in bf16: forward 151 MB, 50 us; backward 252 MB, 84 us. [4096, 12288]: twice
 * that.
 */
#include "tensor/cuda/activation.cuh"
#include "tensor/cuda/vec.cuh"

/* Rows at a time. */
#define ROWS 2

/* ------------------------------------------------------------------ forward */

template <typename T, int E, int ACT, bool UP>
static __global__ void __launch_bounds__(256)
    gated(rows_of<T> y, rows_of<const T> gate, rows_of<const T> up, int64_t rows, int64_t vecs) {
    const int64_t c = tile_column() * E, step = tile_rows();
    if (tile_column() >= vecs) return;
    for (int64_t first = tile_row(); first < rows; first += ROWS * step) {
        vec<T, E> g[ROWS], u[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const int64_t r = first + i * step;
            if (r >= rows) continue;
            g[i].load(gate.row(r) + c);
            if constexpr (UP) u[i].load(up.row(r) + c);
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const int64_t r = first + i * step;
            if (r >= rows) continue;
#pragma unroll
            for (int e = 0; e < E; e++) {
                g[i].v[e] = activate<T, ACT>(g[i].v[e]).y;
                if constexpr (UP) g[i].v[e] *= u[i].v[e];
            }
            g[i].store(y.row(r) + c);
        }
    }
}

/* ------------------------------------------------------------------ backward */

/* dgate = dy up act'(gate), dup = dy act(gate) */
template <typename T, int E, int ACT, bool UP>
static __global__ void __launch_bounds__(256)
    gated_backward(rows_of<T> dgate, rows_of<T> dup, rows_of<const T> dy, rows_of<const T> gate,
                   rows_of<const T> up, int64_t rows, int64_t vecs) {
    const int64_t c = tile_column() * E, step = tile_rows();
    if (tile_column() >= vecs) return;
    for (int64_t first = tile_row(); first < rows; first += ROWS * step) {
        vec<T, E> g[ROWS], u[ROWS], d[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const int64_t r = first + i * step;
            if (r >= rows) continue;
            g[i].load(gate.row(r) + c);
            d[i].load(dy.row(r) + c);
            if constexpr (UP) u[i].load(up.row(r) + c);
        }
#pragma unroll
        for (int i = 0; i < ROWS; i++) {
            const int64_t r = first + i * step;
            if (r >= rows) continue;
#pragma unroll
            for (int e = 0; e < E; e++) {
                const slope at = activate<T, ACT>(g[i].v[e]);
                g[i].v[e] = d[i].v[e] * at.dy;
                if constexpr (UP) {
                    g[i].v[e] *= u[i].v[e];
                    u[i].v[e] = d[i].v[e] * at.y;
                }
            }
            g[i].store(dgate.row(r) + c);
            if constexpr (UP) u[i].store(dup.row(r) + c);
        }
    }
}

/* ------------------------------------------------------------------ the operations */

/* Calls f with the dtype, the elements at a time, the activation and whether there is `up`. */
template <typename F> static void choose(sp_dtype dtype, bool wide, spi_activation act, bool up, F f) {
    by_float(dtype, [&](auto type) {
        typedef typename decltype(type)::type T;
        const auto with_act = [&](auto each, auto with_up) {
            switch (act) {
            case SPI_ACT_SILU: f(type, each, count_tag<SPI_ACT_SILU>(), with_up); break;
            case SPI_ACT_GELU_TANH: f(type, each, count_tag<SPI_ACT_GELU_TANH>(), with_up); break;
            case SPI_ACT_GELU_ERF: f(type, each, count_tag<SPI_ACT_GELU_ERF>(), with_up); break;
            case SPI_ACT_RELU: f(type, each, count_tag<SPI_ACT_RELU>(), with_up); break;
            }
        };
        const auto with_each = [&](auto each) {
            if (up) with_act(each, count_tag<1>());
            else with_act(each, count_tag<0>());
        };
        if (wide) with_each(count_tag<pack<T>::size>());
        else with_each(count_tag<1>());
    });
}

void spi_cuda_gated(spi_device *dev, spi_mat y, spi_mat gate, spi_mat up, spi_activation act) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK || y.rows == 0 || y.cols == 0) return;
    const bool wide = packs(y) && packs(gate) && (!up.data || packs(up));
    choose(y.dtype, wide, act, up.data != NULL, [&](auto type, auto each, auto kind, auto with_up) {
        typedef typename decltype(type)::type T;
        constexpr int E = decltype(each)::value, ACT = decltype(kind)::value;
        const int64_t vecs = y.cols / E;
        const tiling t = tile(blocks_for(y.rows, ROWS), vecs);
        launch(cuda, "an activation", gated<T, E, ACT, decltype(with_up)::value == 1>, shape(t.grid, t.block),
               rows<T>(y), rows<const T>(gate), rows<const T>(up), y.rows, vecs);
    });
}

void spi_cuda_gated_backward(spi_device *dev, spi_mat dgate, spi_mat dup, spi_mat dy, spi_mat gate, spi_mat up,
                             spi_activation act) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK || dy.rows == 0 || dy.cols == 0) return;
    const bool wide = packs(dgate) && packs(dy) && packs(gate) && (!up.data || (packs(dup) && packs(up)));
    choose(dy.dtype, wide, act, up.data != NULL, [&](auto type, auto each, auto kind, auto with_up) {
        typedef typename decltype(type)::type T;
        constexpr int E = decltype(each)::value, ACT = decltype(kind)::value;
        const int64_t vecs = dy.cols / E;
        const tiling t = tile(blocks_for(dy.rows, ROWS), vecs);
        launch(cuda, "an activation's gradient", gated_backward<T, E, ACT, decltype(with_up)::value == 1>,
               shape(t.grid, t.block), rows<T>(dgate), rows<T>(dup), rows<const T>(dy), rows<const T>(gate),
               rows<const T>(up), dy.rows, vecs);
    });
}
