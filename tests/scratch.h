/* A directory of its own for a test that writes files, and paths in it. */
#ifndef TESTS_SCRATCH_H
#define TESTS_SCRATCH_H

#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"

typedef struct scratch {
    sp_context *ctx;
    char dir[256];
    char path[8][512]; /* the last eight paths handed out */
    unsigned next;
} scratch;

/* "DIR/name"; good until eight more are asked for. */
static inline const char *scratch_path(scratch *s, const char *name) {
    char *path = s->path[s->next++ % 8];
    snprintf(path, sizeof s->path[0], "%s/%s", s->dir, name);
    return path;
}

/* cmocka setup: *state becomes a scratch with a context and an empty directory. */
static inline int scratch_setup(void **state) {
    scratch *s = calloc(1, sizeof *s);
    if (!s) return -1;
    const char *base = getenv("TMPDIR");
    snprintf(s->dir, sizeof s->dir, "%s/shadowpeft-test-XXXXXX", base ? base : P_tmpdir);
    s->ctx = sp_context_new();
    *state = s;
    return s->ctx && mkdtemp(s->dir) ? 0 : -1;
}

static inline int scratch_teardown(void **state) {
    scratch *s = *state;
    int failed = spi_dir_remove(s->ctx, s->dir) != SP_OK;
    sp_context_free(s->ctx);
    free(s);
    return failed;
}

#endif
