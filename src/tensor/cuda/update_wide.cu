/*
 * Update of any width and alignment through product.c: f32 copies of rows, products between them, and one
 * kernel for what happens to each element or row. In chunks of rows, so that the copies stay small.
 */
#include "tensor/cuda/update.cuh"
#include "tensor/cuda/wide.cuh"

/* A chunk's matrices, f32: wide ones [rows, d], small ones [rows, g], a column of ones. */
struct update_copy {
    int64_t first, rows;
    float *u, *t, *v,
        *x; /* t, v: the two ends of the MLPs, then their gradients; x: the norm's share, backward */
    float *a, *b, *da, *db, *ones;
};

static size_t copy_floats(int64_t rows, int64_t d, int64_t g) {
    return (size_t)rows * (size_t)(4 * d + 4 * g + 1);
}

static update_copy copy_at(float *at, int64_t first, int64_t rows, int64_t d, int64_t g) {
    update_copy m = {first, rows, at, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL};
    m.t = m.u + rows * d;
    m.v = m.t + rows * d;
    m.x = m.v + rows * d;
    m.a = m.x + rows * d;
    m.b = m.a + rows * g;
    m.da = m.b + rows * g;
    m.db = m.da + rows * g;
    m.ones = m.db + rows * g;
    return m;
}

/* ------------------------------------------------------------------ rows */

/* u = LayerNorm(h), or h. One block a row. */
template <typename T>
static __global__ void __launch_bounds__(256) norm_wide(float *u, rows_of<const T> h, updating up) {
    const int64_t t = blockIdx.x;
    const T *row = h.row(t);
    float mean = 0.0f, inverse = 1.0f;
    if (up.norm_weight) block_statistics(&mean, &inverse, row, up);
    for (int64_t c = threadIdx.x; c < up.d; c += blockDim.x) {
        const float x = to_float(row[c]);
        u[t * up.d + c] = up.norm_weight ? (x - mean) * inverse * up.norm_weight[c] + up.norm_bias[c] : x;
    }
}

/* dh += the gradient of u through the norm; share = du times the normalised h, for the norm's weight. */
template <typename T>
static __global__ void __launch_bounds__(256)
    norm_wide_backward(rows_of<T> dh, float *share, const float *du, rows_of<const T> h, updating up) {
    const int64_t t = blockIdx.x;
    const T *row = h.row(t);
    T *to = dh.row(t);
    float mean = 0.0f, inverse = 1.0f, along = 0.0f, sum = 0.0f;
    if (up.norm_weight) block_statistics(&mean, &inverse, row, up);
    for (int64_t c = threadIdx.x; up.norm_weight && c < up.d; c += blockDim.x) {
        const float x = (to_float(row[c]) - mean) * inverse, g = du[t * up.d + c];
        share[t * up.d + c] = g * x;
        along += g * up.norm_weight[c] * x;
        sum += g * up.norm_weight[c];
    }
    along = block_sum(along) / (float)up.d;
    sum = block_sum(sum) / (float)up.d;
    for (int64_t c = threadIdx.x; c < up.d; c += blockDim.x) {
        const float x = (to_float(row[c]) - mean) * inverse, g = du[t * up.d + c];
        const float added = up.norm_weight ? inverse * (g * up.norm_weight[c] - x * along - sum) : g;
        to[c] = from_float<T>(to_float(to[c]) + added);
    }
}

/* ------------------------------------------------------------------ elements */

struct activate_small { /* a = dropout(act(z0)), b = act(z1) */
    float *a, *b;
    const float *z; /* of the chunk's rows */
    updating up;
    int64_t first;
    __device__ void operator()(int64_t t, int64_t j, int64_t i) const {
        const float *row = z + t * 2 * up.g;
        a[i] = activated(row[j], up.gelu) * drop_factor(up.drop, (first + t) * up.g + j);
        b[i] = activated(row[up.g + j], up.gelu);
    }
};

struct activate_small_backward { /* da, db become dz0, dz1 */
    float *da, *db;
    const float *z;
    updating up;
    int64_t first;
    __device__ void operator()(int64_t t, int64_t j, int64_t i) const {
        const float *row = z + t * 2 * up.g;
        da[i] *= activated_slope(row[j], up.gelu) * drop_factor(up.drop, (first + t) * up.g + j);
        db[i] *= activated_slope(row[up.g + j], up.gelu);
    }
};

template <typename T> struct mix_wide { /* s_out = s + sigmoid(v) (t - s) */
    rows_of<T> s_out;
    rows_of<const T> s;
    const float *t, *v;
    __device__ void operator()(int64_t row, int64_t c, int64_t i) const {
        const float old = to_float(s.row(row)[c]);
        s_out.row(row)[c] = from_float<T>(old + sigmoid(v[i]) * (t[i] - old));
    }
};

template <typename T> struct mix_wide_backward { /* t, v become their gradients, ds what is left of it */
    rows_of<T> ds;
    rows_of<const T> s;
    float *t, *v;
    __device__ void operator()(int64_t row, int64_t c, int64_t i) const {
        const float q = sigmoid(v[i]), g = to_float(ds.row(row)[c]);
        v[i] = g * (t[i] - to_float(s.row(row)[c])) * q * (1.0f - q);
        t[i] = g * q;
        ds.row(row)[c] = from_float<T>(g * (1.0f - q));
    }
};

struct fill_ones {
    float *x;
    __device__ void operator()(int64_t, int64_t, int64_t i) const {
        x[i] = 1.0f;
    }
};

/* ------------------------------------------------------------------ forward */

/* m.t = W3 dropout(act(z0)) + b3, m.v = V2 act(z1) + c2; m.a, m.b on the way. z: of the chunk's rows. */
static void expand(spi_cuda *cuda, const update_copy &m, const float *z, const updating &up) {
    spi_device *dev = &cuda->device;
    const spi_weight w3 = weight_of(up.w3, up.d, up.g, false), v2 = weight_of(up.v2, up.d, up.g, false);
    for_each(cuda, "activating an update", m.rows, up.g, activate_small{m.a, m.b, z, up, m.first});
    spi_cuda_linear(dev, floats(m.t, m.rows, up.d), floats(m.a, m.rows, up.g), &w3, up.b3, NULL);
    spi_cuda_linear(dev, floats(m.v, m.rows, up.d), floats(m.b, m.rows, up.g), &v2, up.c2, NULL);
}

template <typename T>
static void norm_rows(spi_cuda *cuda, const update_copy &m, spi_mat h, const updating &up) {
    launch(cuda, "an update's norm", norm_wide<T>, shape(m.rows, 256), m.u, rows_from<const T>(h, m.first), up);
}

template <typename T>
static void forward(spi_cuda *cuda, spi_mat s_out, float *z, spi_mat h, spi_mat s, const updating &up,
                    const update_copy &m) {
    spi_device *dev = &cuda->device;
    const spi_weight w0 = weight_of(up.w0, up.g, up.d, false), v0 = weight_of(up.v0, up.g, up.d, false);
    spi_mat z0 = {z, SP_F32, m.rows, up.g, 2 * up.g}, z1 = {z + up.g, SP_F32, m.rows, up.g, 2 * up.g};
    norm_rows<T>(cuda, m, h, up);
    spi_cuda_linear(dev, z0, floats(m.u, m.rows, up.d), &w0, up.b0, NULL);
    spi_cuda_linear(dev, z1, floats(m.u, m.rows, up.d), &v0, up.c0, NULL);
    expand(cuda, m, z, up);
    for_each(cuda, "updating", m.rows, up.d,
             mix_wide<T>{rows_from<T>(s_out, m.first), rows_from<const T>(s, m.first), m.t, m.v});
}

void spi_cuda_update_wide(spi_device *dev, spi_mat s_out, float *z, spi_mat h, spi_mat s,
                          const spi_update *update) {
    spi_cuda *cuda = spi_cuda_of(dev);
    const updating up = updating_of(update, h.rows, h.cols);
    const int64_t most = wide_rows(h.rows, up.d, 4);
    /* Behind the copies, z where the caller does not want it. */
    const size_t copies = copy_floats(most, up.d, up.g);
    float *memory = (float *)spi_cuda_scratch(cuda, (copies + (size_t)(most * 2 * up.g)) * sizeof *memory);
    if (!memory) return;
    for (int64_t first = 0; first < h.rows && dev->status == SP_OK; first += most) {
        const update_copy m = copy_at(memory, first, h.rows - first < most ? h.rows - first : most, up.d, up.g);
        float *z_now = z ? z + first * 2 * up.g : memory + copies;
        if (h.dtype == SP_BF16) forward<bf16>(cuda, s_out, z_now, h, s, up, m);
        else forward<float>(cuda, s_out, z_now, h, s, up, m);
    }
}

/* ------------------------------------------------------------------ backward */

/* sums [cols] += column sums of x [rows, cols], as a product with ones. */
static void add_sums(spi_cuda *cuda, float *sums, const update_copy &m, float *x, int64_t cols) {
    if (sums)
        spi_cuda_linear_dw(&cuda->device, sums, NULL, floats(x, m.rows, cols), floats(m.ones, m.rows, 1),
                           false);
}

static void add_product(spi_cuda *cuda, float *dw, const update_copy &m, float *dy, int64_t out, float *x,
                        int64_t in) {
    if (dw) spi_cuda_linear_dw(&cuda->device, dw, NULL, floats(dy, m.rows, out), floats(x, m.rows, in), false);
}

/* From ds_out down to m.da, m.db = dz0, dz1; ds. */
template <typename T>
static void backward_state(spi_cuda *cuda, spi_mat ds, const spi_update_grads *to, spi_mat s, const float *z,
                           const updating &up, const update_copy &m) {
    spi_device *dev = &cuda->device;
    const spi_weight w3 = weight_of(up.w3, up.d, up.g, false), v2 = weight_of(up.v2, up.d, up.g, false);
    expand(cuda, m, z, up);
    for_each(cuda, "the gradient of an update's state", m.rows, up.d,
             mix_wide_backward<T>{rows_from<T>(ds, m.first), rows_from<const T>(s, m.first), m.t, m.v});
    add_product(cuda, to->w3, m, m.t, up.d, m.a, up.g);
    add_product(cuda, to->v2, m, m.v, up.d, m.b, up.g);
    add_sums(cuda, to->b3, m, m.t, up.d);
    add_sums(cuda, to->c2, m, m.v, up.d);
    spi_cuda_linear_dx(dev, floats(m.da, m.rows, up.g), floats(m.t, m.rows, up.d), &w3, false);
    spi_cuda_linear_dx(dev, floats(m.db, m.rows, up.g), floats(m.v, m.rows, up.d), &v2, false);
    for_each(cuda, "the gradient of an update's activation", m.rows, up.g,
             activate_small_backward{m.da, m.db, z, up, m.first});
    add_sums(cuda, to->b0, m, m.da, up.g);
    add_sums(cuda, to->c0, m, m.db, up.g);
}

/* From there to dh. */
template <typename T>
static void backward_input(spi_cuda *cuda, spi_mat dh, const spi_update_grads *to, spi_mat h,
                           const updating &up, const update_copy &m) {
    spi_device *dev = &cuda->device;
    const spi_weight w0 = weight_of(up.w0, up.g, up.d, false), v0 = weight_of(up.v0, up.g, up.d, false);
    norm_rows<T>(cuda, m, h, up);
    add_product(cuda, to->w0, m, m.da, up.g, m.u, up.d);
    add_product(cuda, to->v0, m, m.db, up.g, m.u, up.d);
    spi_cuda_linear_dx(dev, floats(m.t, m.rows, up.d), floats(m.da, m.rows, up.g), &w0, false);
    spi_cuda_linear_dx(dev, floats(m.t, m.rows, up.d), floats(m.db, m.rows, up.g), &v0, true);
    launch(cuda, "the gradient of an update's input", norm_wide_backward<T>, shape(m.rows, 256),
           rows_from<T>(dh, m.first), m.x, (const float *)m.t, rows_from<const T>(h, m.first), up);
    if (!up.norm_weight) return;
    add_sums(cuda, to->norm_weight, m, m.x, up.d);
    add_sums(cuda, to->norm_bias, m, m.t, up.d);
}

void spi_cuda_update_wide_backward(spi_device *dev, spi_mat dh, spi_mat ds, const spi_update_grads *grads,
                                   spi_mat h, spi_mat s, const float *z, const spi_update *update) {
    spi_cuda *cuda = spi_cuda_of(dev);
    const updating up = updating_of(update, h.rows, h.cols);
    const int64_t most = wide_rows(h.rows, up.d, 4);
    float *memory = (float *)spi_cuda_scratch(cuda, copy_floats(most, up.d, up.g) * sizeof *memory);
    if (!memory) return;
    for (int64_t first = 0; first < h.rows && dev->status == SP_OK; first += most) {
        const update_copy m = copy_at(memory, first, h.rows - first < most ? h.rows - first : most, up.d, up.g);
        const float *z_now = z + first * 2 * up.g;
        for_each(cuda, "a column of ones", m.rows, 1, fill_ones{m.ones});
        if (h.dtype == SP_BF16) {
            backward_state<bf16>(cuda, ds, grads, s, z_now, up, m);
            backward_input<bf16>(cuda, dh, grads, h, up, m);
        } else {
            backward_state<float>(cuda, ds, grads, s, z_now, up, m);
            backward_input<float>(cuda, dh, grads, h, up, m);
        }
    }
}
