#include "model/tape.h"

#include <stdlib.h>

sp_status spi_tape_new(const spi_decoder *dec, int64_t tokens, bool checkpointing, spi_pool *pool,
                       spi_tape *out) {
    const int64_t layers = dec->arch.num_layers, kept = checkpointing ? 1 : layers;
    *out = (spi_tape){.h = calloc((size_t)layers + 1, sizeof *out->h),
                      .acts = calloc((size_t)kept, sizeof *out->acts),
                      .checkpointing = checkpointing};
    if (!out->h || !out->acts) {
        spi_tape_free(out);
        return spi_fail_memory(dec->dev->ctx, (size_t)layers * sizeof *out->acts, "a tape");
    }
    for (int64_t l = 0; l <= layers; l++)
        out->h[l] = spi_pool_mat(pool, dec->dtype, tokens, dec->arch.hidden_size);
    for (int64_t l = 0; l < kept; l++) out->acts[l] = spi_layer_acts_new(dec, tokens, pool);
    return dec->dev->status;
}

void spi_tape_free(spi_tape *tape) {
    free(tape->h);
    free(tape->acts);
    *tape = (spi_tape){0};
}

static spi_layer_acts *acts_of(spi_tape *tape, int64_t l) {
    return &tape->acts[tape->checkpointing ? 0 : l];
}

void spi_tape_forward(spi_decoder *dec, spi_tape *tape, const spi_pass *pass, spi_pool *pool) {
    for (int64_t l = 0; l < dec->arch.num_layers; l++)
        spi_layer_forward(dec, l, pass, tape->h[l + 1], tape->h[l], acts_of(tape, l), NULL, pool);
}

void spi_tape_backward(spi_decoder *dec, spi_tape *tape, const spi_pass *pass, spi_mat dh, bool need_dx,
                       spi_pool *pool) {
    for (int64_t l = dec->arch.num_layers - 1; l >= 0; l--) {
        spi_layer_acts *acts = acts_of(tape, l);
        /* h[l + 1] has served its layer's backward by now, so the recomputation may write it again. */
        if (tape->checkpointing) spi_layer_forward(dec, l, pass, tape->h[l + 1], tape->h[l], acts, NULL, pool);
        spi_layer_backward(dec, l, pass, dh, tape->h[l], acts, need_dx || l > 0, pool);
    }
}
