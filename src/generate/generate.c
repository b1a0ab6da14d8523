/* The public calls of generation: prompts in, continuations out. */
#include "generate/generate.h"

#include <stdlib.h>
#include <string.h>

#include "generate/options.h"
#include "shadow/step.h"

struct sp_generation {
    spi_sequence *sequences; /* [count] */
    size_t count;
    sp_generation_stats stats;
};

/* ------------------------------------------------------------------ what ends a sequence */

sp_status spi_eos_ids(const sp_model *model, const sp_tokenizer *tok, int32_t **ids, size_t *count) {
    const int32_t own = tok ? sp_tokenizer_eos_id(tok) : -1;
    *ids = malloc((model->eos_count + 1) * sizeof **ids);
    if (!*ids) return spi_fail_memory(model->ctx, (model->eos_count + 1) * sizeof **ids, "EOS ids");
    *count = model->eos_count;
    if (*count) memcpy(*ids, model->eos_ids, *count * sizeof **ids);
    if (own >= 0) (*ids)[(*count)++] = own;
    return SP_OK;
}

/* Stop strings that are a token whose text is left out: found by its id or never. */
static sp_status find_stop_ids(const sp_tokenizer *tok, const sp_generate_options *o, int32_t *ids,
                               size_t *count) {
    *count = 0;
    for (size_t i = 0; o->stop && o->stop[i]; i++) {
        const int32_t id = sp_tokenizer_token_id(tok, o->stop[i]);
        char *text;
        size_t length;
        if (id < 0) continue;
        SPI_TRY(sp_tokenizer_decode(tok, &id, 1, o->skip_special_tokens, &text, &length));
        sp_string_free(text);
        if (length == 0) ids[(*count)++] = id;
    }
    return SP_OK;
}

static sp_status open_ending(const sp_model *model, const sp_tokenizer *tok, const sp_generate_options *o,
                             spi_ending *out, int32_t **eos, int32_t **stop_ids) {
    size_t stops = 0;
    while (o->stop && o->stop[stops]) stops++;
    *out = (spi_ending){.tok = tok,
                        .eos = o->eos_ids,
                        .eos_count = o->eos_count,
                        .stop = o->stop,
                        .max_new_tokens = o->max_new_tokens,
                        .skip_special_tokens = o->skip_special_tokens};
    if (o->ignore_eos) {
        out->eos_count = 0;
    } else if (!o->eos_ids) {
        SPI_TRY(spi_eos_ids(model, tok, eos, &out->eos_count));
        out->eos = *eos;
    }
    *stop_ids = malloc((stops + 1) * sizeof **stop_ids);
    if (!*stop_ids) return spi_fail_memory(model->ctx, (stops + 1) * sizeof **stop_ids, "stop strings");
    out->stop_ids = *stop_ids;
    return find_stop_ids(tok, o, *stop_ids, &out->stop_id_count);
}

/* ------------------------------------------------------------------ the whole */

static sp_status start_prompt(sp_model *model, const sp_tokenizer *tok, const char *prompt, bool special,
                              size_t number, spi_sequence *seq) {
    const int64_t vocab = model->base->arch.vocab_size;
    int32_t *ids = NULL;
    size_t count = 0;
    if (!prompt) return spi_fail(model->ctx, SP_ERR_ARGUMENT, "prompt %zu: expected text, found NULL", number);
    SPI_TRY(sp_tokenizer_encode(tok, prompt, strlen(prompt), special, &ids, &count));
    sp_status status = SP_OK;
    if (count == 0)
        status = spi_fail(
            model->ctx, SP_ERR_ARGUMENT,
            "prompt %zu: expected text (the tokenizer begins with no token of its own), found none", number);
    for (size_t i = 0; i < count && status == SP_OK; i++)
        if (ids[i] >= vocab)
            status = spi_fail(model->ctx, SP_ERR_MISMATCH,
                              "prompt %zu: expected token ids below %lld (%s: \"vocab_size\"), found %d",
                              number, (long long)vocab, model->files.config_path, ids[i]);
    if (status == SP_OK) status = spi_sequence_start(model->ctx, seq, ids, count);
    sp_ids_free(ids);
    return status;
}

void sp_generation_free(sp_generation *g) {
    if (!g) return;
    for (size_t i = 0; i < g->count; i++) spi_sequence_free(&g->sequences[i]);
    free(g->sequences);
    free(g);
}

static sp_status start_prompts(sp_model *model, const sp_tokenizer *tok, const char *const *prompts,
                               size_t count, bool special, sp_generation **out) {
    sp_generation *g = calloc(1, sizeof *g);
    if (g) g->sequences = calloc(count + 1, sizeof *g->sequences);
    sp_status status =
        g && g->sequences ? SP_OK : spi_fail_memory(model->ctx, count * sizeof(spi_sequence), "generation");
    for (; status == SP_OK && g->count < count; g->count++) {
        status = start_prompt(model, tok, prompts[g->count], special, g->count + 1, &g->sequences[g->count]);
        if (status != SP_OK) break;
    }
    if (status == SP_OK) *out = g;
    else sp_generation_free(g);
    return status;
}

sp_status sp_generate(sp_model *model, const sp_tokenizer *tok, const char *const *prompts, size_t count,
                      const sp_generate_options *opts, sp_stream_fn stream, void *user, sp_generation **out) {
    sp_generate_options o;
    spi_ending ending;
    int32_t *eos = NULL, *stop_ids = NULL;
    sp_generation *g = NULL;
    *out = NULL;
    if (!tok) return spi_fail(model->ctx, SP_ERR_ARGUMENT, "generation: expected a tokenizer, found none");
    SPI_TRY(spi_generate_options_read(model->ctx, opts, model->base->arch.vocab_size, &o));
    SPI_TRY(spi_mode_check(model, o.mode));
    sp_status status = open_ending(model, tok, &o, &ending, &eos, &stop_ids);
    if (status == SP_OK) status = start_prompts(model, tok, prompts, count, o.add_special_tokens, &g);
    if (status == SP_OK && count)
        status = spi_generate_run(model, &o, &ending, g->sequences, count, stream, user, &g->stats);
    free(eos);
    free(stop_ids);
    if (status == SP_OK) *out = g;
    else sp_generation_free(g);
    return status;
}

size_t sp_generation_count(const sp_generation *g) {
    return g->count;
}

void sp_generation_get(const sp_generation *g, size_t index, sp_generated *out) {
    const spi_sequence *seq = &g->sequences[index];
    *out = (sp_generated){.text = seq->text.data ? seq->text.data : "",
                          .length = seq->text.length,
                          .ids = seq->ids + seq->prompt_count,
                          .count = seq->count - seq->prompt_count,
                          .prompt_count = seq->prompt_count,
                          .finish = seq->finish};
}

void sp_generation_get_stats(const sp_generation *g, sp_generation_stats *stats) {
    sp_generation_stats all = g->stats;
    all.size = stats->size;
    memcpy(stats, &all, stats->size < sizeof all ? stats->size : sizeof all);
}
