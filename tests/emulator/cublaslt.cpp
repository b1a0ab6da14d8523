/*
 * Products as cuBLASLt gives them: D = alpha op(A) op(B) + beta C, matrices by columns, sums in f32. An operand that is
 * not aligned as the plan was told ends the program.
 */
#include "cublasLt.h"

#include <stdio.h>

#include <vector>

#include "cuda_bf16.h"
#include "emulator.h"

struct emulated_lt {
    int unused;
};
struct emulated_desc {
    bool a_turned, b_turned;
};
struct emulated_layout {
    cudaDataType type;
    uint64_t rows, columns;
    int64_t ld;
};
struct emulated_preference {
    uint32_t alignment[4]; /* of A, B, C, D */
};

const char *cublasLtGetStatusString(cublasStatus_t status) {
    return status == CUBLAS_STATUS_SUCCESS ? "success" : "failure";
}

cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
    *handle = new emulated_lt();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtDestroy(cublasLtHandle_t handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *desc, cublasComputeType_t, cudaDataType_t) {
    *desc = new emulated_desc();
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t desc, cublasLtMatmulDescAttributes_t which,
                                              const void *value, size_t) {
    const bool turned = *static_cast<const cublasOperation_t *>(value) == CUBLAS_OP_T;
    if (which == CUBLASLT_MATMUL_DESC_TRANSA) desc->a_turned = turned;
    else desc->b_turned = turned;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulDescDestroy(cublasLtMatmulDesc_t desc) {
    delete desc;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *layout, cudaDataType type, uint64_t rows,
                                          uint64_t columns, int64_t ld) {
    if (ld < (int64_t)rows) return CUBLAS_STATUS_INVALID_VALUE;
    *layout = new emulated_layout{type, rows, columns, ld};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatrixLayoutDestroy(cublasLtMatrixLayout_t layout) {
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *preference) {
    *preference = new emulated_preference{{256, 256, 256, 256}};
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t which, const void *value,
                                                    size_t) {
    if (which != CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
        memcpy(&preference->alignment[which - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES], value, sizeof(uint32_t));
    return CUBLAS_STATUS_SUCCESS;
}

cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}

/* The shapes must fit each other; the plan remembers the alignments. */
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t desc, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t d, cublasLtMatmulPreference_t preference, int,
                                              cublasLtMatmulHeuristicResult_t *found, int *count) {
    const uint64_t m = desc->a_turned ? a->columns : a->rows, k = desc->a_turned ? a->rows : a->columns;
    const uint64_t n = desc->b_turned ? b->rows : b->columns, of_b = desc->b_turned ? b->columns : b->rows;
    *count = 0;
    if (k != of_b || d->rows != m || d->columns != n || c->rows != m || c->columns != n || a->type != b->type)
        return CUBLAS_STATUS_INVALID_VALUE;
    *found = {};
    for (int i = 0; i < 4; i++) found->algo.data[i] = preference->alignment[i];
    *count = 1;
    return CUBLAS_STATUS_SUCCESS;
}

static float value_at(const emulated_layout &m, const void *data, uint64_t row, uint64_t column) {
    const uint64_t at = column * (uint64_t)m.ld + row;
    return m.type == CUDA_R_16BF ? __bfloat162float(static_cast<const __nv_bfloat16 *>(data)[at])
                                 : static_cast<const float *>(data)[at];
}

/* op(M) as runs along the dimension that is summed over. */
static std::vector<float> runs_of(const emulated_layout &m, const void *data, bool along_rows) {
    const uint64_t count = along_rows ? m.columns : m.rows, k = along_rows ? m.rows : m.columns;
    std::vector<float> all(count * k);
    for (uint64_t i = 0; i < count; i++)
        for (uint64_t j = 0; j < k; j++)
            all[i * k + j] = along_rows ? value_at(m, data, j, i) : value_at(m, data, i, j);
    return all;
}

struct matmul {
    bool a_turned, b_turned;
    float alpha, beta;
    emulated_layout a, b, c, d;
    const void *a_data, *b_data, *c_data;
    void *d_data;
};

static void run(const matmul &p) {
    const std::vector<float> a = runs_of(p.a, p.a_data, p.a_turned), b = runs_of(p.b, p.b_data, !p.b_turned);
    const uint64_t k = p.a_turned ? p.a.rows : p.a.columns;
    for (uint64_t j = 0; j < p.d.columns; j++)
        for (uint64_t i = 0; i < p.d.rows; i++) {
            float part[8] = {0};
            const float *x = &a[i * k], *y = &b[j * k];
            for (uint64_t q = 0; q < k; q++) part[q % 8] += x[q] * y[q];
            float sum = p.alpha * ((part[0] + part[1] + part[2] + part[3]) + (part[4] + part[5] + part[6] + part[7]));
            if (p.beta != 0.0f) sum += p.beta * value_at(p.c, p.c_data, i, j);
            const uint64_t at = j * (uint64_t)p.d.ld + i;
            if (p.d.type == CUDA_R_16BF) static_cast<__nv_bfloat16 *>(p.d_data)[at] = __float2bfloat16_rn(sum);
            else static_cast<float *>(p.d_data)[at] = sum;
        }
}

cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t desc, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout,
                              const void *beta, const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algo, void *, size_t,
                              cudaStream_t stream) {
    const void *const operands[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++)
        if ((uintptr_t)operands[i] % algo->data[i]) {
            fprintf(stderr, "emulated GPU: an operand of a product is not aligned to %d bytes\n", (int)algo->data[i]);
            abort();
        }
    const matmul p = {desc->a_turned,
                      desc->b_turned,
                      *static_cast<const float *>(alpha),
                      *static_cast<const float *>(beta),
                      *a_layout,
                      *b_layout,
                      *c_layout,
                      *d_layout,
                      a,
                      b,
                      c,
                      d};
    emulator::queue(stream, [p] { run(p); });
    return CUBLAS_STATUS_SUCCESS;
}
