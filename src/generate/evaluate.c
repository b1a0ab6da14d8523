/* Loss, perplexity, accuracy and exact match of one path over a dataset. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "generate/classify.h"
#include "generate/generate.h"
#include "shadow/adapted.h"
#include "shadow/step.h"

void sp_eval_options_default(sp_eval_options *opts) {
    *opts = (sp_eval_options){
        .size = sizeof *opts, .mode = SP_MODE_BASE_SHADOW, .batch_size = 8, .max_new_tokens = 64};
}

static sp_status read_options(sp_context *ctx, const sp_eval_options *from, sp_eval_options *out) {
    sp_eval_options_default(out);
    if (from && from->size < sizeof from->size)
        return spi_fail(ctx, SP_ERR_ARGUMENT, "evaluation options: not filled by sp_eval_options_default");
    if (from) memcpy(out, from, from->size < sizeof *out ? from->size : sizeof *out);
    if ((unsigned)out->mode > SP_MODE_SHADOW_ONLY)
        return spi_fail(ctx, SP_ERR_ARGUMENT, "mode: expected base_shadow or shadow_only, found number %d",
                        (int)out->mode);
    if (out->batch_size < 1)
        return spi_fail(ctx, SP_ERR_ARGUMENT, "batch_size: expected at least 1, found %d", out->batch_size);
    if (out->exact_match && out->max_new_tokens < 1)
        return spi_fail(ctx, SP_ERR_ARGUMENT, "max_new_tokens: expected at least 1, found %d",
                        out->max_new_tokens);
    return SP_OK;
}

/* A classifier is measured by labels, any other model by tokens. */
static sp_status check_labels(const sp_model *model, const sp_dataset *ds) {
    const bool labelled = sp_dataset_label_count(ds) > 0;
    if (labelled == (model->task == SP_TASK_SEQ_CLS)) return SP_OK;
    return labelled ? spi_fail(model->ctx, SP_ERR_DATA,
                               "evaluation: the examples have labels, but the model is a causal LM")
                    : spi_fail(model->ctx, SP_ERR_DATA, "evaluation: a classifier needs examples with labels");
}

/* ------------------------------------------------------------------ loss */

static sp_status losses(sp_model *model, const sp_dataset *ds, const sp_eval_options *o, spi_loss_sums *sums,
                        int64_t *labels) {
    const int64_t n = sp_dataset_count(ds);
    const spi_run run = {.mode = o->mode};
    spi_batch batch = {0};
    sp_status status = SP_OK;
    for (int64_t first = 0; first < n && status == SP_OK; first += o->batch_size) {
        const int64_t most = first + o->batch_size, end = most < n ? most : n;
        spi_batch_clear(&batch);
        for (int64_t i = first; i < end && status == SP_OK; i++)
            status = spi_batch_add_example(model->ctx, &batch, ds, i);
        if (status == SP_OK) status = spi_batch_check(model, &batch);
        if (status == SP_OK && batch.labels) status = spi_adapted_loss(model, &batch, &run, sums);
        *labels += batch.labels;
    }
    spi_batch_free(&batch);
    return status;
}

/* ------------------------------------------------------------------ exact match */

static bool is_space(char c) {
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Text without white space at its ends. */
static void trim(const char **text, size_t *length) {
    while (*length && is_space(**text)) {
        ++*text;
        --*length;
    }
    while (*length && is_space((*text)[*length - 1])) --*length;
}

static bool same(const spi_sequence *seq, const char *expected) {
    const char *a = seq->text.data ? seq->text.data : "", *b = expected;
    size_t n = seq->text.length, m = strlen(expected);
    trim(&a, &n);
    trim(&b, &m);
    return n == m && !memcmp(a, b, n);
}

/* Greedy answers to the prompts of examples [first, end); how many are right. */
static sp_status answer(sp_model *model, const sp_dataset *ds, const sp_generate_options *o,
                        const spi_ending *ending, int64_t first, int64_t end, int64_t *right) {
    const size_t n = (size_t)(end - first);
    spi_sequence *sequences = calloc(n, sizeof *sequences);
    if (!sequences) return spi_fail_memory(model->ctx, n * sizeof *sequences, "answers");
    sp_status status = SP_OK;
    for (size_t i = 0; i < n && status == SP_OK; i++) {
        sp_example e;
        sp_dataset_get(ds, first + (int64_t)i, &e);
        status = spi_sequence_start(model->ctx, &sequences[i], e.ids, (size_t)e.prompt_length);
    }
    if (status == SP_OK) status = spi_generate_run(model, o, ending, sequences, n, NULL, NULL, NULL);
    for (size_t i = 0; i < n && status == SP_OK; i++) {
        sp_example e;
        sp_dataset_get(ds, first + (int64_t)i, &e);
        *right += same(&sequences[i], e.completion);
    }
    for (size_t i = 0; i < n; i++) spi_sequence_free(&sequences[i]);
    free(sequences);
    return status;
}

/* Every example must be a prompt with an answer. */
static sp_status check_examples(const sp_model *model, const sp_dataset *ds) {
    for (int64_t i = 0; i < sp_dataset_count(ds); i++) {
        sp_example e;
        sp_dataset_get(ds, i, &e);
        if (!e.completion || e.prompt_length < 1)
            return spi_fail(model->ctx, SP_ERR_DATA,
                            "exact_match: example %lld: expected a prompt and a completion, found plain text",
                            (long long)i + 1);
    }
    return SP_OK;
}

static sp_status exact_match(sp_model *model, const sp_tokenizer *tok, const sp_dataset *ds,
                             const sp_eval_options *o, double *share) {
    const int64_t n = sp_dataset_count(ds);
    spi_ending ending = {.tok = tok, .max_new_tokens = o->max_new_tokens, .skip_special_tokens = true};
    sp_generate_options g;
    int32_t *eos = NULL;
    int64_t right = 0;
    if (!tok) return spi_fail(model->ctx, SP_ERR_ARGUMENT, "exact_match: expected a tokenizer, found none");
    SPI_TRY(check_examples(model, ds));
    SPI_TRY(spi_eos_ids(model, tok, &eos, &ending.eos_count));
    ending.eos = eos;
    sp_generate_options_default(&g);
    g.mode = o->mode;
    sp_status status = SP_OK;
    for (int64_t first = 0; first < n && status == SP_OK; first += o->batch_size) {
        const int64_t most = first + o->batch_size;
        status = answer(model, ds, &g, &ending, first, most < n ? most : n, &right);
    }
    *share = (double)right / (double)n;
    free(eos);
    return status;
}

/* ------------------------------------------------------------------ both tasks */

static sp_status evaluate_classifier(sp_model *model, const sp_dataset *ds, const sp_eval_options *o,
                                     sp_eval_result *all) {
    spi_classified c;
    if (o->exact_match)
        return spi_fail(model->ctx, SP_ERR_ARGUMENT, "exact_match: a classifier gives labels, no texts");
    SPI_TRY(spi_classify(model, ds, o->mode, o->batch_size, o->confusion, &c));
    all->label_tokens = all->examples;
    all->loss = c.loss / (double)all->examples;
    all->token_accuracy = (double)c.correct / (double)all->examples;
    all->macro_f1 = c.macro_f1;
    return SP_OK;
}

static sp_status evaluate_lm(sp_model *model, const sp_tokenizer *tok, const sp_dataset *ds,
                             const sp_eval_options *o, sp_eval_result *all) {
    const bool only = o->mode == SP_MODE_SHADOW_ONLY;
    spi_loss_sums sums = {0};
    SPI_TRY(losses(model, ds, o, &sums, &all->label_tokens));
    all->loss = (only ? sums.shadow : sums.base) / (double)all->label_tokens;
    all->token_accuracy = (double)(only ? sums.shadow_correct : sums.base_correct) / (double)all->label_tokens;
    return o->exact_match ? exact_match(model, tok, ds, o, &all->exact_match) : SP_OK;
}

sp_status sp_evaluate(sp_model *model, const sp_tokenizer *tok, const sp_dataset *ds,
                      const sp_eval_options *opts, sp_eval_result *result) {
    sp_eval_options o;
    sp_eval_result all = {
        .size = result->size, .examples = sp_dataset_count(ds), .exact_match = NAN, .macro_f1 = NAN};
    SPI_TRY(read_options(model->ctx, opts, &o));
    SPI_TRY(spi_mode_check(model, o.mode));
    SPI_TRY(check_labels(model, ds));
    SPI_TRY(model->task == SP_TASK_SEQ_CLS ? evaluate_classifier(model, ds, &o, &all)
                                           : evaluate_lm(model, tok, ds, &o, &all));
    all.perplexity = exp(all.loss);
    memcpy(result, &all, result->size < sizeof all ? result->size : sizeof all);
    return SP_OK;
}
