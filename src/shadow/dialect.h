/*
 * The two published forms of ShadowPEFT as data: what their files are called and hold, and which terms
 * injection and update have. Everything else is one adapter.
 */
#ifndef SPI_SHADOW_DIALECT_H
#define SPI_SHADOW_DIALECT_H

#include "tensor/backend.h"

/* Names of files with their dialect's own parts of a tensor's name. */
typedef struct spi_dialect {
    sp_dialect id;
    const char *name;        /* for messages */
    const char *config_file; /* in the adapter's directory */
    const char *weights_file;
    const char *modules_file;  /* of trained heads; NULL: they are in weights_file */
    const char *shadow_prefix; /* of the shadow backbone's tensors */
    const char *projection;    /* the projection's tensor */
    const char *heads[2][2]; /* [task is classification][shadow's]: "lm_head.weight", ...; NULL: no such head */
    int32_t first_layer;     /* the first decoder layer that is injected into, unless the config says another */
    bool stacked;            /* injections of all layers are one tensor [n, d, k] and one [n, k, d] */
    bool norm;               /* the update begins with a LayerNorm that all layers share */
    bool biases;             /* the update's linears have biases */
    bool drop_delta;         /* spi_inject's */
    bool drop_update;        /* dropout in the update */
    bool tied_head;          /* a tied head that trains is the embedding too */
    bool base_counts_heads;  /* print_trainable_parameters counts a trained head beside the base's */
    spi_activation update_act;
} spi_dialect;

/* NULL for a number that is no dialect. */
const spi_dialect *spi_dialect_of(sp_dialect id);

#endif
