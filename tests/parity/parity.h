/* A case of tests/data/parity being checked, shared by parity.c and continuations.c. */
#ifndef TESTS_PARITY_H
#define TESTS_PARITY_H

#include <jansson.h>

#include "format/safetensors.h"
#include "shadow/adapted.h"

#define PATH_SIZE 4096

/* A case being checked. */
typedef struct parity {
    sp_context *ctx;
    const char *device;
    const char *dir;  /* of the case */
    const char *name; /* last part of dir */
    char scratch[PATH_SIZE];
    json_t *info; /* case.json */
    spi_st_set *input, *expected;
    int failures;
    bool ids_equal;
} parity;

/* A complaint on standard error, counted. */
void complain(parity *p, const char *what, const char *detail);
/* Whether a call succeeded; complains if not. */
bool check(parity *p, sp_status status);

/* Every row's real tokens continued, in both modes, against the expected ids. */
void check_continuations(parity *p, sp_model *model, int64_t vocab);

#endif
