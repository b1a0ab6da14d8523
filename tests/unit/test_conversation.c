/*
 * Which tokens of conversations are learnt. The texts that must come out are written here; that templates
 * render as Transformers renders them is tested elsewhere.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../scratch.h"
#include "base/json.h"

#define CHATML                                                                \
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}</s>\n{% endfor %}" \
    "{% if add_generation_prompt %}[assistant] {% endif %}"
/* Earlier answers lose what they thought. */
#define THINKING                                                                                            \
    "{% for m in messages %}[{{ m.role }}] {% if m.thinking and loop.last %}({{ m.thinking }}) {% endif %}" \
    "{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}[assistant] {% endif %}"
/* What comes before the answer is not what the prompt ends with. */
#define PREFIXED                                                            \
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}</s>{% endfor %}" \
    "{% if add_generation_prompt %}[assistant] <think>{% endif %}"
#define GENERATION                                                                                            \
    "{% for m in messages %}[{{ m.role }}] {% if m.role == 'assistant' %}{% generation %}{{ m.content }}</s>" \
    "{% endgeneration %}{% else %}{{ m.content }}</s>{% endif %}{% endfor %}"
/* Nothing stands between what is asked and what is answered: tokens may reach over. */
#define GLUED \
    "{% for m in messages %}{{ m.content }}{% endfor %}{% if not add_generation_prompt %}</s>{% endif %}"

typedef struct fixture {
    scratch *s;
    sp_tokenizer *tok;
    sp_dataset_options opts;
    char template[600], data[600];
} fixture;

static int setup(void **state) {
    fixture *f = calloc(1, sizeof *f);
    if (!f || scratch_setup((void **)&f->s) != 0) return -1;
    *state = f;
    sp_dataset_options_default(&f->opts);
    return sp_tokenizer_load(f->s->ctx, TEST_DATA "/tiny_tokenizer", &f->tok) == SP_OK ? 0 : -1;
}

static int teardown(void **state) {
    fixture *f = *state;
    void *s = f->s;
    sp_tokenizer_free(f->tok);
    free(f);
    return scratch_teardown(&s);
}

static sp_status load(fixture *f, const char *template, const char *data, sp_dataset **out) {
    snprintf(f->template, sizeof f->template, "%s", scratch_path(f->s, "t.jinja"));
    snprintf(f->data, sizeof f->data, "%s", scratch_path(f->s, "data.jsonl"));
    assert_int_equal(spi_file_write(f->s->ctx, f->template, template, strlen(template)), SP_OK);
    assert_int_equal(spi_file_write(f->s->ctx, f->data, data, strlen(data)), SP_OK);
    f->opts.chat_template = f->template;
    return sp_dataset_load(f->s->ctx, f->tok, f->data, &f->opts, out);
}

static sp_dataset *loaded(fixture *f, const char *template, const char *data) {
    sp_dataset *ds;
    if (load(f, template, data, &ds) != SP_OK) fail_msg("%s", sp_last_error(f->s->ctx));
    return ds;
}

/* Text of ids [from, to). */
static void append(const fixture *f, const sp_example *e, int64_t from, int64_t to, spi_buf *out) {
    char *text;
    size_t length;
    assert_int_equal(sp_tokenizer_decode(f->tok, e->ids + from, (size_t)(to - from), false, &text, &length),
                     SP_OK);
    spi_buf_append(out, text, length);
    sp_string_free(text);
}

/* Example `index` as text, what is learnt between { and }. */
static void check(const fixture *f, const sp_dataset *ds, int64_t index, const char *expected) {
    sp_example e;
    spi_buf text = {0};
    sp_dataset_get(ds, index, &e);
    for (int64_t i = 0, end; i < e.length; i = end) {
        for (end = i + 1; end < e.length && !e.mask[end] == !e.mask[i];) end++;
        if (e.mask[i]) spi_buf_putc(&text, '{');
        append(f, &e, i, end, &text);
        if (e.mask[i]) spi_buf_putc(&text, '}');
    }
    assert_string_equal(text.data, expected);
    spi_buf_free(&text);
}

static void check_answer(const fixture *f, const sp_dataset *ds, int64_t index, const char *prompt,
                         const char *answer) {
    sp_example e;
    spi_buf text = {0};
    sp_dataset_get(ds, index, &e);
    assert_string_equal(e.prompt, prompt);
    assert_string_equal(e.completion, answer);
    append(f, &e, 0, e.prompt_length, &text);
    assert_string_equal(text.data, prompt);
    spi_buf_free(&text);
}

#define TURNS                                                                                            \
    "{\"messages\": [{\"role\": \"user\", \"content\": \"go\"}, {\"role\": \"assistant\", \"content\": " \
    "\"A\", "                                                                                            \
    "\"thinking\": \"x\"}, {\"role\": \"user\", \"content\": \"on\"}, {\"role\": \"assistant\", "        \
    "\"content\": \"B\", \"thinking\": \"y\"}]}\n"

static void one_example(void **state) {
    fixture *f = *state;
    sp_dataset *ds = loaded(f, CHATML, TURNS);
    assert_int_equal(sp_dataset_count(ds), 1);
    check(f, ds, 0, "[user] go</s>\n[assistant] {A</s>\n}[user] on</s>\n[assistant] {B</s>\n}");
    check_answer(f, ds, 0, "[user] go</s>\n[assistant] A</s>\n[user] on</s>\n[assistant] ", "B\n");
    sp_dataset_free(ds);
    f->opts.train_on_prompt = true;
    ds = loaded(f, CHATML, TURNS);
    sp_example e;
    sp_dataset_get(ds, 0, &e);
    assert_int_equal(sp_dataset_label_tokens(ds), e.length - 1);
    sp_dataset_free(ds);
}

static void one_example_each(void **state) {
    fixture *f = *state;
    sp_dataset *ds = loaded(f, THINKING, TURNS);
    assert_int_equal(sp_dataset_count(ds), 2);
    check(f, ds, 0, "[user] go</s>[assistant] {(x) A</s>}");
    check(f, ds, 1, "[user] go</s>[assistant] A</s>[user] on</s>[assistant] {(y) B</s>}");
    check_answer(f, ds, 1, "[user] go</s>[assistant] A</s>[user] on</s>[assistant] ", "(y) B");
    sp_dataset_free(ds);
    f->opts.max_samples = 1;
    ds = loaded(f, THINKING, TURNS);
    assert_int_equal(sp_dataset_count(ds), 1);
    sp_dataset_free(ds);
}

static void other_prompt(void **state) {
    fixture *f = *state;
    sp_dataset *ds = loaded(f, PREFIXED, TURNS);
    assert_int_equal(sp_dataset_count(ds), 2);
    check(f, ds, 0, "[user] go</s>[assistant] {A</s>}");
    check(f, ds, 1, "[user] go</s>[assistant] A</s>[user] on</s>[assistant] {B</s>}");
    sp_dataset_free(ds);
}

static void generation_blocks(void **state) {
    fixture *f = *state;
    sp_dataset *ds = loaded(f, GENERATION, TURNS);
    assert_int_equal(sp_dataset_count(ds), 1);
    check(f, ds, 0, "[user] go</s>[assistant] {A</s>}[user] on</s>[assistant] {B</s>}");
    check_answer(f, ds, 0, "[user] go</s>[assistant] A</s>[user] on</s>[assistant] ", "B");
    sp_dataset_free(ds);
}

/* "the" is one token of this tokenizer: where it is cut in two, both parts are tokens of their own. */
static void boundary_in_a_token(void **state) {
    fixture *f = *state;
    int32_t *whole;
    size_t count;
    assert_int_equal(sp_tokenizer_encode(f->tok, "the cup", 7, false, &whole, &count), SP_OK);
    assert_int_equal(count, 2);
    sp_dataset *ds =
        loaded(f, GLUED,
               "{\"messages\": [{\"role\": \"user\", \"content\": \"t\"}, {\"role\": \"assistant\", "
               "\"content\": \"he cup\"}]}\n");
    check(f, ds, 0, "t{he cup</s>}");
    check_answer(f, ds, 0, "t", "he cup");
    sp_dataset_free(ds);
    /* Where no token reaches over, the ids are those of the whole text. */
    ds = loaded(
        f, GLUED,
        "{\"messages\": [{\"role\": \"user\", \"content\": \"the\"}, {\"role\": \"assistant\", \"content\": \" "
        "cup\"}]}\n");
    sp_example e;
    sp_dataset_get(ds, 0, &e);
    assert_int_equal(e.length, 3);
    assert_memory_equal(e.ids, whole, 2 * sizeof *whole);
    sp_dataset_free(ds);
    sp_ids_free(whole);
}

static void kwargs_and_tools(void **state) {
    fixture *f = *state;
    f->opts.chat_template_kwargs = "{\"greeting\": \"hi\"}";
    f->opts.messages_column = "talk";
    sp_dataset *ds = loaded(f, "{{ greeting }}{{ tools | length }}" CHATML,
                            "{\"talk\": [{\"role\": \"user\", \"content\": \"go\"}, {\"role\": \"assistant\", "
                            "\"content\": \"A\"}], \"tools\": [{}, {}]}\n");
    check(f, ds, 0, "hi2[user] go</s>\n[assistant] {A</s>\n}");
    sp_dataset_free(ds);
}

/* Cut at its end; a conversation without an answer has nothing to learn. */
static void short_ones(void **state) {
    fixture *f = *state;
    f->opts.max_seq_length = 30;
    sp_dataset *ds = loaded(f, CHATML, TURNS "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}\n");
    assert_int_equal(sp_dataset_count(ds), 1);
    sp_example e;
    sp_dataset_get(ds, 0, &e);
    assert_int_equal(e.length, 30);
    sp_dataset_free(ds);
}

static void fails(fixture *f, const char *template, const char *data, const char *message) {
    sp_dataset *ds;
    assert_int_equal(load(f, template, data, &ds), SP_ERR_DATA);
    assert_null(ds);
    const size_t length = strlen(f->data);
    assert_int_equal(strncmp(sp_last_error(f->s->ctx), f->data, length), 0);
    if (!strstr(sp_last_error(f->s->ctx) + length, message))
        fail_msg("expected '%s' in '%s'", message, sp_last_error(f->s->ctx));
}

static void errors(void **state) {
    fixture *f = *state;
    fails(f, CHATML, "{\"messages\": 1}\n", ": line 1: \"messages\": expected an array, found an integer");
    fails(f, CHATML, TURNS "{\"text\": \"x\"}\n", ": line 2: \"messages\": expected an array, found nothing");
    fails(f, CHATML, TURNS "\n{\"messages\": [1]}\n",
          ": line 3: messages[0]: expected an object, found an integer");
    fails(f, CHATML, "{\"messages\": [], \"tools\": {}}\n",
          ": line 1: \"tools\": expected an array, found an object");
    fails(f, "\n{{ raise_exception('never') }}", TURNS, "t.jinja: line 2: never");
    fails(f, "{% for m in messages %}{{ loop.revindex }}{% endfor %}", TURNS,
          "messages[1]: the template's text of this answer");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_example, setup, teardown),
        cmocka_unit_test_setup_teardown(one_example_each, setup, teardown),
        cmocka_unit_test_setup_teardown(other_prompt, setup, teardown),
        cmocka_unit_test_setup_teardown(generation_blocks, setup, teardown),
        cmocka_unit_test_setup_teardown(boundary_in_a_token, setup, teardown),
        cmocka_unit_test_setup_teardown(kwargs_and_tools, setup, teardown),
        cmocka_unit_test_setup_teardown(short_ones, setup, teardown),
        cmocka_unit_test_setup_teardown(errors, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
