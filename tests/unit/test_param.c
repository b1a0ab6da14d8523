/* Parameters that lie in memory as the transpose of what files hold: values, gradients, what goes along with
 * them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/dtype.h"
#include "model/param.h"
#include "scratch.h"

#define ROWS 3
#define COLS 5

static spi_device *dev;

/* What a file holds, [ROWS, COLS], and what memory must: [COLS, ROWS]. bf16 holds these numbers exactly. */
static float filed[ROWS * COLS], turned[COLS * ROWS];

static int setup(void **state) {
    if (scratch_setup(state)) return -1;
    scratch *s = *state;
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < COLS; j++) filed[i * COLS + j] = turned[j * ROWS + i] = (float)(10 * i + j);
    return spi_device_open(s->ctx, "cpu", &dev) != SP_OK;
}

static int teardown(void **state) {
    spi_device_close(dev);
    return scratch_teardown(state);
}

static spi_param *make(spi_params *list, bool trainable) {
    spi_param *p = spi_params_add(dev, list,
                                  &(spi_param_spec){.name = "down.weight",
                                                    .kind = SPI_PARAM_F32,
                                                    .ndim = 2,
                                                    .shape = {ROWS, COLS},
                                                    .turned = true,
                                                    .trainable = trainable,
                                                    .decay = true});
    assert_non_null(p);
    return p;
}

static void test_values(void **state) {
    (void)state;
    float out[ROWS * COLS];
    spi_params list = {0};
    spi_param *p = make(&list, true);
    assert_int_equal(spi_param_set(dev, p, SP_F32, filed), SP_OK);
    assert_memory_equal(p->f32, turned, sizeof turned);
    assert_int_equal(spi_param_get(dev, p, out), SP_OK);
    assert_memory_equal(out, filed, sizeof filed);
    assert_null(p->grad);
    assert_int_equal(spi_param_begin(dev, p, SP_F32), SP_OK);
    assert_memory_equal(p->f32, turned, sizeof turned);
    memcpy(p->grad, turned, sizeof turned);
    assert_int_equal(spi_param_get_grad(dev, p, out), SP_OK);
    assert_memory_equal(out, filed, sizeof filed);
    float *moment = dev->op->alloc(dev, sizeof turned);
    assert_int_equal(spi_param_set_like(dev, p, moment, filed), SP_OK);
    assert_memory_equal(moment, turned, sizeof turned);
    assert_int_equal(spi_param_get_like(dev, p, moment, out), SP_OK);
    assert_memory_equal(out, filed, sizeof filed);
    dev->op->release(dev, moment);
    spi_params_free(dev, &list);
}

/* From files of every dtype, frozen or not: a mapped tensor is never used as it lies. */
static void test_files(void **state) {
    scratch *s = *state;
    static const sp_dtype dtypes[] = {SP_F32, SP_BF16, SP_F16};
    for (int i = 0; i < 6; i++) {
        const char *path = scratch_path(s, "in.safetensors"), *copy = scratch_path(s, "out.safetensors");
        uint8_t stored[sizeof filed];
        float out[ROWS * COLS];
        spi_params list = {0};
        spi_st_set *set;
        spi_param *p = make(&list, i < 3);
        spi_from_f32(stored, filed, dtypes[i % 3], ROWS * COLS);
        const spi_st_item item = {
            .name = "down.weight", .dtype = dtypes[i % 3], .ndim = 2, .shape = {ROWS, COLS}, .data = stored};
        assert_int_equal(spi_st_write(s->ctx, path, &item, 1), SP_OK);
        assert_int_equal(spi_st_open(s->ctx, path, &set), SP_OK);
        assert_int_equal(spi_params_load(dev, &list, SP_BF16, set, NULL, path), SP_OK);
        spi_st_close(set);
        assert_memory_equal(p->f32, turned, sizeof turned);
        assert_int_equal(spi_params_save(dev, list.items, 1, SP_F32, copy), SP_OK);
        assert_int_equal(spi_st_open(s->ctx, copy, &set), SP_OK);
        const spi_st_tensor *t = spi_st_find(set, "down.weight");
        assert_int_equal(t->shape[0], ROWS);
        assert_int_equal(t->shape[1], COLS);
        spi_to_f32(out, t->data, t->dtype, t->count);
        assert_memory_equal(out, filed, sizeof filed);
        spi_st_close(set);
        spi_params_free(dev, &list);
    }
}

/* What could train only computes until training begins: then its values are those of the file, to the last bit.
 */
static void test_begin(void **state) {
    scratch *s = *state;
    enum { COUNT = 2 };
    static const float exact[COUNT] = {1.0f + 0x1p-20f, 3.0f}, rounded[COUNT] = {1.0f, 3.0f};
    static const sp_dtype computes[] = {SP_BF16, SP_F32};
    const char *path = scratch_path(s, "in.safetensors");
    const spi_st_item item = {.name = "w", .dtype = SP_F32, .ndim = 2, .shape = {1, COUNT}, .data = exact};
    assert_int_equal(spi_st_write(s->ctx, path, &item, 1), SP_OK);
    for (int i = 0; i < 2; i++) {
        const bool narrow = computes[i] == SP_BF16;
        float out[COUNT];
        spi_params list = {0};
        spi_st_set *set;
        spi_param *p = spi_params_add(
            dev, &list,
            &(spi_param_spec){
                .name = "w", .kind = SPI_PARAM_MATRIX, .ndim = 2, .shape = {1, COUNT}, .trainable = true});
        assert_non_null(p);
        assert_int_equal(spi_st_open(s->ctx, path, &set), SP_OK);
        assert_int_equal(spi_params_load(dev, &list, computes[i], set, NULL, path), SP_OK);
        assert_null(p->f32);
        assert_null(p->grad);
        if (!narrow) assert_ptr_equal(p->w.m.data, spi_st_find(set, "w")->data);
        assert_int_equal(spi_param_get(dev, p, out), SP_OK);
        assert_memory_equal(out, exact, sizeof exact);

        assert_int_equal(spi_param_begin(dev, p, computes[i]), SP_OK);
        spi_st_close(set);
        assert_memory_equal(p->f32, exact, sizeof exact);
        assert_true(p->grad[0] == 0 && p->grad[1] == 0);
        spi_to_f32(out, p->w.m.data, computes[i], COUNT);
        assert_memory_equal(out, narrow ? rounded : exact, sizeof out);
        p->grad[0] = 1;
        assert_int_equal(spi_param_begin(dev, p, computes[i]), SP_OK); /* it has begun */
        assert_true(p->grad[0] == 1);

        spi_param_end(dev, p);
        assert_null(p->grad);
        assert_int_equal(spi_param_get(dev, p, out), SP_OK);
        assert_memory_equal(out, exact, sizeof exact);
        spi_params_free(dev, &list);
    }
}

/* Nothing comes for a parameter that stays as it is, or that no gradient reaches. */
static void test_begin_nothing(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        spi_params list = {0};
        spi_param *p = spi_params_add(dev, &list,
                                      &(spi_param_spec){.name = "b",
                                                        .kind = SPI_PARAM_F32,
                                                        .ndim = 1,
                                                        .shape = {ROWS * COLS},
                                                        .trainable = i == 1,
                                                        .no_grad = i == 1});
        assert_non_null(p);
        assert_int_equal(spi_param_set(dev, p, SP_F32, filed), SP_OK);
        assert_int_equal(spi_param_begin(dev, p, SP_F32), SP_OK);
        assert_null(p->grad);
        spi_params_free(dev, &list);
    }
}

/*
 * In 8 bits, [out, in] however the file has it; what a checkpoint is written from is the file's own values
 * while the file is there, and what is held where there never was one. Training it takes the values in full.
 */
static void quantized_once(scratch *s, bool transposed) {
    /* 127 steps of 0.5 in the largest of each output, so that all is exact but 0.1. */
    static const float stored[6] = {63.5f, -0.5f, 0.1f, -63.5f, 12.0f, 63.5f};
    static const float held[6] = {63.5f, -0.5f, 0.0f, -63.5f, 12.0f, 63.5f};
    static const int8_t q[6] = {127, -1, 0, -127, 24, 127}, turned_q[6] = {127, 0, 24, -1, -127, 127};
    const char *path = scratch_path(s, "in.safetensors");
    float out[6];
    spi_params list = {0};
    spi_st_set *set;
    const int64_t rows = transposed ? 3 : 2, cols = transposed ? 2 : 3;
    spi_param *p = spi_params_add(dev, &list,
                                  &(spi_param_spec){.name = "w",
                                                    .kind = SPI_PARAM_MATRIX,
                                                    .ndim = 2,
                                                    .shape = {rows, cols},
                                                    .transposed = transposed,
                                                    .quantize = true});
    const spi_st_item item = {.name = "w", .dtype = SP_F32, .ndim = 2, .shape = {rows, cols}, .data = stored};
    assert_non_null(p);
    assert_int_equal(spi_st_write(s->ctx, path, &item, 1), SP_OK);
    assert_int_equal(spi_st_open(s->ctx, path, &set), SP_OK);
    assert_int_equal(spi_params_load(dev, &list, SP_BF16, set, NULL, path), SP_OK);
    assert_int_equal(p->w.m.dtype, SP_I8);
    assert_false(p->w.transposed);
    assert_int_equal(p->w.m.rows, 2);
    assert_memory_equal(p->w.m.data, transposed ? turned_q : q, sizeof q);
    for (int n = 0; n < 2; n++) assert_true(p->w.scale[n] == 0.5f);
    assert_int_equal(spi_param_get(dev, p, out), SP_OK);
    assert_memory_equal(out, stored, sizeof stored);
    assert_int_equal(spi_param_set(dev, p, SP_BF16, stored), SP_OK);
    assert_int_equal(spi_param_get(dev, p, out), SP_OK);
    for (int i = 0; i < 6; i++) assert_true(out[i] == held[i]);
    spi_param_train(dev, p, true);
    assert_int_equal(spi_params_load(dev, &list, SP_F32, set, NULL, path), SP_OK);
    assert_null(p->w.scale);
    assert_int_equal(p->w.m.dtype, SP_F32);
    assert_memory_equal(p->w.m.data, stored, sizeof stored);
    spi_st_close(set);
    spi_params_free(dev, &list);
}

static void test_quantized(void **state) {
    quantized_once(*state, false);
    quantized_once(*state, true);
}

/* The shape that is expected is the file's. */
static void test_shape(void **state) {
    scratch *s = *state;
    const char *path = scratch_path(s, "in.safetensors");
    spi_params list = {0};
    spi_st_set *set;
    char message[600];
    make(&list, true);
    const spi_st_item item = {
        .name = "down.weight", .dtype = SP_F32, .ndim = 2, .shape = {COLS, ROWS}, .data = filed};
    assert_int_equal(spi_st_write(s->ctx, path, &item, 1), SP_OK);
    assert_int_equal(spi_st_open(s->ctx, path, &set), SP_OK);
    assert_int_equal(spi_params_load(dev, &list, SP_F32, set, NULL, "here"), SP_ERR_MISMATCH);
    snprintf(message, sizeof message,
             "here: 1 of 1 tensors do not fit:\n  down.weight: expected shape [%d, %d], "
             "found [%d, %d]",
             ROWS, COLS, COLS, ROWS);
    assert_string_equal(sp_last_error(s->ctx), message);
    spi_st_close(set);
    spi_params_free(dev, &list);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),        cmocka_unit_test(test_files),     cmocka_unit_test(test_begin),
        cmocka_unit_test(test_begin_nothing), cmocka_unit_test(test_quantized), cmocka_unit_test(test_shape),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
