/* Tests: what stands behind `is`. */
#include <string.h>

#include "text/jinja_eval.h"

#define TEST(name) \
    static sp_status test_##name(spi_jinja *j, const spi_jval *v, const spi_jargs *args, bool *out)
#define UNUSED (void)j, (void)args

static sp_status one(spi_jinja *j, const char *name, const spi_jargs *args, const spi_jval **out) {
    if (args->count != 1 || args->named) return spi_jfail(j, "the test '%s' expected one argument", name);
    *out = &args->items[0];
    return SP_OK;
}

#define KIND_TEST(name, condition) \
    TEST(name) {                   \
        UNUSED;                    \
        *out = (condition);        \
        return SP_OK;              \
    }

static bool is_sequence(const spi_jval *v) {
    return v->kind == SPI_J_STRING || v->kind == SPI_J_LIST || v->kind == SPI_J_TUPLE ||
           v->kind == SPI_J_DICT || v->kind == SPI_J_RANGE || v->kind == SPI_J_UNDEFINED;
}

static bool is_iterable(const spi_jval *v) {
    return is_sequence(v) || spi_jlisted(v) || v->kind == SPI_J_LOOP;
}

static bool is_callable(const spi_jval *v) {
    return v->kind == SPI_J_MACRO || v->kind == SPI_J_FUNCTION || v->kind == SPI_J_METHOD ||
           v->kind == SPI_J_JOINER || v->kind == SPI_J_UNDEFINED;
}

KIND_TEST(defined, v->kind != SPI_J_UNDEFINED)
KIND_TEST(undefined, v->kind == SPI_J_UNDEFINED)
KIND_TEST(none, v->kind == SPI_J_NONE)
KIND_TEST(string, v->kind == SPI_J_STRING)
KIND_TEST(mapping, v->kind == SPI_J_DICT)
KIND_TEST(sequence, is_sequence(v))
KIND_TEST(iterable, is_iterable(v))
KIND_TEST(callable, is_callable(v))
KIND_TEST(number, spi_jis_number(v))
KIND_TEST(integer, v->kind == SPI_J_INT)
KIND_TEST(float, v->kind == SPI_J_FLOAT)
KIND_TEST(boolean, v->kind == SPI_J_BOOL)
KIND_TEST(is_true, v->kind == SPI_J_BOOL && v->truth)
KIND_TEST(is_false, v->kind == SPI_J_BOOL && !v->truth)
KIND_TEST(escaped, v->kind == SPI_J_STRING && v->markup)

static sp_status remainder_of(spi_jinja *j, const spi_jval *v, const spi_jval *by, int64_t *out) {
    spi_jval rest;
    SPI_TRY(spi_jbinary(j, SPI_OP_MOD, v, by, &rest));
    *out = spi_jas_int(&rest, out)                      ? *out
           : rest.kind == SPI_J_FLOAT && rest.real == 1 ? 1
           : rest.kind == SPI_J_FLOAT && rest.real == 0 ? 0
                                                        : 2;
    return SP_OK;
}

static sp_status parity(spi_jinja *j, const spi_jval *v, int64_t wanted, bool *out) {
    const spi_jval two = spi_jint(2);
    int64_t rest;
    SPI_TRY(remainder_of(j, v, &two, &rest));
    *out = rest == wanted;
    return SP_OK;
}

TEST(odd) {
    (void)args;
    return parity(j, v, 1, out);
}

TEST(even) {
    (void)args;
    return parity(j, v, 0, out);
}

TEST(divisibleby) {
    const spi_jval *by = NULL;
    int64_t rest;
    SPI_TRY(one(j, "divisibleby", args, &by));
    SPI_TRY(remainder_of(j, v, by, &rest));
    *out = rest == 0;
    return SP_OK;
}

TEST(equal) {
    const spi_jval *other = NULL;
    SPI_TRY(one(j, "eq", args, &other));
    *out = spi_jequal(j, v, other);
    return spi_jwork(j, 1);
}

TEST(unequal) {
    SPI_TRY(test_equal(j, v, args, out));
    *out = !*out;
    return SP_OK;
}

TEST(sameas) {
    const spi_jval *other = NULL;
    SPI_TRY(one(j, "sameas", args, &other));
    const bool scalar = v->kind <= SPI_J_FLOAT;
    *out = v->kind == other->kind && (scalar ? spi_jequal(j, v, other) : v->list == other->list);
    return SP_OK;
}

TEST(in) {
    const spi_jval *container = NULL;
    SPI_TRY(one(j, "in", args, &container));
    return spi_jcontains(j, container, v, out);
}

#define ORDER_TEST(name, condition)                 \
    TEST(name) {                                    \
        const spi_jval *other = NULL;               \
        int order;                                  \
        SPI_TRY(one(j, #name, args, &other));       \
        SPI_TRY(spi_jcompare(j, v, other, &order)); \
        *out = (condition);                         \
        return SP_OK;                               \
    }

ORDER_TEST(lt, order < 0)
ORDER_TEST(le, order <= 0)
ORDER_TEST(gt, order > 0)
ORDER_TEST(ge, order >= 0)

static sp_status test_case(spi_jinja *j, const spi_jval *v, const char *name, bool *out) {
    spi_jmethod m = {.name = name};
    const spi_jargs none = {0};
    spi_jval result;
    SPI_TRY(spi_jtext(j, v, &m.receiver));
    SPI_TRY(spi_jstring_method(j, &m, &none, &result));
    *out = result.truth;
    return SP_OK;
}

TEST(lower) {
    (void)args;
    return test_case(j, v, "islower", out);
}

TEST(upper) {
    (void)args;
    return test_case(j, v, "isupper", out);
}

TEST(filter) {
    UNUSED;
    *out = v->kind == SPI_J_STRING && spi_jinja_filter(v->string->text);
    return SP_OK;
}

TEST(test) {
    UNUSED;
    *out = v->kind == SPI_J_STRING && spi_jinja_test(v->string->text);
    return SP_OK;
}

static const spi_jtest tests[] = {
    {"defined", test_defined},
    {"undefined", test_undefined},
    {"none", test_none},
    {"string", test_string},
    {"mapping", test_mapping},
    {"sequence", test_sequence},
    {"iterable", test_iterable},
    {"callable", test_callable},
    {"number", test_number},
    {"integer", test_integer},
    {"float", test_float},
    {"boolean", test_boolean},
    {"true", test_is_true},
    {"false", test_is_false},
    {"escaped", test_escaped},
    {"odd", test_odd},
    {"even", test_even},
    {"divisibleby", test_divisibleby},
    {"eq", test_equal},
    {"equalto", test_equal},
    {"==", test_equal},
    {"ne", test_unequal},
    {"!=", test_unequal},
    {"sameas", test_sameas},
    {"in", test_in},
    {"lt", test_lt},
    {"lessthan", test_lt},
    {"<", test_lt},
    {"le", test_le},
    {"<=", test_le},
    {"gt", test_gt},
    {"greaterthan", test_gt},
    {">", test_gt},
    {"ge", test_ge},
    {">=", test_ge},
    {"lower", test_lower},
    {"upper", test_upper},
    {"filter", test_filter},
    {"test", test_test},
};

const spi_jtest *spi_jinja_test(const char *name) {
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (strcmp(tests[i].name, name) == 0) return &tests[i];
    return NULL;
}
