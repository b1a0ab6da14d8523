/* The records reader: JSON lines, JSON arrays, CSV and TSV, and what it says about broken ones. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/file.h"
#include "text/records.h"

static int setup(void **state) {
    *state = sp_context_new();
    return *state ? 0 : -1;
}

static int teardown(void **state) {
    sp_context_free(*state);
    return 0;
}

/* Every record as "LINE|name=text|name=text\n"; a value without text as its kind in brackets. */
static sp_status read_all(sp_context *ctx, sp_data_format format, const char *text, size_t length,
                          spi_buf *out) {
    spi_records *records;
    SPI_TRY(spi_records_from_text(ctx, "f", text, length, format, &records));
    spi_record record;
    bool more = true;
    sp_status status = SP_OK;
    while (status == SP_OK && more) {
        status = spi_records_next(records, &record, &more);
        if (status != SP_OK || !more) break;
        spi_buf_printf(out, "%d", (int)record.line);
        for (size_t i = 0; i < record.count; i++) {
            const spi_field *field = &record.fields[i];
            spi_buf_printf(out, "|%s=", field->name);
            if (field->text) spi_buf_append(out, field->text, field->length);
            else spi_buf_printf(out, "[%s]", field->kind);
            if (field->text) assert_int_equal(field->text[field->length], 0);
            assert_ptr_equal(spi_record_find(&record, field->name), field);
        }
        spi_buf_putc(out, '\n');
    }
    spi_records_close(records);
    return status;
}

static void check(void **state, sp_data_format format, const char *text, const char *expected) {
    spi_buf out = {0};
    assert_int_equal(read_all(*state, format, text, strlen(text), &out), SP_OK);
    assert_string_equal(out.data ? out.data : "", expected);
    spi_buf_free(&out);
}

static void check_fails(void **state, sp_data_format format, const char *text, const char *message) {
    spi_buf out = {0};
    assert_int_equal(read_all(*state, format, text, strlen(text), &out), SP_ERR_DATA);
    assert_string_equal(sp_last_error(*state), message);
    spi_buf_free(&out);
}

static void test_formats_by_extension(void **state) {
    (void)state;
    assert_int_equal(spi_data_format("a/b.jsonl"), SP_DATA_JSONL);
    assert_int_equal(spi_data_format("b.JSON"), SP_DATA_JSONL);
    assert_int_equal(spi_data_format("b.csv"), SP_DATA_CSV);
    assert_int_equal(spi_data_format("b.Tsv"), SP_DATA_TSV);
    assert_int_equal(spi_data_format("b.txt"), SP_DATA_TEXT);
    assert_int_equal(spi_data_format("dir.csv/b"), SP_DATA_TEXT);
    assert_int_equal(spi_data_format("-"), SP_DATA_TEXT);
}

static void test_json_lines(void **state) {
    check(state, SP_DATA_JSONL, "{\"a\": \"x\", \"b\": \"y\"}\n{\"a\":\"z\"}", "1|a=x|b=y\n2|a=z\n");
    check(state, SP_DATA_JSONL, "\xEF\xBB\xBF{\"a\": \"x\"}\r\n\r\n  \n {\"a\": \"\"} \r\n\n", "1|a=x\n4|a=\n");
    check(state, SP_DATA_JSONL, "{}\n{\"a\":\"\\u00e9\\n\xE2\x82\xAC\"}\n{\"\xC3\xA9\":\"x\"} \t\n",
          "1\n2|a=\xC3\xA9\n\xE2\x82\xAC\n3|\xC3\xA9=x\n");
    check(state, SP_DATA_JSONL, "{\"a\":1,\"b\":1.5,\"c\":null,\"d\":[],\"e\":{},\"f\":true}\n",
          "1|a=[an integer]|b=[a real number]|c=[null]|d=[an array]|e=[an object]|f=[a boolean]\n");
}

static void test_json_text_may_hold_nul(void **state) {
    spi_buf out = {0};
    const char text[] = "{\"a\":\"x\\u0000y\"}";
    assert_int_equal(read_all(*state, SP_DATA_JSONL, text, strlen(text), &out), SP_OK);
    assert_int_equal(out.length, 8);
    assert_memory_equal(out.data, "1|a=x\0y\n", 8);
    spi_buf_free(&out);
}

static void test_json_array(void **state) {
    check(state, SP_DATA_JSONL, "[{\"a\":\"x\"}, {\"a\":\"y\"}]", "1|a=x\n1|a=y\n");
    check(state, SP_DATA_JSONL, "\n[\n {\n  \"a\": \"\xE2\x82\xAC\xC3\xA9\"\n },\r\n {\"a\": \"y\"}\n]\n\n",
          "3|a=\xE2\x82\xAC\xC3\xA9\n6|a=y\n");
    check(state, SP_DATA_JSONL, " [ ] ", "");
}

static void test_broken_json(void **state) {
    check_fails(state, SP_DATA_JSONL, "", "f: the file is empty");
    check_fails(state, SP_DATA_JSONL, "\xEF\xBB\xBF \r\n\n", "f: the file is empty");
    check_fails(state, SP_DATA_JSONL, "{}\n\n[1]\n", "f: line 3: expected a JSON object, found an array");
    check_fails(state, SP_DATA_JSONL, "{}\n7\n", "f: line 2: expected a JSON object, found an integer");
    check_fails(state, SP_DATA_JSONL, "{}\n{} {}\n", "f: line 2: text after the JSON object");
    check_fails(state, SP_DATA_JSONL, "[{\"a\":\"x\"}\n,\n7]",
                "f: line 3: expected a JSON object, found an integer");
    check_fails(state, SP_DATA_JSONL, "[{}\n{}]", "f: line 2: expected ',' or ']' after an array's element");
    check_fails(state, SP_DATA_JSONL, "[{}\n", "f: line 2: expected ',' or ']' after an array's element");
    check_fails(state, SP_DATA_JSONL, "[{}]\n{}", "f: line 2: text after the array's end");
}

/* The words after the place are jansson's. */
static void test_broken_json_names_line_and_column(void **state) {
    static const struct {
        const char *text, *place;
    } cases[] = {
        {"{}\n{\"a\": \"x\",}\n", "f: line 2: invalid JSON at column 11: "},
        {"{}\n{\"a\": \n\"x\"}\n", "f: line 2: invalid JSON at column "},
        {"{\"a\": \"\xFF\"}\n", "f: line 1: invalid JSON at column "},
        {"[\n{\n\"a\": b}\n]", "f: line 3: invalid JSON at column 6: "},
        {"[{},\n]", "f: line 2: invalid JSON at column "},
        {"[", "f: line 1: invalid JSON at column "},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spi_buf out = {0};
        assert_int_equal(read_all(*state, SP_DATA_JSONL, cases[i].text, strlen(cases[i].text), &out),
                         SP_ERR_DATA);
        const size_t length = strlen(cases[i].place);
        if (strncmp(sp_last_error(*state), cases[i].place, length) != 0) fail_msg("%s", sp_last_error(*state));
        assert_true(strlen(sp_last_error(*state)) > length);
        spi_buf_free(&out);
    }
}

static void test_csv(void **state) {
    check(state, SP_DATA_CSV, "a,b\n1,2\n3,4", "2|a=1|b=2\n3|a=3|b=4\n");
    check(state, SP_DATA_CSV,
          "\xEF\xBB\xBF"
          "a,b\r\n1,\r\n,4\r\n",
          "2|a=1|b=\n3|a=|b=4\n");
    check(state, SP_DATA_CSV, "a,b\n1,", "2|a=1|b=\n");
    check(state, SP_DATA_CSV, "\na\n\n\r\nx\n\n", "5|a=x\n");
    check(state, SP_DATA_CSV, "a\nx\r", "2|a=x\n");
    check(state, SP_DATA_CSV, "a\nx\ry\n", "2|a=x\ry\n");
    check(state, SP_DATA_CSV, "a,b\n", "");
    check(state, SP_DATA_CSV, ",b\n1,2\n", "2|=1|b=2\n");
}

static void test_csv_quotes(void **state) {
    check(state, SP_DATA_CSV, "\"a\",\"b \"\"c\"\"\"\n\"1,2\",\"\"\"\"\n", "2|a=1,2|b \"c\"=\"\n");
    check(state, SP_DATA_CSV, "a,b\n\"x\r\ny\n\",\"\"\n\"\",z\n", "2|a=x\r\ny\n|b=\n5|a=|b=z\n");
    check(state, SP_DATA_CSV, "a\n\"\"\n\"x\"", "2|a=\n3|a=x\n");
    check(state, SP_DATA_CSV, "a,b\n5\" pipe, \"x\"\n", "2|a=5\" pipe|b= \"x\"\n");
}

static void test_tsv(void **state) {
    check(state, SP_DATA_TSV, "a\tb\n1, 2\t\"x\ty\"\r\n", "2|a=1, 2|b=x\ty\n");
}

static void test_broken_tables(void **state) {
    check_fails(state, SP_DATA_CSV, "\n", "f: the file is empty");
    check_fails(state, SP_DATA_CSV, "a,b,a\n", "f: line 1: two columns are named \"a\"");
    check_fails(state, SP_DATA_CSV, "a,b\n1,2\n\n1\n",
                "f: line 4: expected 2 fields, as the header has, found 1");
    check_fails(state, SP_DATA_TSV, "a\tb\n1\t2\t3\t\n",
                "f: line 2: expected 2 fields, as the header has, found 4");
    check_fails(state, SP_DATA_CSV, "a,b\n1,\"2\n3,4\n", "f: line 2: this quote is never closed");
    check_fails(state, SP_DATA_CSV, "a,b\n\"1\n2\",\"3\"\"", "f: line 3: this quote is never closed");
    check_fails(state, SP_DATA_CSV, "a,b\n1,\"2\"3\n",
                "f: line 2: text after a field's closing quote (a quote inside it is doubled)");
}

static void test_files(void **state) {
    sp_context *ctx = *state;
    char dir[] = "/tmp/test_records.XXXXXX";
    assert_non_null(mkdtemp(dir));
    spi_arena arena = {0};
    const char *path = spi_path_join(&arena, dir, "d.csv");
    spi_records *records;
    spi_record record;
    bool more;

    assert_int_equal(spi_records_open(ctx, path, SP_DATA_CSV, &records), SP_ERR_IO);
    assert_null(records);
    assert_non_null(strstr(sp_last_error(ctx), path));

    assert_int_equal(spi_file_write(ctx, path, "a\nx\n", 4), SP_OK);
    assert_int_equal(spi_records_open(ctx, path, SP_DATA_CSV, &records), SP_OK);
    assert_int_equal(spi_records_next(records, &record, &more), SP_OK);
    assert_true(more);
    assert_string_equal(spi_record_find(&record, "a")->text, "x");
    assert_null(spi_record_find(&record, "b"));
    assert_int_equal(spi_records_next(records, &record, &more), SP_OK);
    assert_false(more);
    spi_records_close(records);
    spi_records_close(NULL);

    assert_int_equal(spi_dir_remove(ctx, dir), SP_OK);
    spi_arena_free(&arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formats_by_extension),
        cmocka_unit_test(test_json_lines),
        cmocka_unit_test(test_json_text_may_hold_nul),
        cmocka_unit_test(test_json_array),
        cmocka_unit_test(test_broken_json),
        cmocka_unit_test(test_broken_json_names_line_and_column),
        cmocka_unit_test(test_csv),
        cmocka_unit_test(test_csv_quotes),
        cmocka_unit_test(test_tsv),
        cmocka_unit_test(test_broken_tables),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
