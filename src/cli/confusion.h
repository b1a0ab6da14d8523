/* What a classifier took for what, for people to read and as JSON. */
#ifndef CLI_CONFUSION_H
#define CLI_CONFUSION_H

#include "common.h"

/* counts [n, n]: examples of label (row) taken for label (column). A table, or of many labels the commonest
 * mistakes. */
void cli_print_confusion(const sp_model *model, const int64_t *counts, int32_t n);
/* {"labels": [names], "confusion": [[counts]]} into `object`. */
void cli_json_confusion(json_t *object, const sp_model *model, const int64_t *counts, int32_t n);

#endif
