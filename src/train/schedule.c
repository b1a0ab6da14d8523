#include "train/schedule.h"

#include <math.h>

#define PI 3.14159265358979323846

static double at_least_one(int64_t n) {
    return n > 1 ? (double)n : 1.0;
}

double spi_schedule_factor(sp_schedule kind, int64_t step, int64_t warmup, int64_t total) {
    if (kind == SP_SCHEDULE_CONSTANT) return 1.0;
    if (step < warmup) return (double)step / at_least_one(warmup);
    const double span = at_least_one(total - warmup);
    double factor = 1.0;
    if (kind == SP_SCHEDULE_LINEAR) factor = (double)(total - step) / span;
    if (kind == SP_SCHEDULE_COSINE) factor = 0.5 * (1.0 + cos(PI * ((double)(step - warmup) / span)));
    return factor > 0.0 ? factor : 0.0;
}
