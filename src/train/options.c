#include "train/options.h"

#include <stdio.h>
#include <string.h>

/* Larger than any sense; infinity and NaN are no numbers. */
#define HUGE 1e300

void sp_train_options_default(sp_train_options *opts) {
    *opts = (sp_train_options){.size = sizeof *opts,
                               .num_train_epochs = 3.0,
                               .max_steps = -1,
                               .per_device_train_batch_size = 8,
                               .per_device_eval_batch_size = 8,
                               .gradient_accumulation_steps = 1,
                               .learning_rate = 5e-5,
                               .adam_beta1 = 0.9,
                               .adam_beta2 = 0.999,
                               .adam_epsilon = 1e-8,
                               .max_grad_norm = 1.0,
                               .lr_scheduler_type = SP_SCHEDULE_LINEAR,
                               .shadow_lr_multiplier = 1.0,
                               .shadow_loss_weight = 0.05,
                               .logging_steps = 10,
                               .save_steps = 500,
                               .save_total_limit = 2,
                               .max_seq_length = 1024,
                               .shuffle = true,
                               .seed = 42,
                               .distill_kl = 1.0,
                               .distill_temperature = 1.0};
}

/* What one option may be: low <= value <= high, without an end where `above` or `below` says so. */
typedef struct bound {
    const char *name;
    double value, low, high;
    bool above, below;
} bound;

static sp_status check_bound(sp_context *ctx, const bound *b) {
    const bool fits = (b->above ? b->value > b->low : b->value >= b->low) &&
                      (b->below ? b->value < b->high : b->value <= b->high);
    if (fits) return SP_OK;
    char most[64] = "";
    if (b->high < HUGE) snprintf(most, sizeof most, " and %s %g", b->below ? "below" : "at most", b->high);
    return spi_fail(ctx, SP_ERR_ARGUMENT, "%s: expected a number %s %g%s, found %g", b->name,
                    b->above ? "above" : "of at least", b->low, most, b->value);
}

static sp_status check(sp_context *ctx, const sp_train_options *o) {
    const bound bounds[] = {
        {"per_device_train_batch_size", o->per_device_train_batch_size, 1, HUGE, false, false},
        {"per_device_eval_batch_size", o->per_device_eval_batch_size, 1, HUGE, false, false},
        {"gradient_accumulation_steps", o->gradient_accumulation_steps, 1, HUGE, false, false},
        {"learning_rate", o->learning_rate, 0, HUGE, false, false},
        {"weight_decay", o->weight_decay, 0, HUGE, false, false},
        {"adam_beta1", o->adam_beta1, 0, 1, false, true},
        {"adam_beta2", o->adam_beta2, 0, 1, false, true},
        {"adam_epsilon", o->adam_epsilon, 0, HUGE, true, false},
        {"max_grad_norm", o->max_grad_norm, 0, HUGE, false, false},
        {"warmup_ratio", o->warmup_ratio, 0, 1, false, false},
        {"warmup_steps", (double)o->warmup_steps, 0, HUGE, false, false},
        {"shadow_lr_multiplier", o->shadow_lr_multiplier, 0, HUGE, false, false},
        {"shadow_loss_weight", o->shadow_loss_weight, 0, HUGE, false, false},
        {"logging_steps", (double)o->logging_steps, 1, HUGE, false, false},
        {"eval_steps", (double)o->eval_steps, 0, HUGE, false, false},
        {"save_steps", (double)o->save_steps, 1, HUGE, false, false},
        {"save_total_limit", o->save_total_limit, 0, HUGE, false, false},
        {"early_stopping_patience", o->early_stopping_patience, 0, HUGE, false, false},
        {"max_seq_length", o->max_seq_length, 1, HUGE, false, false},
        {"distill_kl", o->distill_kl, 0, HUGE, false, false},
        {"distill_mse", o->distill_mse, 0, HUGE, false, false},
        {"distill_temperature", o->distill_temperature, 0, HUGE, true, false},
        /* The number of steps comes of it where max_steps does not say it. */
        {"num_train_epochs", o->max_steps > 0 ? 1 : o->num_train_epochs, 0, 1e6, true, false},
    };
    if (!o->output_dir || !*o->output_dir)
        return spi_fail(ctx, SP_ERR_ARGUMENT, "output_dir: expected a directory, found nothing");
    for (size_t i = 0; i < sizeof bounds / sizeof *bounds; i++) SPI_TRY(check_bound(ctx, &bounds[i]));
    if (o->distill_kl + o->distill_mse == 0)
        return spi_fail(ctx, SP_ERR_ARGUMENT,
                        "distill_kl, distill_mse: expected one of them above 0, found 0 and 0");
    if ((unsigned)o->lr_scheduler_type > SP_SCHEDULE_CONSTANT_WITH_WARMUP)
        return spi_fail(ctx, SP_ERR_ARGUMENT, "lr_scheduler_type: expected one of 4 schedules, found number %d",
                        (int)o->lr_scheduler_type);
    return SP_OK;
}

sp_status spi_train_options_read(sp_context *ctx, const sp_train_options *from, sp_train_options *out) {
    sp_train_options_default(out);
    if (!from || from->size < sizeof from->size)
        return spi_fail(ctx, SP_ERR_ARGUMENT, "training options: not filled by sp_train_options_default");
    memcpy(out, from, from->size < sizeof *out ? from->size : sizeof *out);
    out->size = sizeof *out;
    return check(ctx, out);
}
