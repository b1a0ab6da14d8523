/*
 * Every operation of one device against another: the GPU's against the CPU's.
 *
 *   ops [--verbose] [--few] [--largest KIB] [--only NAME] TESTED REFERENCE
 *                                                    checks; one line an operation; exit status 1 on failure.
 *                                                    For slow tools: --few, of one case in 13; --largest, of
 *                                                    cases whose arrays are not larger; all where none is left
 *   ops --time [--only NAME] TESTED                  times at the shapes of Qwen3-0.6B and 8B
 *   ops --list                                       the operations' names
 *
 * TESTED and REFERENCE are names of devices as --device takes them; "cpu:N" is the CPU with N threads.
 */
#include <stdlib.h>
#include <string.h>

#include "harness.h"

static const check *const tables[] = {product_checks,   project_checks, row_checks, qk_checks,
                                      attention_checks, shadow_checks,  loss_checks};
#define TABLES (sizeof tables / sizeof *tables)

static sp_status open_device(const char *name, spi_device **dev) {
    sp_context *ctx = sp_context_new();
    *dev = NULL;
    if (!ctx) return SP_ERR_MEMORY;
    const bool threads = !strncmp(name, "cpu:", 4);
    if (threads) sp_context_set_threads(ctx, atoi(name + 4));
    const sp_status status = spi_device_open(ctx, threads ? "cpu" : name, dev);
    if (status != SP_OK) {
        fprintf(stderr, "ops: %s\n", sp_last_error(ctx));
        sp_context_free(ctx);
    }
    return status;
}

static void close_device(spi_device *dev) {
    if (!dev) return;
    sp_context *ctx = dev->ctx;
    spi_device_close(dev);
    sp_context_free(ctx);
}

/* What is asked for. */
typedef struct choice {
    const char *only;
    bool timing, verbose;
    int64_t every;
    size_t largest;
} choice;

static bool run_check(const check *what, spi_device *test, spi_device *ref, const choice *o) {
    checks c = {.ref = ref,
                .test = test,
                .op = what->name,
                .verbose = o->verbose,
                .every = o->every,
                .largest = o->largest};
    if (spi_device_status(test) != SP_OK || spi_device_status(ref) != SP_OK) {
        printf("%-20s not run: the device has failed before\n", what->name);
        return false;
    }
    what->fn(&c);
    if (c.cases == 0) {
        c.every = 1;
        c.largest = 0;
        what->fn(&c);
    }
    if (c.failures > 8 && !o->verbose) printf("  %s: and %lld more\n", c.op, (long long)(c.failures - 8));
    printf("%-20s %5lld cases  f32 %8.1e  bf16 %8.1e  %s", what->name, (long long)c.cases, c.worst[0],
           c.worst[1],
           c.failures ? "FAIL"
           : c.cases  ? "PASS"
                      : "FAIL: no case");
    for (int i = 0; i < 2; i++)
        if (c.worst_case[i][0]) printf("%s%s", i && c.worst_case[0][0] ? "; " : "  worst: ", c.worst_case[i]);
    printf("\n");
    fflush(stdout);
    return c.failures == 0 && c.cases > 0;
}

static int check_operations(const char *tested, const char *reference, const choice *o) {
    spi_device *test, *ref = NULL;
    int failures = 0, ran = 0;
    if (open_device(tested, &test) != SP_OK || open_device(reference, &ref) != SP_OK) {
        close_device(test);
        return 1;
    }
    for (size_t i = 0; i < TABLES; i++)
        for (const check *what = tables[i]; what->name; what++)
            if (!o->only || !strcmp(o->only, what->name)) {
                ran++;
                failures += !run_check(what, test, ref, o);
            }
    close_device(test);
    close_device(ref);
    if (!ran) fprintf(stderr, "ops: no operation \"%s\"; --list names them\n", o->only);
    else printf("%d of %d operations passed\n", ran - failures, ran);
    return failures || !ran;
}

static int time_device(const char *name, const char *only) {
    spi_device *dev;
    if (open_device(name, &dev) != SP_OK) return 1;
    const int failed = time_operations(dev, only);
    close_device(dev);
    return failed;
}

static int usage(void) {
    fprintf(stderr, "usage: ops [--verbose] [--few] [--largest KIB] [--only NAME] TESTED REFERENCE\n"
                    "       ops --time [--only NAME] TESTED\n       ops --list\n");
    return 2;
}

int main(int argc, char **argv) {
    choice o = {.every = 1};
    int i = 1;
    for (; i < argc && argv[i][0] == '-'; i++) {
        if (!strcmp(argv[i], "--time")) o.timing = true;
        else if (!strcmp(argv[i], "--verbose")) o.verbose = true;
        else if (!strcmp(argv[i], "--few")) o.every = 13;
        else if (!strcmp(argv[i], "--largest") && i + 1 < argc) o.largest = (size_t)atol(argv[++i]) << 10;
        else if (!strcmp(argv[i], "--only") && i + 1 < argc) o.only = argv[++i];
        else if (!strcmp(argv[i], "--list")) {
            for (size_t t = 0; t < TABLES; t++)
                for (const check *what = tables[t]; what->name; what++) puts(what->name);
            return 0;
        } else return usage();
    }
    if (argc - i != (o.timing ? 1 : 2)) return usage();
    return o.timing ? time_device(argv[i], o.only) : check_operations(argv[i], argv[i + 1], &o);
}
