/* The base module: memory, JSON, files, random numbers. */
#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "base/json.h"
#include "base/rng.h"
#include "scratch.h"

static void assert_message(sp_context *ctx, const char *part) {
    if (!strstr(sp_last_error(ctx), part)) fail_msg("\"%s\" lacks \"%s\"", sp_last_error(ctx), part);
}

/* ------------------------------------------------------------------ memory */

static void test_arena(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 0, 15, 16, 17, 4096, 65536, 65537, 1000000, 3};
    spi_arena a = {0};
    unsigned char *made[10];
    for (int i = 0; i < 10; i++) {
        made[i] = spi_arena_alloc(&a, sizes[i]);
        assert_non_null(made[i]);
        assert_int_equal((uintptr_t)made[i] % 16, 0);
        for (size_t k = 0; k < sizes[i]; k++) assert_int_equal(made[i][k], 0);
        memset(made[i], i + 1, sizes[i]);
    }
    for (int i = 0; i < 10; i++)
        for (size_t k = 0; k < sizes[i]; k++) assert_int_equal(made[i][k], i + 1);
    assert_null(spi_arena_alloc(&a, SIZE_MAX));
    assert_null(spi_arena_alloc(&a, SIZE_MAX / 2 + 1));
    assert_string_equal(spi_arena_strdup(&a, ""), "");
    assert_string_equal(spi_arena_strndup(&a, "abc", 2), "ab");
    assert_string_equal(spi_arena_printf(&a, "%s-%05d", "x", 42), "x-00042");
    spi_arena_free(&a);
    assert_null(a.last);
    spi_arena_free(&a);
}

static void test_buf(void **state) {
    (void)state;
    spi_buf b = {0};
    for (int i = 0; i < 1000; i++) spi_buf_printf(&b, "%d,", i % 10);
    assert_int_equal(b.length, 2000);
    assert_int_equal(b.data[2000], 0);
    assert_int_equal(strlen(b.data), 2000);
    spi_buf_append(&b, "\0z", 2);
    spi_buf_putc(&b, '!');
    assert_memory_equal(b.data + 1998, "9,\0z!", 6);
    char *text = spi_buf_take(&b);
    assert_memory_equal(text, "0,1,2,", 6);
    assert_null(b.data);
    free(text);

    text = spi_buf_take(&b);
    assert_string_equal(text, "");
    free(text);

    spi_buf_puts(&b, "kept");
    spi_buf_append(&b, "x", SIZE_MAX - 2);
    assert_true(b.failed);
    spi_buf_puts(&b, "ignored");
    assert_int_equal(b.length, 4);
    assert_null(spi_buf_take(&b));
    assert_false(b.failed);
    spi_buf_free(&b);
}

static void test_grow(void **state) {
    (void)state;
    int *items = NULL;
    size_t capacity = 0;
    for (size_t i = 0; i < 1000; i++) {
        assert_true(spi_grow((void **)&items, &capacity, i, sizeof *items));
        items[i] = (int)i;
    }
    for (int i = 0; i < 1000; i++) assert_int_equal(items[i], i);
    capacity = SIZE_MAX / 4;
    assert_false(spi_grow((void **)&items, &capacity, capacity, sizeof *items));
    free(items);
}

/* ------------------------------------------------------------------ context */

static void keep_log(void *user, sp_log_level level, const char *message) {
    snprintf(user, 64, "%d %s", (int)level, message);
}

static void test_context(void **state) {
    (void)state;
    sp_context *ctx = sp_context_new();
    assert_string_equal(sp_last_error(ctx), "");
    assert_int_equal(spi_fail(ctx, SP_ERR_DATA, "line %d", 3), SP_ERR_DATA);
    assert_int_equal(spi_fail_prefix(ctx, SP_ERR_DATA, "%s", "file"), SP_ERR_DATA);
    assert_string_equal(sp_last_error(ctx), "file: line 3");
    spi_fail(ctx, SP_ERR_IO, "again: %s", sp_last_error(ctx));
    assert_string_equal(sp_last_error(ctx), "again: file: line 3");
    for (int i = 0; i < 5000; i++) spi_fail_prefix(ctx, SP_ERR_IO, "abcdef");
    assert_true(strlen(sp_last_error(ctx)) > 1000);

    char heard[64] = "";
    spi_log(ctx, SP_LOG_WARNING, "nobody hears");
    sp_context_set_log(ctx, keep_log, heard, SP_LOG_INFO);
    spi_log(ctx, SP_LOG_DEBUG, "too low");
    assert_string_equal(heard, "");
    spi_log(ctx, SP_LOG_INFO, "step %d", 7);
    assert_string_equal(heard, "1 step 7");

    assert_true(spi_threads(ctx) >= 1);
    sp_context_set_threads(ctx, 3);
    assert_int_equal(spi_threads(ctx), 3);
    sp_context_set_threads(ctx, -1);
    assert_true(spi_threads(ctx) >= 1);
    sp_context_free(ctx);
    sp_context_free(NULL);

    assert_string_equal(sp_status_name(SP_OK), "ok");
    assert_string_equal(sp_status_name(SP_ERR_INTERNAL), "internal");
    assert_string_equal(sp_status_name((sp_status)99), "unknown");
    assert_string_equal(sp_version(), "0.1.0");
}

/* ------------------------------------------------------------------ JSON */

static void test_json_values(void **state) {
    scratch *s = *state;
    static const char text[] =
        "{\"i\": -7, \"r\": 1e-5, \"b\": true, \"s\": \"\\u00e9\", \"n\": null, \"o\": {}}";
    json_t *o;
    assert_int_equal(spi_json_parse(s->ctx, "f.json", text, strlen(text), &o), SP_OK);
    int64_t i;
    double r;
    bool b;
    const char *t;
    assert_int_equal(spi_json_int(s->ctx, "f.json", o, "i", 1, &i), SP_OK);
    assert_int_equal(i, -7);
    assert_int_equal(spi_json_int(s->ctx, "f.json", o, "missing", 5, &i), SP_OK);
    assert_int_equal(i, 5);
    assert_int_equal(spi_json_int(s->ctx, "f.json", o, "n", 6, &i), SP_OK);
    assert_int_equal(i, 6);
    assert_int_equal(spi_json_real(s->ctx, "f.json", o, "r", 0, &r), SP_OK);
    assert_true(r == 1e-5);
    assert_int_equal(spi_json_real(s->ctx, "f.json", o, "i", 0, &r), SP_OK);
    assert_true(r == -7.0);
    assert_int_equal(spi_json_bool(s->ctx, "f.json", o, "b", false, &b), SP_OK);
    assert_true(b);
    assert_int_equal(spi_json_string(s->ctx, "f.json", o, "s", NULL, &t), SP_OK);
    assert_string_equal(t, "\xc3\xa9");
    assert_int_equal(spi_json_string(s->ctx, "f.json", o, "n", "none", &t), SP_OK);
    assert_string_equal(t, "none");

    assert_int_equal(spi_json_int(s->ctx, "f.json", o, "r", 0, &i), SP_ERR_FORMAT);
    assert_string_equal(sp_last_error(s->ctx), "f.json: \"r\": expected an integer, found a real number");
    assert_int_equal(spi_json_real(s->ctx, "f.json", o, "s", 0, &r), SP_ERR_FORMAT);
    assert_string_equal(sp_last_error(s->ctx), "f.json: \"s\": expected a number, found a string");
    assert_int_equal(spi_json_bool(s->ctx, "f.json", o, "i", false, &b), SP_ERR_FORMAT);
    assert_string_equal(sp_last_error(s->ctx), "f.json: \"i\": expected true or false, found an integer");
    assert_int_equal(spi_json_string(s->ctx, "f.json", o, "o", NULL, &t), SP_ERR_FORMAT);
    assert_string_equal(sp_last_error(s->ctx), "f.json: \"o\": expected a string, found an object");
    json_decref(o);
}

static void test_json_files(void **state) {
    scratch *s = *state;
    const char *path = scratch_path(s, "a.json");
    json_t *o;
    assert_int_equal(spi_json_load(s->ctx, path, &o), SP_ERR_IO);
    assert_null(o);
    assert_message(s->ctx, "a.json: cannot open");
    assert_int_equal(spi_json_load(s->ctx, s->dir, &o), SP_ERR_IO);
    static const char *const bad[] = {"", "{", "[1]", "{\"a\": 1} x", "\xff", "nul"};
    for (int i = 0; i < 6; i++) {
        assert_int_equal(spi_file_write(s->ctx, path, bad[i], strlen(bad[i])), SP_OK);
        assert_int_equal(spi_json_load(s->ctx, path, &o), SP_ERR_FORMAT);
        assert_null(o);
        assert_message(s->ctx, "a.json");
    }
    assert_int_equal(spi_json_parse(s->ctx, "two lines", "{\n \"a\" 1}", 9, &o), SP_ERR_FORMAT);
    assert_message(s->ctx, "two lines: invalid JSON at line 2");

    /* The text that Python's json.dumps(..., indent=2, sort_keys=True) + "\n" gives. */
    o = json_pack("{s:[i,i], s:b, s:f, s:{s:n}}", "b", 1, 2, "a", 1, "z", 0.5, "m", "k");
    assert_int_equal(spi_json_save(s->ctx, path, o), SP_OK);
    json_decref(o);
    spi_buf text = {0};
    assert_int_equal(spi_file_read(s->ctx, path, &text), SP_OK);
    assert_string_equal(
        text.data, "{\n  \"a\": true,\n  \"b\": [\n    1,\n    2\n  ],\n  \"m\": {\n    \"k\": null\n  },\n"
                   "  \"z\": 0.5\n}\n");
    spi_buf_free(&text);
    assert_int_equal(spi_json_load(s->ctx, path, &o), SP_OK);
    json_decref(o);
}

/* ------------------------------------------------------------------ files */

/* How many files the directory holds, so that leftovers of a failed write are seen. */
static int entries(const scratch *s) {
    DIR *dir = opendir(s->dir);
    assert_non_null(dir);
    int count = -2; /* "." and ".." */
    while (readdir(dir)) count++;
    closedir(dir);
    return count;
}

static void test_maps(void **state) {
    scratch *s = *state;
    const char *path = scratch_path(s, "file");
    spi_map map;
    assert_int_equal(spi_file_write(s->ctx, path, "hello", 5), SP_OK);
    assert_int_equal(spi_map_open(s->ctx, path, &map), SP_OK);
    assert_int_equal(map.length, 5);
    assert_memory_equal(map.data, "hello", 5);
    spi_map_close(&map);
    assert_int_equal(spi_file_write(s->ctx, path, "", 0), SP_OK);
    assert_int_equal(spi_map_open(s->ctx, path, &map), SP_OK);
    assert_null(map.data);
    assert_int_equal(map.length, 0);
    spi_map_close(&map);
    assert_int_equal(spi_map_open(s->ctx, s->dir, &map), SP_ERR_IO);
    assert_message(s->ctx, "Is a directory");
    assert_int_equal(spi_map_open(s->ctx, "/dev/null", &map), SP_ERR_IO);
    assert_message(s->ctx, "/dev/null: not a regular file");
    const char *pipe = scratch_path(s, "pipe");
    assert_int_equal(mkfifo(pipe, 0600), 0);
    assert_int_equal(spi_map_open(s->ctx, pipe, &map), SP_ERR_IO);
    assert_int_equal(spi_map_open(s->ctx, scratch_path(s, "none"), &map), SP_ERR_IO);
    assert_message(s->ctx, "No such file");
}

static void test_writer_is_atomic(void **state) {
    scratch *s = *state;
    const char *path = scratch_path(s, "file");
    assert_int_equal(spi_file_write(s->ctx, path, "old", 3), SP_OK);
    spi_writer w;
    assert_int_equal(spi_writer_open(s->ctx, path, &w), SP_OK);
    assert_int_equal(spi_writer_write(s->ctx, &w, "new content", 11), SP_OK);
    spi_buf text = {0};
    assert_int_equal(spi_file_read(s->ctx, path, &text), SP_OK);
    assert_string_equal(text.data, "old");
    spi_buf_free(&text);
    spi_writer_abort(&w);
    assert_int_equal(entries(s), 1);

    assert_int_equal(spi_file_write(s->ctx, path, "new", 3), SP_OK);
    assert_int_equal(spi_file_read(s->ctx, path, &text), SP_OK);
    assert_string_equal(text.data, "new");
    spi_buf_free(&text);
    assert_int_equal(entries(s), 1);
}

static void test_writer_failures(void **state) {
    scratch *s = *state;
    const char *file = scratch_path(s, "file");
    assert_int_equal(spi_file_write(s->ctx, file, "x", 1), SP_OK);
    assert_int_equal(spi_file_write(s->ctx, scratch_path(s, "none/file"), "x", 1), SP_ERR_IO);
    assert_message(s->ctx, "none/file: cannot write: No such file or directory");
    assert_int_equal(spi_file_write(s->ctx, scratch_path(s, "file/file"), "x", 1), SP_ERR_IO);
    assert_message(s->ctx, "Not a directory");
    /* The name is taken by a directory: known only when the file is renamed. */
    assert_int_equal(spi_make_dirs(s->ctx, scratch_path(s, "dir")), SP_OK);
    assert_int_equal(spi_file_write(s->ctx, scratch_path(s, "dir"), "x", 1), SP_ERR_IO);
    assert_message(s->ctx, "cannot rename to");
    assert_int_equal(entries(s), 2);
}

/* A disk that is full shows itself while writing, or only when the buffer is flushed at the end. */
static void test_full_disk(void **state) {
    scratch *s = *state;
    static const char block[1 << 16];
    const size_t lengths[] = {sizeof block, 10};
    for (int i = 0; i < 2; i++) {
        spi_writer w;
        assert_int_equal(spi_writer_open(s->ctx, scratch_path(s, "big"), &w), SP_OK);
        assert_non_null(freopen("/dev/full", "wb", w.file));
        sp_status status = spi_writer_write(s->ctx, &w, block, lengths[i]);
        if (i == 0) {
            assert_int_equal(status, SP_ERR_IO);
            spi_writer_abort(&w);
        } else {
            assert_int_equal(status, SP_OK);
            assert_int_equal(spi_writer_commit(s->ctx, &w), SP_ERR_IO);
        }
        assert_message(s->ctx, "big: cannot write: No space left on device");
        assert_int_equal(entries(s), 0);
    }
}

static void test_directories(void **state) {
    scratch *s = *state;
    assert_int_equal(spi_make_dirs(s->ctx, scratch_path(s, "a/b//c/")), SP_OK);
    assert_true(spi_path_is_dir(scratch_path(s, "a/b/c")));
    assert_int_equal(spi_make_dirs(s->ctx, scratch_path(s, "a/b/c")), SP_OK);
    assert_int_equal(spi_make_dirs(s->ctx, "."), SP_OK);
    assert_int_equal(spi_make_dirs(s->ctx, "/"), SP_OK);
    assert_int_equal(spi_make_dirs(s->ctx, ""), SP_ERR_IO);
    assert_int_equal(spi_file_write(s->ctx, scratch_path(s, "a/file"), "x", 1), SP_OK);
    assert_int_equal(spi_make_dirs(s->ctx, scratch_path(s, "a/file")), SP_ERR_IO);
    assert_int_equal(spi_make_dirs(s->ctx, scratch_path(s, "a/file/b")), SP_ERR_IO);

    assert_int_equal(spi_make_dirs(s->ctx, scratch_path(s, "new/sub")), SP_OK);
    assert_int_equal(spi_dir_publish(s->ctx, scratch_path(s, "new"), scratch_path(s, "a")), SP_OK);
    assert_true(spi_path_is_dir(scratch_path(s, "a/sub")));
    assert_false(spi_path_exists(scratch_path(s, "a/b")));
    assert_false(spi_path_exists(scratch_path(s, "new")));
    assert_int_equal(spi_dir_remove(s->ctx, scratch_path(s, "a")), SP_OK);
    assert_int_equal(spi_dir_remove(s->ctx, scratch_path(s, "a")), SP_OK);
    assert_int_equal(entries(s), 0);

    spi_arena a = {0};
    assert_string_equal(spi_path_join(&a, "x", "y"), "x/y");
    assert_string_equal(spi_path_join(&a, "x/", "y"), "x/y");
    assert_string_equal(spi_path_join(&a, "", "y"), "y");
    spi_arena_free(&a);
}

static void test_copy(void **state) {
    scratch *s = *state;
    const char *from = scratch_path(s, "from"), *to = scratch_path(s, "to");
    assert_int_equal(spi_file_copy(s->ctx, from, to, true), SP_OK);
    assert_false(spi_path_exists(to));
    assert_int_equal(spi_file_copy(s->ctx, from, to, false), SP_ERR_IO);
    assert_int_equal(spi_file_write(s->ctx, from, "a\0b", 3), SP_OK);
    assert_int_equal(spi_file_copy(s->ctx, from, to, true), SP_OK);
    spi_buf text = {0};
    assert_int_equal(spi_file_read(s->ctx, to, &text), SP_OK);
    assert_int_equal(text.length, 3);
    assert_memory_equal(text.data, "a\0b", 4);
    spi_buf_free(&text);
}

/* ------------------------------------------------------------------ random numbers */

/* The known answers that Random123 publishes for philox4x32-10: counter, key, result. */
static void test_philox(void **state) {
    (void)state;
    static const uint32_t cases[3][10] = {
        {0, 0, 0, 0, 0, 0, 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8},
        {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff, 0x408f276d, 0x41c83b0e,
         0xa20bc7c6, 0x6d5451fd},
        {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0, 0xd16cfe09, 0x94fdcceb,
         0x5001e420, 0x24126ea1},
    };
    for (int i = 0; i < 3; i++) {
        const uint32_t *c = cases[i];
        uint32_t out[4];
        spi_philox((uint64_t)c[5] << 32 | c[4], (uint64_t)c[3] << 32 | c[2], (uint64_t)c[1] << 32 | c[0], out);
        assert_memory_equal(out, c + 6, sizeof out);
    }
}

enum { DRAWS = 1 << 20 };

/* Mean, variance and fourth central moment. */
static void moments(const float *x, double out[3]) {
    double mean = 0, second = 0, fourth = 0;
    for (int i = 0; i < DRAWS; i++) mean += x[i];
    mean /= DRAWS;
    for (int i = 0; i < DRAWS; i++) {
        const double d = (x[i] - mean) * (x[i] - mean);
        second += d;
        fourth += d * d;
    }
    out[0] = mean;
    out[1] = second / DRAWS;
    out[2] = fourth / DRAWS;
}

/* Each bound is five standard errors of the moment over 2^20 draws. */
static void test_moments(void **state) {
    (void)state;
    static float x[DRAWS + 1];
    double m[3];
    x[DRAWS] = 7.0f;
    spi_fill_uniform(x, DRAWS, -1.0f, 1.0f, 1, 2);
    moments(x, m);
    assert_true(fabs(m[0]) < 5 * 0.57735 / 1024);
    assert_true(fabs(m[1] - 1.0 / 3) < 5 * 0.29814 / 1024);
    assert_true(fabs(m[2] - 1.0 / 5) < 5 * 0.26667 / 1024);
    for (int i = 0; i < DRAWS; i++) assert_true(x[i] >= -1.0f && x[i] <= 1.0f);

    spi_fill_normal(x, DRAWS, 2.0f, 1, 3, 2);
    moments(x, m);
    assert_true(fabs(m[0]) < 5 * 2.0 / 1024);
    assert_true(fabs(m[1] - 4.0) < 5 * 4.0 * 1.41421 / 1024);
    assert_true(fabs(m[2] - 48.0) < 5 * 16.0 * 9.79796 / 1024);
    assert_true(x[DRAWS] == 7.0f);
}

/* A value depends on seed, stream and index only, not on how many are drawn. */
static void test_counter_based(void **state) {
    (void)state;
    float few[7] = {0}, many[100], other[100];
    spi_fill_normal(few, 6, 1.0f, 9, 4, 1);
    spi_fill_normal(many, 100, 1.0f, 9, 4, 1);
    assert_memory_equal(few, many, 6 * sizeof *few);
    assert_true(few[6] == 0.0f);
    spi_fill_normal(few, 7, 1.0f, 9, 4, 1);
    assert_memory_equal(few, many, 7 * sizeof *few);
    static float alone[DRAWS - 1], together[DRAWS - 1];
    spi_fill_normal(alone, DRAWS - 1, 1.0f, 9, 4, 1);
    spi_fill_normal(together, DRAWS - 1, 1.0f, 9, 4, 3);
    assert_memory_equal(alone, together, sizeof alone);
    spi_fill_uniform(many, 100, 0.0f, 1.0f, 9, 4);
    for (uint64_t i = 0; i < 100; i++) assert_true(many[i] == spi_uniform(9, 4, i));
    spi_fill_uniform(other, 100, 0.0f, 1.0f, 9, 5);
    assert_memory_not_equal(many, other, sizeof other);
    spi_fill_uniform(other, 100, 0.0f, 1.0f, 10, 4);
    assert_memory_not_equal(many, other, sizeof other);
}

static void test_permutation(void **state) {
    (void)state;
    enum { N = 5000 };
    static int64_t p[N];
    static bool seen[N];
    spi_permutation(p, N, 42, 0);
    double travelled = 0;
    for (int i = 0; i < N; i++) {
        assert_true(p[i] >= 0 && p[i] < N && !seen[p[i]]);
        seen[p[i]] = true;
        travelled += fabs((double)(p[i] - i));
    }
    assert_true(fabs(travelled / N - N / 3.0) < 0.05 * N); /* the mean of |x - y| for uniform x, y */

    /* Each of the six orders of three comes up equally often: chi-squared with 5 degrees, p = 1e-6. */
    int count[27] = {0};
    for (uint64_t seed = 0; seed < 6000; seed++) {
        spi_permutation(p, 3, seed, 1);
        count[p[0] * 9 + p[1] * 3 + p[2]]++;
    }
    double chi = 0;
    for (int i = 0; i < 27; i++)
        if (count[i]) chi += (count[i] - 1000.0) * (count[i] - 1000.0) / 1000.0;
    assert_true(chi < 35.9);
    spi_permutation(p, 0, 1, 1);
    spi_permutation(p, 1, 1, 1);
    assert_int_equal(p[0], 0);
}

/* The published test vectors of 64-bit FNV-1a. */
static void test_hash_name(void **state) {
    (void)state;
    assert_true(spi_hash_name("") == 0xcbf29ce484222325u);
    assert_true(spi_hash_name("a") == 0xaf63dc4c8601ec8cu);
    assert_true(spi_hash_name("foobar") == 0x85944171f73967e8u);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_buf),
        cmocka_unit_test(test_grow),
        cmocka_unit_test(test_context),
        cmocka_unit_test_setup_teardown(test_json_values, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_json_files, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_maps, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_writer_is_atomic, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_writer_failures, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_full_disk, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_directories, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_copy, scratch_setup, scratch_teardown),
        cmocka_unit_test(test_philox),
        cmocka_unit_test(test_moments),
        cmocka_unit_test(test_counter_based),
        cmocka_unit_test(test_permutation),
        cmocka_unit_test(test_hash_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
