/*
 * By the eigenvectors of the Gram matrix, whose eigenvalues are W_large's singular values squared:
 *
 *   G = W_large^T W_large = E^T diag(l) E,   C = W_large^T W_small,   P = sum over l_i > cut of e_i (e_i^T C) /
 * l_i
 *
 * V * d_large^2 multiplications in one pass over the weights, where a singular value decomposition of W_large
 * takes many times that.
 *
 * What squaring costs: sums in f64 know an eigenvalue to about d_large * 2^-52 of the largest, thus singular
 * values down to sqrt(d_large) * 2^-26 of the largest. The cut, at max(V, d_large) * 2^-23, lies above that for
 * every size: what the cut lets through is resolved. Sums in f32 would not do: already at singular values a
 * hundredth of the largest P would be off by 1e-4 or more.
 */
#include "shadow/pseudo_inverse.h"

#include <cblas.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Rows that are in memory as f64 at a time: enough for products at full speed, and for G to be passed over
 * rarely. */
#define BLOCK_ROWS 2048
/* dsyevd's work space has 1 + 6 d + 2 d^2 elements, counted in 32 bits. */
#define MOST_COLUMNS 32000

/* LAPACK: eigenvalues w (ascending) and eigenvectors (columns of a) of a symmetric matrix, by divide and
 * conquer. Fortran passes the texts' lengths at the end. */
extern void dsyevd_(const char *job, const char *triangle, const int *n, double *a, const int *lda, double *w,
                    double *work, const int *lwork, int *iwork, const int *liwork, int *info, size_t job_length,
                    size_t triangle_length);

typedef struct fit {
    sp_context *ctx;
    const spi_st_tensor *large, *small;
    int64_t rows;
    int d, m;     /* columns of large and small */
    double *gram; /* [d, d], the lower triangle; then the eigenvectors, one a row, by ascending eigenvalue */
    double *c;    /* [d, m]; then the projection */
    double *eigenvalues; /* [d] */
    double small_square; /* ||W_small||^2 */
} fit;

/* Zeros. */
static sp_status get(sp_context *ctx, int64_t rows, int64_t cols, double **out) {
    *out = calloc((size_t)(rows * cols), sizeof **out);
    return *out ? SP_OK : spi_fail_memory(ctx, (size_t)(rows * cols) * sizeof **out, "a projection");
}

/* What is done now, where all of it takes seconds. */
static void say(const fit *f, const char *what) {
    if ((double)f->rows * f->d * (f->d + 2.0 * f->m) > 1e11)
        spi_log(f->ctx, SP_LOG_INFO, "Projection from %d to %d by %lld tokens: %s", f->m, f->d,
                (long long)f->rows, what);
}

/* ------------------------------------------------------------------ products */

static void widen_row(double *to, const char *from, sp_dtype dtype, int64_t n) {
    float part[256];
    const size_t size = spi_dtype_size(dtype);
    for (int64_t at = 0; at < n; at += 256) {
        const int64_t count = n - at < 256 ? n - at : 256;
        spi_to_f32(part, from + (size_t)at * size, dtype, count);
        for (int64_t i = 0; i < count; i++) to[at + i] = part[i];
    }
}

/* to [count, n] = rows [first, first + count) of t as f64. */
static void widen(sp_context *ctx, double *to, const spi_st_tensor *t, int64_t first, int64_t count) {
    const int64_t n = t->shape[1];
    const size_t row_bytes = (size_t)n * spi_dtype_size(t->dtype);
    const char *from = (const char *)t->data + (size_t)first * row_bytes;
#pragma omp parallel for num_threads(spi_threads(ctx)) schedule(static)
    for (int64_t r = 0; r < count; r++) widen_row(to + r * n, from + (size_t)r * row_bytes, t->dtype, n);
}

static sp_status add_products(fit *f) {
    const int64_t most = f->rows < BLOCK_ROWS ? f->rows : BLOCK_ROWS;
    double *large = NULL, *small = NULL;
    sp_status status = get(f->ctx, most, f->d, &large);
    if (status == SP_OK) status = get(f->ctx, most, f->m, &small);
    for (int64_t first = 0; status == SP_OK && first < f->rows; first += most) {
        const int count = (int)(f->rows - first < most ? f->rows - first : most);
        widen(f->ctx, large, f->large, first, count);
        widen(f->ctx, small, f->small, first, count);
        cblas_dsyrk(CblasRowMajor, CblasLower, CblasTrans, f->d, count, 1.0, large, f->d, 1.0, f->gram, f->d);
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, f->d, f->m, count, 1.0, large, f->d, small, f->m,
                    1.0, f->c, f->m);
        f->small_square += cblas_ddot(count * f->m, small, 1, small, 1);
    }
    free(large);
    free(small);
    return status;
}

/* A weight that is NaN or infinite makes its column's square so. */
static sp_status check_finite(const fit *f) {
    bool finite = true;
    for (int64_t i = 0; i < f->d; i++) finite &= isfinite(f->gram[i * f->d + i]) != 0;
    const spi_st_tensor *bad = !finite ? f->large : !isfinite(f->small_square) ? f->small : NULL;
    if (!bad) return SP_OK;
    return spi_fail(f->ctx, SP_ERR_FORMAT, "%s: \"%s\": expected finite weights, found NaN or infinity",
                    bad->file, bad->name);
}

/* ------------------------------------------------------------------ solution */

static sp_status decompose(fit *f) {
    const int ask = -1;
    int integers = 0, info = 0;
    double reals = 0;
    /* Row-major lower is column-major upper. */
    dsyevd_("V", "U", &f->d, f->gram, &f->d, f->eigenvalues, &reals, &ask, &integers, &ask, &info, 1, 1);
    const int lwork = (int)reals, liwork = integers;
    double *work = malloc((size_t)lwork * sizeof *work);
    int *iwork = malloc((size_t)liwork * sizeof *iwork);
    sp_status status = SP_OK;
    if (!work || !iwork) status = spi_fail_memory(f->ctx, (size_t)lwork * sizeof *work, "eigenvectors");
    else {
        dsyevd_("V", "U", &f->d, f->gram, &f->d, f->eigenvalues, work, &lwork, iwork, &liwork, &info, 1, 1);
        if (info != 0)
            status = spi_fail(f->ctx, SP_ERR_INTERNAL, "%s: \"%s\": no eigenvectors of its square (dsyevd: %d)",
                              f->large->file, f->large->name, info);
    }
    free(work);
    free(iwork);
    return status;
}

static int count_rank(const fit *f) {
    const double size = (double)(f->rows > f->d ? f->rows : f->d);
    const double cut = size * FLT_EPSILON, largest = f->eigenvalues[f->d - 1];
    int rank = 0;
    while (rank < f->d && f->eigenvalues[f->d - 1 - rank] > cut * cut * largest) rank++;
    return largest > 0 ? rank : 0;
}

/* c becomes P. The error: ||W_large P - W_small||^2 = ||W_small||^2 - sum of (e_i^T C)^2 / l_i. */
static sp_status solve(fit *f, int rank, double *error) {
    const double *kept = f->gram + (int64_t)(f->d - rank) * f->d; /* [rank, d] */
    const double *eigenvalues = f->eigenvalues + f->d - rank;
    double *b = NULL, left = f->small_square; /* [rank, m] = diag(l)^-1 E C */
    SPI_TRY(get(f->ctx, rank ? rank : 1, f->m, &b));
    if (rank)
        cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, rank, f->m, f->d, 1.0, kept, f->d, f->c, f->m,
                    0.0, b, f->m);
    for (int64_t i = 0; i < rank; i++) {
        left -= cblas_ddot(f->m, b + i * f->m, 1, b + i * f->m, 1) / eigenvalues[i];
        cblas_dscal(f->m, 1.0 / eigenvalues[i], b + i * f->m, 1);
    }
    if (rank)
        cblas_dgemm(CblasRowMajor, CblasTrans, CblasNoTrans, f->d, f->m, rank, 1.0, kept, f->d, b, f->m, 0.0,
                    f->c, f->m);
    else memset(f->c, 0, (size_t)f->d * (size_t)f->m * sizeof *f->c);
    free(b);
    *error = left > 0 ? sqrt(left / f->small_square) : 0.0;
    return SP_OK;
}

static sp_status run(fit *f, spi_projection_fit *out) {
    SPI_TRY(get(f->ctx, f->d, f->d, &f->gram));
    SPI_TRY(get(f->ctx, f->d, f->m, &f->c));
    SPI_TRY(get(f->ctx, 1, f->d, &f->eigenvalues));
    say(f, "products over the vocabulary");
    SPI_TRY(add_products(f));
    SPI_TRY(check_finite(f));
    say(f, "eigenvectors");
    SPI_TRY(decompose(f));
    const int rank = count_rank(f);
    SPI_TRY(solve(f, rank, &out->error));
    const int64_t count = (int64_t)f->d * f->m;
    out->values = malloc((size_t)count * sizeof *out->values);
    if (!out->values) return spi_fail_memory(f->ctx, (size_t)count * sizeof *out->values, "a projection");
    for (int64_t i = 0; i < count; i++) out->values[i] = (float)f->c[i];
    out->rank = rank;
    return SP_OK;
}

sp_status spi_projection_fit_heads(sp_context *ctx, const spi_st_tensor *large, const spi_st_tensor *small,
                                   spi_projection_fit *out) {
    *out = (spi_projection_fit){0};
    const int64_t widest = large->shape[1] > small->shape[1] ? large->shape[1] : small->shape[1];
    if (widest > MOST_COLUMNS)
        return spi_fail(ctx, SP_ERR_UNSUPPORTED, "%s: \"%s\": expected at most %d columns, found %lld",
                        large->shape[1] == widest ? large->file : small->file,
                        large->shape[1] == widest ? large->name : small->name, MOST_COLUMNS, (long long)widest);
    fit f = {.ctx = ctx,
             .large = large,
             .small = small,
             .rows = large->shape[0],
             .d = (int)large->shape[1],
             .m = (int)small->shape[1]};
    /* OpenBLAS has one number of threads for the whole process: it gets it back. */
    const int threads = openblas_get_num_threads();
    openblas_set_num_threads(spi_threads(ctx));
    sp_status status = run(&f, out);
    openblas_set_num_threads(threads);
    free(f.gram);
    free(f.c);
    free(f.eigenvalues);
    return status;
}
