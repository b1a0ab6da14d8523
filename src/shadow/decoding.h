/* What the ways to decode share: single steps (decoding.c), and runs of recorded ones (decoding_run.c). */
#ifndef SPI_SHADOW_DECODING_H
#define SPI_SHADOW_DECODING_H

#include "shadow/adapted.h"

struct spi_decoding {
    sp_model *model;
    sp_mode mode;
    int32_t slots, capacity;
    int32_t *length;                      /* [slots] tokens held */
    spi_kv *base_kv;                      /* NULL in SHADOW_ONLY */
    spi_kv *shadow_kv;                    /* NULL without adapter */
    int32_t *past, *positions, *last_row; /* host working memory */
    int64_t row_capacity;
    /*
     * Rotary frequencies that depend on the longest sequence (dynamic, longrope): keys that were rotated for
     * another length are of no use, so the tokens are kept, to be fed again. NULL for all other models.
     */
    int32_t *ids;       /* [slots, capacity] */
    int32_t *made_for;  /* [slots] longest sequence of the slot's last step */
    int32_t *all_start; /* [slots + 1] working memory */
    int32_t *all_ids;   /* [slots, capacity] working memory */
};

/* Fails unless the new tokens (as in spi_decoding_step) are ids of the model and fit into their slots. */
sp_status spi_decoding_check(const spi_decoding *d, int32_t count, const int32_t *slot, const int32_t *start,
                             const int32_t *ids);

#endif
