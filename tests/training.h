/* A recorded training case of tests/data/parity: its model, its examples, its options; files that runs wrote.
 */
#ifndef TESTS_TRAINING_H
#define TESTS_TRAINING_H

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "format/safetensors.h"
#include "scratch.h"

/* Fails the test with the context's message. */
static inline void must(sp_context *ctx, sp_status status) {
    if (status != SP_OK) fail_msg("%s: %s", sp_status_name(status), sp_last_error(ctx));
}

static inline spi_st_set *open_set(sp_context *ctx, const char *path) {
    spi_st_set *set = NULL;
    must(ctx, spi_st_open(ctx, path, &set));
    return set;
}

/* The base of a case, in `dtype` (AUTO: as stored), frozen or not. */
static inline sp_model *load_base(sp_context *ctx, const char *name, sp_dtype dtype, bool trainable) {
    char path[512];
    sp_model *model = NULL;
    sp_model_options options;
    sp_model_options_default(&options);
    options.dtype = dtype;
    options.trainable = trainable;
    snprintf(path, sizeof path, TEST_DATA "/parity/%s/base", name);
    sp_context_set_threads(ctx, 1); /* with so small matrices they would only wait for each other */
    must(ctx, sp_model_load(ctx, path, &options, &model));
    return model;
}

/* Puts a fresh adapter on a base. */
static inline void add_adapter(sp_context *ctx, sp_model *model, double dropout, uint64_t seed) {
    sp_shadow_config cfg;
    sp_shadow_config_default(&cfg);
    cfg.injection_hidden_size = 6;
    cfg.gate_hidden_size = 5;
    cfg.alpha = 0.5;
    cfg.dropout = dropout;
    sp_adapter_options options;
    sp_adapter_options_default(&options);
    options.seed = seed;
    must(ctx, sp_adapter_create(model, &cfg, &options));
}

/* The base of a case, with the case's adapter, or with a fresh one of `dropout` where that is not negative. */
static inline sp_model *load_case(sp_context *ctx, const char *name, double dropout, uint64_t seed) {
    char path[512];
    sp_model *model = load_base(ctx, name, SP_DTYPE_AUTO, false);
    snprintf(path, sizeof path, TEST_DATA "/parity/%s/adapter", name);
    if (dropout < 0) must(ctx, sp_adapter_load(model, path, NULL));
    else add_adapter(ctx, model, dropout, seed);
    return model;
}

/* Rows [first, first + count) of a case's batches.safetensors as examples without their padding. */
static inline sp_dataset *load_examples(sp_context *ctx, const char *name, int64_t first, int64_t count) {
    char path[512];
    snprintf(path, sizeof path, TEST_DATA "/parity/%s/batches.safetensors", name);
    spi_st_set *set = open_set(ctx, path);
    const spi_st_tensor *t = spi_st_find(set, "ids"); /* [batches, rows, seq] */
    const int64_t seq = t->shape[2];
    const int64_t *all = t->data, *labels = spi_st_find(set, "labels")->data;
    const int64_t *attended = spi_st_find(set, "attention_mask")->data;
    assert_true(first + count <= t->shape[0] * t->shape[1]);
    int32_t *ids = calloc((size_t)(count * seq), sizeof *ids);
    uint8_t *mask = calloc((size_t)(count * seq), 1);
    int64_t *starts = calloc((size_t)count + 1, sizeof *starts), n = 0;
    for (int64_t row = 0; row < count; row++) {
        for (int64_t i = (first + row) * seq; i < (first + row + 1) * seq; i++) {
            if (!attended[i]) continue;
            ids[n] = (int32_t)all[i];
            mask[n++] = labels[i] != -100;
        }
        starts[row + 1] = n;
    }
    sp_dataset *ds = NULL;
    must(ctx, sp_dataset_from_ids(ctx, ids, mask, starts, count, &ds));
    free(ids);
    free(mask);
    free(starts);
    spi_st_close(set);
    return ds;
}

static inline spi_buf read_all(sp_context *ctx, const char *path) {
    spi_buf content = {0};
    must(ctx, spi_file_read(ctx, path, &content));
    return content;
}

static inline void same_file(sp_context *ctx, const char *dir_a, const char *dir_b, const char *name) {
    char a[512], b[512];
    snprintf(a, sizeof a, "%s/%s", dir_a, name);
    snprintf(b, sizeof b, "%s/%s", dir_b, name);
    spi_buf x = read_all(ctx, a), y = read_all(ctx, b);
    if (x.length != y.length || memcmp(x.data, y.data, x.length) != 0) fail_msg("%s and %s differ", a, b);
    spi_buf_free(&x);
    spi_buf_free(&y);
}

#endif
