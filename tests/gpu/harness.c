#include "harness.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define GUARD ((size_t)256)
#define POISON 0xff
#define FEW 16 /* numbers, among which large errors do not even out */

const int64_t token_counts[TOKEN_COUNTS] = {0, 1, 7, 64, 333, 1000};
const sp_dtype dtypes[2] = {SP_F32, SP_BF16};

const char *view_name(view v) {
    static const char *const names[VIEWS] = {"", " gap", " odd"};
    return names[v];
}

/* ------------------------------------------------------------------ random numbers */

uint64_t random_bits(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

float random_float(uint64_t *state, float low, float high) {
    return low + (high - low) * (float)(random_bits(state) >> 40) * 0x1p-24f;
}

int32_t random_below(uint64_t *state, int32_t n) {
    return (int32_t)(random_bits(state) % (uint64_t)n);
}

/* ------------------------------------------------------------------ arrays */

static size_t size_of(sp_dtype dtype) {
    return spi_dtype_size(dtype);
}

static void *must(void *memory) {
    if (memory) return memory;
    fprintf(stderr, "ops: out of memory\n");
    exit(1);
}

sp_dtype held(const run *r, sp_dtype dtype) {
    return r->reference && !r->exact && (dtype == SP_BF16 || dtype == SP_F16) ? SP_F32 : dtype;
}

static uint64_t stream_of(const run *r) {
    return r->seed * 1000003u + r->count * 7919u;
}

/* A poisoned array on the device, and its image in host memory. */
static buffer *new_buffer(run *r, const char *name, sp_dtype dtype, int64_t rows, int64_t cols, view v) {
    if (r->count == MOST_BUFFERS) {
        fprintf(stderr, "ops: too many arrays in a case\n");
        exit(1);
    }
    buffer *b = &r->buffers[r->count++];
    const int64_t gap = v == VIEW_GAP ? 16 - cols % 8 : v == VIEW_ODD ? 3 : 0;
    *b = (buffer){.name = name, .dtype = dtype, .rows = rows, .cols = cols, .ld = cols + gap};
    b->shift = v == VIEW_ODD ? 1 : 0;
    b->bytes = 2 * GUARD + (size_t)(rows * b->ld + b->shift) * size_of(dtype);
    b->sent = must(malloc(b->bytes));
    memset(b->sent, POISON, b->bytes);
    b->base = r->dev->op->alloc(r->dev, b->bytes);
    return b;
}

static void *first_of(const buffer *b, void *base) {
    return (char *)base + GUARD + (size_t)b->shift * size_of(b->dtype);
}

static void *element(const buffer *b, void *base, int64_t row) {
    return (char *)first_of(b, base) + (size_t)(row * b->ld) * size_of(b->dtype);
}

static void send(run *r, const buffer *b) {
    if (b->base) r->dev->op->upload(r->dev, b->base, b->sent, b->bytes);
}

static spi_mat mat_of(const buffer *b) {
    return (spi_mat){b->base ? first_of(b, b->base) : NULL, b->dtype, b->rows, b->cols, b->ld};
}

/* Row by row from f32, rounded to the case's dtype also where it is held in f32. */
static void put_row(const buffer *b, int64_t row, const float *values, sp_dtype dtype) {
    float *rounded = must(malloc((size_t)(b->cols + 1) * sizeof *rounded));
    char *bits = must(malloc((size_t)(b->cols + 1) * sizeof *rounded));
    spi_from_f32(bits, values, dtype, b->cols);
    spi_to_f32(rounded, bits, dtype, b->cols);
    spi_from_f32(element(b, b->sent, row), rounded, b->dtype, b->cols);
    free(rounded);
    free(bits);
}

static buffer *random_buffer(run *r, const char *name, sp_dtype dtype, int64_t rows, int64_t cols, view v,
                             float low, float high) {
    uint64_t state = stream_of(r);
    buffer *b = new_buffer(r, name, held(r, dtype), rows, cols, v);
    float *row = must(malloc((size_t)(cols + 1) * sizeof *row));
    for (int64_t i = 0; i < rows; i++) {
        for (int64_t j = 0; j < cols; j++) row[j] = random_float(&state, low, high);
        put_row(b, i, row, dtype);
    }
    free(row);
    send(r, b);
    return b;
}

static buffer *poisoned(run *r, const char *name, sp_dtype dtype, int64_t rows, int64_t cols, view v) {
    buffer *b = new_buffer(r, name, dtype, rows, cols, v);
    send(r, b);
    return b;
}

static buffer *copied(run *r, const char *name, sp_dtype dtype, const void *values, int64_t n) {
    buffer *b = new_buffer(r, name, dtype, 1, n, VIEW_PLAIN);
    if (n > 0) memcpy(first_of(b, b->sent), values, (size_t)n * size_of(dtype));
    send(r, b);
    return b;
}

static buffer *as_output(buffer *b) {
    b->output = true;
    return b;
}

spi_mat in_mat_of(run *r, sp_dtype dtype, int64_t rows, int64_t cols, float spread) {
    return mat_of(random_buffer(r, "an input", dtype, rows, cols, r->view, -spread, spread));
}

spi_mat in_mat(run *r, int64_t rows, int64_t cols, float spread) {
    return in_mat_of(r, r->dtype, rows, cols, spread);
}

float *in_vector(run *r, int64_t n, float low, float high) {
    return mat_of(random_buffer(r, "a vector", SP_F32, 1, n, VIEW_PLAIN, low, high)).data;
}

spi_mat in_values(run *r, const float *values, int64_t rows, int64_t cols) {
    buffer *b = new_buffer(r, "an input", held(r, r->dtype), rows, cols, r->view);
    for (int64_t i = 0; i < rows; i++) put_row(b, i, values + i * cols, r->dtype);
    send(r, b);
    return mat_of(b);
}

void *in_array(run *r, sp_dtype dtype, const void *values, int64_t n) {
    return mat_of(copied(r, "an array", dtype, values, n)).data;
}

int32_t *in_ints(run *r, const int32_t *values, int64_t n) {
    return in_array(r, SP_I32, values, n);
}

static spi_weight quantised(run *r, int64_t out, int64_t in) {
    uint64_t state = stream_of(r);
    int8_t *q = must(malloc((size_t)(out * in + 1)));
    float *scale = must(malloc((size_t)(out + 1) * sizeof *scale));
    float *wide = must(malloc((size_t)(out * in + 1) * sizeof *wide));
    for (int64_t i = 0; i < out; i++) {
        scale[i] = random_float(&state, 0.002f, 0.01f);
        for (int64_t j = 0; j < in; j++) {
            q[i * in + j] = (int8_t)(random_below(&state, 255) - 127);
            wide[i * in + j] = scale[i] * (float)q[i * in + j];
        }
    }
    spi_weight w = {.m = {.rows = out, .cols = in, .ld = in, .dtype = r->reference ? SP_F32 : SP_I8}};
    w.m.data = in_array(r, w.m.dtype, r->reference ? (void *)wide : q, out * in);
    const float *on_device = in_array(r, SP_F32, scale, out);
    w.scale = r->reference ? NULL : on_device;
    free(q);
    free(scale);
    free(wide);
    return w;
}

spi_weight in_weight(run *r, weight_kind kind, int64_t out, int64_t in) {
    if (kind == WEIGHT_I8) return quantised(r, out, in);
    const bool turned = kind == WEIGHT_TRANSPOSED;
    const int64_t rows = turned ? in : out, cols = turned ? out : in;
    return (spi_weight){.m = mat_of(random_buffer(r, "a weight", r->dtype, rows, cols, VIEW_PLAIN, -1, 1)),
                        .transposed = turned};
}

spi_mat out_mat_of(run *r, const char *name, sp_dtype dtype, int64_t rows, int64_t cols) {
    return mat_of(as_output(poisoned(r, name, held(r, dtype), rows, cols, r->view)));
}

spi_mat out_mat(run *r, const char *name, int64_t rows, int64_t cols) {
    return out_mat_of(r, name, r->dtype, rows, cols);
}

spi_mat inout_mat(run *r, const char *name, int64_t rows, int64_t cols, float spread) {
    return mat_of(as_output(random_buffer(r, name, r->dtype, rows, cols, r->view, -spread, spread)));
}

float *out_vector(run *r, const char *name, int64_t n) {
    return out_array(r, name, SP_F32, n);
}

float *inout_vector(run *r, const char *name, int64_t n, float low, float high) {
    return mat_of(as_output(random_buffer(r, name, SP_F32, 1, n, VIEW_PLAIN, low, high))).data;
}

double *inout_doubles(run *r, const char *name, int64_t n) {
    uint64_t state = stream_of(r);
    double *values = must(malloc((size_t)(n + 1) * sizeof *values));
    for (int64_t i = 0; i < n; i++) values[i] = (double)random_below(&state, 100);
    double *data = inout_array(r, name, DOUBLES, values, n);
    free(values);
    return data;
}

void *out_array(run *r, const char *name, sp_dtype dtype, int64_t n) {
    return mat_of(as_output(poisoned(r, name, dtype, 1, n, VIEW_PLAIN))).data;
}

void *inout_array(run *r, const char *name, sp_dtype dtype, const void *values, int64_t n) {
    return mat_of(as_output(copied(r, name, dtype, values, n))).data;
}

/* Its numbers may change; its guards may not. */
static buffer *as_work(buffer *b) {
    b->name = NULL;
    return as_output(b);
}

void *work_array(run *r, sp_dtype dtype, int64_t n) {
    return mat_of(as_work(poisoned(r, NULL, dtype, 1, n, VIEW_PLAIN))).data;
}

spi_mat work_mat(run *r, sp_dtype dtype, int64_t rows, int64_t cols) {
    return mat_of(as_work(poisoned(r, NULL, dtype, rows, cols, r->view)));
}

void bound(run *r, double f32, double bf16) {
    r->buffers[r->count - 1].bound = r->dtype == SP_F32 ? f32 : bf16;
}

void bound_absolute(run *r, double f32, double bf16) {
    r->buffers[r->count - 1].absolute = r->dtype == SP_F32 ? f32 : bf16;
}

void relative_to(run *r, double norm) {
    r->buffers[r->count - 1].norm = norm;
}

/* ------------------------------------------------------------------ comparing */

/* What came back of each array of a run. */
typedef struct result {
    void *images[MOST_BUFFERS];
} result;

void complain(checks *c, const char *fmt, ...) {
    va_list args;
    if (++c->failures > 8 && !c->verbose) return;
    va_start(args, fmt);
    printf("  %s: ", c->op);
    vprintf(fmt, args);
    printf("\n");
    fflush(stdout);
    va_end(args);
}

/* Whether all outside the elements (of an input: the elements too) is what was sent. */
static void check_guards(checks *c, const buffer *b, void *image, const char *text) {
    const char *what = NULL;
    const size_t row = (size_t)b->cols * size_of(b->dtype), step = (size_t)b->ld * size_of(b->dtype);
    const char *sent = b->sent, *came = image;
    size_t at = (size_t)((char *)first_of(b, image) - came);
    if (memcmp(sent, came, at) != 0) what = "before its first element";
    for (int64_t i = 0; i < b->rows && !what; i++, at += step) {
        if (!b->output && memcmp(sent + at, came + at, row) != 0) what = "to an input";
        else if (memcmp(sent + at + row, came + at + row, step - row) != 0) what = "into the gap after a row";
    }
    if (!what && memcmp(sent + at, came + at, b->bytes - at) != 0) what = "behind its last element";
    if (what) complain(c, "%s: %s: written %s", text, b->name ? b->name : "working memory", what);
}

static void fetch(checks *c, run *r, result *out, const char *text) {
    for (size_t i = 0; i < r->count; i++) {
        const buffer *b = &r->buffers[i];
        out->images[i] = must(malloc(b->bytes));
        memset(out->images[i], 0, b->bytes);
        if (b->base) r->dev->op->download(r->dev, out->images[i], b->base, b->bytes);
    }
    if (spi_device_status(r->dev) != SP_OK) complain(c, "%s: %s", text, sp_last_error(r->dev->ctx));
    else
        for (size_t i = 0; i < r->count; i++) check_guards(c, &r->buffers[i], out->images[i], text);
}

static void end_run(run *r, result *out) {
    for (size_t i = 0; i < r->count; i++) {
        free(r->buffers[i].sent);
        free(out->images[i]);
        if (r->buffers[i].base) r->dev->op->release(r->dev, r->buffers[i].base);
    }
}

static double number_at(const buffer *b, void *image, int64_t row, int64_t col) {
    const char *at = (const char *)element(b, image, row) + (size_t)col * size_of(b->dtype);
    if (b->dtype == DOUBLES) return *(const double *)at;
    if (b->dtype == SP_I32) return *(const int32_t *)at;
    if (b->dtype == SP_I8) return *(const int8_t *)at;
    float value;
    spi_to_f32(&value, at, b->dtype, 1);
    return (double)value;
}

/* The error of an output over its bound. */
static double error_of(const buffer *b, void *image, const buffer *ref, void *ref_image, double limit,
                       double *over) {
    double difference = 0, norm = 0, largest = 0;
    for (int64_t i = 0; i < b->rows; i++)
        for (int64_t j = 0; j < b->cols; j++) {
            const double want = number_at(ref, ref_image, i, j), d = number_at(b, image, i, j) - want;
            difference += d * d;
            norm += want * want;
            if (!(fabs(d) <= largest)) largest = fabs(d);
        }
    if (b->dtype == SP_BF16 && b->rows * b->cols < FEW && norm < 1) norm = 1;
    if (b->norm > 0) norm = b->norm * b->norm;
    double error = norm > 0 ? sqrt(difference / norm) : sqrt(difference);
    if (!isfinite(error)) error = INFINITY;
    if (b->bound > 0) limit = b->bound;
    *over = b->absolute > 0 ? largest / b->absolute : error / limit;
    if (!isfinite(*over)) *over = INFINITY;
    return b->absolute > 0 ? 0 : error;
}

static void compare_outputs(checks *c, const run *ref, const result *want, const run *r, const result *got,
                            const result *again, const char *text) {
    const int which = r->dtype == SP_F32 ? 0 : 1;
    const double limit = which ? BF16_BOUND : F32_BOUND;
    for (size_t i = 0; i < r->count && i < ref->count; i++) {
        const buffer *b = &r->buffers[i];
        double over;
        if (!b->output || !b->name) continue;
        const double error = error_of(b, got->images[i], &ref->buffers[i], want->images[i], limit, &over);
        if (error > c->worst[which] || (over > 1 && !c->worst_case[which][0])) {
            c->worst[which] = error;
            snprintf(c->worst_case[which], sizeof c->worst_case[which], "%s of %s", b->name, text);
        }
        if (over > 1) complain(c, "%s: %s: error %.3g, %.3g times the bound", text, b->name, error, over);
        if (memcmp(got->images[i], again->images[i], b->bytes) != 0)
            complain(c, "%s: %s: other bits in a second run", text, b->name);
    }
}

static void begin(run *r, spi_device *dev, bool reference, sp_dtype dtype, view v, uint64_t seed) {
    r->dev = dev;
    r->reference = reference;
    r->exact = false;
    r->dtype = dtype;
    r->view = v;
    r->seed = seed;
    r->count = 0;
}

static bool too_large(const checks *c, const run *r) {
    size_t bytes = 0;
    for (size_t i = 0; i < r->count; i++) bytes += r->buffers[i].bytes;
    return c->largest && bytes > c->largest;
}

void compare(checks *c, sp_dtype dtype, view v, body_fn *body, const void *params, const char *fmt, ...) {
    static run runs[3];
    static result results[3];
    char text[160];
    va_list args;
    va_start(args, fmt);
    const int length = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (length >= 0 && (size_t)length < sizeof text)
        snprintf(text + length, sizeof text - (size_t)length, "%s%s", view_name(v),
                 dtype == SP_F32 ? " f32" : " bf16");
    c->seed++;
    if (c->seen++ % c->every != c->every / 4 || spi_device_status(c->test) != SP_OK)
        return; /* the latter is said already */
    if (c->verbose) {
        printf("  %s: %s\n", c->op, text);
        fflush(stdout);
    }
    int count = 3; /* runs */
    for (int i = 0; i < count; i++) {
        begin(&runs[i], i == 0 ? c->ref : c->test, i == 0, dtype, v, c->seed);
        body(&runs[i], params);
        fetch(c, &runs[i], &results[i], text);
        if (i == 0 && too_large(c, &runs[0])) count = 1;
    }
    c->cases += count == 3;
    if (count == 3 && spi_device_status(c->ref) == SP_OK && spi_device_status(c->test) == SP_OK)
        compare_outputs(c, &runs[0], &results[0], &runs[1], &results[1], &results[2], text);
    for (int i = 0; i < count; i++) end_run(&runs[i], &results[i]);
}

void on_reference(checks *c, sp_dtype dtype, body_fn *body, const void *params, float *outputs[],
                  size_t count) {
    static run r;
    static result out;
    size_t next = 0;
    begin(&r, c->ref, true, dtype, VIEW_PLAIN, c->seed + 1); /* the numbers of the case that follows */
    body(&r, params);
    fetch(c, &r, &out, "the reference");
    for (size_t i = 0; i < r.count && next < count; i++) {
        const buffer *b = &r.buffers[i];
        if (!b->output || !b->name) continue;
        for (int64_t j = 0; j < b->rows * b->cols; j++)
            outputs[next][j] = (float)number_at(b, out.images[i], j / b->cols, j % b->cols);
        next++;
    }
    end_run(&r, &out);
}
