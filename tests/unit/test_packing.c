/* Rows that packing plans. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/rng.h"
#include "text/packing.h"

static void check(const int64_t *lengths, const int64_t *order, int64_t count, int64_t capacity,
                  const int64_t *expected, int64_t rows) {
    int64_t starts[16];
    assert_int_equal(spi_pack_rows(lengths, order, count, capacity, starts), rows);
    for (int64_t r = 0; r <= rows; r++) assert_int_equal(starts[r], expected[r]);
}

static void test_fills_while_examples_fit(void **state) {
    (void)state;
    const int64_t lengths[] = {4, 3, 3, 5, 5, 1};
    const int64_t order[] = {0, 1, 2, 3, 4, 5};
    check(lengths, order, 6, 10, (int64_t[]){0, 3, 5, 6}, 3);
    check(lengths, order, 6, 21, (int64_t[]){0, 6}, 1);
    check(lengths, order, 6, 5, (int64_t[]){0, 1, 2, 3, 4, 5, 6}, 6);
}

static void test_keeps_the_order(void **state) {
    (void)state;
    const int64_t lengths[] = {4, 3, 3, 5, 5, 1};
    const int64_t order[] = {3, 0, 5, 4, 1, 2}; /* 5 4 1 | 5 3 | 3 would fit only before */
    check(lengths, order, 6, 10, (int64_t[]){0, 3, 5, 6}, 3);
}

static void test_too_long_examples_stand_alone(void **state) {
    (void)state;
    const int64_t lengths[] = {2, 9, 2, 9};
    const int64_t order[] = {0, 1, 2, 3};
    check(lengths, order, 4, 8, (int64_t[]){0, 1, 2, 3, 4}, 4);
    check(lengths, order, 0, 8, (int64_t[]){0}, 0);
}

/* Whatever the lengths: every example once, no row above capacity, no row that could have taken the next. */
static void test_rows_are_full(void **state) {
    (void)state;
    enum { COUNT = 1000, CAPACITY = 64 };
    int64_t lengths[COUNT];
    int64_t order[COUNT];
    int64_t starts[COUNT + 1];
    for (int64_t i = 0; i < COUNT; i++) lengths[i] = 1 + (int64_t)(spi_uniform(1, 2, (uint64_t)i) * CAPACITY);
    spi_permutation(order, COUNT, 3, 4);
    const int64_t rows = spi_pack_rows(lengths, order, COUNT, CAPACITY, starts);
    assert_int_equal(starts[0], 0);
    assert_int_equal(starts[rows], COUNT);
    for (int64_t r = 0; r < rows; r++) {
        assert_true(starts[r] < starts[r + 1]);
        int64_t used = 0;
        for (int64_t i = starts[r]; i < starts[r + 1]; i++) used += lengths[order[i]];
        assert_true(used <= CAPACITY);
        if (r + 1 < rows) assert_true(used + lengths[order[starts[r + 1]]] > CAPACITY);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fills_while_examples_fit),
        cmocka_unit_test(test_keeps_the_order),
        cmocka_unit_test(test_too_long_examples_stand_alone),
        cmocka_unit_test(test_rows_are_full),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
