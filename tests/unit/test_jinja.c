/* Jinja templates against jinja2 set up as Transformers does: tests/fixtures/make_chat.py recorded the texts.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/json.h"
#include "text/jinja.h"

typedef struct fixture {
    sp_context *ctx;
    json_t *data;
} fixture;

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    *state = f;
    setenv("TZ", "UTC", 1);
    tzset();
    if (!f || !(f->ctx = sp_context_new())) return -1;
    return spi_json_load(f->ctx, TEST_DATA "/chat/constructs.json", &f->data) == SP_OK ? 0 : -1;
}

static int teardown(void **state) {
    fixture *f = *state;
    json_decref(f->data);
    sp_context_free(f->ctx);
    free(f);
    return 0;
}

static sp_status render(const fixture *f, const json_t *template, spi_jinja_output *out) {
    spi_jinja_template *t;
    const json_t *variables = json_object_get(f->data, "variables");
    const int64_t now = json_integer_value(json_object_get(f->data, "now"));
    *out = (spi_jinja_output){0};
    SPI_TRY(spi_jinja_parse(f->ctx, "t.jinja", json_string_value(template), json_string_length(template), &t));
    const sp_status status = spi_jinja_render(t, &variables, 1, now, out);
    spi_jinja_free(t);
    return status;
}

static void constructs(void **state) {
    const fixture *f = *state;
    json_t *cases = json_object_get(f->data, "cases"), *one;
    size_t index, wrong = 0;
    assert_true(json_array_size(cases) > 500);
    json_array_foreach(cases, index, one) {
        const json_t *template = json_object_get(one, "template"), *expected = json_object_get(one, "expected");
        spi_jinja_output out;
        const sp_status status = render(f, template, &out);
        const bool same = json_is_null(expected)
                              ? status != SP_OK
                              : status == SP_OK && out.text.length == json_string_length(expected) &&
                                    !memcmp(out.text.data, json_string_value(expected), out.text.length);
        if (!same) {
            wrong++;
            print_error("%s\n  expected: %s\n  found:    %s\n", json_string_value(template),
                        json_is_null(expected) ? "a failure" : json_string_value(expected),
                        status == SP_OK ? out.text.data : sp_last_error(f->ctx));
        }
        if (status != SP_OK) assert_int_equal(strncmp(sp_last_error(f->ctx), "t.jinja: line ", 14), 0);
        spi_jinja_output_free(&out);
    }
    assert_int_equal(wrong, 0);
}

/* What is not there, and what would never end, is refused with words that say so. */
static void refused(void **state) {
    const fixture *f = *state;
    json_t *cases = json_object_get(f->data, "refused"), *one;
    size_t index;
    json_array_foreach(cases, index, one) {
        const char *says = json_string_value(json_object_get(one, "says"));
        spi_jinja_output out;
        assert_int_not_equal(render(f, json_object_get(one, "template"), &out), SP_OK);
        if (!strstr(sp_last_error(f->ctx), says))
            fail_msg("expected '%s' in '%s'", says, sp_last_error(f->ctx));
        spi_jinja_output_free(&out);
    }
}

static void fails(const fixture *f, const char *template, const char *message) {
    spi_jinja_output out;
    json_t *text = json_string(template);
    if (render(f, text, &out) == SP_OK) fail_msg("%s: expected a failure, found '%s'", template, out.text.data);
    assert_string_equal(sp_last_error(f->ctx), message);
    spi_jinja_output_free(&out);
    json_decref(text);
}

static void messages(void **state) {
    const fixture *f = *state;
    fails(f, "\n{{ raise_exception('Roles ' ~ 'must alternate') }}", "t.jinja: line 2: Roles must alternate");
    fails(f, "{{ d.nope.more }}", "t.jinja: line 1: 'dict object' has no attribute 'nope'");
    fails(f, "a\nb\n{{ nope.more }}", "t.jinja: line 3: 'nope' is undefined");
    fails(f, "{{ t + n }}", "t.jinja: line 1: can only concatenate str (not \"int\") to str");
    fails(f, "{% if yes %}\n{{ 1", "t.jinja: line 2: a '{{' is never closed");
    fails(f, "{% if yes %}\nx", "t.jinja: line 2: expected 'endif', found the end of the template");
    fails(f, "{% for x of l %}", "t.jinja: line 1: expected 'in', found 'of'");
    fails(f, "{{ t |\n nope }}", "t.jinja: line 2: no filter is named 'nope'");
    fails(f, "{% do l.append(1) %}", "t.jinja: line 1: the statement 'do' is not supported");
    fails(f, "{{ l.append(1) }}", "t.jinja: line 1: access to attribute 'append' of 'list' object is unsafe.");
    spi_jinja_template *t;
    assert_int_equal(spi_jinja_parse(f->ctx, "t.jinja", "\xff", 1, &t), SP_ERR_FORMAT);
    assert_null(t);
    assert_string_equal(sp_last_error(f->ctx), "t.jinja: the template is not UTF-8");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(constructs),
        cmocka_unit_test(refused),
        cmocka_unit_test(messages),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
