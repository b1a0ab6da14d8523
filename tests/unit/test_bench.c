/* sp_bench: what it reports holds together, and it leaves the model as fast and as usable as it was. */
#include <jansson.h>
#include <math.h>

#include "shadow/model.h"
#include "training.h"

static json_t *bench(scratch *s, sp_model *model, const sp_bench_options *o) {
    char *text = NULL;
    must(s->ctx, sp_bench(model, o, &text));
    json_t *object = json_loads(text, 0, NULL);
    assert_non_null(object);
    sp_string_free(text);
    return object;
}

static double number(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_number(value)) fail_msg("\"%s\": no number", key);
    return json_number_value(value);
}

static double sum_of(const json_t *object) {
    const char *key;
    json_t *value;
    double sum = 0;
    json_object_foreach((json_t *)(uintptr_t)object, key, value) {
        const double part = json_number_value(value);
        if (!(part >= -1e-6)) fail_msg("breakdown \"%s\": %g", key, part);
        sum += part;
    }
    return sum;
}

/* Parts add up to the whole of the run that they are from. */
static void check_breakdown(const json_t *object, const char *whole) {
    const double expected = number(object, whole), sum = sum_of(json_object_get(object, "breakdown_ms"));
    if (!(fabs(sum - expected) <= 1e-3 * expected)) fail_msg("parts add up to %g of %g ms", sum, expected);
}

static void test_train(void **state) {
    scratch *s = *state;
    sp_model *model = load_case(s->ctx, "train_qwen3", -1, 0);
    const spi_ops *op = model->dev->op;
    sp_bench_options o;
    sp_bench_options_default(&o);
    o.batch_size = 3;
    o.seq_len = 10;
    o.steps = 4;
    json_t *object = bench(s, model, &o);
    check_breakdown(object, "profiled_ms_per_step");
    const double seconds = number(object, "ms_per_step") / 1000, speed = number(object, "tokens_per_second");
    assert_true(fabs(speed * seconds - 30) < 0.1);
    assert_true(number(json_object_get(object, "breakdown_ms"), "linear_backward") > 0);
    assert_true(number(json_object_get(object, "breakdown_ms"), "optimizer") > 0);
    assert_true(number(object, "peak_rss_bytes") > 1e6);
    assert_true(number(object, "trainable_parameters") > 0);
    assert_ptr_equal(model->dev->op, op); /* nothing is timed any more */
    json_decref(object);
    sp_model_free(model);
}

static void test_plain_base(void **state) {
    scratch *s = *state;
    sp_model *model = load_base(s->ctx, "train_qwen3", SP_F32, false);
    sp_bench_options o;
    sp_bench_options_default(&o);
    o.kind = SP_BENCH_DECODE;
    o.batch_size = 2;
    o.prompt_len = 5;
    o.new_tokens = 6;
    json_t *object = bench(s, model, &o);
    check_breakdown(object, "profiled_ms_per_token");
    assert_true(number(json_object_get(object, "breakdown_ms"), "shadow") == 0);
    assert_true(number(json_object_get(object, "breakdown_ms"), "attention") > 0);
    json_decref(object);
    o.new_tokens = 0; /* the first token is known, and nothing else is measured */
    object = bench(s, model, &o);
    assert_true(number(object, "prefill_ms") > 0);
    assert_null(json_object_get(object, "ms_per_token"));
    json_decref(object);
    o.kind = SP_BENCH_PREFILL;
    o.seq_len = 7;
    object = bench(s, model, &o);
    assert_true(number(object, "prefill_ms") > 0);
    json_decref(object);
    o.kind = SP_BENCH_TRAIN; /* nothing in a frozen base trains */
    char *text = NULL;
    assert_int_equal(sp_bench(model, &o, &text), SP_ERR_ARGUMENT);
    assert_null(text);
    sp_model_free(model);
}

static void test_bad_options(void **state) {
    scratch *s = *state;
    sp_model *model = load_case(s->ctx, "train_qwen3", -1, 0);
    sp_bench_options o;
    char *text = NULL;
    sp_bench_options_default(&o);
    o.steps = 0;
    assert_int_equal(sp_bench(model, &o, &text), SP_ERR_ARGUMENT);
    assert_string_equal(sp_last_error(s->ctx), "steps: expected at least 1, found 0");
    sp_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_train, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_plain_base, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_bad_options, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
