#include "progress.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "common.h"

void cli_progress_start(cli_progress *p, bool quiet, int64_t logging_steps) {
    *p = (cli_progress){.quiet = quiet, .terminal = isatty(STDERR_FILENO), .logging_steps = logging_steps};
}

/* "1:02:03" or "02:03" */
static const char *duration(double seconds, char text[32]) {
    const long s = seconds > 0 && seconds < 1e9 ? (long)(seconds + 0.5) : 0;
    if (s >= 3600) snprintf(text, 32, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else snprintf(text, 32, "%02ld:%02ld", s / 60, s % 60);
    return text;
}

/* Takes the changing line away before another is printed. */
static void clear(cli_progress *p) {
    if (p->line_stands) fputs("\r\033[K", stderr);
    p->line_stands = false;
}

/* Columns of the terminal; a line that wraps could not be taken away. */
static int terminal_width(void) {
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1 : 79;
}

void cli_progress_log(void *user, sp_log_level level, const char *message) {
    clear(user);
    cli_log(NULL, level, message);
}

void cli_progress_end(cli_progress *p) {
    if (p->line_stands) fputc('\n', stderr);
    p->line_stands = false;
}

/* A tenth of a second has passed since the line was last written: terminals are slow, small models fast. */
static bool is_time(cli_progress *p) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    const double seconds = (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
    if (seconds < p->shown + 0.1) return false;
    p->shown = seconds;
    return true;
}

static void show_step(cli_progress *p, const sp_train_event *e) {
    char line[256], left[32], norm[32] = "";
    const bool whole = e->step % p->logging_steps == 0 || e->step == e->total_steps;
    if (!p->terminal && !whole) return;
    if (!p->terminal) snprintf(norm, sizeof norm, "  grad %.3g", e->grad_norm); /* has no room in 80 columns */
    snprintf(line, sizeof line, "step %lld/%lld  epoch %.2f  loss %.4f  lr %.3g%s  %.0f tokens/s  left %s",
             (long long)e->step, (long long)e->total_steps, e->epoch, e->loss, e->learning_rate, norm,
             e->tokens_per_second, duration(e->seconds_left, left));
    if (!p->terminal) {
        fprintf(stderr, "%s\n", line);
        return;
    }
    if (!is_time(p) && e->step != e->total_steps) return;
    clear(p);
    fprintf(stderr, "%.*s", terminal_width(), line);
    p->line_stands = true;
}

static void show(cli_progress *p, const sp_train_event *e) {
    switch (e->kind) {
    case SP_TRAIN_BEGIN:
        if (e->step > 0)
            fprintf(stderr, "resuming after step %lld of %lld\n", (long long)e->step,
                    (long long)e->total_steps);
        break;
    case SP_TRAIN_STEP: show_step(p, e); break;
    case SP_TRAIN_EVAL:
        clear(p);
        fprintf(stderr, "step %lld  eval_loss %.4f  base %.4f  shadow %.4f\n", (long long)e->step, e->eval_loss,
                e->eval_base_loss, e->eval_shadow_loss);
        break;
    case SP_TRAIN_SAVE: break;
    case SP_TRAIN_END: clear(p); break;
    }
}

sp_train_action cli_progress_event(void *user, const sp_train_event *event) {
    cli_progress *p = user;
    if (!p->quiet) show(p, event);
    return cli_interrupted() ? SP_TRAIN_SAVE_AND_STOP : SP_TRAIN_CONTINUE;
}
