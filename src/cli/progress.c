#include "progress.h"

#include <stdio.h>
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
    if (p->width) fprintf(stderr, "\r%*s\r", p->width, "");
    p->width = 0;
}

static void show_step(cli_progress *p, const sp_train_event *e) {
    char line[256], left[32];
    const bool whole = e->step % p->logging_steps == 0 || e->step == e->total_steps;
    if (!p->terminal && !whole) return;
    const int width = snprintf(
        line, sizeof line, "step %lld/%lld  epoch %.2f  loss %.4f  lr %.3g  grad %.3g  %.0f tokens/s  left %s",
        (long long)e->step, (long long)e->total_steps, e->epoch, e->loss, e->learning_rate, e->grad_norm,
        e->tokens_per_second, duration(e->seconds_left, left));
    if (!p->terminal) {
        fprintf(stderr, "%s\n", line);
        return;
    }
    clear(p);
    fprintf(stderr, "%s", line);
    p->width = width;
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
    const int interrupts = cli_interrupts();
    if (interrupts) p->width = 0;
    return interrupts > 1 ? SP_TRAIN_ABORT : interrupts == 1 ? SP_TRAIN_SAVE_AND_STOP : SP_TRAIN_CONTINUE;
}
