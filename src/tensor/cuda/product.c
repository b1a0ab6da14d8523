/*
 * Matrix products through cuBLASLt. It sees memory by columns: a row-major [M, N] is its [N, M], so that
 * y = x W^T is asked for as y^T = W x^T. A plan, the kernel that its heuristics choose, is kept for each shape.
 */
#include <cublasLt.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/cuda/cuda.h"

/* Plans kept; when there would be more, all are dropped. */
#define SLOTS 1024
#define MOST 512

/* What cuBLASLt recommends for Hopper. */
#define WORKSPACE ((size_t)32 << 20)

/* Zeroed before filling: compared as bytes. C [m, n] = op(A) op(B) (+ C0), by columns. */
typedef struct plan_key {
    int64_t m, n, k, lda, ldb, ldc, ldc0;
    int32_t a_turned, b_turned, in, out, add;
    int32_t aligned; /* all operands at multiples of 16 bytes */
} plan_key;

typedef struct plan {
    plan_key key;
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c, c0;
    cublasLtMatmulAlgo_t algo;
} plan;

typedef struct products {
    cublasLtHandle_t handle;
    void *workspace;
    plan *slots[SLOTS]; /* open addressing */
    size_t count;
} products;

/* ------------------------------------------------------------------ life */

static void plan_free(plan *p) {
    if (!p) return;
    if (p->desc) cublasLtMatmulDescDestroy(p->desc);
    if (p->a) cublasLtMatrixLayoutDestroy(p->a);
    if (p->b) cublasLtMatrixLayoutDestroy(p->b);
    if (p->c) cublasLtMatrixLayoutDestroy(p->c);
    if (p->c0) cublasLtMatrixLayoutDestroy(p->c0);
    free(p);
}

static void drop_all(products *ps) {
    for (size_t i = 0; i < SLOTS; i++) {
        plan_free(ps->slots[i]);
        ps->slots[i] = NULL;
    }
    ps->count = 0;
}

static bool fail(spi_cuda *cuda, cublasStatus_t status, const char *what) {
    if (cuda->device.status == SP_OK)
        cuda->device.status = cuda->host->fail(cuda->device.ctx, SP_ERR_DEVICE, "GPU %d: cuBLASLt: %s: %s",
                                               cuda->index, what, cublasLtGetStatusString(status));
    return false;
}

bool spi_cuda_products_open(spi_cuda *cuda) {
    products *ps = calloc(1, sizeof *ps);
    if (!ps) return fail(cuda, CUBLAS_STATUS_ALLOC_FAILED, "opening");
    cuda->products = ps;
    const cublasStatus_t status = cublasLtCreate(&ps->handle);
    if (status != CUBLAS_STATUS_SUCCESS) return fail(cuda, status, "opening");
    ps->workspace = cuda->device.op->alloc(&cuda->device, WORKSPACE);
    return ps->workspace != NULL;
}

void spi_cuda_products_close(spi_cuda *cuda) {
    products *ps = cuda->products;
    if (!ps) return;
    drop_all(ps);
    if (ps->handle) cublasLtDestroy(ps->handle);
    if (ps->workspace) (void)cudaFree(ps->workspace);
    free(ps);
    cuda->products = NULL;
}

/* ------------------------------------------------------------------ plans */

static cudaDataType_t type_of(int32_t dtype) {
    return dtype == SP_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

#define TRY(call)                                             \
    do {                                                      \
        const cublasStatus_t status_ = (call);                \
        if (status_ != CUBLAS_STATUS_SUCCESS) return status_; \
    } while (0)

static cublasStatus_t describe(plan *p) {
    const plan_key *key = &p->key;
    const cublasOperation_t a = key->a_turned ? CUBLAS_OP_T : CUBLAS_OP_N,
                            b = key->b_turned ? CUBLAS_OP_T : CUBLAS_OP_N;
    const uint64_t m = (uint64_t)key->m, n = (uint64_t)key->n, k = (uint64_t)key->k;
    /* Sums in true f32: without TF32 for f32 operands. */
    TRY(cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    TRY(cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &a, sizeof a));
    TRY(cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSB, &b, sizeof b));
    TRY(cublasLtMatrixLayoutCreate(&p->a, type_of(key->in), key->a_turned ? k : m, key->a_turned ? m : k,
                                   key->lda));
    TRY(cublasLtMatrixLayoutCreate(&p->b, type_of(key->in), key->b_turned ? n : k, key->b_turned ? k : n,
                                   key->ldb));
    TRY(cublasLtMatrixLayoutCreate(&p->c0, type_of(key->out), m, n, key->add ? key->ldc0 : key->ldc));
    return cublasLtMatrixLayoutCreate(&p->c, type_of(key->out), m, n, key->ldc);
}

/* Bytes at whose multiples an operand lies for sure: those of its elements, at least. */
static uint32_t alignment(const plan_key *key, int32_t dtype) {
    return key->aligned ? 16 : dtype == SP_BF16 ? 2 : 4;
}

static cublasStatus_t set_alignment(cublasLtMatmulPreference_t preference, const plan_key *key) {
    static const cublasLtMatmulPreferenceAttributes_t which[] = {
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES};
    for (size_t i = 0; i < sizeof which / sizeof *which; i++) {
        const uint32_t bytes = alignment(key, i < 2 ? key->in : key->out);
        TRY(cublasLtMatmulPreferenceSetAttribute(preference, which[i], &bytes, sizeof bytes));
    }
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t choose(products *ps, plan *p, cublasLtMatmulPreference_t preference) {
    const size_t workspace = WORKSPACE;
    cublasLtMatmulHeuristicResult_t found;
    int count = 0;
    TRY(cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace,
                                             sizeof workspace));
    TRY(set_alignment(preference, &p->key));
    TRY(cublasLtMatmulAlgoGetHeuristic(ps->handle, p->desc, p->a, p->b, p->c0, p->c, preference, 1, &found,
                                       &count));
    if (count == 0) return CUBLAS_STATUS_NOT_SUPPORTED;
    p->algo = found.algo;
    return CUBLAS_STATUS_SUCCESS;
}

static cublasStatus_t make_plan(products *ps, plan *p) {
    cublasLtMatmulPreference_t preference;
    TRY(describe(p));
    TRY(cublasLtMatmulPreferenceCreate(&preference));
    const cublasStatus_t status = choose(ps, p, preference);
    cublasLtMatmulPreferenceDestroy(preference);
    return status;
}

static size_t hash_of(const plan_key *key) {
    const unsigned char *bytes = (const unsigned char *)key;
    uint64_t h = 1469598103934665603u;
    for (size_t i = 0; i < sizeof *key; i++) h = (h ^ bytes[i]) * 1099511628211u;
    return (size_t)(h ^ h >> 29) % SLOTS;
}

static plan *find_plan(spi_cuda *cuda, const plan_key *key) {
    products *ps = cuda->products;
    size_t at = hash_of(key);
    for (; ps->slots[at]; at = (at + 1) % SLOTS)
        if (!memcmp(&ps->slots[at]->key, key, sizeof *key)) return ps->slots[at];
    if (ps->count == MOST) {
        drop_all(ps);
        at = hash_of(key);
    }
    plan *p = calloc(1, sizeof *p);
    if (p) p->key = *key;
    const cublasStatus_t status = p ? make_plan(ps, p) : CUBLAS_STATUS_ALLOC_FAILED;
    if (status != CUBLAS_STATUS_SUCCESS) {
        plan_free(p);
        fail(cuda, status, "no kernel for this product");
        return NULL;
    }
    ps->slots[at] = p;
    ps->count++;
    return p;
}

/* ------------------------------------------------------------------ running them */

/* A row-major operand; `turned`: the product takes it the other way round than its memory as columns says. */
typedef struct operand {
    const void *data;
    sp_dtype dtype;
    int64_t ld;
    bool turned;
} operand;

static bool at_16(const void *data, int64_t ld, sp_dtype dtype) {
    const int64_t size = dtype == SP_BF16 ? 2 : 4;
    return (uintptr_t)data % 16 == 0 && ld * size % 16 == 0;
}

/* C (row-major [n, m]) = the product of a and b over k, + c0 where that is not NULL. */
static void run(spi_cuda *cuda, spi_mat c, int64_t k, operand a, operand b, const spi_mat *c0) {
    const products *ps = cuda->products;
    plan_key key;
    if (c.rows == 0 || c.cols == 0 || k == 0 || cuda->device.plan) return; /* its workspace is there */
    memset(&key, 0, sizeof key);
    key.m = c.cols;
    key.n = c.rows;
    key.k = k;
    key.lda = a.ld;
    key.ldb = b.ld;
    key.ldc = c.ld;
    key.a_turned = a.turned;
    key.b_turned = b.turned;
    key.in = (int32_t)a.dtype;
    key.out = (int32_t)c.dtype;
    key.add = c0 != NULL;
    key.ldc0 = c0 ? c0->ld : 0;
    key.aligned = at_16(a.data, a.ld, a.dtype) && at_16(b.data, b.ld, b.dtype) &&
                  at_16(c.data, c.ld, c.dtype) && (!c0 || at_16(c0->data, c0->ld, c0->dtype));
    const plan *p = find_plan(cuda, &key);
    if (!p) return;
    const float one = 1.0f, beta = c0 ? 1.0f : 0.0f;
    cuda->after_kernel = false;
    const cublasStatus_t status =
        cublasLtMatmul(ps->handle, p->desc, &one, a.data, p->a, b.data, p->b, &beta, c0 ? c0->data : c.data,
                       p->c0, c.data, p->c, &p->algo, ps->workspace, WORKSPACE, cuda->stream);
    if (status != CUBLAS_STATUS_SUCCESS) fail(cuda, status, "a product");
}

/* ------------------------------------------------------------------ the operations */

static operand operand_of(spi_mat m, bool turned) {
    return (operand){m.data, m.dtype, m.ld, turned};
}

/*
 * y = x W^T + bias + residual for many rows. A bias is what the product is added to, so that their sum is
 * rounded once, before the residual, whose last digits are coarser: as PyTorch's Linear rounds.
 */
static void linear_of_many(spi_cuda *cuda, spi_mat y, spi_mat x, operand weight, const float *bias,
                           const spi_mat *residual) {
    spi_device *dev = &cuda->device;
    const operand in = operand_of(x, false);
    const bool in_place = residual && residual->data == y.data;
    if (bias && !in_place) {
        spi_cuda_fill_bias(cuda, y, bias);
        run(cuda, y, x.cols, weight, in, &y);
        if (residual) spi_cuda_add(dev, y, *residual, 1.0f);
        return;
    }
    if (residual && residual->dtype != y.dtype) {
        spi_cuda_convert(dev, y, *residual);
        residual = &y;
    }
    run(cuda, y, x.cols, weight, in, residual);
    if (bias) spi_cuda_add_bias(cuda, y, bias);
}

void spi_cuda_linear(spi_device *dev, spi_mat y, spi_mat x, const spi_weight *w, const float *bias,
                     const spi_mat *residual) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK || spi_cuda_gemv(cuda, y, x, w, bias, residual)) return;
    spi_mat weight = w->m;
    if (w->scale && !spi_cuda_dequantize(cuda, w, x.dtype, &weight)) return;
    linear_of_many(cuda, y, x, operand_of(weight, !w->transposed), bias, residual);
}

void spi_cuda_linear_dx(spi_device *dev, spi_mat dx, spi_mat dy, const spi_weight *w, bool accumulate) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK) return;
    spi_mat weight = w->m;
    if (w->scale && !spi_cuda_dequantize(cuda, w, dy.dtype, &weight)) return;
    run(cuda, dx, dy.cols, operand_of(weight, w->transposed), operand_of(dy, false), accumulate ? &dx : NULL);
}

void spi_cuda_linear_dw(spi_device *dev, float *dw, float *dbias, spi_mat dy, spi_mat x, bool transposed) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK) return;
    const spi_mat rows = transposed ? x : dy, cols = transposed ? dy : x;
    const spi_mat to = spi_mat_of(dw, SP_F32, rows.cols, cols.cols);
    run(cuda, to, dy.rows, operand_of(cols, false), operand_of(rows, true), &to);
    if (dbias) spi_cuda_column_sums(cuda, dbias, dy);
}
