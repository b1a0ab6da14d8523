/*
 * Planning: what memory a step would take is found out by the code of the step itself. While a device plans,
 * memory that is asked for gets an address and is counted, and operations compute nothing: they only say what
 * working memory they would need. Nothing is read from or written to such addresses; downloads give zeros.
 */
#ifndef SPI_TENSOR_PLAN_H
#define SPI_TENSOR_PLAN_H

#include "tensor/backend.h"

/* The pieces of working memory that a backend keeps, which grow and never shrink. */
typedef enum spi_plan_place {
    SPI_PLAN_SCRATCH, /* of an operation */
    SPI_PLAN_ROOM,    /* of a product, whose caller may be using the scratch */
    SPI_PLAN_PIECES,  /* the CPU's, of products with quantised weights */
    SPI_PLAN_PLACES
} spi_plan_place;

typedef struct spi_plan_block {
    char *data;
    size_t bytes;
} spi_plan_block;

typedef struct spi_plan {
    const spi_ops *inner; /* the device's own table */
    spi_ops table;        /* what stands in its place meanwhile */
    sp_status before;     /* the device's status */
    spi_plan_block *blocks;
    size_t count, capacity;
    char *next;                     /* the address that the next block gets */
    size_t now, peak;               /* bytes taken, and the most at once */
    size_t growth[SPI_PLAN_PLACES]; /* of working memory, beyond what the backend holds already */
} spi_plan;

/* From now on the device plans into *plan; and no longer: its status is again what it was. */
void spi_plan_begin(spi_device *dev, spi_plan *plan);
void spi_plan_end(spi_device *dev);

/* The most bytes at once that the device would have given beyond those that it gave before. */
size_t spi_plan_bytes(const spi_plan *plan);

/* An address that is as good as any where there is no memory; 256-byte aligned. */
#define SPI_PLAN_ADDRESS ((uintptr_t)4096)

/* For backends, in the place of making `held` bytes of working memory `bytes`: notes the growth. */
static inline void *spi_plan_working(spi_plan *plan, spi_plan_place place, size_t held, size_t bytes) {
    const size_t growth = bytes > held ? bytes - held : 0;
    if (growth > plan->growth[place]) plan->growth[place] = growth;
    return (void *)SPI_PLAN_ADDRESS; /* NOLINT(performance-no-int-to-ptr) */
}

#endif
