/* What training shows: one line that changes on a terminal, plain lines elsewhere. */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include "shadowpeft/shadowpeft.h"

typedef struct cli_progress {
    bool quiet, terminal;
    int64_t logging_steps;
    int width; /* of the line that stands on the terminal */
} cli_progress;

void cli_progress_start(cli_progress *p, bool quiet, int64_t logging_steps);
/* An sp_train_fn whose user is a cli_progress; asks to stop after Ctrl-C. */
sp_train_action cli_progress_event(void *user, const sp_train_event *event);

#endif
