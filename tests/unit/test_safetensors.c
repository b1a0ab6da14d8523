/*
 * The safetensors reader and writer. tests/data/safetensors holds what Python's safetensors wrote; see make.py
 * there. The reader's rules are those of the format's published description.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "format/safetensors.h"
#include "scratch.h"

#define GOLDEN TEST_DATA "/safetensors"

/* ------------------------------------------------------------------ hostile headers */

/* Pads the header to 8 bytes, puts `length` zero bytes behind it, and opens that. */
static sp_status open_text(sp_context *ctx, const char *header, size_t length, spi_st_set **set,
                           spi_buf *file) {
    uint64_t size = strlen(header);
    spi_buf_append(file, &size, sizeof size);
    spi_buf_puts(file, header);
    for (size_t i = 0; i < length; i++) spi_buf_putc(file, 0);
    assert_false(file->failed);
    return spi_st_open_memory(ctx, "hostile.safetensors", file->data, file->length, set);
}

/* A tensor of two floats called "a", and the beginning of a second one called "b". */
#define A "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"
#define T(name, dtype, shape, offsets) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

typedef struct hostile_case {
    const char *header;
    size_t data_length;
    sp_status status;
    const char *message; /* a part of it */
} hostile_case;

static const hostile_case hostile_cases[] = {
    /* What is allowed, so that the refusals below are not refusals of everything. */
    {"{}", 0, SP_OK, ""},
    {"{}        ", 0, SP_OK, ""},
    {"{" A "}", 8, SP_OK, ""},
    {"{\"__metadata__\":{}," A "}", 8, SP_OK, ""},
    {"{" A "," T("b", "U8", "[]", "[8,9]") "}", 9, SP_OK, ""},
    {"{" T("b", "I8", "[3]", "[8,11]") "," A "}", 11, SP_OK, ""},
    {"{" A "," T("e", "F32", "[0,7]", "[8,8]") "}", 8, SP_OK, ""},
    {"{" A "," T("e", "F32", "[0]", "[0,0]") "}", 8, SP_OK, ""},
    {"{" T("a", "F32", "[1,1,1,1,1,1,1,2]", "[0,8]") "}", 8, SP_OK, ""},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"later\":[1]}}", 8, SP_OK, ""},

    /* JSON */
    {"", 0, SP_ERR_FORMAT, "begins with '{'"},
    {" {}", 0, SP_ERR_FORMAT, "begins with '{'"},
    {"[]", 0, SP_ERR_FORMAT, "begins with '{'"},
    {"{", 0, SP_ERR_FORMAT, "not valid JSON"},
    {"{" A, 8, SP_ERR_FORMAT, "not valid JSON"},
    {"{" A ",}", 8, SP_ERR_FORMAT, "not valid JSON"},
    {"{" A "} x", 8, SP_ERR_FORMAT, "not valid JSON"},
    {"{" A "}{}", 8, SP_ERR_FORMAT, "not valid JSON"},
    {"{" A "," A "}", 8, SP_ERR_FORMAT, "duplicate"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, SP_ERR_FORMAT,
     "duplicate"},
    {"{\"a\\u0000b\":{}}", 0, SP_ERR_FORMAT, "NUL"},
    {"{\"\xff\":{}}", 0, SP_ERR_FORMAT, "not valid JSON"},
    {"{\"\xed\xa0\x80\":{}}", 0, SP_ERR_FORMAT, "not valid JSON"},

    /* The entry as a whole */
    {"{\"a\":1}", 0, SP_ERR_FORMAT, "tensor \"a\": expected an object, found 1"},
    {"{\"a\":null}", 0, SP_ERR_FORMAT, "expected an object, found null"},
    {"{\"a\":[]}", 0, SP_ERR_FORMAT, "expected an object, found []"},
    {"{\"a\":{}}", 0, SP_ERR_FORMAT, "expected a \"dtype\" string, found nothing"},

    /* dtype */
    {"{\"a\":{\"dtype\":3,\"shape\":[2],\"data_offsets\":[0,8]}}", 8, SP_ERR_FORMAT, "string, found 3"},
    {"{" T("a", "F64", "[1]", "[0,8]") "}", 8, SP_ERR_UNSUPPORTED, "tensor \"a\": dtype \"F64\""},
    {"{" T("a", "F8_E4M3", "[8]", "[0,8]") "}", 8, SP_ERR_UNSUPPORTED, "dtype \"F8_E4M3\""},
    {"{" T("a", "U16", "[4]", "[0,8]") "}", 8, SP_ERR_UNSUPPORTED, "dtype \"U16\""},
    {"{" T("a", "f32", "[2]", "[0,8]") "}", 8, SP_ERR_UNSUPPORTED, "dtype \"f32\""},
    {"{" T("a", "", "[2]", "[0,8]") "}", 8, SP_ERR_UNSUPPORTED, "dtype \"\""},
    {"{" T("a", "auto", "[2]", "[0,8]") "}", 8, SP_ERR_UNSUPPORTED, "dtype \"auto\""},

    /* shape */
    {"{\"a\":{\"dtype\":\"F32\",\"data_offsets\":[0,8]}}", 8, SP_ERR_FORMAT, "\"shape\" array, found nothing"},
    {"{" T("a", "F32", "2", "[0,8]") "}", 8, SP_ERR_FORMAT, "\"shape\" array, found 2"},
    {"{" T("a", "F32", "[-2]", "[0,8]") "}", 8, SP_ERR_FORMAT,
     "non-negative integers in \"shape\", found [-2]"},
    {"{" T("a", "F32", "[2.0]", "[0,8]") "}", 8, SP_ERR_FORMAT, "non-negative integers"},
    {"{" T("a", "F32", "[\"2\"]", "[0,8]") "}", 8, SP_ERR_FORMAT, "non-negative integers"},
    {"{" T("a", "F32", "[null]", "[0,8]") "}", 8, SP_ERR_FORMAT, "non-negative integers"},
    {"{" T("a", "F32", "[99999999999999999999]", "[0,8]") "}", 8, SP_ERR_FORMAT, "too big integer"},
    {"{" T("a", "F32", "[1,1,1,1,1,1,1,1,2]", "[0,8]") "}", 8, SP_ERR_UNSUPPORTED, "9 dimensions"},
    {"{" T("a", "F32", "[4294967296,4294967296]", "[0,8]") "}", 8, SP_ERR_FORMAT, "fewer than 2^63"},
    {"{" T("a", "F32", "[9223372036854775807]", "[0,8]") "}", 8, SP_ERR_FORMAT, "fewer than 2^63"},
    {"{" T("a", "F32", "[4611686018427387904]", "[0,8]") "}", 8, SP_ERR_FORMAT, "fewer than 2^63"},
    {"{" T("a", "F32", "[4611686018427387904,4,0]", "[0,0]") "}", 0, SP_ERR_FORMAT, "fewer than 2^63"},
    {"{" T("a", "F32", "[2305843009213693952,8]", "[0,0]") "}", 0, SP_ERR_FORMAT, "fewer than 2^63"},
    {"{" T("a", "F32", "[3]", "[0,8]") "}", 8, SP_ERR_FORMAT, "expected 12 bytes"},
    {"{" T("a", "F32", "[]", "[0,8]") "}", 8, SP_ERR_FORMAT, "expected 4 bytes"},
    {"{" T("a", "F32", "[0]", "[0,8]") "}", 8, SP_ERR_FORMAT, "expected 0 bytes"},
    {"{" T("a", "BF16", "[2]", "[0,8]") "}", 8, SP_ERR_FORMAT, "expected 4 bytes"},

    /* data_offsets */
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", 8, SP_ERR_FORMAT, "\"data_offsets\" of two integers"},
    {"{" T("a", "F32", "[2]", "8") "}", 8, SP_ERR_FORMAT, "of two integers, found 8"},
    {"{" T("a", "F32", "[2]", "[8]") "}", 8, SP_ERR_FORMAT, "of two integers, found [8]"},
    {"{" T("a", "F32", "[2]", "[0,8,8]") "}", 8, SP_ERR_FORMAT, "of two integers, found [0,8,8]"},
    {"{" T("a", "F32", "[2]", "[0.0,8.0]") "}", 8, SP_ERR_FORMAT, "of two integers"},
    {"{" T("a", "F32", "[2]", "[8,0]") "}", 8, SP_ERR_FORMAT, "0 <= begin <= end"},
    {"{" T("a", "F32", "[2]", "[-8,0]") "}", 8, SP_ERR_FORMAT, "0 <= begin <= end"},
    {"{" T("a", "F32", "[2]", "[0,8]") "}", 7, SP_ERR_FORMAT, "a file with 7 bytes of data"},
    {"{" T("a", "F32", "[2]", "[0,8]") "}", 0, SP_ERR_FORMAT, "a file with 0 bytes of data"},
    {"{" T("a", "F32", "[2]", "[9223372036854775799,9223372036854775807]") "}", 8, SP_ERR_FORMAT,
     "up to byte 9223372036854775807"},

    /* layout */
    {"{}", 1, SP_ERR_FORMAT, "expected 0 bytes of data, found 1"},
    {"{" A "}", 9, SP_ERR_FORMAT, "expected 8 bytes of data, found 9"},
    {"{" T("a", "F32", "[1]", "[4,8]") "}", 8, SP_ERR_FORMAT,
     "expected its data at byte 0, found byte 4: a hole"},
    {"{" A "," T("b", "U8", "[1]", "[9,10]") "}", 10, SP_ERR_FORMAT, "at byte 8, found byte 9: a hole"},
    {"{" A "," T("b", "F32", "[2]", "[4,12]") "}", 12, SP_ERR_FORMAT,
     "tensor \"b\": expected its data at byte 8, "
     "found byte 4: it overlaps"},
    {"{" A "," T("b", "F32", "[2]", "[0,8]") "}", 8, SP_ERR_FORMAT, "overlaps"},
    {"{" A "," T("e", "F32", "[0]", "[4,4]") "}", 8, SP_ERR_FORMAT, "overlaps"},
    {"{" T("e", "F32", "[0]", "[8,8]") "}", 8, SP_ERR_FORMAT, "a hole"},

    /* metadata */
    {"{\"__metadata__\":1}", 0, SP_ERR_FORMAT, "\"__metadata__\": expected an object"},
    {"{\"__metadata__\":{\"k\":1}}", 0, SP_ERR_FORMAT, "\"k\": expected a string"},
    {"{\"__metadata__\":{\"k\":null}}", 0, SP_ERR_FORMAT, "\"k\": expected a string"},
    {"{\"__metadata__\":{\"k\":\"\",\"k\":\"\"}}", 0, SP_ERR_FORMAT, "duplicate"},
};

static void test_hostile_headers(void **state) {
    scratch *s = *state;
    for (size_t i = 0; i < sizeof hostile_cases / sizeof *hostile_cases; i++) {
        const hostile_case *c = &hostile_cases[i];
        spi_buf file = {0};
        spi_st_set *set = NULL;
        sp_status status = open_text(s->ctx, c->header, c->data_length, &set, &file);
        const char *message = status == SP_OK ? "" : sp_last_error(s->ctx);
        if (status != c->status || !strstr(message, c->message))
            fail_msg("%s + %zu bytes: expected %s \"%s\", found %s \"%s\"", c->header, c->data_length,
                     sp_status_name(c->status), c->message, sp_status_name(status), message);
        if (status == SP_OK) assert_non_null(set);
        else assert_null(set);
        if (status != SP_OK) assert_non_null(strstr(message, "hostile.safetensors"));
        spi_st_close(set);
        spi_buf_free(&file);
    }
}

static void expect_raw(sp_context *ctx, const void *bytes, size_t length, const char *message) {
    spi_st_set *set = NULL;
    assert_int_equal(spi_st_open_memory(ctx, "raw", bytes, length, &set), SP_ERR_FORMAT);
    assert_null(set);
    if (!strstr(sp_last_error(ctx), message)) fail_msg("\"%s\" lacks \"%s\"", sp_last_error(ctx), message);
}

static void test_hostile_lengths(void **state) {
    scratch *s = *state;
    expect_raw(s->ctx, NULL, 0, "found only 0 bytes");
    expect_raw(s->ctx, "\x02\0\0\0\0\0\0", 7, "found only 7 bytes");
    expect_raw(s->ctx, "\0\0\0\0\0\0\0\0", 8, "begins with '{'");
    expect_raw(s->ctx, "\x02\0\0\0\0\0\0\0{", 9, "expected a header of 2 bytes, found a file of 9 bytes");
    expect_raw(s->ctx, "\xff\xff\xff\xff\xff\xff\xff\xff{}", 10, "at most 100000000 bytes");
    expect_raw(s->ctx, "\x01\xe1\xf5\x05\0\0\0\0{}", 10, "found 100000001");
    expect_raw(s->ctx, "\x00\xe1\xf5\x05\0\0\0\0{}", 10, "expected a header of 100000000 bytes");
    expect_raw(s->ctx, "PK\x03\x04\x14\0\0\0{}", 10, "not a safetensors file");
}

static void test_deep_nesting(void **state) {
    scratch *s = *state;
    spi_buf header = {0}, file = {0};
    spi_buf_puts(&header, "{\"a\":");
    for (int i = 0; i < 1000000; i++) spi_buf_putc(&header, '[');
    spi_st_set *set = NULL;
    assert_int_equal(open_text(s->ctx, header.data, 0, &set, &file), SP_ERR_FORMAT);
    assert_non_null(strstr(sp_last_error(s->ctx), "depth"));
    spi_buf_free(&header);
    spi_buf_free(&file);
}

/* ------------------------------------------------------------------ reading what Python wrote */

static void test_reads_python(void **state) {
    scratch *s = *state;
    spi_st_set *set = NULL;
    assert_int_equal(spi_st_open(s->ctx, GOLDEN "/every_dtype.safetensors", &set), SP_OK);
    assert_int_equal(spi_st_count(set), 11);
    assert_string_equal(spi_st_metadata(set, "format"), "pt");
    assert_null(spi_st_metadata(set, "other"));
    for (size_t i = 1; i < spi_st_count(set); i++)
        assert_true(strcmp(spi_st_at(set, i - 1)->name, spi_st_at(set, i)->name) < 0);

    const spi_st_tensor *t = spi_st_find(set, "i32");
    assert_non_null(t);
    assert_int_equal(t->dtype, SP_I32);
    assert_int_equal(t->ndim, 2);
    assert_int_equal(t->shape[0], 3);
    assert_int_equal(t->shape[1], 2);
    assert_int_equal(t->count, 6);
    assert_int_equal(t->bytes, 24);
    assert_string_equal(t->file, GOLDEN "/every_dtype.safetensors");
    int32_t numbers[6];
    memcpy(numbers, t->data, sizeof numbers);
    for (int i = 0; i < 6; i++) assert_int_equal(numbers[i], i);

    const char *const floats[] = {"f32", "bf16", "f16"};
    for (int k = 0; k < 3; k++) {
        t = spi_st_find(set, floats[k]);
        float values[6];
        spi_to_f32(values, t->data, t->dtype, t->count);
        for (int i = 0; i < 6; i++) assert_true(values[i] == (float)i);
    }
    t = spi_st_find(set, "scalar");
    assert_int_equal(t->ndim, 0);
    assert_int_equal(t->count, 1);
    t = spi_st_find(set, "empty");
    assert_int_equal(t->count, 0);
    assert_int_equal(t->shape[1], 4);
    assert_non_null(spi_st_find(set, "odd \"name\"\\ \n\x01\x1f\x7f \xc3\xa9/"));
    assert_null(spi_st_find(set, "f3"));
    assert_null(spi_st_find(set, ""));
    spi_st_close(set);
}

/* The format allows headers of any length, hence data at any address. */
static void test_unaligned_data(void **state) {
    scratch *s = *state;
    static const float expected[2] = {1.5f, -2.0f};
    const char *header = "{" A "}   ";
    for (size_t pad = 0; pad < 4; pad++) {
        const uint64_t size = strlen(header) - pad;
        spi_buf file = {0};
        spi_buf_append(&file, &size, sizeof size);
        spi_buf_append(&file, header, size);
        spi_buf_append(&file, expected, sizeof expected);
        const char *path = scratch_path(s, "odd.safetensors");
        assert_int_equal(spi_file_write(s->ctx, path, file.data, file.length), SP_OK);
        spi_st_set *set;
        assert_int_equal(spi_st_open(s->ctx, path, &set), SP_OK);
        const spi_st_tensor *t = spi_st_find(set, "a");
        assert_int_equal(t->offset, 8 + size);
        float values[2];
        spi_to_f32(values, t->data, t->dtype, 2);
        assert_memory_equal(values, expected, sizeof expected);
        spi_st_close(set);
        spi_buf_free(&file);
    }
}

static void test_missing_files(void **state) {
    scratch *s = *state;
    spi_st_set *set;
    assert_int_equal(spi_st_open(s->ctx, scratch_path(s, "none"), &set), SP_ERR_IO);
    assert_null(set);
    assert_int_equal(spi_st_open(s->ctx, s->dir, &set), SP_ERR_IO);
    assert_int_equal(spi_st_open_dir(s->ctx, scratch_path(s, "none"), "model.safetensors", &set), SP_ERR_IO);
    assert_non_null(strstr(sp_last_error(s->ctx), "not a directory"));
    assert_int_equal(spi_st_open_dir(s->ctx, s->dir, "shadow_adapter.safetensors", &set), SP_ERR_IO);
    assert_non_null(strstr(sp_last_error(s->ctx), s->dir));
    assert_non_null(strstr(sp_last_error(s->ctx), "neither shadow_adapter.safetensors nor "
                                                  "shadow_adapter.safetensors.index.json"));
    spi_st_close(NULL);
}

/* ------------------------------------------------------------------ indexes */

typedef struct index_case {
    const char *text;
    sp_status status;
    const char *message;
} index_case;

static const index_case index_cases[] = {
    {"{\"weight_map\":{\"a\":\"one.safetensors\"}}", SP_OK, ""},
    {"{\"weight_map\":{}}", SP_OK, ""},
    {"", SP_ERR_FORMAT, "not valid JSON"},
    {"[]", SP_ERR_FORMAT, "expected a JSON object"},
    {"{}", SP_ERR_FORMAT, "\"weight_map\": expected an object"},
    {"{\"weight_map\":[]}", SP_ERR_FORMAT, "\"weight_map\": expected an object"},
    {"{\"weight_map\":{\"a\":1}}", SP_ERR_FORMAT, "\"a\": expected the name of a file"},
    {"{\"weight_map\":{\"a\":\"\"}}", SP_ERR_FORMAT, "expected the name of a file"},
    {"{\"weight_map\":{\"a\":\".\"}}", SP_ERR_FORMAT, "expected the name of a file"},
    {"{\"weight_map\":{\"a\":\"..\"}}", SP_ERR_FORMAT, "found \"..\""},
    {"{\"weight_map\":{\"a\":\"../one.safetensors\"}}", SP_ERR_FORMAT, "found \"../one.safetensors\""},
    {"{\"weight_map\":{\"a\":\"sub/one.safetensors\"}}", SP_ERR_FORMAT, "expected the name of a file"},
    {"{\"weight_map\":{\"a\":\"/one.safetensors\"}}", SP_ERR_FORMAT, "expected the name of a file"},
    {"{\"weight_map\":{\"a\":\"one.safetensors\\u0000\"}}", SP_ERR_FORMAT, "not valid JSON"},
    {"{\"weight_map\":{\"a\":\"one.safetensors\",\"a\":\"one.safetensors\"}}", SP_ERR_FORMAT, "duplicate"},
    {"{\"weight_map\":{\"a\":\"two.safetensors\"}}", SP_ERR_IO, "two.safetensors"},
    {"{\"weight_map\":{\"x\":\"one.safetensors\"}}", SP_ERR_MISMATCH, "tensor \"x\" in one.safetensors"},
    {"{\"weight_map\":{\"a\":\"bad.safetensors\"}}", SP_ERR_FORMAT, "bad.safetensors"},
};

static void test_indexes(void **state) {
    scratch *s = *state;
    const spi_st_item items[] = {{.name = "a", .dtype = SP_U8, .data = "x"},
                                 {.name = "unmapped", .dtype = SP_U8, .data = "y"}};
    assert_int_equal(spi_st_write(s->ctx, scratch_path(s, "one.safetensors"), items, 2), SP_OK);
    assert_int_equal(spi_file_write(s->ctx, scratch_path(s, "bad.safetensors"), "bad", 3), SP_OK);
    for (size_t i = 0; i < sizeof index_cases / sizeof *index_cases; i++) {
        const index_case *c = &index_cases[i];
        const char *path = scratch_path(s, "model.safetensors.index.json");
        assert_int_equal(spi_file_write(s->ctx, path, c->text, strlen(c->text)), SP_OK);
        spi_st_set *set;
        sp_status status = spi_st_open_dir(s->ctx, s->dir, "model.safetensors", &set);
        const char *message = status == SP_OK ? "" : sp_last_error(s->ctx);
        if (status != c->status || !strstr(message, c->message))
            fail_msg("%s: found %s \"%s\"", c->text, sp_status_name(status), message);
        if (status != SP_OK) assert_non_null(strstr(message, "model.safetensors.index.json"));
        else assert_null(spi_st_find(set, "unmapped"));
        spi_st_close(set);
    }
}

static void test_reads_shards(void **state) {
    scratch *s = *state;
    spi_st_set *set;
    assert_int_equal(spi_st_open_dir(s->ctx, GOLDEN "/shards", "model.safetensors", &set), SP_OK);
    static const char *const names[] = {"a", "b", "big", "c", "d", "e"};
    static const int counts[] = {2, 2, 10, 2, 1, 4};
    assert_int_equal(spi_st_count(set), 6);
    assert_string_equal(spi_st_metadata(set, "format"), "pt");
    for (int k = 0; k < 6; k++) {
        const spi_st_tensor *t = spi_st_at(set, (size_t)k);
        assert_string_equal(t->name, names[k]);
        assert_ptr_equal(spi_st_find(set, names[k]), t);
        assert_int_equal(t->count, counts[k]);
        for (int i = 0; i < counts[k]; i++) {
            float value;
            memcpy(&value, (const char *)t->data + 4 * i, sizeof value);
            assert_true(value == (float)counts[k]);
        }
    }
    spi_st_close(set);
}

/* ------------------------------------------------------------------ writing */

static void assert_same_file(sp_context *ctx, const char *path, const char *expected) {
    spi_buf a = {0}, b = {0};
    assert_int_equal(spi_file_read(ctx, path, &a), SP_OK);
    assert_int_equal(spi_file_read(ctx, expected, &b), SP_OK);
    if (a.length != b.length || memcmp(a.data, b.data, a.length) != 0)
        fail_msg("%s differs from %s", path, expected);
    spi_buf_free(&a);
    spi_buf_free(&b);
}

static spi_st_item item_of(const spi_st_tensor *t) {
    spi_st_item item = {.name = t->name, .dtype = t->dtype, .ndim = t->ndim, .data = t->data};
    memcpy(item.shape, t->shape, sizeof item.shape);
    return item;
}

static void test_writes_as_python(void **state) {
    scratch *s = *state;
    spi_st_set *set;
    spi_st_item items[11];
    assert_int_equal(spi_st_open(s->ctx, GOLDEN "/every_dtype.safetensors", &set), SP_OK);
    for (size_t i = 0; i < 11; i++) items[i] = item_of(spi_st_at(set, i));
    const char *path = scratch_path(s, "out.safetensors");
    assert_int_equal(spi_st_write(s->ctx, path, items, 11), SP_OK);
    assert_same_file(s->ctx, path, GOLDEN "/every_dtype.safetensors");
    spi_st_close(set);

    assert_int_equal(spi_st_write(s->ctx, path, NULL, 0), SP_OK);
    spi_buf empty = {0};
    assert_int_equal(spi_file_read(s->ctx, path, &empty), SP_OK);
    assert_int_equal(empty.length, 40);
    assert_memory_equal(empty.data, " \0\0\0\0\0\0\0{\"__metadata__\":{\"format\":\"pt\"}}", 40);
    spi_buf_free(&empty);
}

static void test_writes_shards_as_python(void **state) {
    scratch *s = *state;
    static const char *const order[] = {"c", "big", "a", "b", "e", "d"};
    spi_st_set *set;
    spi_st_item items[6];
    assert_int_equal(spi_st_open_dir(s->ctx, GOLDEN "/shards", "model.safetensors", &set), SP_OK);
    for (int i = 0; i < 6; i++) items[i] = item_of(spi_st_find(set, order[i]));
    char dir[300], left[400], right[400];
    snprintf(dir, sizeof dir, "%s/made/here", s->dir);

    assert_int_equal(spi_st_write_dir(s->ctx, dir, items, 6, 20), SP_OK);
    for (int i = 0; i <= 4; i++) {
        char name[64] = "model.safetensors.index.json";
        if (i > 0) snprintf(name, sizeof name, "model-%05d-of-00004.safetensors", i);
        snprintf(left, sizeof left, "%s/%s", dir, name);
        snprintf(right, sizeof right, "%s/%s", GOLDEN "/shards", name);
        assert_same_file(s->ctx, left, right);
    }
    /* A later save in one file leaves nothing of the shards, and the other way round. */
    snprintf(right, sizeof right, "%s/model.safetensors", dir);
    assert_int_equal(spi_st_write_dir(s->ctx, dir, items, 6, 84), SP_OK);
    assert_true(spi_path_exists(right));
    assert_false(spi_path_exists(left));
    snprintf(left, sizeof left, "%s/model.safetensors.index.json", dir);
    assert_false(spi_path_exists(left));
    assert_int_equal(spi_st_write_dir(s->ctx, dir, items, 6, 83), SP_OK);
    assert_true(spi_path_exists(left));
    assert_false(spi_path_exists(right));
    spi_st_close(set);

    assert_int_equal(spi_st_open_dir(s->ctx, dir, "model.safetensors", &set), SP_OK);
    assert_int_equal(spi_st_count(set), 6);
    spi_st_close(set);
    assert_int_equal(spi_st_write_dir(s->ctx, dir, items, 6, 0), SP_ERR_ARGUMENT);
}

/* Only files named exactly as shards are ever removed. */
static void test_keeps_other_files(void **state) {
    scratch *s = *state;
    static const char *const others[] = {"model-1-of-2.safetensors", "model-00001-of-00002.safetensors.bak",
                                         "xmodel-00001-of-00002.safetensors", "config.json"};
    for (int i = 0; i < 4; i++)
        assert_int_equal(spi_file_write(s->ctx, scratch_path(s, others[i]), "x", 1), SP_OK);
    assert_int_equal(spi_file_write(s->ctx, scratch_path(s, "model-00001-of-00002.safetensors"), "x", 1),
                     SP_OK);
    const spi_st_item item = {.name = "a", .dtype = SP_U8, .data = "x"};
    assert_int_equal(spi_st_write_dir(s->ctx, s->dir, &item, 1, 100), SP_OK);
    for (int i = 0; i < 4; i++) assert_true(spi_path_exists(scratch_path(s, others[i])));
    assert_false(spi_path_exists(scratch_path(s, "model-00001-of-00002.safetensors")));
}

static void test_refuses_bad_items(void **state) {
    scratch *s = *state;
    const char *path = scratch_path(s, "never.safetensors");
    const spi_st_item bad[] = {
        {.name = NULL, .dtype = SP_U8},
        {.name = "__metadata__", .dtype = SP_U8},
        {.name = "a", .dtype = SP_DTYPE_AUTO},
        {.name = "a", .dtype = SP_U8, .ndim = 9},
        {.name = "a", .dtype = SP_U8, .ndim = -1},
        {.name = "a", .dtype = SP_U8, .ndim = 1, .shape = {-1}},
        {.name = "a", .dtype = SP_F32, .ndim = 2, .shape = {INT64_MAX / 2, 3}},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(spi_st_write(s->ctx, path, &bad[i], 1), SP_ERR_ARGUMENT);
    const spi_st_item twice[] = {{.name = "a", .dtype = SP_U8, .data = "x"},
                                 {.name = "a", .dtype = SP_F32, .data = "xxxx"}};
    assert_int_equal(spi_st_write(s->ctx, path, twice, 2), SP_ERR_ARGUMENT);
    assert_non_null(strstr(sp_last_error(s->ctx), "given twice"));
    const spi_st_item huge[] = {{.name = "a", .dtype = SP_U8, .ndim = 1, .shape = {INT64_MAX}},
                                {.name = "b", .dtype = SP_U8, .ndim = 1, .shape = {1}}};
    assert_int_equal(spi_st_write(s->ctx, path, huge, 2), SP_ERR_ARGUMENT);
    assert_false(spi_path_exists(path));
    assert_int_equal(spi_st_write(s->ctx, scratch_path(s, "no/such/dir.safetensors"), twice, 1), SP_ERR_IO);
}

/* ------------------------------------------------------------------ dtypes */

/* sign * mantissa * 2^exponent by its definition. */
static double half_value(unsigned half) {
    const unsigned exponent = (half >> 10) & 31u, mantissa = half & 0x3ffu;
    const double sign = half & 0x8000u ? -1.0 : 1.0;
    if (exponent == 31) return mantissa ? NAN : sign * INFINITY;
    return exponent ? sign * ldexp(1024.0 + mantissa, (int)exponent - 25) : sign * ldexp(mantissa, -24);
}

static void test_every_half(void **state) {
    (void)state;
    static uint16_t halves[65536], back[65536];
    static float values[65536];
    for (unsigned i = 0; i < 65536; i++) halves[i] = (uint16_t)i;
    spi_to_f32(values, halves, SP_F16, 65536);
    spi_from_f32(back, values, SP_F16, 65536);
    for (unsigned i = 0; i < 65536; i++) {
        const double expected = half_value(i);
        if (isnan(expected)) {
            assert_true(isnan(values[i]) && isnan(half_value(back[i])));
            continue;
        }
        assert_true((double)values[i] == expected && !signbit(values[i]) == !signbit(expected));
        assert_int_equal(back[i], i);
    }
    spi_to_f32(values, halves, SP_BF16, 65536);
    spi_from_f32(back, values, SP_BF16, 65536);
    for (unsigned i = 0; i < 65536; i++) {
        if (isnan(values[i])) assert_true((back[i] & 0x7fffu) > 0x7f80u);
        else assert_int_equal(back[i], i);
    }
}

/* Random bits, ties and edges, as PyTorch rounds them. */
static void test_rounds_as_torch(void **state) {
    scratch *s = *state;
    spi_st_set *set;
    assert_int_equal(spi_st_open(s->ctx, GOLDEN "/half.safetensors", &set), SP_OK);
    const spi_st_tensor *values = spi_st_find(set, "values");
    float *from = malloc(values->bytes);
    unsigned char *to = malloc(values->bytes);
    assert_true(from && to);
    spi_to_f32(from, values->data, SP_F32, values->count);
    static const char *const names[] = {"f16", "bf16"};
    for (int k = 0; k < 2; k++) {
        const spi_st_tensor *expected = spi_st_find(set, names[k]);
        assert_int_equal(expected->count, values->count);
        spi_from_f32(to, from, expected->dtype, values->count);
        assert_memory_equal(to, expected->data, expected->bytes);
    }
    free(from);
    free(to);
    spi_st_close(set);
}

/* Any NaN stays one, also where only bits that are cut off tell it from infinity. */
static void test_keeps_nan(void **state) {
    (void)state;
    static const uint32_t bits[] = {0x7f800001u, 0xff800001u, 0x7fc00000u, 0x7fffffffu, 0xffffffffu};
    for (int i = 0; i < 5; i++) {
        float value;
        uint16_t half;
        memcpy(&value, &bits[i], sizeof value);
        spi_from_f32(&half, &value, SP_BF16, 1);
        assert_true((half & 0x7fffu) > 0x7f80u);
        assert_int_equal(half >> 15, bits[i] >> 31);
        spi_from_f32(&half, &value, SP_F16, 1);
        assert_true((half & 0x7fffu) > 0x7c00u);
        assert_int_equal(half >> 15, bits[i] >> 31);
    }
}

static void test_dtype_facts(void **state) {
    (void)state;
    static const size_t sizes[] = {0, 4, 2, 2, 8, 4, 1, 1, 1, 0};
    static const char *const names[] = {"auto", "F32", "BF16", "F16",  "I64",
                                        "I32",  "I8",  "U8",   "BOOL", "unknown"};
    for (int i = 0; i < 10; i++) {
        assert_int_equal(spi_dtype_size((sp_dtype)i), sizes[i]);
        assert_string_equal(sp_dtype_name((sp_dtype)i), names[i]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_hostile_headers, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_hostile_lengths, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_deep_nesting, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_reads_python, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_unaligned_data, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_missing_files, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_indexes, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_reads_shards, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_writes_as_python, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_writes_shards_as_python, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_keeps_other_files, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_refuses_bad_items, scratch_setup, scratch_teardown),
        cmocka_unit_test(test_every_half),
        cmocka_unit_test_setup_teardown(test_rounds_as_torch, scratch_setup, scratch_teardown),
        cmocka_unit_test(test_keeps_nan),
        cmocka_unit_test(test_dtype_facts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
