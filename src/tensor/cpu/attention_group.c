#include "tensor/cpu/attention_group.h"

#include <math.h>
#include <string.h>

#include "tensor/cpu/attention_core.h"
#include "tensor/cpu/attention_pairs.h"
#include "tensor/cpu/block.h"

_Static_assert(SPI_ATTN_OVERHANG >= SPI_PAIRS_ROWS - 1, "a last tile of keys hangs over");

/* Tasks for each thread from which on dividing them further gains nothing. */
#define TASKS_PER_THREAD 4

static int64_t padded(int64_t n) {
    return (n + 15) / 16 * 16;
}

static int64_t max64(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* Of the f32 core: keys, values, their transposes, its own. */
static int64_t wide_floats(int64_t total, int64_t head_dim, bool backward) {
    return 2 * total * head_dim + (backward ? 2 : 1) * head_dim * padded(total) +
           spi_attn_work(total, head_dim);
}

static int64_t pairs_floats(int64_t total, int64_t head_dim, bool backward) {
    return spi_attn_packed_words(total, head_dim, backward) + spi_attn_pairs_work(head_dim, backward);
}

/* Either core's: callers need not know the dtype. */
int64_t spi_attn_forward_floats(int64_t total, const spi_attn *attn) {
    const int64_t d = attn->head_dim;
    return padded(max64(wide_floats(total, d, false), pairs_floats(total, d, false)));
}

int64_t spi_attn_backward_floats(int64_t total, const spi_attn *attn) {
    const int64_t d = attn->head_dim;
    return padded(max64(wide_floats(total, d, true), pairs_floats(total, d, true)));
}

/* f32 copies of the keys and values, [total, head_dim]; returns the memory behind them. */
static float *load_keys(float *work, spi_mat k, spi_mat v, int64_t total, bool backward, spi_attn_keys *out) {
    const int64_t d = k.cols, n = total * d, ld = padded(total);
    *out = (spi_attn_keys){.total = total, .ld = ld, .k = work, .v = work + n, .k_t = work + 2 * n};
    spi_block_load(out->k, k, 0, total, 1.0f);
    spi_block_load(out->v, v, 0, total, 1.0f);
    spi_block_transpose(out->k_t, ld, out->k, d, total, d);
    if (!backward) return out->k_t + d * ld;
    out->v_t = out->k_t + d * ld;
    spi_block_transpose(out->v_t, ld, out->v, d, total, d);
    return out->v_t + d * ld;
}

static spi_mat head_of(spi_mat m, int64_t head, int64_t head_dim) {
    return spi_mat_columns(m, head * head_dim, head_dim);
}

static float *lse_of(const spi_attn_heads *heads, int64_t head) {
    return heads->lse ? heads->lse + head * heads->lse_ld : NULL;
}

/* ------------------------------------------------------------------ forward */

static void forward_wide(const spi_attn_heads *heads, spi_range rows, const spi_attn *attn, float *work) {
    const int64_t d = attn->head_dim, n = rows.end - rows.begin;
    spi_attn_keys keys;
    work = load_keys(work, heads->k, heads->v, heads->past + rows.end, false, &keys);
    for (int64_t head = 0; head < heads->q.cols / d; head++) {
        float *lse = lse_of(heads, head);
        spi_attn_forward(spi_mat_rows(head_of(heads->o, head, d), rows.begin, n), lse ? lse + rows.begin : NULL,
                         spi_mat_rows(head_of(heads->q, head, d), rows.begin, n), heads->past + rows.begin,
                         &keys, attn, work);
    }
}

void spi_attn_forward_heads(const spi_attn_heads *heads, spi_range rows, const spi_attn *attn, float *work) {
    const int64_t d = attn->head_dim, total = heads->past + rows.end;
    if (rows.begin == rows.end) return;
    if (!spi_attn_pairs_fit(heads->q.dtype, heads->k.dtype, attn)) {
        forward_wide(heads, rows, attn, work);
        return;
    }
    const spi_attn_packed keys = spi_attn_pack((spi_pair *)work, heads->k, heads->v, total, false);
    work += spi_attn_packed_words(total, d, false);
    for (int64_t head = 0; head < heads->q.cols / d; head++)
        spi_attn_pairs_forward(head_of(heads->o, head, d), lse_of(heads, head), head_of(heads->q, head, d),
                               heads->past, rows, &keys, attn, work);
}

/* ------------------------------------------------------------------ backward */

static void backward_wide(spi_mat dq, float *dk, float *dv, spi_mat d_o, const spi_attn_heads *heads,
                          const spi_attn *attn, float *work) {
    const int64_t d = attn->head_dim;
    spi_attn_keys keys;
    work = load_keys(work, heads->k, heads->v, heads->q.rows, true, &keys);
    keys.dk = dk;
    keys.dv = dv;
    for (int64_t head = 0; head < heads->q.cols / d; head++)
        spi_attn_backward(head_of(dq, head, d), head_of(d_o, head, d), head_of(heads->o, head, d),
                          lse_of(heads, head), head_of(heads->q, head, d), &keys, attn, work);
}

static void backward_pairs(spi_mat dq, float *dk, float *dv, spi_mat d_o, const spi_attn_heads *heads,
                           const spi_attn *attn, float *work) {
    const int64_t d = attn->head_dim, total = heads->q.rows;
    const spi_attn_packed keys = spi_attn_pack((spi_pair *)work, heads->k, heads->v, total, true);
    work += spi_attn_packed_words(total, d, true);
    for (int64_t head = 0; head < heads->q.cols / d; head++)
        spi_attn_pairs_backward(head_of(dq, head, d), dk, dv, head_of(d_o, head, d), head_of(heads->o, head, d),
                                lse_of(heads, head), head_of(heads->q, head, d), &keys, attn, work);
    spi_block_scale(dk, attn->scale, total * d);
}

void spi_attn_backward_heads(spi_mat dq, float *dk, float *dv, spi_mat d_o, const spi_attn_heads *heads,
                             const spi_attn *attn, float *work) {
    const size_t bytes = (size_t)((heads->q.rows + SPI_ATTN_OVERHANG) * attn->head_dim) * sizeof(float);
    memset(dk, 0, bytes);
    memset(dv, 0, bytes);
    if (spi_attn_pairs_fit(heads->q.dtype, heads->k.dtype, attn))
        backward_pairs(dq, dk, dv, d_o, heads, attn, work);
    else backward_wide(dq, dk, dv, d_o, heads, attn, work);
}

/* ------------------------------------------------------------------ division */

int64_t spi_attn_parts(int64_t tasks, int threads, int64_t rows) {
    const int64_t wanted = (int64_t)TASKS_PER_THREAD * threads;
    const int64_t parts = tasks > 0 ? (wanted + tasks - 1) / tasks : 1;
    const int64_t most = (rows + SPI_ATTN_PAIRS_ROWS - 1) / SPI_ATTN_PAIRS_ROWS;
    return parts < most ? parts : max64(most, 1);
}

/* Row i costs i: the first rows^2 index / parts of the work end at rows sqrt(index / parts). */
static int64_t boundary(int64_t rows, int64_t index, int64_t parts) {
    const double at = (double)rows * sqrt((double)index / (double)parts);
    const int64_t end = llround(at / (double)SPI_ATTN_PAIRS_ROWS) * SPI_ATTN_PAIRS_ROWS;
    return index == parts || end > rows ? rows : end;
}

spi_range spi_attn_part(int64_t rows, int64_t index, int64_t parts) {
    return (spi_range){boundary(rows, index, parts), boundary(rows, index + 1, parts)};
}
