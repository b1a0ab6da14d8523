/*
 * Learning-rate schedules against transformers 5.23, recorded with
 *   p = torch.nn.Parameter(torch.zeros(1)); o = torch.optim.SGD([p], lr=1.0)
 *   s = transformers.get_scheduler(NAME, o, num_warmup_steps=WARMUP, num_training_steps=TOTAL)
 *   for _ in range(STEPS): print(o.param_groups[0]["lr"]); o.step(); s.step()
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "train/schedule.h"

#define MOST 12

typedef struct recorded {
    sp_schedule kind;
    int64_t warmup, total;
    int steps;
    double factor[MOST];
} recorded;

static const recorded cases[] = {
    {SP_SCHEDULE_LINEAR,
     0,
     7,
     9,
     {1.0, 0.8571428571428571, 0.7142857142857143, 0.5714285714285714, 0.42857142857142855, 0.2857142857142857,
      0.14285714285714285, 0.0, 0.0}},
    {SP_SCHEDULE_LINEAR,
     3,
     10,
     12,
     {0.0, 0.3333333333333333, 0.6666666666666666, 1.0, 0.8571428571428571, 0.7142857142857143,
      0.5714285714285714, 0.42857142857142855, 0.2857142857142857, 0.14285714285714285, 0.0, 0.0}},
    {SP_SCHEDULE_LINEAR, 4, 4, 6, {0.0, 0.25, 0.5, 0.75, 0.0, 0.0}},
    {SP_SCHEDULE_COSINE,
     0,
     7,
     8,
     {1.0, 0.9504844339512095, 0.8117449009293668, 0.6112604669781572, 0.38873953302184283, 0.18825509907063326,
      0.04951556604879048, 0.0}},
    {SP_SCHEDULE_COSINE,
     3,
     10,
     12,
     {0.0, 0.3333333333333333, 0.6666666666666666, 1.0, 0.9504844339512095, 0.8117449009293668,
      0.6112604669781572, 0.38873953302184283, 0.18825509907063326, 0.04951556604879048, 0.0,
      0.04951556604879043}},
    {SP_SCHEDULE_COSINE, 4, 4, 6, {0.0, 0.25, 0.5, 0.75, 1.0, 0.0}},
    {SP_SCHEDULE_CONSTANT, 3, 10, 6, {1.0, 1.0, 1.0, 1.0, 1.0, 1.0}},
    {SP_SCHEDULE_CONSTANT_WITH_WARMUP, 0, 7, 3, {1.0, 1.0, 1.0}},
    {SP_SCHEDULE_CONSTANT_WITH_WARMUP, 3, 10, 6, {0.0, 0.3333333333333333, 0.6666666666666666, 1.0, 1.0, 1.0}},
};

static void test_recorded(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int step = 0; step < cases[i].steps; step++) {
            const double got = spi_schedule_factor(cases[i].kind, step, cases[i].warmup, cases[i].total);
            if (fabs(got - cases[i].factor[step]) > 1e-15)
                fail_msg("case %zu, step %d: %.17g, expected %.17g", i, step, got, cases[i].factor[step]);
        }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_recorded)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
