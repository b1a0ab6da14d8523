/* A classifier over a labelled dataset: loss, and what each example was taken for. */
#ifndef SPI_GENERATE_CLASSIFY_H
#define SPI_GENERATE_CLASSIFY_H

#include "shadow/adapted.h"

typedef struct spi_classified {
    double loss;     /* sum of cross-entropies */
    int64_t correct; /* examples whose largest logit is their label's */
    double macro_f1; /* scikit-learn's f1_score(average="macro"): over the labels that occur or are predicted */
} spi_classified;

/* One pass in batches of `batch_size`. confusion: [labels, labels], or NULL. SP_ERR_DATA: an example has no
 * label. */
sp_status spi_classify(sp_model *model, const sp_dataset *ds, sp_mode mode, int32_t batch_size,
                       int64_t *confusion, spi_classified *out);

#endif
