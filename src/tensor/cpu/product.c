/*
 * Matrix products through oneDNN on plain row-major memory: nothing is repacked by us. oneDNN compiles a kernel
 * for a shape and we keep it. The number of rows of a batch is left open, so that batches of any length share
 * their kernels; only small batches, for which a fixed shape is faster, have kernels of their own.
 */
#include <oneapi/dnnl/dnnl.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/cpu/cpu.h"
#include "tensor/cpu/gemv.h"
#include "tensor/cpu/row.h"
#include "tensor/cpu/split.h"
#include "tensor/plan.h"

/* Most kernels kept (some 0.3 MB each); when there would be more, all are dropped. */
#define CACHE_SLOTS 512
#define CACHE_MOST 256

/* Rows up to which a kernel for just that many pays: measured, 1.2 to 2 times the speed of an open one. */
#define FEW_ROWS 64

/* An open kernel sums in f32 outside a bf16 result: it is made in pieces whose sums stay in a cache, few
 * columns rather than few rows, since for each piece of rows all weights are laid out anew. */
#define SUM_FLOATS ((int64_t)2 << 20)
#define SUM_COLUMNS ((int64_t)2048)

/* Sums that are this long are brought up once for each part of k, which in bf16 costs a conversion each time.
 */
#define LONG_SUM ((int64_t)16384)

/* A matrix as oneDNN sees it: element (i, j) lies at i * step[0] + j * step[1]. */
typedef struct view {
    const void *data;
    sp_dtype dtype;
    int64_t step[2];
} view;

/* C [m, n] = A [m, k] B [k, n] (+ bias) (+ C). */
typedef struct extent {
    int64_t m, n, k;
} extent;

/* An extent that varies is DNNL_RUNTIME_DIM_VAL. Zeroed before filling: compared as bytes. */
typedef struct product_key {
    extent e;
    int64_t a_step[2], b_step[2], c_step;
    int32_t in, out, bias, accumulate;
} product_key;

typedef struct product {
    product_key key;
    dnnl_primitive_t primitive;
} product;

/* Working memory that grows. */
typedef struct room {
    float *data;
    size_t floats;
} room;

enum {
    WORK_ROWS,   /* conversions and short rows */
    WORK_PIECES, /* of quantised weights, and sums over them, while a product uses the other one */
    WORKS
};

typedef struct products {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    product *slots[CACHE_SLOTS]; /* open addressing */
    size_t count;
    bool bf16_native;
    room work[WORKS];
} products;

/* ------------------------------------------------------------------ life */

static void product_free(product *p) {
    if (!p) return;
    dnnl_primitive_destroy(p->primitive);
    free(p);
}

static void drop_all(products *ps) {
    for (size_t i = 0; i < CACHE_SLOTS; i++) {
        product_free(ps->slots[i]);
        ps->slots[i] = NULL;
    }
    ps->count = 0;
}

sp_status spi_cpu_products_open(spi_cpu *cpu) {
    products *ps = calloc(1, sizeof *ps);
    if (!ps) return spi_fail_memory(cpu->device.ctx, sizeof *ps, "matrix products");
    cpu->products = ps;
    dnnl_status_t status = dnnl_engine_create(&ps->engine, dnnl_cpu, 0);
    if (status == dnnl_success) status = dnnl_stream_create(&ps->stream, ps->engine, dnnl_stream_default_flags);
    if (status != dnnl_success) {
        spi_cpu_products_close(cpu);
        return spi_fail(cpu->device.ctx, SP_ERR_DEVICE, "oneDNN: cannot make a CPU engine (status %d)", status);
    }
    /* Below AVX-512, oneDNN computes bf16 element by element. */
    const unsigned need = dnnl_cpu_isa_avx512_core;
    ps->bf16_native = ((unsigned)dnnl_get_effective_cpu_isa() & need) == need;
    return SP_OK;
}

void spi_cpu_products_close(spi_cpu *cpu) {
    products *ps = cpu->products;
    if (!ps) return;
    drop_all(ps);
    dnnl_stream_destroy(ps->stream);
    dnnl_engine_destroy(ps->engine);
    for (int i = 0; i < WORKS; i++) free(ps->work[i].data);
    free(ps);
    cpu->products = NULL;
}

/* Working memory of the products alone: callers may be using the backend's. While planning an address that
 * nobody may use. */
static float *work_of(spi_cpu *cpu, int which, int64_t floats) {
    room *w = &((products *)cpu->products)->work[which];
    if (cpu->device.plan)
        return spi_plan_working(cpu->device.plan, which == WORK_ROWS ? SPI_PLAN_ROOM : SPI_PLAN_PIECES,
                                w->floats * sizeof(float), (size_t)floats * sizeof(float));
    if ((size_t)floats <= w->floats) return w->data;
    free(w->data);
    w->data = cpu->device.op->alloc(&cpu->device, (size_t)floats * sizeof *w->data);
    w->floats = w->data ? (size_t)floats : 0;
    return w->data;
}

/* ------------------------------------------------------------------ making kernels */

static dnnl_data_type_t type_of(sp_dtype dtype) {
    return dtype == SP_BF16 ? dnnl_bf16 : dnnl_f32;
}

#if DNNL_VERSION_MAJOR >= 3
typedef dnnl_memory_desc_t memory_desc;

static dnnl_status_t describe(memory_desc *md, int64_t rows, int64_t cols, dnnl_data_type_t type, int64_t step0,
                              int64_t step1) {
    const dnnl_dims_t dims = {rows, cols}, strides = {step0, step1};
    return dnnl_memory_desc_create_with_strides(md, 2, dims, type, strides);
}

static void undescribe(memory_desc md) {
    if (md) dnnl_memory_desc_destroy(md);
}

static dnnl_status_t make_memory(dnnl_memory_t *memory, memory_desc md, dnnl_engine_t engine,
                                 const void *data) {
    return dnnl_memory_create(memory, md, engine, (void *)data);
}

static dnnl_status_t make_desc(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, memory_desc md[4],
                               dnnl_primitive_attr_t attr) {
    return dnnl_matmul_primitive_desc_create(pd, engine, md[0], md[1], md[3], md[2], attr);
}

static dnnl_status_t add_sum(dnnl_post_ops_t ops) {
    return dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef);
}
#else
typedef dnnl_memory_desc_t memory_desc;

static dnnl_status_t describe(memory_desc *md, int64_t rows, int64_t cols, dnnl_data_type_t type, int64_t step0,
                              int64_t step1) {
    const dnnl_dims_t dims = {rows, cols}, strides = {step0, step1};
    return dnnl_memory_desc_init_by_strides(md, 2, dims, type, strides);
}

static void undescribe(memory_desc md) {
    (void)md;
}

static dnnl_status_t make_memory(dnnl_memory_t *memory, memory_desc md, dnnl_engine_t engine,
                                 const void *data) {
    return dnnl_memory_create(memory, &md, engine, (void *)data);
}

static dnnl_status_t make_desc(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, memory_desc md[4],
                               dnnl_primitive_attr_t attr) {
    dnnl_matmul_desc_t desc;
    const dnnl_status_t status =
        dnnl_matmul_desc_init(&desc, &md[0], &md[1], md[3].ndims ? &md[3] : NULL, &md[2]);
    return status == dnnl_success ? dnnl_primitive_desc_create(pd, &desc, attr, engine, NULL) : status;
}

static dnnl_status_t add_sum(dnnl_post_ops_t ops) {
    return dnnl_post_ops_append_sum(ops, 1.0f);
}
#endif

#define DNNL_TRY(call)                                     \
    do {                                                   \
        const dnnl_status_t try_status = (call);           \
        if (try_status != dnnl_success) return try_status; \
    } while (0)

/* The four matrices of a product. */
enum { A, B, C, BIAS, MATRICES };

static dnnl_status_t describe_all(memory_desc md[MATRICES], const product_key *key, extent e) {
    memset(md, 0, MATRICES * sizeof *md);
    DNNL_TRY(describe(&md[A], e.m, e.k, type_of(key->in), key->a_step[0], key->a_step[1]));
    DNNL_TRY(describe(&md[B], e.k, e.n, type_of(key->in), key->b_step[0], key->b_step[1]));
    DNNL_TRY(describe(&md[C], e.m, e.n, type_of(key->out), key->c_step, 1));
    return key->bias ? describe(&md[BIAS], 1, e.n, dnnl_f32, e.n, 1) : dnnl_success;
}

static void undescribe_all(memory_desc md[MATRICES]) {
    for (int i = 0; i < MATRICES; i++) undescribe(md[i]);
}

static dnnl_status_t make_attributes(dnnl_primitive_attr_t attr, const product_key *key) {
    dnnl_post_ops_t ops;
    if (!key->accumulate) return dnnl_success;
    DNNL_TRY(dnnl_post_ops_create(&ops));
    dnnl_status_t status = add_sum(ops);
    if (status == dnnl_success) status = dnnl_primitive_attr_set_post_ops(attr, ops);
    dnnl_post_ops_destroy(ops);
    return status;
}

static dnnl_status_t make_primitive(products *ps, const product_key *key, memory_desc md[MATRICES],
                                    dnnl_primitive_t *out) {
    dnnl_primitive_attr_t attr;
    dnnl_primitive_desc_t pd = NULL;
    DNNL_TRY(dnnl_primitive_attr_create(&attr));
    dnnl_status_t status = make_attributes(attr, key);
    if (status == dnnl_success) status = make_desc(&pd, ps->engine, md, attr);
    dnnl_primitive_attr_destroy(attr);
    if (status != dnnl_success) return status;
    status = dnnl_primitive_create(out, pd);
    dnnl_primitive_desc_destroy(pd);
    return status;
}

static dnnl_status_t make_product(products *ps, const product_key *key, product *out) {
    memory_desc md[MATRICES];
    out->key = *key;
    dnnl_status_t status = describe_all(md, key, key->e);
    if (status == dnnl_success) status = make_primitive(ps, key, md, &out->primitive);
    undescribe_all(md);
    return status;
}

static size_t hash_of(const product_key *key) {
    const unsigned char *bytes = (const unsigned char *)key;
    uint64_t h = 1469598103934665603u;
    for (size_t i = 0; i < sizeof *key; i++) h = (h ^ bytes[i]) * 1099511628211u;
    return (size_t)(h ^ h >> 29) % CACHE_SLOTS;
}

static void fail(spi_cpu *cpu, const product_key *key, dnnl_status_t status) {
    cpu->device.status =
        spi_fail(cpu->device.ctx, status == dnnl_out_of_memory ? SP_ERR_MEMORY : SP_ERR_DEVICE,
                 "oneDNN: product of [%lld, %lld] by [%lld, %lld] (0: any): status %d",
                 key->e.m < 0 ? 0LL : (long long)key->e.m, key->e.k < 0 ? 0LL : (long long)key->e.k,
                 key->e.k < 0 ? 0LL : (long long)key->e.k, (long long)key->e.n, status);
}

/* The kernel of that shape, made now if there is none. NULL and a sticky error on failure. */
static product *find_product(spi_cpu *cpu, const product_key *key) {
    products *ps = cpu->products;
    size_t at = hash_of(key);
    for (; ps->slots[at]; at = (at + 1) % CACHE_SLOTS)
        if (!memcmp(&ps->slots[at]->key, key, sizeof *key)) return ps->slots[at];
    if (ps->count == CACHE_MOST) {
        drop_all(ps);
        at = hash_of(key);
    }
    product *p = calloc(1, sizeof *p);
    const dnnl_status_t status = p ? make_product(ps, key, p) : dnnl_out_of_memory;
    if (status != dnnl_success) {
        product_free(p);
        fail(cpu, key, status);
        return NULL;
    }
    ps->slots[at] = p;
    ps->count++;
    return p;
}

/* ------------------------------------------------------------------ running them */

static dnnl_status_t execute(products *ps, const product *p, extent e, const void *const data[MATRICES]) {
    memory_desc md[MATRICES];
    dnnl_memory_t memory[MATRICES] = {NULL};
    const int count = p->key.bias ? MATRICES : BIAS;
    dnnl_status_t status = describe_all(md, &p->key, e);
    for (int i = 0; i < count && status == dnnl_success; i++)
        status = make_memory(&memory[i], md[i], ps->engine, data[i]);
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, memory[A]},
                                    {DNNL_ARG_WEIGHTS, memory[B]},
                                    {DNNL_ARG_DST, memory[C]},
                                    {DNNL_ARG_BIAS, memory[BIAS]}};
    if (status == dnnl_success) status = dnnl_primitive_execute(p->primitive, ps->stream, count, args);
    if (status == dnnl_success) status = dnnl_stream_wait(ps->stream);
    for (int i = 0; i < count; i++) dnnl_memory_destroy(memory[i]);
    undescribe_all(md);
    return status;
}

static void run_native(spi_cpu *cpu, extent e, bool open_k, view a, view b, spi_mat c, const float *bias,
                       bool accumulate) {
    product_key key;
    if (cpu->device.plan) return;
    memset(&key, 0, sizeof key);
    key.e = e;
    if (open_k) key.e.k = DNNL_RUNTIME_DIM_VAL;
    else if (e.m > FEW_ROWS) key.e.m = DNNL_RUNTIME_DIM_VAL;
    memcpy(key.a_step, a.step, sizeof key.a_step);
    memcpy(key.b_step, b.step, sizeof key.b_step);
    key.c_step = c.ld;
    key.in = (int32_t)a.dtype;
    key.out = (int32_t)c.dtype;
    key.bias = bias != NULL;
    key.accumulate = accumulate;
    /* Kernels are cut for as many threads as OpenMP would give this one, and run on as many. */
    const int usual = omp_get_max_threads();
    omp_set_num_threads(cpu->threads);
    product *p = find_product(cpu, &key);
    if (p) {
        const dnnl_status_t status =
            execute(cpu->products, p, e, (const void *[]){a.data, b.data, c.data, bias});
        if (status != dnnl_success) fail(cpu, &key, status);
    }
    omp_set_num_threads(usual);
}

static const void *view_at(view v, int64_t i, int64_t j) {
    return (const char *)v.data + (size_t)(i * v.step[0] + j * v.step[1]) * spi_dtype_size(v.dtype);
}

/* The columns [first, first + e.n) of C, in as many pieces of rows as keep the sums small. */
static void run_columns(spi_cpu *cpu, extent e, view a, view b, spi_mat c, int64_t first, const float *bias,
                        bool accumulate) {
    const int64_t fit = SUM_FLOATS / e.n, pieces = (e.m + fit - 1) / fit;
    const view part_b = {view_at(b, 0, first), b.dtype, {b.step[0], b.step[1]}};
    for (int64_t i = 0; i < pieces && cpu->device.status == SP_OK; i++) {
        const int64_t row = e.m * i / pieces, rows = e.m * (i + 1) / pieces - row;
        const view part_a = {view_at(a, row, 0), a.dtype, {a.step[0], a.step[1]}};
        const spi_mat part_c = spi_mat_columns(spi_mat_rows(c, row, rows), first, e.n);
        run_native(cpu, (extent){rows, e.n, e.k}, false, part_a, part_b, part_c, bias ? bias + first : NULL,
                   accumulate);
    }
}

static void run_pieces(spi_cpu *cpu, extent e, view a, view b, spi_mat c, const float *bias, bool accumulate) {
    const int64_t pieces = (e.n + SUM_COLUMNS - 1) / SUM_COLUMNS;
    for (int64_t i = 0; i < pieces && cpu->device.status == SP_OK; i++) {
        const int64_t first = e.n * i / pieces, cols = e.n * (i + 1) / pieces - first;
        run_columns(cpu, (extent){e.m, cols, e.k}, a, b, c, first, bias, accumulate);
    }
}

/* A bf16 result of long sums, by way of f32. */
static void run_long(spi_cpu *cpu, extent e, view a, view b, spi_mat c, const float *bias, bool accumulate) {
    float *work = work_of(cpu, WORK_ROWS, e.m * e.n);
    if (!work) return;
    const spi_mat sums = spi_mat_of(work, SP_F32, e.m, e.n);
    if (accumulate) spi_cpu_convert(&cpu->device, sums, c);
    run_native(cpu, e, false, a, b, sums, bias, accumulate);
    spi_cpu_convert(&cpu->device, c, sums);
}

/* f32 copy [rows, cols], contiguous, of a bf16 view. */
static void widen(spi_cpu *cpu, float *to, view v, int64_t rows, int64_t cols) {
    const uint16_t *from = v.data;
    if (cpu->device.plan) return;
#pragma omp parallel for schedule(static) num_threads(spi_threads_for(cpu->threads, rows *cols))
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            to[r * cols + c] = spi_bf16_to_f32(from[r * v.step[0] + c * v.step[1]]);
}

/* Columns of B widened at once. */
#define WIDE_COLUMNS ((int64_t)256)

/* bf16 on a CPU without it: pieces of B, and all of A, in f32. */
static void run_widened(spi_cpu *cpu, extent e, bool open_k, view a, view b, spi_mat c, const float *bias,
                        bool accumulate) {
    const int64_t m = e.m, n = e.n, k = e.k;
    float *wide_a = work_of(cpu, WORK_ROWS, m * k + WIDE_COLUMNS * (k + m));
    if (!wide_a) return;
    float *wide_b = wide_a + m * k, *wide_c = wide_b + WIDE_COLUMNS * k;
    widen(cpu, wide_a, a, m, k);
    for (int64_t j = 0; j < n && cpu->device.status == SP_OK; j += WIDE_COLUMNS) {
        const int64_t cols = n - j < WIDE_COLUMNS ? n - j : WIDE_COLUMNS;
        const view piece = {(const uint16_t *)b.data + j * b.step[1], SP_BF16, {b.step[1], b.step[0]}};
        const spi_mat part = spi_mat_columns(c, j, cols), sums = spi_mat_of(wide_c, SP_F32, m, cols);
        /* B's columns are rows in memory, or its transpose would be read with a stride. */
        widen(cpu, wide_b, piece, cols, k);
        if (accumulate) spi_cpu_convert(&cpu->device, sums, spi_mat_rows(part, 0, m));
        run_native(cpu, (extent){m, cols, k}, open_k, (view){wide_a, SP_F32, {k, 1}},
                   (view){wide_b, SP_F32, {1, k}}, sums, bias ? bias + j : NULL, accumulate);
        spi_cpu_convert(&cpu->device, spi_mat_rows(part, 0, m), sums);
    }
}

/* C [m, n] = A B (+ bias) (+ C); between batches m varies, or k where `open_k`. */
static void run(spi_cpu *cpu, extent e, bool open_k, view a, view b, spi_mat c, const float *bias,
                bool accumulate) {
    const products *ps = cpu->products;
    if (e.m == 0 || e.n == 0 || e.k == 0 || cpu->device.status != SP_OK) return;
    if (a.dtype == SP_BF16 && !ps->bf16_native) run_widened(cpu, e, open_k, a, b, c, bias, accumulate);
    else if (open_k || c.dtype == SP_F32) run_native(cpu, e, open_k, a, b, c, bias, accumulate);
    else if (e.k >= LONG_SUM) run_long(cpu, e, a, b, c, bias, accumulate);
    else run_pieces(cpu, e, a, b, c, bias, accumulate);
}

/* ------------------------------------------------------------------ the operations */

static view view_of(spi_mat m, bool transposed) {
    return transposed ? (view){m.data, m.dtype, {1, m.ld}} : (view){m.data, m.dtype, {m.ld, 1}};
}

/* y = residual, unless it is y itself. */
static void put_residual(spi_device *dev, spi_mat y, const spi_mat *residual) {
    if (residual && residual->data != y.data) spi_cpu_convert(dev, y, *residual);
}

/*
 * Quantised weights, many rows of activations: W becomes numbers a piece of its rows at a time, which the
 * product that there is finds in a cache. A piece takes 8 MiB in bf16: smaller ones would make more threads
 * wait for each other more often, and bf16 sums of dx over several pieces need memory in f32.
 */
#define PIECE_ELEMENTS ((int64_t)4 << 20)

/* Sums of a bf16 dx over several pieces; the more rows, the less it weighs that W becomes numbers again. */
#define PIECE_SUMS ((int64_t)4 << 20)

static int64_t piece_rows(const spi_weight *w) {
    const int64_t rows = PIECE_ELEMENTS / w->m.cols / 64 * 64;
    return rows < 64 ? 64 : rows < w->m.rows ? rows : w->m.rows;
}

/* Rows [first, first + rows) of W as numbers of `dtype`, in `memory`. */
static view numbers_of(spi_cpu *cpu, void *memory, const spi_weight *w, sp_dtype dtype, int64_t first,
                       int64_t rows) {
    const spi_mat piece = spi_mat_of(memory, dtype, rows, w->m.cols);
    if (!cpu->device.plan) spi_cpu_dequantize(cpu->threads, piece, w, first);
    return view_of(piece, false);
}

static view turned(view v) {
    return (view){v.data, v.dtype, {v.step[1], v.step[0]}};
}

static void linear_quantized(spi_cpu *cpu, spi_mat y, spi_mat x, const spi_weight *w, const float *bias,
                             bool accumulate) {
    const int64_t most = piece_rows(w), n = w->m.rows, k = w->m.cols;
    float *memory = work_of(cpu, WORK_PIECES, most * k);
    for (int64_t j = 0; memory && j < n && cpu->device.status == SP_OK; j += most) {
        const int64_t cols = n - j < most ? n - j : most;
        const view piece = numbers_of(cpu, memory, w, x.dtype, j, cols);
        run(cpu, (extent){x.rows, cols, k}, false, view_of(x, false), turned(piece),
            spi_mat_columns(y, j, cols), bias ? bias + j : NULL, accumulate);
    }
}

/* dx (+)= dy W, summed in `sums` [dx.rows, K] f32, or in dx itself where it is f32 or one piece is all. */
static void dx_quantized(spi_cpu *cpu, spi_mat dx, spi_mat dy, const spi_weight *w, bool accumulate,
                         float *memory, float *sums) {
    const int64_t most = piece_rows(w), n = w->m.rows, k = w->m.cols;
    const spi_mat to = sums ? spi_mat_of(sums, SP_F32, dx.rows, k) : dx;
    if (sums && accumulate) spi_cpu_convert(&cpu->device, to, dx);
    for (int64_t j = 0; j < n && cpu->device.status == SP_OK; j += most) {
        const int64_t rows = n - j < most ? n - j : most;
        const view piece = numbers_of(cpu, memory, w, dy.dtype, j, rows);
        run(cpu, (extent){dy.rows, k, rows}, false, view_of(spi_mat_columns(dy, j, rows), false), piece, to,
            NULL, accumulate || j > 0);
    }
    if (sums) spi_cpu_convert(&cpu->device, dx, to);
}

static void linear_dx_quantized(spi_cpu *cpu, spi_mat dx, spi_mat dy, const spi_weight *w, bool accumulate) {
    const int64_t k = w->m.cols;
    const bool summed = dx.dtype != SP_F32 && piece_rows(w) < w->m.rows;
    int64_t most = !summed ? dx.rows : PIECE_SUMS / k;
    most = most < 4 * FEW_ROWS ? 4 * FEW_ROWS : most;
    most = most < dx.rows ? most : dx.rows;
    float *memory = work_of(cpu, WORK_PIECES, (piece_rows(w) + (summed ? most : 0)) * k);
    float *sums = memory && summed ? memory + piece_rows(w) * k : NULL;
    for (int64_t i = 0; memory && i < dx.rows; i += most) {
        const int64_t rows = dx.rows - i < most ? dx.rows - i : most;
        dx_quantized(cpu, spi_mat_rows(dx, i, rows), spi_mat_rows(dy, i, rows), w, accumulate, memory, sums);
    }
}

void spi_cpu_linear(spi_device *dev, spi_mat y, spi_mat x, const spi_weight *w, const float *bias,
                    const spi_mat *residual) {
    spi_cpu *cpu = spi_cpu_of(dev);
    if (dev->status != SP_OK) return;
    if (x.rows <= SPI_GEMV_ROWS) {
        float *work = work_of(cpu, WORK_ROWS, spi_cpu_gemv_floats(cpu->threads, w, x.rows));
        if (work && !dev->plan) spi_cpu_gemv(cpu->threads, y, x, w, bias, residual, work);
        return;
    }
    put_residual(dev, y, residual);
    if (w->scale) {
        linear_quantized(cpu, y, x, w, bias, residual != NULL);
        return;
    }
    run(cpu, (extent){x.rows, y.cols, x.cols}, false, view_of(x, false), view_of(w->m, !w->transposed), y, bias,
        residual != NULL);
}

void spi_cpu_linear_dx(spi_device *dev, spi_mat dx, spi_mat dy, const spi_weight *w, bool accumulate) {
    if (dev->status != SP_OK) return;
    if (w->scale) {
        linear_dx_quantized(spi_cpu_of(dev), dx, dy, w, accumulate);
        return;
    }
    run(spi_cpu_of(dev), (extent){dy.rows, dx.cols, dy.cols}, false, view_of(dy, false),
        view_of(w->m, w->transposed), dx, NULL, accumulate);
}

/* dbias[c] += sum of column c; threads share the columns, so that the order is fixed. */
static void column_sums(spi_cpu *cpu, float *dbias, spi_mat dy) {
#pragma omp parallel num_threads(spi_threads_for(cpu->threads, dy.rows *dy.cols))
    {
        const spi_range r = spi_my_split(dy.cols, 64);
        float row[64];
        for (int64_t c = r.begin; c < r.end; c += 64) {
            const int64_t n = r.end - c < 64 ? r.end - c : 64;
            for (int64_t t = 0; t < dy.rows; t++) {
                spi_row_load(row, spi_mat_at(dy, t, c), dy.dtype, n);
                for (int64_t i = 0; i < n; i++) dbias[c + i] += row[i];
            }
        }
    }
}

void spi_cpu_linear_dw(spi_device *dev, float *dw, float *dbias, spi_mat dy, spi_mat x, bool transposed) {
    spi_cpu *cpu = spi_cpu_of(dev);
    if (dev->status != SP_OK) return;
    const spi_mat rows = transposed ? x : dy, cols = transposed ? dy : x;
    run(cpu, (extent){rows.cols, cols.cols, dy.rows}, true, view_of(rows, true), view_of(cols, false),
        spi_mat_of(dw, SP_F32, rows.cols, cols.cols), NULL, true);
    if (dbias && !dev->plan) column_sums(cpu, dbias, dy);
}
