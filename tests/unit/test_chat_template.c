/*
 * Whole chat templates and where they come from. The texts are those of transformers' render_jinja_template,
 * recorded by tests/fixtures/make_chat.py.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "../scratch.h"
#include "text/chat_template.h"

#define NOW 1753437845 /* what the recorded texts take the time to be */

static json_t *load_data(sp_context *ctx) {
    json_t *data;
    assert_int_equal(spi_json_load(ctx, TEST_DATA "/chat/conversations.json", &data), SP_OK);
    setenv("TZ", "UTC", 1);
    tzset();
    return data;
}

static void write_file(scratch *s, const char *name, const char *text) {
    assert_int_equal(spi_file_write(s->ctx, scratch_path(s, name), text, strlen(text)), SP_OK);
}

/* The template of that name of the recorded ones, from a file. */
static sp_chat_template *load_template(scratch *s, const json_t *data, const char *name) {
    sp_chat_template *chat;
    write_file(s, "t.jinja", json_string_value(json_object_get(json_object_get(data, "templates"), name)));
    if (sp_chat_template_load(s->ctx, NULL, scratch_path(s, "t.jinja"), &chat) != SP_OK)
        fail_msg("%s", sp_last_error(s->ctx));
    return chat;
}

static json_t *variables_of(const json_t *conversation) {
    json_t *all = json_pack("{s:s,s:s}", "bos_token", "<s>", "eos_token", "</s>");
    json_object_update(all, json_object_get(conversation, "variables"));
    return all;
}

static void check(scratch *s, const json_t *data, const json_t *one) {
    const json_t *conversation =
        json_array_get(json_object_get(data, "conversations"),
                       (size_t)json_integer_value(json_object_get(one, "conversation")));
    const char *name = json_string_value(json_object_get(one, "template"));
    const json_t *expected = json_object_get(one, "expected");
    sp_chat_template *chat = load_template(s, data, name);
    json_t *variables = variables_of(conversation);
    const spi_chat what = {
        .messages = json_object_get(conversation, "messages"),
        .tools = json_is_true(json_object_get(conversation, "tools")) ? json_object_get(data, "tools") : NULL,
        .variables = variables,
        .add_generation_prompt = json_is_true(json_object_get(one, "prompt")),
        .now = NOW};
    spi_jinja_output out = {0};
    const sp_status status = spi_chat_render(chat, &what, &out);
    if (json_is_null(expected)) {
        assert_int_not_equal(status, SP_OK);
        const char *words = json_string_value(json_object_get(one, "error"));
        if (!strstr(sp_last_error(s->ctx), words))
            fail_msg("expected '%s' in '%s'", words, sp_last_error(s->ctx));
    } else {
        if (status != SP_OK) fail_msg("%s: %s", name, sp_last_error(s->ctx));
        assert_string_equal(out.text.data, json_string_value(expected));
    }
    spi_jinja_output_free(&out);
    json_decref(variables);
    sp_chat_template_free(chat);
}

static void conversations(void **state) {
    scratch *s = *state;
    json_t *data = load_data(s->ctx), *one;
    size_t index;
    assert_true(json_array_size(json_object_get(data, "cases")) > 300);
    json_array_foreach(json_object_get(data, "cases"), index, one) check(s, data, one);
    json_decref(data);
}

static void continued(void **state) {
    scratch *s = *state;
    json_t *data = load_data(s->ctx), *one;
    size_t index;
    sp_chat_options o;
    sp_chat_options_default(&o);
    o.continue_final_message = true;
    o.variables = "{\"bos_token\": \"<s>\", \"eos_token\": \"</s>\", \"date_string\": \"25 Jul 2025\"}";
    json_array_foreach(json_object_get(data, "continued"), index, one) {
        char *messages = json_dumps(json_object_get(one, "messages"), 0), *text;
        size_t length;
        sp_chat_template *chat = load_template(s, data, json_string_value(json_object_get(one, "template")));
        const json_t *expected = json_object_get(one, "expected");
        const sp_status status = sp_chat_render(chat, messages, &o, &text, &length);
        assert_int_equal(status == SP_OK, json_is_string(expected));
        if (status == SP_OK) assert_string_equal(text, json_string_value(expected));
        sp_string_free(text);
        sp_chat_template_free(chat);
        free(messages);
    }
    json_decref(data);
}

static void generation_spans(void **state) {
    scratch *s = *state;
    json_t *data = load_data(s->ctx), *one;
    size_t index;
    sp_chat_template *chat = load_template(s, data, "generation");
    assert_true(json_array_size(json_object_get(data, "spans")) > 5);
    json_array_foreach(json_object_get(data, "spans"), index, one) {
        const json_t *spans = json_object_get(one, "spans");
        const spi_chat what = {.messages = json_object_get(one, "messages")};
        spi_jinja_output out = {0};
        assert_int_equal(spi_chat_render(chat, &what, &out), SP_OK);
        assert_int_equal(out.span_count, json_array_size(spans));
        for (size_t i = 0; i < out.span_count; i++) {
            assert_int_equal(out.spans[i].start,
                             json_integer_value(json_array_get(json_array_get(spans, i), 0)));
            assert_int_equal(out.spans[i].end, json_integer_value(json_array_get(json_array_get(spans, i), 1)));
        }
        spi_jinja_output_free(&out);
    }
    sp_chat_template_free(chat);
    json_decref(data);
}

/* ------------------------------------------------------------------ where templates come from */

static void renders(scratch *s, const char *file, const sp_chat_options *o, const char *expected) {
    sp_chat_template *chat;
    char *text;
    size_t length;
    if (sp_chat_template_load(s->ctx, s->dir, file, &chat) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
    if (sp_chat_render(chat, "[{\"role\": \"user\", \"content\": \"x\"}]", o, &text, &length) != SP_OK)
        fail_msg("%s", sp_last_error(s->ctx));
    assert_string_equal(text, expected);
    assert_int_equal(length, strlen(expected));
    sp_string_free(text);
    sp_chat_template_free(chat);
}

static void places(void **state) {
    scratch *s = *state;
    sp_chat_template *chat;
    sp_chat_options o;
    sp_chat_options_default(&o);
    assert_int_equal(sp_chat_template_load(s->ctx, s->dir, NULL, &chat), SP_ERR_FORMAT);
    assert_null(chat);
    write_file(
        s, "tokenizer_config.json",
        "{\"chat_template\": \"config {{ bos_token }} {{ eos_token }} {{ image_token }} {{ pad_token }}\", "
        "\"bos_token\": \"<s>\", \"eos_token\": {\"content\": \"</s>\", \"lstrip\": false}, "
        "\"extra_special_tokens\": {\"image_token\": \"<img>\"}}");
    renders(s, NULL, NULL, "config <s> </s> <img> ");
    write_file(s, "special_tokens_map.json", "{\"pad_token\": \"<pad>\"}");
    renders(s, NULL, NULL, "config <s> </s> <img> <pad>");
    o.variables = "{\"bos_token\": \"other\"}";
    renders(s, NULL, &o, "config other </s> <img> <pad>");
    write_file(s, "chat_template.jinja", "file {{ bos_token }}");
    renders(s, NULL, NULL, "file <s>");
    write_file(s, "mine.txt", "mine {{ bos_token }}");
    renders(s, scratch_path(s, "mine.txt"), NULL, "mine <s>");
    assert_int_equal(spi_make_dirs(s->ctx, scratch_path(s, "additional_chat_templates")), SP_OK);
    write_file(s, "additional_chat_templates/tool_use.jinja", "tools {{ tools | length }}");
    renders(s, NULL, NULL, "file <s>");
    sp_chat_options_default(&o);
    o.tools = "[{}, {}]";
    renders(s, NULL, &o, "tools 2");
    o.name = "default";
    renders(s, NULL, &o, "file <s>");
}

static void several(void **state) {
    scratch *s = *state;
    sp_chat_template *chat;
    sp_chat_options o;
    char *text;
    size_t length;
    write_file(
        s, "tokenizer_config.json",
        "{\"chat_template\": [{\"name\": \"default\", \"template\": \"a\"}, {\"name\": \"rag\", \"template\": "
        "\"{{ x | nope }}\"}]}");
    renders(s, NULL, NULL, "a");
    sp_chat_options_default(&o);
    assert_int_equal(sp_chat_template_load(s->ctx, s->dir, NULL, &chat), SP_OK);
    o.name = "rag"; /* read when it is asked for */
    assert_int_equal(sp_chat_render(chat, "[]", &o, &text, &length), SP_ERR_UNSUPPORTED);
    assert_non_null(strstr(sp_last_error(s->ctx), "tokenizer_config.json: line 1: no filter is named 'nope'"));
    o.name = "none";
    assert_int_equal(sp_chat_render(chat, "[]", &o, &text, &length), SP_ERR_ARGUMENT);
    assert_non_null(strstr(sp_last_error(s->ctx), "found default, rag"));
    assert_null(text);
    sp_chat_template_free(chat);
}

static void bad_arguments(void **state) {
    scratch *s = *state;
    static const char *const rows[][3] = {
        {"{}", NULL, "messages: expected an array, found an object"},
        {"[1]", NULL, "messages[0]: expected an object, found an integer"},
        {"[", NULL, "messages: invalid JSON"},
        {"[]", "[]", "template variables: expected an object, found an array"}};
    sp_chat_template *chat;
    char *text;
    size_t length;
    sp_chat_options o;
    write_file(s, "t.jinja", "x");
    assert_int_equal(sp_chat_template_load(s->ctx, NULL, scratch_path(s, "t.jinja"), &chat), SP_OK);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        sp_chat_options_default(&o);
        o.variables = rows[i][1];
        assert_int_equal(sp_chat_render(chat, rows[i][0], &o, &text, &length), SP_ERR_ARGUMENT);
        assert_int_equal(strncmp(sp_last_error(s->ctx), rows[i][2], strlen(rows[i][2])), 0);
    }
    sp_chat_options_default(&o);
    o.continue_final_message = true;
    assert_int_equal(sp_chat_render(chat, "[{\"role\": \"user\", \"content\": \"x\"}]", &o, &text, &length),
                     SP_ERR_DATA);
    assert_int_equal(sp_chat_render(chat, "[]", &o, &text, &length), SP_ERR_ARGUMENT);
    sp_chat_template_free(chat);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(conversations, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(continued, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(generation_spans, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(places, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(several, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(bad_arguments, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
