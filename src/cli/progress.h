/* What training shows: one line that changes on a terminal, plain lines elsewhere. */
#ifndef CLI_PROGRESS_H
#define CLI_PROGRESS_H

#include "shadowpeft/shadowpeft.h"

typedef struct cli_progress {
    bool quiet, terminal;
    int64_t logging_steps;
    double shown;     /* when the line on the terminal was last written, seconds */
    bool line_stands; /* a line without its end is on the terminal */
} cli_progress;

void cli_progress_start(cli_progress *p, bool quiet, int64_t logging_steps);
/* An sp_train_fn whose user is a cli_progress; asks to stop after Ctrl-C. */
sp_train_action cli_progress_event(void *user, const sp_train_event *event);

/* An sp_log_fn whose user is a cli_progress: messages get lines of their own. */
void cli_progress_log(void *user, sp_log_level level, const char *message);
/* Gives the line that stands on the terminal its end. */
void cli_progress_end(cli_progress *p);

#endif
