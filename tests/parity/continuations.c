/* Greedy continuations against the Python packages': by whole passes, over caches, and by recorded steps. */
#include <stdlib.h>
#include <string.h>

#include "parity.h"

static int64_t argmax(const float *x, int64_t n) {
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (x[i] > x[best]) best = i;
    return best;
}

/* Appends argmax tokens to ids [length] until `total`, each from a whole forward pass; logits [total, vocab].
 */
static bool continue_greedily(parity *p, sp_model *model, sp_mode mode, int64_t *ids, int64_t length,
                              int64_t total, float *logits, int64_t vocab) {
    for (; length < total; length++) {
        sp_forward_input in;
        sp_forward_output out = {.size = sizeof out, .logits = logits};
        sp_forward_input_default(&in);
        in.batch = 1;
        in.seq = length;
        in.input_ids = ids;
        in.mode = mode;
        if (!check(p, sp_forward(model, &in, &out))) return false;
        ids[length] = argmax(logits + (length - 1) * vocab, vocab);
    }
    return true;
}

static int64_t i64_at(const spi_st_tensor *t, int64_t index) {
    int64_t value;
    memcpy(&value, (const char *)t->data + index * (int64_t)sizeof value, sizeof value);
    return value;
}

/* Every row's real tokens continued, against the expected [B, N] ids. */
static void check_greedy(parity *p, sp_model *model, sp_mode mode, const char *name, int64_t vocab) {
    const spi_st_tensor *want = spi_st_find(p->expected, name);
    const spi_st_tensor *input = spi_st_find(p->input, "input_ids");
    const spi_st_tensor *mask = spi_st_find(p->input, "attention_mask");
    if (!want || !input || !mask) {
        complain(p, name, "the fixture lacks it, or its input");
        return;
    }
    int64_t seq = input->shape[1], more = want->shape[1], room = seq + more;
    int64_t *ids = malloc((size_t)room * sizeof *ids);
    float *logits = malloc((size_t)(room * vocab) * sizeof *logits);
    for (int64_t row = 0; ids && logits && row < want->shape[0]; row++) {
        int64_t length = 0;
        for (int64_t i = row * seq; i < (row + 1) * seq; i++)
            if (i64_at(mask, i)) ids[length++] = i64_at(input, i);
        bool equal = continue_greedily(p, model, mode, ids, length, length + more, logits, vocab);
        for (int64_t i = 0; equal && i < more; i++) equal = ids[length + i] == i64_at(want, row * more + i);
        if (!equal) complain(p, name, "greedy ids differ");
        p->ids_equal = p->ids_equal && equal;
    }
    free(ids);
    free(logits);
}

/* One sequence continued over caches: its prompt [length] at once, then token after token up to `total`. */
static bool continue_cached(parity *p, spi_decoding *d, int32_t slot, int32_t *ids, int32_t length,
                            int32_t total, float *logits, int64_t vocab) {
    for (int32_t fed = 0; length < total; fed = length++) {
        const int32_t start[2] = {0, length - fed};
        if (!check(p, spi_decoding_step(d, 1, &slot, start, ids + fed, logits))) return false;
        ids[length] = (int32_t)argmax(logits, vocab);
    }
    return true;
}

/* The same continuations over caches, every row in a slot of its own. */
static void check_cached(parity *p, sp_model *model, sp_mode mode, const char *name, int64_t vocab) {
    const spi_st_tensor *want = spi_st_find(p->expected, name);
    const spi_st_tensor *input = spi_st_find(p->input, "input_ids");
    const spi_st_tensor *mask = spi_st_find(p->input, "attention_mask");
    spi_decoding *d = NULL;
    if (!want || !input || !mask) return;
    const int64_t rows = want->shape[0], seq = input->shape[1], more = want->shape[1], room = seq + more;
    int32_t *ids = calloc((size_t)room, sizeof *ids);
    float *logits = malloc((size_t)vocab * sizeof *logits);
    bool equal = ids && logits && check(p, spi_decoding_new(model, mode, (int32_t)rows, (int32_t)room, &d));
    for (int64_t row = 0; equal && row < rows; row++) {
        int32_t length = 0;
        for (int64_t i = row * seq; i < (row + 1) * seq; i++)
            if (i64_at(mask, i)) ids[length++] = (int32_t)i64_at(input, i);
        equal = continue_cached(p, d, (int32_t)row, ids, length, length + (int32_t)more, logits, vocab);
        for (int64_t i = 0; equal && i < more; i++) equal = ids[length + i] == i64_at(want, row * more + i);
    }
    if (!equal) complain(p, name, "greedy ids over caches differ");
    p->ids_equal = p->ids_equal && equal;
    spi_decoding_free(d);
    free(ids);
    free(logits);
}

/* Prompts in slots of their own, each with its first new token. */
static bool begin_recorded(parity *p, spi_decoding *d, spi_run_sequence *sequences, const int64_t *wanted,
                           int64_t more, float *logits, int64_t vocab) {
    const spi_st_tensor *input = spi_st_find(p->input, "input_ids");
    const spi_st_tensor *mask = spi_st_find(p->input, "attention_mask");
    const int64_t rows = input->shape[0], seq = input->shape[1];
    int32_t *ids = calloc((size_t)seq, sizeof *ids);
    bool good = ids != NULL;
    for (int32_t row = 0; good && row < rows; row++) {
        int32_t start[2] = {0, 0};
        for (int64_t i = row * seq; i < (row + 1) * seq; i++)
            if (i64_at(mask, i)) ids[start[1]++] = (int32_t)i64_at(input, i);
        good = check(p, spi_decoding_step(d, 1, &row, start, ids, logits));
        sequences[row] = (spi_run_sequence){.slot = row, .sequence = row};
        if (good) sequences[row].id = (int32_t)argmax(logits, vocab);
        good = good && sequences[row].id == wanted[row * more];
    }
    free(ids);
    return good;
}

/* All rows at once by recorded steps, where the device has them: fed and chosen there. */
static bool continue_recorded(parity *p, spi_decoding *d, const spi_run_sequence *sequences, int32_t rows,
                              const int64_t *wanted, int64_t more) {
    sp_generate_options greedy;
    sp_generate_options_default(&greedy);
    spi_decoding_run *run = NULL;
    int32_t *ids = calloc((size_t)rows, sizeof *ids);
    bool good = ids && check(p, spi_decoding_run_new(d, rows, sequences, &greedy, &run));
    for (int64_t queued = 1, step = 1; good && step < more; step++) {
        for (; good && queued < more && queued - step < 2; queued++)
            good = check(p, spi_decoding_run_queue(run));
        good = good && check(p, spi_decoding_run_read(run, ids));
        for (int32_t row = 0; good && row < rows; row++) good = ids[row] == wanted[row * more + step];
    }
    spi_decoding_run_free(run, NULL);
    free(ids);
    return good;
}

static void check_recorded(parity *p, sp_model *model, sp_mode mode, const char *name, int64_t vocab) {
    const spi_st_tensor *want = spi_st_find(p->expected, name), *input = spi_st_find(p->input, "input_ids");
    spi_decoding *d = NULL;
    if (!want || !input) return;
    const int32_t rows = (int32_t)want->shape[0];
    const int64_t more = want->shape[1];
    int64_t *wanted = calloc((size_t)(rows * more), sizeof *wanted);
    spi_run_sequence *sequences = calloc((size_t)rows, sizeof *sequences);
    float *logits = malloc((size_t)vocab * sizeof *logits);
    bool equal = wanted && sequences && logits &&
                 check(p, spi_decoding_new(model, mode, rows, (int32_t)(input->shape[1] + more), &d));
    for (int64_t i = 0; equal && i < rows * more; i++) wanted[i] = i64_at(want, i);
    if (equal && spi_decoding_runs(d))
        equal = begin_recorded(p, d, sequences, wanted, more, logits, vocab) &&
                continue_recorded(p, d, sequences, rows, wanted, more);
    if (!equal) complain(p, name, "greedy ids of recorded steps differ");
    p->ids_equal = p->ids_equal && equal;
    spi_decoding_free(d);
    free(wanted);
    free(sequences);
    free(logits);
}

void check_continuations(parity *p, sp_model *model, int64_t vocab) {
    check_greedy(p, model, SP_MODE_BASE_SHADOW, "greedy_ids", vocab);
    check_greedy(p, model, SP_MODE_SHADOW_ONLY, "greedy_ids_shadow_only", vocab);
    check_cached(p, model, SP_MODE_BASE_SHADOW, "greedy_ids", vocab);
    check_cached(p, model, SP_MODE_SHADOW_ONLY, "greedy_ids_shadow_only", vocab);
    check_recorded(p, model, SP_MODE_BASE_SHADOW, "greedy_ids", vocab);
    check_recorded(p, model, SP_MODE_SHADOW_ONLY, "greedy_ids_shadow_only", vocab);
}
