/*
 * Products that share their input, with the norm before them and the activation behind them (backend.h). With
 * few rows all is one kernel (gemv.cu): it takes little more time to start and end than to read the weights.
 * What does not suit it is made of the operations that it stands for, as few of them as there can be.
 */
#include "tensor/compose.h"
#include "tensor/cuda/gemv.cuh"

/* Elements of norm(x) that each block makes for itself: with more a kernel of its own is quicker. They take at
 * most 32 KiB of shared memory. */
#define MOST_NORMED 8192

static bool at_16(const void *data) {
    return (uintptr_t)data % 16 == 0;
}

/* Whether the weights can be read by one kernel; how, then. */
static bool choose(row_choice *choice, const spi_projection *list, int count, spi_mat x) {
    const spi_weight *w = list[0].w;
    *choice = {};
    choice->count = count;
    choice->dtype = w->m.dtype;
    choice->k = x.cols;
    choice->in_vecs = in_vecs(x, 16 / bytes_of(w->m.dtype));
    if (x.rows > MOST_ROWS || count > MOST_PRODUCTS || (!w->scale && w->m.dtype != x.dtype)) return false;
    for (int i = 0; i < count; i++) {
        const spi_weight *other = list[i].w;
        if (other->transposed || other->m.dtype != w->m.dtype) return false;
        choice->in_vecs = choice->in_vecs && in_vecs(other->m, 16 / bytes_of(w->m.dtype));
    }
    return true;
}

/* Adds the norm; whether each block can make it for itself. */
static bool add_norm(row_products *products, row_choice *choice, spi_mat x, const spi_norm *norm) {
    if (!norm) return true;
    products->norm = {norm->weight, norm->bias, norm->eps, norm->offset, norm->kind == SPI_NORM_LAYER};
    choice->norm = true;
    return choice->in_vecs && norm->groups == 1 && x.rows * x.cols <= MOST_NORMED && at_16(norm->weight) &&
           at_16(norm->bias);
}

/* Columns [first, first + n) of a projection. */
static row_product product_of(const spi_projection *p, int64_t first, int64_t n) {
    const spi_weight *w = p->w;
    const spi_mat y = {static_cast<char *>(p->y.data) + first * bytes_of(p->y.dtype), p->y.dtype, p->y.rows, n,
                       p->y.ld};
    row_product product = {};
    product.f = finish_of(y, w, p->bias ? p->bias + first : NULL);
    if (w->scale) product.f.scale = w->scale + first;
    product.w = static_cast<const char *>(w->m.data) + first * w->m.ld * bytes_of(w->m.dtype);
    product.ld = w->m.ld;
    return product;
}

/* Whether it took the products on. */
static bool few(spi_cuda *cuda, const spi_projection *list, int count, spi_mat x, const spi_norm *norm) {
    row_products products = {};
    row_choice choice;
    if (!choose(&choice, list, count, x) || !add_norm(&products, &choice, x, norm)) return false;
    for (int i = 0; i < count; i++) products.list[i] = product_of(&list[i], 0, list[i].y.cols);
    if (x.rows > 0) spi_cuda_gemv_rows(cuda, &products, choice, x);
    return true;
}

/* Gate and up, in two projections or in one. */
static bool is_pair(const spi_projection *list, int count, int64_t f) {
    return count == 2 || list[0].y.cols == 2 * f;
}

static bool few_gated(spi_cuda *cuda, spi_mat y, const spi_projection *list, int count, spi_mat x,
                      const spi_norm *norm, spi_activation act, bool keep) {
    const int64_t f = y.cols;
    const bool joint = count == 1;
    row_products products = {};
    row_choice choice;
    if (!is_pair(list, count, f) || y.dtype != x.dtype) return false;
    for (int i = 0; i < count; i++)
        if (list[i].y.dtype != x.dtype) return false;
    if (!choose(&choice, list, count, x) || !choice.in_vecs || !add_norm(&products, &choice, x, norm))
        return false;
    for (int i = 0; i < 2; i++) products.list[i] = product_of(joint ? list : &list[i], joint ? i * f : 0, f);
    products.gated = either_of(y);
    products.act = act;
    products.keep = keep;
    choice.count = 2;
    choice.paired = true;
    if (x.rows > 0) spi_cuda_gemv_rows(cuda, &products, choice, x);
    return true;
}

void spi_cuda_project(spi_device *dev, const spi_projection *list, int count, spi_mat x, const spi_norm *norm,
                      spi_mat room) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK || few(cuda, list, count, x, norm)) return;
    if (norm) {
        dev->op->norm(dev, room, x, norm);
        if (few(cuda, list, count, room, NULL)) return;
    }
    spi_compose_project(dev, list, count, norm ? room : x, NULL, room);
}

void spi_cuda_project_gated(spi_device *dev, spi_mat y, const spi_projection *list, int count, spi_mat x,
                            const spi_norm *norm, spi_mat room, spi_activation act, bool keep) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK || few_gated(cuda, y, list, count, x, norm, act, keep)) return;
    if (norm && x.rows <= MOST_ROWS && is_pair(list, count, y.cols)) {
        dev->op->norm(dev, room, x, norm);
        if (few_gated(cuda, y, list, count, room, NULL, act, keep)) return;
        norm = NULL;
        x = room;
    }
    spi_cuda_project(dev, list, count, x, norm, room);
    spi_compose_gated(dev, y, list, count, act);
}
