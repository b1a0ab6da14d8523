/*
 * The choice of tokens on a GPU against spi_choose's on the CPU, and recorded steps there. Skipped without one.
 */
#include "check.h"

#include "generate/sampling.h"

#define ROWS 3
#define SEEN 20

typedef struct problem {
    int64_t vocab;
    int shape; /* of the logits */
    uint64_t seed;
    sp_generate_options o;
} problem;

enum { WIDE, LEVELS, EQUAL, NARROW, STEEP, HOLES, WITH_NAN, WITH_INFINITY, NOTHING, SHAPES };

/* Bell-shaped, and what else there may be in row 1. */
static void make_logits(const problem *p, float *x) {
    const float scale = p->shape == NARROW ? 0.001f : p->shape == STEEP ? 60 : 4;
    for (int64_t i = 0; i < ROWS * p->vocab; i++) {
        float sum = 0;
        for (uint64_t k = 0; k < 6; k++) sum += spi_uniform(p->seed, k, (uint64_t)i) - 0.5f;
        x[i] = scale * sum;
        if (p->shape == LEVELS) x[i] = roundf(2 * x[i]) / 2;
        if (p->shape == EQUAL) x[i] = 1.5f;
        if (p->shape == HOLES && i % p->vocab && spi_uniform(p->seed, 9, (uint64_t)i) < 0.5f) x[i] = -INFINITY;
        if (p->shape == NOTHING && i / p->vocab == 1) x[i] = -INFINITY;
    }
    if (p->shape == WITH_NAN) x[p->vocab + p->vocab / 2] = NAN;
    if (p->shape == WITH_INFINITY) x[2 * p->vocab - 1] = INFINITY;
}

/* What moves: past, ids, chosen; and what stays: sequence, first. */
static const int32_t numbers[5][ROWS] = {{13, 21, 9}, {0}, {0}, {7, 0, 3}, {10, 20, 5}};

static void choose_on_cpu(const spi_device *dev, const problem *p, float *x, const int32_t *seen,
                          int32_t *chosen) {
    spi_sampling s;
    assert_int_equal(spi_sampling_new(dev->ctx, p->vocab, &s), SP_OK);
    for (int i = 0; i < ROWS; i++)
        if (spi_choose(dev->ctx, &s, x + i * p->vocab, seen, SEEN, &p->o, (uint64_t)numbers[3][i],
                       (uint64_t)(numbers[0][i] - numbers[4][i]), &chosen[i]) != SP_OK)
            chosen[i] = -1;
    spi_sampling_free(&s);
}

/* Gives how many rows chose otherwise: sums that differ in their last bits may move a draw, hardly ever. */
static int check_problem(spi_device *dev, const problem *p, bool recorded) {
    const spi_ops *op = dev->op;
    const size_t bytes = (size_t)(ROWS * p->vocab) * sizeof(float);
    float *x = malloc(bytes), *logits = op->alloc(dev, bytes);
    uint8_t *marks = calloc((size_t)p->vocab, ROWS), *seen = op->alloc(dev, (size_t)(ROWS * p->vocab));
    int32_t ids[SEEN], want[ROWS], found[3][ROWS], *state = op->alloc(dev, sizeof numbers);
    assert_true(x && marks);
    make_logits(p, x);
    for (int i = 0; i < SEEN; i++) ids[i] = (int32_t)(spi_uniform(p->seed, 8, (uint64_t)i) * (float)p->vocab);
    for (int i = 0; i < ROWS * SEEN; i++) marks[i / SEEN * p->vocab + ids[i % SEEN]] = 1;
    op->upload(dev, logits, x, bytes);
    op->upload(dev, seen, marks, (size_t)(ROWS * p->vocab));
    op->upload(dev, state, numbers, sizeof numbers);
    choose_on_cpu(dev, p, x, ids, want);
    const spi_choice choice = {.draw = p->o.do_sample,
                               .temperature = p->o.temperature,
                               .top_p = p->o.top_p,
                               .min_p = p->o.min_p,
                               .top_k = p->o.top_k,
                               .seed = p->o.seed,
                               .sequence = state + 3 * ROWS,
                               .first = state + 4 * ROWS,
                               .penalty = p->o.repetition_penalty,
                               .seen = p->o.repetition_penalty != 1 ? seen : NULL,
                               .chosen = state + 2 * ROWS,
                               .ids = state + ROWS,
                               .past = state,
                               .last = 14};
    const spi_mat m = spi_mat_of(logits, SP_F32, ROWS, p->vocab);
    if (recorded) op->graph->begin(dev);
    op->graph->choose(dev, m, &choice);
    if (recorded) {
        spi_graph *graph = op->graph->end(dev);
        check_device(dev);
        op->graph->launch(dev, graph);
        op->graph->send(dev, 1, state, sizeof found);
        op->graph->receive(dev, 1, found, sizeof found);
        op->graph->free(dev, graph);
    } else {
        op->download(dev, found, state, sizeof found);
    }
    op->download(dev, marks, seen, (size_t)(ROWS * p->vocab));
    check_device(dev);
    int others = 0;
    for (int i = 0; i < ROWS; i++) {
        const int32_t id = found[2][i];
        others += id != want[i];
        assert_int_equal(id < 0, want[i] < 0);
        assert_int_equal(found[1][i], id < 0 ? 0 : id);
        assert_int_equal(found[0][i], numbers[0][i] + 1 > 14 ? 14 : numbers[0][i] + 1);
        if (choice.seen && id >= 0) assert_int_equal(marks[i * p->vocab + id], 1);
    }
    if (!p->o.do_sample) assert_int_equal(others, 0);
    op->release(dev, logits);
    op->release(dev, seen);
    op->release(dev, state);
    free(x);
    free(marks);
    return others;
}

static void test_choices(void **state) {
    static const int64_t vocabs[] = {1, 5, 33, 127, 1025, 5000, 151936};
    static const double temperatures[] = {1, 0.7, 50, 0.01, 1e-30};
    spi_device *dev = *state;
    if (!dev) skip();
    int others = 0, rows = 0;
    for (size_t v = 0; v < sizeof vocabs / sizeof *vocabs; v++)
        for (int shape = 0; shape < SHAPES; shape++)
            for (int trial = 0; trial < (vocabs[v] > 10000 ? 6 : 20); trial++) {
                problem p = {.vocab = vocabs[v], .shape = shape, .seed = 1000 * v + 100 * (uint64_t)shape};
                sp_generate_options_default(&p.o);
                p.seed += (uint64_t)trial;
                p.o.seed = p.seed;
                p.o.do_sample = trial % 7 != 0;
                p.o.top_k = trial % 4 == 0   ? 0
                            : trial % 4 == 1 ? 5
                            : trial % 4 == 2 ? 40
                                             : (int32_t)vocabs[v] / 2;
                p.o.top_p = trial % 3 == 0 ? 1 : trial % 3 == 1 ? 0.9 : trial == 2 ? 0 : 0.3;
                p.o.min_p = trial % 5 == 4 ? 0.05 : 0;
                p.o.temperature = temperatures[trial % 5];
                p.o.repetition_penalty = trial % 2 ? 1.3 : 1;
                others += check_problem(dev, &p, trial % 5 == 4);
                rows += ROWS;
            }
    if (others * 500 > rows) fail_msg("%d of %d rows were chosen otherwise", others, rows);
}

static int setup_gpu(void **state) {
    sp_context *ctx = sp_context_new();
    spi_device *dev = NULL;
    *state = NULL;
    if (!ctx) return -1;
    if (spi_device_open(ctx, "cuda", &dev) == SP_OK) *state = dev;
    else sp_context_free(ctx);
    return 0;
}

static int teardown_gpu(void **state) {
    return *state ? teardown_device(state) : 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test_setup_teardown(test_choices, setup_gpu, teardown_gpu)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
