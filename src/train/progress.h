/* What training remembers between steps, beside the parameters and the optimizer's moments. */
#ifndef SPI_TRAIN_PROGRESS_H
#define SPI_TRAIN_PROGRESS_H

#include "shadowpeft/shadowpeft.h"

typedef struct spi_progress {
    int64_t step;                        /* optimizer steps done */
    double loss, base_loss, shadow_loss; /* sums since the last line of metrics */
    int64_t logged;                      /* steps in these sums */
    double total_loss;                   /* sum over all steps */
    bool evaluated;                      /* best_* are set */
    double best_eval_loss;
    int64_t best_step;
    int32_t evals_without_better;
} spi_progress;

#endif
