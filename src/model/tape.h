/*
 * A whole decoder forward with what its backward needs kept, and that backward: for decoders that train from
 * their embedding to their last layer (the shadow; a base in pretraining).
 */
#ifndef SPI_MODEL_TAPE_H
#define SPI_MODEL_TAPE_H

#include "model/decoder.h"

typedef struct spi_tape {
    spi_mat *h;           /* [num_layers + 1] of [T, d]: the input of each layer, then the output of the last */
    spi_layer_acts *acts; /* [num_layers], or [1] when layers are recomputed */
    bool checkpointing;
} spi_tape;

/* Memory for `tokens` rows from the pool. Free the tape's own arrays with spi_tape_free. */
sp_status spi_tape_new(const spi_decoder *dec, int64_t tokens, bool checkpointing, spi_pool *pool,
                       spi_tape *out);
void spi_tape_free(spi_tape *tape);

/* From tape->h[0] to tape->h[num_layers]. */
void spi_tape_forward(spi_decoder *dec, spi_tape *tape, const spi_pass *pass, spi_pool *pool);
/* In: dh = dL/dh[num_layers]. Out: dh = dL/dh[0], undefined unless need_dx. Gradients of parameters +=. */
void spi_tape_backward(spi_decoder *dec, spi_tape *tape, const spi_pass *pass, spi_mat dh, bool need_dx,
                       spi_pool *pool);

#endif
