/* Devices by name, and backends in shared objects that are not there or are none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "tensor/plugin.h"

static int setup(void **state) {
    *state = sp_context_new();
    return *state ? 0 : -1;
}

static int teardown(void **state) {
    sp_context_free(*state);
    return 0;
}

static void assert_says(sp_context *ctx, const char *text) {
    if (!strstr(sp_last_error(ctx), text)) fail_msg("expected '%s' in: %s", text, sp_last_error(ctx));
    if (strchr(sp_last_error(ctx), '\n')) fail_msg("expected one line: %s", sp_last_error(ctx));
}

static void test_names(void **state) {
    static const char *const wrong[] = {"",       "gpu",     "CPU",     "cpu:0",      "cuda:",   "cuda0",
                                        "cuda:x", "cuda:-1", "cuda: 1", "cuda:+1",    "cuda:1x", "cudagraph",
                                        "auto:0", "cpu ",    "nvidia",  "cuda:99999", "cuda:0x1"};
    spi_device *dev;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(spi_device_open(*state, wrong[i], &dev), SP_ERR_UNSUPPORTED);
        assert_null(dev);
        assert_says(*state, "expected auto, cpu, cuda or cuda:N");
    }
    assert_int_equal(spi_device_open(*state, "cpu", &dev), SP_OK);
    assert_string_equal(dev->op->name, "cpu");
    size_t unused = 1, total = 0;
    dev->op->memory(dev, &unused, &total);
    assert_true(unused <= total); /* both 0 where nobody can tell */
    assert_string_equal(dev->label, "CPU");
    spi_device_close(dev);
    spi_device_close(NULL);
}

/* Whatever the machine has, there is a device to compute on. */
static void test_auto(void **state) {
    static const char *const names[] = {"auto", NULL};
    for (int i = 0; i < 2; i++) {
        spi_device *dev;
        assert_int_equal(spi_device_open(*state, names[i], &dev), SP_OK);
        const float sent = 3.5f;
        float back = 0;
        void *data = dev->op->alloc(dev, sizeof sent);
        assert_non_null(data);
        dev->op->upload(dev, data, &sent, sizeof sent);
        dev->op->download(dev, &back, data, sizeof back);
        assert_int_equal(spi_device_status(dev), SP_OK);
        assert_true(back == sent);
        dev->op->release(dev, data);
        spi_device_close(dev);
    }
}

static void test_missing_backend(void **state) {
    spi_device *dev = (spi_device *)state;
    assert_int_equal(spi_plugin_device(*state, "nowhere", 0, &dev), SP_ERR_UNSUPPORTED);
    assert_null(dev);
    assert_says(*state, "device \"nowhere\": its backend cannot be loaded: libshadowpeft-nowhere.so");
}

/* libshadowpeft-NAME.so beside this program, with a text in it. */
static void write_beside(const char *name, const char *text, char *path, size_t size) {
    const ssize_t length = readlink("/proc/self/exe", path, size - 64);
    assert_true(length > 0);
    path[length] = 0;
    char *slash = strrchr(path, '/');
    snprintf(slash + 1, 63, "libshadowpeft-%s.so", name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static void test_broken_backend(void **state) {
    spi_device *dev;
    char path[4096];
    write_beside("broken", "this is no shared object", path, sizeof path);
    const sp_status status = spi_plugin_device(*state, "broken", 0, &dev);
    unlink(path);
    assert_int_equal(status, SP_ERR_DEVICE);
    assert_null(dev);
    assert_says(*state, "device \"broken\": its backend cannot be loaded: ");
    assert_says(*state, "libshadowpeft-broken.so");
}

/* A GPU that is asked for by name is never replaced by the CPU. */
static void test_gpu_that_is_not_there(void **state) {
    spi_device *dev;
    const sp_status status = spi_device_open(*state, "cuda:999", &dev);
    assert_true(status == SP_ERR_UNSUPPORTED || status == SP_ERR_DEVICE);
    assert_null(dev);
    assert_says(*state, "cuda");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names), cmocka_unit_test(test_auto), cmocka_unit_test(test_missing_backend),
        cmocka_unit_test(test_broken_backend), cmocka_unit_test(test_gpu_that_is_not_there)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
