/*
 * Where time goes: a device's table of operations, each timed. Kinds of operations, not single ones; an
 * operation that runs others counts once, under its own kind.
 */
#ifndef SPI_TENSOR_PROFILE_H
#define SPI_TENSOR_PROFILE_H

#include "tensor/backend.h"

typedef enum spi_profile_kind {
    SPI_PROFILE_LINEAR,
    SPI_PROFILE_LINEAR_BACKWARD,
    SPI_PROFILE_ATTENTION,
    SPI_PROFILE_ATTENTION_BACKWARD,
    SPI_PROFILE_NORM,
    SPI_PROFILE_MLP,
    SPI_PROFILE_QK,
    SPI_PROFILE_SHADOW,
    SPI_PROFILE_HEAD,
    SPI_PROFILE_EMBEDDING,
    SPI_PROFILE_OPTIMIZER,
    SPI_PROFILE_COPY,
    SPI_PROFILE_KINDS
} spi_profile_kind;

/* "linear", ...: as bench writes them. */
const char *spi_profile_name(spi_profile_kind kind);

typedef struct spi_profile {
    const spi_ops *inner; /* what is timed */
    spi_ops timed;        /* the table that stands in its place meanwhile */
    double seconds[SPI_PROFILE_KINDS];
} spi_profile;

/* From now on operations of the device are timed into *profile, which must outlive the timing; and no longer.
 */
void spi_profile_start(spi_device *dev, spi_profile *profile);
void spi_profile_stop(spi_device *dev);

#endif
