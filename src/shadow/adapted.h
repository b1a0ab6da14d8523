/*
 * The adapted model's passes: training (forward and backward in one call), inference over whole sequences,
 * and decoding over caches.
 */
#ifndef SPI_SHADOW_ADAPTED_H
#define SPI_SHADOW_ADAPTED_H

#include "shadow/batch.h"

/* Weights and temperature of spi_distill_loss. */
typedef struct spi_distill {
    double kl, mse, temperature;
} spi_distill;

typedef struct spi_run {
    sp_mode mode;
    bool dropout;                /* training: dropout as the config says */
    uint64_t seed, stream;       /* of the dropout masks: another stream for every micro-batch */
    bool gradient_checkpointing; /* keep one hidden state per layer, recompute the rest */
    double base_weight;          /* dL/d(sum of the base path's cross-entropies) */
    double shadow_weight;        /* the same of the shadow path; 0: its loss is not computed */
    const spi_distill *distill;  /* the distance from the model's teacher takes the place of cross-entropy */
} spi_run;

/* Sums over label tokens; added to. */
typedef struct spi_loss_sums {
    double base, shadow;
    int64_t base_correct, shadow_correct;
} spi_loss_sums;

/*
 * Loss and gradients: parameters' grad += d(base_weight * sums->base + shadow_weight * sums->shadow), after
 * spi_model_begin.
 * Mode SHADOW_ONLY runs no base layer and takes only the shadow's loss.
 */
sp_status spi_adapted_train(sp_model *model, const spi_batch *batch, const spi_run *run, spi_loss_sums *sums);

/* Loss only, without dropout. */
sp_status spi_adapted_loss(sp_model *model, const spi_batch *batch, const spi_run *run, spi_loss_sums *sums);

/*
 * Logits to host memory, f32 [spi_logit_rows, V] (V: spi_model_outputs): of every row, or of a classifier of
 * each sequence's last one. Either may be NULL. SHADOW_ONLY: both get the shadow's.
 */
int64_t spi_logit_rows(const sp_model *model, const spi_batch *batch);
sp_status spi_adapted_logits(sp_model *model, const spi_batch *batch, sp_mode mode, float *logits,
                             float *shadow_logits);

/* ------------------------------------------------------------------ decoding */

/* Caches for up to `slots` sequences of up to `capacity` tokens each. */
typedef struct spi_decoding spi_decoding;

sp_status spi_decoding_new(sp_model *model, sp_mode mode, int32_t slots, int32_t capacity, spi_decoding **out);
void spi_decoding_free(spi_decoding *d);
/* Tokens that a slot holds. */
int32_t spi_decoding_length(const spi_decoding *d, int32_t slot);
/* Forgets all but the first `length` tokens of a slot. */
void spi_decoding_truncate(spi_decoding *d, int32_t slot, int32_t length);

/*
 * Feeds new tokens: sequence i is ids[start[i] .. start[i+1]) (at least one) for slot[i], no slot twice.
 * logits: host f32 [count, V], of each sequence's last token: what a whole pass over the sequence by itself
 * gives.
 */
sp_status spi_decoding_step(spi_decoding *d, int32_t count, const int32_t *slot, const int32_t *start,
                            const int32_t *ids, float *logits);

/*
 * A run: one new token after the other for the same sequences, fed and chosen on the device. Its step is
 * recorded once, so that a token costs the host one call, and the next step is queued before the host looks at
 * what this one chose. While there is a run nothing else may be computed with its model.
 */
typedef struct spi_decoding_run spi_decoding_run;

typedef struct spi_run_sequence {
    int32_t slot, id;       /* it holds all ids so far but the last, which is `id` */
    int32_t sequence, step; /* draws: which sequence's, and the number of the next one */
    const int32_t *ids;     /* [count] all so far; read only where there is a repetition penalty */
    size_t count;
} spi_run_sequence;

/* Whether the device and the model can: no timed device, no frequencies that move with the length. */
bool spi_decoding_runs(const spi_decoding *d);
/* Of `o` the fields that say how a token is chosen. */
sp_status spi_decoding_run_new(spi_decoding *d, int32_t count, const spi_run_sequence *sequences,
                               const sp_generate_options *o, spi_decoding_run **out);
/*
 * Queues the next step. At most two steps may be queued and not read. A sequence whose slot is full goes on at
 * its last place: what it gives is of no use, and harms no other.
 */
sp_status spi_decoding_run_queue(spi_decoding_run *run);
/* ids [count] of the oldest step not read: -1 where logits were not finite. */
sp_status spi_decoding_run_read(spi_decoding_run *run, int32_t *ids);
/* Ends a run. kept [count]: of how many steps each slot holds the token (NULL: of all). */
void spi_decoding_run_free(spi_decoding_run *run, const int32_t *kept);

#endif
