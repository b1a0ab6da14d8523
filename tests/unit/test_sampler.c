/* Which examples make up which step. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "train/sampler.h"

#define EXAMPLES 23

/* Example i is 2 + i % 5 times the id i, all learnt. */
typedef struct fixture {
    sp_context *ctx;
    sp_dataset *data;
    sp_train_options options;
    spi_sampler *sampler;
} fixture;

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    int32_t ids[EXAMPLES * 6];
    int64_t starts[EXAMPLES + 1] = {0};
    f->ctx = sp_context_new();
    for (int i = 0; i < EXAMPLES; i++) {
        starts[i + 1] = starts[i] + 2 + i % 5;
        for (int64_t t = starts[i]; t < starts[i + 1]; t++) ids[t] = i;
    }
    *state = f;
    sp_train_options_default(&f->options);
    f->options.per_device_train_batch_size = 3;
    return sp_dataset_from_ids(f->ctx, ids, NULL, starts, EXAMPLES, &f->data) != SP_OK;
}

static int teardown(void **state) {
    fixture *f = *state;
    spi_sampler_free(f->sampler);
    sp_dataset_free(f->data);
    sp_context_free(f->ctx);
    free(f);
    return 0;
}

static spi_sampler *make(fixture *f) {
    spi_sampler_free(f->sampler);
    assert_int_equal(spi_sampler_new(f->ctx, f->data, &f->options, &f->sampler), SP_OK);
    return f->sampler;
}

/* The examples of a step in their order, and how many; -1 ends a micro-batch. */
static int examples_of(spi_sampler *s, int64_t step, int out[64]) {
    const spi_step_plan plan = spi_sampler_step(s, step);
    spi_batch batch = {0};
    int n = 0;
    for (int64_t m = 0; m < plan.count; m++) {
        assert_int_equal(spi_sampler_fill(s, plan.first + m, &batch), SP_OK);
        for (int32_t i = 0; i < batch.count; i++) {
            const int32_t id = batch.ids[batch.start[i]];
            assert_int_equal(batch.start[i + 1] - batch.start[i], 2 + id % 5);
            out[n++] = id;
        }
        assert_int_equal(batch.labels, batch.tokens - batch.count); /* the first token is never one */
        out[n++] = -1;
    }
    spi_batch_free(&batch);
    return n;
}

static void test_in_order(void **state) {
    fixture *f = *state;
    f->options.shuffle = false;
    f->options.gradient_accumulation_steps = 2;
    spi_sampler *s = make(f);
    /* 8 micro-batches of 3, the last of 2; 4 steps */
    int got[64];
    const int first[] = {0, 1, 2, -1, 3, 4, 5, -1}, last[] = {18, 19, 20, -1, 21, 22, -1};
    assert_int_equal(spi_sampler_total(s), 12);
    assert_int_equal(examples_of(s, 0, got), 8);
    assert_memory_equal(got, first, sizeof first);
    assert_int_equal(examples_of(s, 3, got), 7);
    assert_memory_equal(got, last, sizeof last);
    assert_int_equal(examples_of(s, 4, got), 8);
    assert_memory_equal(got, first, sizeof first);
}

/* The epoch is counted in micro-batches, as transformers.Trainer does. */
static void test_epochs(void **state) {
    fixture *f = *state;
    f->options.per_device_train_batch_size = 5; /* 5 micro-batches: 5 5 5 5 3 */
    f->options.gradient_accumulation_steps = 2; /* 3 steps: 2 2 1 */
    spi_sampler *s = make(f);
    const double epochs[] = {0.4, 0.8, 1.0, 1.4, 1.8, 2.0};
    for (int i = 0; i < 6; i++) {
        const spi_step_plan plan = spi_sampler_step(s, i);
        assert_true(plan.epoch > epochs[i] - 1e-12 && plan.epoch < epochs[i] + 1e-12);
        assert_int_equal(plan.count, i % 3 == 2 ? 1 : 2);
        assert_int_equal(plan.ends_epoch, i % 3 == 2);
    }
    /* transformers: ceil(num_train_epochs * steps of an epoch) */
    assert_int_equal(spi_sampler_total(s), 9);
    f->options.num_train_epochs = 1.5;
    assert_int_equal(spi_sampler_total(make(f)), 5);
    f->options.num_train_epochs = 0.1;
    assert_int_equal(spi_sampler_total(make(f)), 1);
    f->options.max_steps = 77;
    assert_int_equal(spi_sampler_total(make(f)), 77);
}

/* Every example once an epoch, in another order each time, whatever the options. */
static void check_complete(fixture *f) {
    spi_sampler *s = make(f);
    int got[64], order[2][EXAMPLES];
    int64_t step = 0;
    for (int epoch = 0; epoch < 2; epoch++) {
        int seen[EXAMPLES] = {0}, n = 0;
        bool ended = false;
        while (!ended) {
            ended = spi_sampler_step(s, step).ends_epoch;
            const int count = examples_of(s, step++, got);
            for (int i = 0; i < count; i++)
                if (got[i] >= 0) {
                    seen[got[i]]++;
                    order[epoch][n++] = got[i];
                }
        }
        assert_int_equal(n, EXAMPLES);
        for (int i = 0; i < EXAMPLES; i++) assert_int_equal(seen[i], 1);
    }
    assert_int_equal(memcmp(order[0], order[1], sizeof order[0]) != 0, f->options.shuffle);
}

static void test_complete(void **state) {
    fixture *f = *state;
    f->options.max_seq_length = 11;
    for (int kind = 0; kind < 8; kind++) {
        f->options.shuffle = kind & 1;
        f->options.packing = (kind & 2) != 0;
        f->options.gradient_accumulation_steps = kind & 4 ? 3 : 1;
        check_complete(f);
    }
}

/* Steps may be asked for in any order: a resumed run sees what an uninterrupted one sees. */
static void test_any_order(void **state) {
    fixture *f = *state;
    f->options.max_seq_length = 9;
    for (int packing = 0; packing < 2; packing++) {
        f->options.packing = packing;
        int expected[40][64], length[40], got[64];
        spi_sampler *s = make(f);
        for (int step = 0; step < 40; step++) length[step] = examples_of(s, step, expected[step]);
        static const int order[] = {37, 0, 39, 5, 6, 4, 20, 38};
        for (size_t i = 0; i < sizeof order / sizeof *order; i++) {
            if (i % 2 == 0) s = make(f);
            assert_int_equal(examples_of(s, order[i], got), length[order[i]]);
            assert_memory_equal(got, expected[order[i]], (size_t)length[order[i]] * sizeof *got);
        }
    }
}

/* Packing fills rows: fewer steps, the total the sum over epochs that pack differently. */
static void test_packing(void **state) {
    fixture *f = *state;
    f->options.packing = true;
    f->options.max_seq_length = 16;
    f->options.num_train_epochs = 2.5;
    spi_sampler *s = make(f);
    int64_t steps[3] = {0}, step = 0;
    for (int epoch = 0; epoch < 3; epoch++) {
        bool ended = false;
        for (; !ended; steps[epoch]++) ended = spi_sampler_step(s, step++).ends_epoch;
        /* 90 tokens in rows of 16: at least 6 rows, 2 batches of 3; unpacked it would be 8 batches. */
        assert_in_range(steps[epoch], 2, 4);
    }
    assert_int_equal(spi_sampler_total(s), steps[0] + steps[1] + (steps[2] + 1) / 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_in_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_epochs, setup, teardown),
        cmocka_unit_test_setup_teardown(test_complete, setup, teardown),
        cmocka_unit_test_setup_teardown(test_any_order, setup, teardown),
        cmocka_unit_test_setup_teardown(test_packing, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
