/*
 * Injection of any width and alignment through product.c: f32 copies of rows, products between them, and one
 * kernel for what happens to each element. In chunks of rows, so that the copies stay small.
 */
#include "tensor/cuda/wide.cuh"

/* Rows [first, ...) of matrices of T; what is f32 begins at row `first`. */
template <typename T> struct make_delta { /* delta = dropout(h - s), or of h - added - s */
    float *delta;
    rows_of<const T> h, s;
    bool less_added; /* delta holds alpha p U before */
    dropout drop;
    int64_t first, d;
    __device__ void operator()(int64_t t, int64_t c, int64_t i) const {
        const float added = less_added ? delta[i] : 0.0f;
        delta[i] =
            (to_float(h.row(t)[c]) - added - to_float(s.row(t)[c])) * drop_factor(drop, (first + t) * d + c);
    }
};

struct scale_small { /* x = alpha dropout(x); also kept, without alpha, in `keep` where that is not NULL */
    float *x, *keep;
    float alpha;
    dropout drop;
    int64_t first, k;
    __device__ void operator()(int64_t t, int64_t c, int64_t i) const {
        const float kept_x = x[i] * drop_factor(drop, (first + t) * k + c);
        if (keep) keep[i] = kept_x;
        x[i] = alpha * kept_x;
    }
};

template <typename T> struct add_wide { /* out = h + added */
    rows_of<T> out;
    rows_of<const T> h;
    const float *added;
    __device__ void operator()(int64_t t, int64_t c, int64_t i) const {
        out.row(t)[c] = from_float<T>(to_float(h.row(t)[c]) + added[i]);
    }
};

template <typename T> struct add_delta { /* dh += dropout(ddelta), ds -= it */
    rows_of<T> dh, ds;
    const float *ddelta;
    dropout drop;
    int64_t first, d;
    __device__ void operator()(int64_t t, int64_t c, int64_t i) const {
        const float x = ddelta[i] * drop_factor(drop, (first + t) * d + c);
        dh.row(t)[c] = from_float<T>(to_float(dh.row(t)[c]) + x);
        ds.row(t)[c] = from_float<T>(to_float(ds.row(t)[c]) - x);
    }
};

template <typename T> struct copy_wide {
    float *to;
    rows_of<const T> from;
    __device__ void operator()(int64_t t, int64_t c, int64_t i) const {
        to[i] = to_float(from.row(t)[c]);
    }
};

struct copy_small {
    float *to;
    const float *from;
    __device__ void operator()(int64_t, int64_t, int64_t i) const {
        to[i] = from[i];
    }
};

/* The dropout, or none where it falls on the other matrix. */
static dropout dropout_if(const spi_inject *in, bool falls) {
    dropout drop = dropout_of(&in->dropout);
    if (!falls) drop.p = 0.0f;
    return drop;
}

/* ------------------------------------------------------------------ forward */

template <typename T>
static void forward(spi_cuda *cuda, spi_mat h_out, float *p, spi_mat h, spi_mat s, const spi_inject *in,
                    float *copy, int64_t first, int64_t now) {
    spi_device *dev = &cuda->device;
    const int64_t d = h.cols, k = in->k;
    float *small = copy + now * d;
    const spi_mat wide = floats(copy, now, d), narrow = floats(small, now, k);
    const spi_weight down = weight_of(in->down, d, k, true), up = weight_of(in->up, k, d, false);
    for_each(cuda, "a difference of states", now, d,
             make_delta<T>{copy, rows_from<const T>(h, first), rows_from<const T>(s, first), false,
                           dropout_if(in, in->drop_delta), first, d});
    spi_cuda_linear(dev, narrow, wide, &down, NULL, NULL);
    for_each(cuda, "an injection's p", now, k,
             scale_small{small, p + first * k, in->alpha, dropout_if(in, !in->drop_delta), first, k});
    spi_cuda_linear_dx(dev, wide, narrow, &up, false);
    for_each(cuda, "injecting", now, d,
             add_wide<T>{rows_from<T>(h_out, first), rows_from<const T>(h, first), copy});
}

void spi_cuda_inject_wide(spi_device *dev, spi_mat h_out, float *p, spi_mat h, spi_mat s,
                          const spi_inject *in) {
    spi_cuda *cuda = spi_cuda_of(dev);
    const int64_t d = h.cols, most = wide_rows(h.rows, d, 1);
    float *copy = (float *)spi_cuda_scratch(cuda, (size_t)(most * (d + in->k)) * sizeof *copy);
    if (!copy) return;
    for (int64_t first = 0; first < h.rows && dev->status == SP_OK; first += most) {
        const int64_t now = h.rows - first < most ? h.rows - first : most;
        if (h.dtype == SP_BF16) forward<bf16>(cuda, h_out, p, h, s, in, copy, first, now);
        else forward<float>(cuda, h_out, p, h, s, in, copy, first, now);
    }
}

/* ------------------------------------------------------------------ backward */

template <typename T>
static void backward(spi_cuda *cuda, spi_mat dh, spi_mat ds, float *ddown, float *dup, spi_mat h_out, spi_mat s,
                     const float *p, const spi_inject *in, float *copy, int64_t first, int64_t now) {
    spi_device *dev = &cuda->device;
    const int64_t d = dh.cols, k = in->k;
    float *delta = copy, *grad = delta + now * d, *scaled = grad + now * d, *dp = scaled + now * k;
    const spi_mat delta_m = floats(delta, now, d), grad_m = floats(grad, now, d);
    const spi_mat scaled_m = floats(scaled, now, k), dp_m = floats(dp, now, k);
    const spi_weight down = weight_of(in->down, d, k, false), up = weight_of(in->up, k, d, false);
    dropout none = dropout_of(&in->dropout);
    none.p = 0.0f;
    for_each(cuda, "copying an injection's p", now, k, copy_small{scaled, p + first * k});
    for_each(cuda, "an injection's p", now, k, scale_small{scaled, NULL, in->alpha, none, first, k});
    spi_cuda_linear_dx(dev, delta_m, scaled_m, &up, false);
    for_each(cuda, "a difference of states", now, d,
             make_delta<T>{delta, rows_from<const T>(h_out, first), rows_from<const T>(s, first), true,
                           dropout_if(in, in->drop_delta), first, d});
    for_each(cuda, "copying a gradient", now, d, copy_wide<T>{grad, rows_from<const T>(dh, first)});
    spi_cuda_linear(dev, dp_m, grad_m, &up, NULL, NULL);
    for_each(cuda, "the gradient of an injection's p", now, k,
             scale_small{dp, NULL, in->alpha, dropout_if(in, !in->drop_delta), first, k});
    if (dup) spi_cuda_linear_dw(dev, dup, NULL, scaled_m, grad_m, false);
    if (ddown) spi_cuda_linear_dw(dev, ddown, NULL, delta_m, dp_m, false);
    spi_cuda_linear(dev, grad_m, dp_m, &down, NULL, NULL);
    for_each(cuda, "the gradient of an injection", now, d,
             add_delta<T>{rows_from<T>(dh, first), rows_from<T>(ds, first), grad,
                          dropout_if(in, in->drop_delta), first, d});
}

void spi_cuda_inject_wide_backward(spi_device *dev, spi_mat dh, spi_mat ds, float *ddown, float *dup,
                                   spi_mat h_out, spi_mat s, const float *p, const spi_inject *in) {
    spi_cuda *cuda = spi_cuda_of(dev);
    const int64_t d = dh.cols, most = wide_rows(dh.rows, d, 2);
    float *copy = (float *)spi_cuda_scratch(cuda, (size_t)(most * 2 * (d + in->k)) * sizeof *copy);
    if (!copy) return;
    for (int64_t first = 0; first < dh.rows && dev->status == SP_OK; first += most) {
        const int64_t now = dh.rows - first < most ? dh.rows - first : most;
        if (dh.dtype == SP_BF16) backward<bf16>(cuda, dh, ds, ddown, dup, h_out, s, p, in, copy, first, now);
        else backward<float>(cuda, dh, ds, ddown, dup, h_out, s, p, in, copy, first, now);
    }
}
