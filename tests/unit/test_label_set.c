/* Labels of a classification: how texts and numbers become classes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "text/label_set.h"

static int setup(void **state) {
    *state = sp_context_new();
    return *state ? 0 : -1;
}

static int teardown(void **state) {
    sp_context_free(*state);
    return 0;
}

static void must(sp_context *ctx, sp_status status) {
    if (status != SP_OK) fail_msg("%s", sp_last_error(ctx));
}

static int32_t find(sp_context *ctx, spi_label_set *set, const char *name) {
    int32_t place = -1;
    must(ctx, spi_label_set_find(ctx, set, "here", name, &place));
    return place;
}

/* Labels found in this order get these numbers and names (NULL-ended both). */
static void settles(sp_context *ctx, const char *const *found, const int32_t *numbers,
                    const char *const *names) {
    spi_label_set set = {0};
    int32_t places[16];
    size_t n = 0, count = 0;
    for (; found[n]; n++) assert_int_equal(find(ctx, &set, found[n]), n);
    for (size_t i = 0; i < n; i++) assert_int_equal(find(ctx, &set, found[i]), i); /* once more: the same */
    must(ctx, spi_label_set_settle(ctx, &set, "here", places));
    for (size_t i = 0; i < n; i++) assert_int_equal(places[i], numbers[i]);
    for (; names[count]; count++) assert_string_equal(set.names[count], names[count]);
    assert_int_equal(set.count, count);
    /* What was found is known afterwards by name and by number. */
    for (size_t i = 0; i < count; i++) assert_int_equal(find(ctx, &set, names[i]), i);
    spi_label_set_free(&set);
}

#define LIST(...) ((const char *const[]){__VA_ARGS__, NULL})
#define NUMBERS(...) ((const int32_t[]){__VA_ARGS__})

static void test_names_by_bytes(void **state) {
    settles(*state, LIST("sad", "happy", "angry"), NUMBERS(2, 1, 0), LIST("angry", "happy", "sad"));
    settles(*state, LIST("b", "B", "a b", "\xc3\xa9"), NUMBERS(2, 0, 1, 3), LIST("B", "a b", "b", "\xc3\xa9"));
}

static void test_numbers_stay(void **state) {
    settles(*state, LIST("2", "0"), NUMBERS(2, 0), LIST("LABEL_0", "LABEL_1", "LABEL_2"));
    settles(*state, LIST("1"), NUMBERS(1), LIST("LABEL_0", "LABEL_1"));
}

/* A leading zero, a sign, a fraction or another name among them: then all are names. */
static void test_numbers_that_are_names(void **state) {
    settles(*state, LIST("1", "-1"), NUMBERS(1, 0), LIST("-1", "1"));
    settles(*state, LIST("007", "7"), NUMBERS(0, 1), LIST("007", "7"));
    settles(*state, LIST("10", "9", "x"), NUMBERS(0, 1, 2), LIST("10", "9", "x"));
    settles(*state, LIST("1.0", "0.0"), NUMBERS(1, 0), LIST("0.0", "1.0"));
    settles(*state, LIST("+1", " 1"), NUMBERS(1, 0), LIST(" 1", "+1"));
}

static void refuses(sp_context *ctx, const char *const *found, const char *message) {
    spi_label_set set = {0};
    int32_t places[16];
    for (; *found; found++) find(ctx, &set, *found);
    assert_int_equal(spi_label_set_settle(ctx, &set, "here", places), SP_ERR_DATA);
    assert_string_equal(sp_last_error(ctx), message);
    spi_label_set_free(&set);
}

static void test_refusals(void **state) {
    sp_context *ctx = *state;
    refuses(ctx, LIST("one"), "here: labels: expected at least 2 that differ, found only \"one\"");
    refuses(ctx, LIST("0"), "here: labels: expected at least 2 that differ, found only \"0\"");
    refuses(ctx, LIST("0", "1000000"), "here: labels: expected numbers below 1000000, found 1000000");
    refuses(ctx, LIST("0", "2147483648"), "here: labels: expected numbers below 1000000, found 2147483648");
    refuses(ctx, LIST("1", "18446744073709551617"),
            "here: labels: expected numbers below 1000000, found 18446744073709551617");
    spi_label_set set = {0};
    int32_t place;
    assert_int_equal(spi_label_set_find(ctx, &set, "here", "", &place), SP_ERR_DATA);
    assert_string_equal(sp_last_error(ctx), "here: expected a label, found an empty text");
    assert_int_equal(spi_label_set_find(ctx, &set, "here", "a\xff", &place), SP_ERR_DATA);
    assert_string_equal(sp_last_error(ctx), "here: expected a label in UTF-8, found other bytes");
    spi_label_set_free(&set);
}

static void test_given(void **state) {
    sp_context *ctx = *state;
    spi_label_set set = {0};
    int32_t place;
    must(ctx, spi_label_set_give(ctx, &set, LIST("no", "yes", "maybe"), 3));
    assert_int_equal(find(ctx, &set, "maybe"), 2);
    assert_int_equal(find(ctx, &set, "1"), 1);
    static const char *const unknown[] = {"3", "01", "-1", "Yes", "", "4294967296", "18446744073709551617"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        char message[128];
        snprintf(message, sizeof message,
                 "here: expected one of 3 labels (\"no\", \"yes\", ...) or its number, found \"%s\"",
                 unknown[i]);
        assert_int_equal(spi_label_set_find(ctx, &set, "here", unknown[i], &place), SP_ERR_DATA);
        assert_string_equal(sp_last_error(ctx), message);
    }
    assert_int_equal(set.count, 3);
    spi_label_set_free(&set);
}

/* Where names are numbers themselves, a number is a name and nothing else. */
static void test_given_numbers(void **state) {
    sp_context *ctx = *state;
    spi_label_set set = {0};
    int32_t place;
    must(ctx, spi_label_set_give(ctx, &set, LIST("-1", "1"), 2));
    assert_int_equal(find(ctx, &set, "1"), 1);
    assert_int_equal(find(ctx, &set, "-1"), 0);
    assert_int_equal(spi_label_set_find(ctx, &set, "here", "0", &place), SP_ERR_DATA);
    spi_label_set_free(&set);
    must(ctx, spi_label_set_give(ctx, &set, LIST("1", "0"), 2));
    assert_int_equal(find(ctx, &set, "0"), 1);
    spi_label_set_free(&set);
    assert_int_equal(spi_label_set_give(ctx, &set, LIST("a", "b", "a"), 3), SP_ERR_ARGUMENT);
    assert_string_equal(sp_last_error(ctx), "labels: expected names that differ, found \"a\" for 0 and 2");
    spi_label_set_free(&set);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names_by_bytes),
        cmocka_unit_test(test_numbers_stay),
        cmocka_unit_test(test_numbers_that_are_names),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_given),
        cmocka_unit_test(test_given_numbers),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
