/*
 * Any bytes as an adapter's config, in both dialects and for both tasks: refused with a message that begins
 * with the file's name, or read into a config that holds all rules. What is read is a file in a directory of
 * its own.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "shadow/peft_config.h"

static void require(bool condition) {
    if (!condition) abort();
}

/* DIR/shadow_config.json and DIR/adapter_config.json, rewritten for every input. */
static char dir[64], files[2][128];

static void remove_directory(void) {
    for (int i = 0; i < 2; i++) unlink(files[i]);
    rmdir(dir);
}

static void make_directory(void) {
    if (dir[0]) return;
    strcpy(dir, "/tmp/fuzz-adapter-XXXXXX");
    require(mkdtemp(dir) != NULL);
    snprintf(files[0], sizeof files[0], "%s/shadow_config.json", dir);
    snprintf(files[1], sizeof files[1], "%s/adapter_config.json", dir);
    atexit(remove_directory);
}

static void check(sp_context *ctx, sp_status status, const char *file, const sp_shadow_config *c,
                  const spi_labels *labels) {
    if (status != SP_OK) {
        require(strncmp(sp_last_error(ctx), file, strlen(file)) == 0);
        return;
    }
    require(spi_shadow_config_check(ctx, "again", c) == SP_OK);
    require(c->injection_hidden_size >= 1 && c->num_shadow_layers >= 1 && c->gate_hidden_size >= 1);
    for (int32_t i = 0; i < labels->count; i++) require(labels->names[i] != NULL);
}

static void try_task(sp_task task) {
    sp_context *ctx = sp_context_new();
    require(ctx != NULL);
    const sp_model model = {.ctx = ctx, .task = task};
    sp_shadow_config c;
    spi_labels labels = {0};
    char *shadow = NULL;
    check(ctx, spi_shadow_config_read(ctx, dir, task, &c, &labels), files[0], &c, &labels);
    spi_labels_free(&labels);
    check(ctx, spi_peft_config_read(&model, dir, &c, &shadow, &labels), files[1], &c, &labels);
    spi_labels_free(&labels);
    free(shadow);
    sp_context_free(ctx);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    make_directory();
    for (int i = 0; i < 2; i++) {
        FILE *file = fopen(files[i], "wb");
        require(file != NULL && fwrite(data, 1, size, file) == size && fclose(file) == 0);
    }
    try_task(SP_TASK_CAUSAL_LM);
    try_task(SP_TASK_SEQ_CLS);
    return 0;
}
