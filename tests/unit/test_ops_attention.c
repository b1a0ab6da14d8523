/*
 * Attention of the CPU backend against a plain double-precision reference and finite differences: packed
 * sequences of odd lengths, grouped heads, windows, soft caps, views of wider matrices, and the cache.
 */
#include "check.h"

#define MAX_SEQS 6

typedef struct shape {
    const char *name;
    sp_dtype dtype;
    int32_t heads, kv_heads, head_dim, window;
    float softcap, spread; /* q is uniform in [-spread, spread) */
    int32_t count, lengths[MAX_SEQS];
} shape;

static const shape shapes[] = {
    {"one row", SP_F32, 2, 1, 16, 0, 0, 1, 1, {1}},
    {"odd lengths", SP_F32, 4, 2, 64, 0, 0, 4, 6, {47, 1, 48, 49, 2, 131}},
    {"odd head", SP_F32, 3, 3, 37, 0, 0, 4, 2, {70, 33}},
    {"tiny head", SP_F32, 4, 1, 5, 0, 0, 4, 2, {9, 55}},
    {"window", SP_F32, 4, 2, 32, 17, 0, 4, 3, {100, 16, 17}},
    {"window of one", SP_F32, 2, 1, 32, 1, 0, 4, 2, {3, 60}},
    {"soft cap", SP_F32, 4, 2, 48, 0, 2, 20, 2, {65, 51}},
    {"window, soft cap", SP_F32, 4, 4, 128, 50, 3, 20, 2, {120, 7}},
    {"large scores", SP_F32, 2, 1, 64, 0, 0, 300, 1, {130}},
    {"bf16", SP_BF16, 8, 2, 64, 0, 0, 4, 3, {40, 97, 1}},
    {"bf16, window, soft cap", SP_BF16, 4, 2, 80, 33, 5, 20, 2, {100, 60}},
    {"bf16, wide head", SP_BF16, 4, 1, 256, 0, 0, 4, 1, {77}},
    {"bf16, one row", SP_BF16, 2, 1, 16, 0, 0, 1, 1, {1}},
    {"bf16, odd head", SP_BF16, 3, 3, 37, 0, 0, 4, 2, {70, 33}},
    {"bf16, head of 96", SP_BF16, 6, 2, 96, 0, 0, 4, 5, {95, 96, 97, 5, 193}},
    {"bf16, long", SP_BF16, 2, 1, 128, 0, 0, 4, 3, {383, 385, 775}},
    {"bf16, long window", SP_BF16, 2, 2, 64, 391, 0, 4, 2, {800, 12}},
    {"bf16, short window", SP_BF16, 3, 1, 32, 7, 0, 4, 2, {500, 6}},
    {"bf16, window of one", SP_BF16, 2, 1, 16, 1, 0, 4, 2, {390, 3}},
    {"bf16, soft cap", SP_BF16, 2, 1, 256, 512, 50, 100, 1, {600}},
    {"bf16, large scores", SP_BF16, 2, 1, 64, 0, 0, 300, 1, {430}},
    {"f32, long", SP_F32, 2, 1, 128, 0, 0, 4, 2, {410, 97}},
};

typedef struct packed {
    spi_attn attn;
    spi_seqs seqs;
    int32_t start[MAX_SEQS + 1];
    int64_t tokens;
} packed;

static void pack(packed *p, const shape *s) {
    p->start[0] = 0;
    int32_t longest = 0;
    for (int32_t i = 0; i < s->count; i++) {
        p->start[i + 1] = p->start[i] + s->lengths[i];
        if (s->lengths[i] > longest) longest = s->lengths[i];
    }
    p->tokens = p->start[s->count];
    p->seqs = (spi_seqs){s->count, longest, p->start, p->start};
    p->attn = (spi_attn){.heads = s->heads,
                         .kv_heads = s->kv_heads,
                         .head_dim = s->head_dim,
                         .scale = (float)(0.9 / sqrt(s->head_dim)),
                         .window = s->window,
                         .softcap = s->softcap};
}

/* ------------------------------------------------------------------ the reference */

/*
 * One head of one sequence in double; rows are head_dim apart. Sizes are sums of the same terms' absolute
 * values: in bf16, probabilities and the gradients of scores are rounded before they are multiplied, which
 * moves a result by up to one rounding of its size.
 */
typedef struct ref_head {
    int64_t n, d;
    double *q, *k, *v, *o, *d_o, *dq, *dk, *dv;   /* [n, d] */
    double *o_size, *dq_size, *dk_size, *dv_size; /* [n, d] */
    double *lse;                                  /* [n] */
} ref_head;

static ref_head ref_new(int64_t n, int64_t d) {
    double *all = zeros(12 * n * d + n);
    ref_head r = {.n = n, .d = d, .q = all, .lse = all + 12 * n * d};
    double **parts[] = {&r.k,  &r.v,      &r.o,       &r.d_o,     &r.dq,     &r.dk,
                        &r.dv, &r.o_size, &r.dq_size, &r.dk_size, &r.dv_size};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) *parts[i] = all + (int64_t)(i + 1) * n * d;
    return r;
}

static void take(double *to, spi_mat from, int64_t first, int64_t column, int64_t n, int64_t d) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < d; j++) to[i * d + j] = get(from, first + i, column + j);
}

static bool visible(const spi_attn *a, int64_t query, int64_t key) {
    return key <= query && (a->window == 0 || key > query - a->window);
}

/* The score of a pair, and in `slope` d score / d (q . k). */
static double score(const ref_head *r, const spi_attn *a, int64_t i, int64_t j, double *slope) {
    double s = 0.0;
    for (int64_t c = 0; c < r->d; c++) s += r->q[i * r->d + c] * r->k[j * r->d + c];
    s *= (double)a->scale;
    *slope = (double)a->scale;
    if (a->softcap > 0) {
        const double t = tanh(s / (double)a->softcap);
        s = (double)a->softcap * t;
        *slope *= 1.0 - t * t;
    }
    return s;
}

static void add(double *sum, double *size, int64_t at, double term) {
    sum[at] += term;
    size[at] += fabs(term);
}

static void ref_forward(ref_head *r, const spi_attn *a) {
    double *s = zeros(r->n), slope;
    for (int64_t i = 0; i < r->n; i++) {
        double most = -INFINITY, sum = 0.0;
        for (int64_t j = 0; j <= i; j++) {
            s[j] = visible(a, i, j) ? score(r, a, i, j, &slope) : -INFINITY;
            most = fmax(most, s[j]);
        }
        for (int64_t j = 0; j <= i; j++) sum += exp(s[j] - most);
        r->lse[i] = most + log(sum);
        for (int64_t c = 0; c < r->d; c++) r->o[i * r->d + c] = r->o_size[i * r->d + c] = 0.0;
        for (int64_t j = 0; j <= i; j++) {
            const double p = exp(s[j] - r->lse[i]);
            for (int64_t c = 0; c < r->d; c++) add(r->o, r->o_size, i * r->d + c, p * r->v[j * r->d + c]);
        }
    }
    free(s);
}

/* From r->o and r->lse as they are; dq, dk and dv are added to. */
static void ref_backward(ref_head *r, const spi_attn *a) {
    const int64_t d = r->d;
    for (int64_t i = 0; i < r->n; i++)
        for (int64_t j = 0; j <= i; j++) {
            if (!visible(a, i, j)) continue;
            double slope, dp = 0.0;
            const double p = exp(score(r, a, i, j, &slope) - r->lse[i]);
            for (int64_t c = 0; c < d; c++) {
                dp += r->d_o[i * d + c] * (r->v[j * d + c] - r->o[i * d + c]);
                add(r->dv, r->dv_size, j * d + c, p * r->d_o[i * d + c]);
            }
            for (int64_t c = 0; c < d; c++) {
                add(r->dq, r->dq_size, i * d + c, p * dp * slope * r->k[j * d + c]);
                add(r->dk, r->dk_size, j * d + c, p * dp * slope * r->q[i * d + c]);
            }
        }
}

/* ------------------------------------------------------------------ operands */

typedef struct operands {
    spi_mat q, k, v, o, d_o, dq, dk, dv;
    float *lse;
} operands;

static operands operands_of(const shape *s, const packed *p) {
    const int64_t q_cols = s->heads * s->head_dim, kv_cols = s->kv_heads * s->head_dim, t = p->tokens;
    operands x = {.q = random_mat(s->dtype, t, q_cols, 3, 1),
                  .k = random_mat(s->dtype, t, kv_cols, 5, 2),
                  .v = random_mat(s->dtype, t, kv_cols, 0, 3),
                  .o = random_mat(s->dtype, t, q_cols, 1, 4),
                  .d_o = random_mat(s->dtype, t, q_cols, 2, 5),
                  .dq = random_mat(s->dtype, t, q_cols, 7, 6),
                  .dk = random_mat(s->dtype, t, kv_cols, 1, 7),
                  .dv = random_mat(s->dtype, t, kv_cols, 4, 8),
                  .lse = random_vector(t * s->heads, 9)};
    for (int64_t r = 0; r < t; r++)
        for (int64_t c = 0; c < q_cols; c++) set(x.q, r, c, (double)s->spread * get(x.q, r, c));
    return x;
}

static void operands_free(operands *x) {
    spi_mat *all[] = {&x->q, &x->k, &x->v, &x->o, &x->d_o, &x->dq, &x->dk, &x->dv};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) free(all[i]->data);
    free(x->lse);
}

static void forward(spi_device *dev, const operands *x, const packed *p) {
    dev->op->attention(dev, x->o, x->lse, x->q, x->k, x->v, &p->seqs, &p->attn);
    check_device(dev);
}

static void backward(spi_device *dev, const operands *x, const packed *p) {
    dev->op->attention_backward(dev, x->dq, x->dk, x->dv, x->d_o, x->o, x->lse, x->q, x->k, x->v, &p->seqs,
                                &p->attn);
    check_device(dev);
}

/* What the whole batch should give, [T, columns] each; lse [heads, T]. Sizes as of ref_head. */
typedef struct wanted {
    double *o, *lse, *dq, *dk, *dv;
    double *o_size, *dq_size, *dk_size, *dv_size;
} wanted;

static void put(double *to, int64_t cols, const double *from, int64_t first, int64_t column, int64_t n,
                int64_t d) {
    for (int64_t i = 0; i < n; i++)
        for (int64_t c = 0; c < d; c++) to[(first + i) * cols + column + c] += from[i * d + c];
}

/* The backward pass reads the operation's own o, as it was rounded. */
static void want_head(wanted *w, const operands *x, const packed *p, int32_t seq, int64_t head) {
    const spi_attn *a = &p->attn;
    const int64_t d = a->head_dim, first = p->start[seq], n = p->start[seq + 1] - first;
    const int64_t at = head * d, kv_at = head / (a->heads / a->kv_heads) * d;
    ref_head r = ref_new(n, d);
    take(r.q, x->q, first, at, n, d);
    take(r.k, x->k, first, kv_at, n, d);
    take(r.v, x->v, first, kv_at, n, d);
    take(r.d_o, x->d_o, first, at, n, d);
    ref_forward(&r, a);
    put(w->o, x->q.cols, r.o, first, at, n, d);
    put(w->o_size, x->q.cols, r.o_size, first, at, n, d);
    memcpy(w->lse + head * p->tokens + first, r.lse, (size_t)n * sizeof *r.lse);
    take(r.o, x->o, first, at, n, d);
    ref_backward(&r, a);
    put(w->dq, x->q.cols, r.dq, first, at, n, d);
    put(w->dk, x->k.cols, r.dk, first, kv_at, n, d);
    put(w->dv, x->k.cols, r.dv, first, kv_at, n, d);
    put(w->dq_size, x->q.cols, r.dq_size, first, at, n, d);
    put(w->dk_size, x->k.cols, r.dk_size, first, kv_at, n, d);
    put(w->dv_size, x->k.cols, r.dv_size, first, kv_at, n, d);
    free(r.q);
}

static wanted want(const operands *x, const packed *p) {
    const int64_t t = p->tokens, q = t * x->q.cols, kv = t * x->k.cols;
    wanted w = {
        zeros(q), zeros(t * p->attn.heads), zeros(q), zeros(kv), zeros(kv), zeros(q), zeros(q), zeros(kv),
        zeros(kv)};
    for (int32_t i = 0; i < p->seqs.count; i++)
        for (int64_t h = 0; h < p->attn.heads; h++) want_head(&w, x, p, i, h);
    return w;
}

static void wanted_free(wanted *w) {
    free(w->o);
    free(w->lse);
    free(w->dq);
    free(w->dk);
    free(w->dv);
    free(w->o_size);
    free(w->dq_size);
    free(w->dk_size);
    free(w->dv_size);
}

/* A result in `dtype` whose f32 sums may be off by `floor`; `size` becomes the tolerance. */
static void check_sums(const char *what, spi_mat got, const double *want, double *size, sp_dtype dtype,
                       double floor) {
    const double u = dtype == SP_F32 ? 0.0 : 1.01 * BF16_ROUND;
    for (int64_t i = 0; i < got.rows * got.cols; i++) size[i] = u * size[i] + floor;
    check_mat(what, got, want, u, size, 0);
}

/* ------------------------------------------------------------------ packed batches */

static void check_packed(spi_device *dev, const shape *s) {
    packed p;
    pack(&p, s);
    operands x = operands_of(s, &p);
    forward(dev, &x, &p);
    backward(dev, &x, &p);
    wanted w = want(&x, &p);
    /* Scores err by their size times some roundings of f32, and p by as much; then o is rounded. */
    const double floor = (double)s->spread * 2e-6;
    print_message("%s\n", s->name);
    check_sums("o", x.o, w.o, w.o_size, s->dtype, floor);
    check_vector("lse", x.lse, w.lse, p.tokens * s->heads, 1e-6, floor);
    check_sums("dq", x.dq, w.dq, w.dq_size, s->dtype, 2 * floor);
    check_sums("dk", x.dk, w.dk, w.dk_size, s->dtype, 4 * (double)s->spread * floor);
    check_sums("dv", x.dv, w.dv, w.dv_size, s->dtype, 4 * floor);
    wanted_free(&w);
    operands_free(&x);
}

static void test_packed(void **state) {
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_packed(*state, &shapes[i]);
}

/* One thread, and more than there are heads: then work is divided in other ways. */
static void test_threads(void **state) {
    (void)state;
    const int threads[] = {1, 7};
    for (size_t t = 0; t < sizeof threads / sizeof *threads; t++) {
        sp_context *ctx = sp_context_new();
        spi_device *dev = NULL;
        assert_non_null(ctx);
        sp_context_set_threads(ctx, threads[t]);
        assert_int_equal(spi_device_open(ctx, "cpu", &dev), SP_OK);
        print_message("%d threads\n", threads[t]);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) check_packed(dev, &shapes[i]);
        spi_device_close(dev);
        sp_context_free(ctx);
    }
}

/* Without lse the forward pass gives the same. */
static void test_without_lse(void **state) {
    packed p;
    pack(&p, &shapes[1]);
    operands x = operands_of(&shapes[1], &p);
    forward(*state, &x, &p);
    spi_mat o = copy_mat(x.o);
    free(x.lse);
    x.lse = NULL;
    forward(*state, &x, &p);
    assert_memory_equal(o.data, x.o.data, (size_t)(o.rows * o.ld) * 4);
    free(o.data);
    operands_free(&x);
}

/* sum(d_o * o) of the reference after moving element i of `x` by `by`. */
static double objective(ref_head *r, const spi_attn *a, double *x, int64_t i, double by) {
    const double old = x[i];
    double sum = 0.0;
    x[i] = old + by;
    ref_forward(r, a);
    x[i] = old;
    for (int64_t j = 0; j < r->n * r->d; j++) sum += r->d_o[j] * r->o[j];
    return sum;
}

static void check_differences(const char *what, spi_mat got, ref_head *r, const spi_attn *a, double *x) {
    const double step = 1e-5;
    double *slopes = zeros(r->n * r->d);
    for (int64_t i = 0; i < r->n * r->d; i++)
        slopes[i] = (objective(r, a, x, i, step) - objective(r, a, x, i, -step)) / (2 * step);
    check_mat(what, got, slopes, 1e-5, NULL, 1e-5);
    free(slopes);
}

static void test_finite_differences(void **state) {
    const shape small[] = {{"plain", SP_F32, 1, 1, 8, 0, 0, 2, 1, {19}},
                           {"window, soft cap", SP_F32, 1, 1, 6, 5, 1.5f, 4, 1, {18}}};
    for (size_t i = 0; i < sizeof small / sizeof *small; i++) {
        packed p;
        pack(&p, &small[i]);
        operands x = operands_of(&small[i], &p);
        forward(*state, &x, &p);
        backward(*state, &x, &p);
        const int64_t n = p.tokens, d = small[i].head_dim;
        ref_head r = ref_new(n, d);
        take(r.q, x.q, 0, 0, n, d);
        take(r.k, x.k, 0, 0, n, d);
        take(r.v, x.v, 0, 0, n, d);
        take(r.d_o, x.d_o, 0, 0, n, d);
        check_differences("dq", x.dq, &r, &p.attn, r.q);
        check_differences("dk", x.dk, &r, &p.attn, r.k);
        check_differences("dv", x.dv, &r, &p.attn, r.v);
        free(r.q);
        operands_free(&x);
    }
}

/* Rows [first, first + rows) of two matrices have the same bits. */
static void same_rows(const char *what, spi_mat a, int64_t a_first, spi_mat b, int64_t b_first, int64_t rows) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t c = 0; c < a.cols; c++)
            if (get(a, a_first + i, c) != get(b, b_first + i, c))
                fail_msg("%s: (%lld, %lld) differs: %.9g, %.9g", what, (long long)i, (long long)c,
                         get(a, a_first + i, c), get(b, b_first + i, c));
}

/* The same bits again after another batch, and for a sequence that is alone. */
static void check_same_bits(spi_device *dev, const shape *s, const shape *between) {
    packed p, other;
    pack(&p, s);
    pack(&other, between);
    operands x = operands_of(s, &p), y = operands_of(between, &other);
    forward(dev, &x, &p);
    backward(dev, &x, &p);
    operands first = {.o = copy_mat(x.o), .dq = copy_mat(x.dq), .dk = copy_mat(x.dk), .dv = copy_mat(x.dv)};
    forward(dev, &y, &other);
    backward(dev, &y, &other);
    forward(dev, &x, &p);
    backward(dev, &x, &p);
    same_rows("o", first.o, 0, x.o, 0, p.tokens);
    same_rows("dq", first.dq, 0, x.dq, 0, p.tokens);
    same_rows("dk", first.dk, 0, x.dk, 0, p.tokens);
    same_rows("dv", first.dv, 0, x.dv, 0, p.tokens);

    const int64_t at = p.start[s->count - 1], n = p.tokens - at;
    const int32_t start[] = {0, (int32_t)n};
    const spi_seqs alone = {1, (int32_t)n, start, start};
    dev->op->attention(dev, spi_mat_rows(x.o, 0, n), NULL, spi_mat_rows(x.q, at, n), spi_mat_rows(x.k, at, n),
                       spi_mat_rows(x.v, at, n), &alone, &p.attn);
    check_device(dev);
    same_rows("alone", first.o, at, x.o, 0, n);
    operands_free(&first);
    operands_free(&x);
    operands_free(&y);
}

static void test_same_bits(void **state) {
    check_same_bits(*state, &shapes[1], &shapes[7]);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        if (shapes[i].dtype == SP_BF16) check_same_bits(*state, &shapes[i], &shapes[10]);
}

/* ------------------------------------------------------------------ the cache */

/* One call: new rows of some of the sequences. */
typedef struct cached_call {
    int32_t count, seq[3], rows[3];
} cached_call;

/* Sequences of different slots, prompts of many rows, appended rows, single rows, in changing company. */
static const cached_call calls[] = {
    {2, {0, 1}, {33, 1}}, {1, {2}, {49}}, {3, {2, 0, 1}, {1, 1, 1}}, {2, {1, 0}, {20, 3}},
    {1, {0}, {60}},       {1, {2}, {7}},  {2, {0, 2}, {1, 9}},       {3, {0, 1, 2}, {2, 1, 1}},
};
#define CACHED_CALLS (sizeof calls / sizeof *calls)
static const int32_t slot_of[] = {3, 0, 2};
#define CAPACITY 103

static int32_t cached_length(int32_t seq, size_t before) {
    int32_t length = 0;
    for (size_t i = 0; i < before; i++)
        for (int32_t j = 0; j < calls[i].count; j++)
            if (calls[i].seq[j] == seq) length += calls[i].rows[j];
    return length;
}

static void copy_rows(spi_mat to, int64_t to_row, spi_mat from, int64_t from_row, int64_t rows) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < to.cols; c++) set(to, to_row + r, c, get(from, from_row + r, c));
}

static void run_call(spi_device *dev, size_t index, const operands *x, const packed *p, const spi_kv *kv) {
    const cached_call *call = &calls[index];
    int32_t start[4] = {0}, slot[3], past[3], most = 0, total = 0;
    for (int32_t j = 0; j < call->count; j++) {
        slot[j] = slot_of[call->seq[j]];
        past[j] = cached_length(call->seq[j], index);
        start[j + 1] = start[j] + call->rows[j];
        if (call->rows[j] > most) most = call->rows[j];
        if (past[j] + call->rows[j] > total) total = past[j] + call->rows[j];
    }
    const int64_t rows = start[call->count];
    spi_mat q = random_mat(x->q.dtype, rows, x->q.cols, 2, 1),
            o = random_mat(x->o.dtype, rows, x->o.cols, 1, 2);
    spi_mat k = random_mat(x->k.dtype, rows, x->k.cols, 0, 1),
            v = random_mat(x->v.dtype, rows, x->v.cols, 3, 2);
    for (int32_t j = 0; j < call->count; j++) {
        const int64_t from = p->start[call->seq[j]] + past[j];
        copy_rows(q, start[j], x->q, from, call->rows[j]);
        copy_rows(k, start[j], x->k, from, call->rows[j]);
        copy_rows(v, start[j], x->v, from, call->rows[j]);
    }
    const spi_cached_seqs seqs = {call->count, most, total, start, slot, past, start, slot, past};
    dev->op->attention_cached(dev, o, q, k, v, kv, &seqs, &p->attn);
    check_device(dev);
    check_gaps("cached o", o);
    for (int32_t j = 0; j < call->count; j++)
        copy_rows(x->o, p->start[call->seq[j]] + past[j], o, start[j], call->rows[j]);
    free(q.data);
    free(o.data);
    free(k.data);
    free(v.data);
}

static void check_cached(spi_device *dev, const shape *s, sp_dtype cache_dtype) {
    packed p;
    pack(&p, s);
    operands x = operands_of(s, &p);
    const int64_t slots = 4, elements = slots * CAPACITY * s->kv_heads * s->head_dim;
    spi_kv kv = {malloc((size_t)elements * 4), malloc((size_t)elements * 4), cache_dtype, slots, CAPACITY};
    assert_non_null(kv.k);
    assert_non_null(kv.v);
    memset(kv.k, 0xff, (size_t)elements * 4); /* NaN: what nobody stored is not read */
    memset(kv.v, 0xff, (size_t)elements * 4);
    for (size_t i = 0; i < CACHED_CALLS; i++) run_call(dev, i, &x, &p, &kv);
    wanted w = want(&x, &p);
    print_message("cached: %s\n", s->name);
    check_sums("cached o", x.o, w.o, w.o_size, s->dtype, (double)s->spread * 2e-6);
    wanted_free(&w);
    operands_free(&x);
    free(kv.k);
    free(kv.v);
}

static void test_cached(void **state) {
    shape cached[] = {{"f32", SP_F32, 4, 2, 64, 0, 0, 4, 3, {0}},
                      {"odd head", SP_F32, 3, 1, 37, 0, 0, 4, 3, {0}},
                      {"window, soft cap", SP_F32, 4, 2, 32, 13, 2, 20, 3, {0}},
                      {"bf16", SP_BF16, 6, 2, 128, 0, 0, 4, 3, {0}},
                      {"bf16, window, soft cap", SP_BF16, 8, 1, 48, 30, 3, 20, 3, {0}}};
    for (size_t i = 0; i < sizeof cached / sizeof *cached; i++) {
        for (int32_t j = 0; j < 3; j++) cached[i].lengths[j] = cached_length(j, CACHED_CALLS);
        check_cached(*state, &cached[i], cached[i].dtype);
        if (cached[i].dtype == SP_BF16) check_cached(*state, &cached[i], SP_F32);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_packed),      cmocka_unit_test(test_threads),
        cmocka_unit_test(test_without_lse), cmocka_unit_test(test_finite_differences),
        cmocka_unit_test(test_same_bits),   cmocka_unit_test(test_cached),
    };
    return cmocka_run_group_tests(tests, setup_device, teardown_device);
}
