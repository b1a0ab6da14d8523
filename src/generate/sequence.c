#include "generate/sequence.h"

#include <stdlib.h>
#include <string.h>

#include "generate/stop.h"

sp_status spi_sequence_start(sp_context *ctx, spi_sequence *seq, const int32_t *ids, size_t count) {
    *seq = (spi_sequence){.capacity = count + 128};
    seq->ids = malloc(seq->capacity * sizeof *seq->ids);
    if (!seq->ids) return spi_fail_memory(ctx, seq->capacity * sizeof *seq->ids, "a sequence");
    if (count) memcpy(seq->ids, ids, count * sizeof *ids);
    seq->count = seq->prompt_count = count;
    return SP_OK;
}

void spi_sequence_free(spi_sequence *seq) {
    free(seq->ids);
    spi_buf_free(&seq->text);
    *seq = (spi_sequence){0};
}

static bool contains(const int32_t *ids, size_t count, int32_t id) {
    for (size_t i = 0; i < count; i++)
        if (ids[i] == id) return true;
    return false;
}

/* The longest stop string: how far back one that began earlier can reach. */
static size_t longest(const char *const *stop) {
    size_t most = 0;
    for (size_t i = 0; stop && stop[i]; i++)
        if (strlen(stop[i]) > most) most = strlen(stop[i]);
    return most;
}

/*
 * The text of all new ids. It is decoded anew each time: what a token says may depend on the ones before it,
 * and the end of a text on the ones to come. Returns the bytes that are final, as far as characters go.
 */
static sp_status decode(spi_sequence *seq, const spi_ending *e) {
    char *text = NULL;
    size_t length = 0;
    SPI_TRY(sp_tokenizer_decode(e->tok, seq->ids + seq->prompt_count, seq->count - seq->prompt_count,
                                e->skip_special_tokens, &text, &length));
    seq->text.length = 0;
    spi_buf_append(&seq->text, text, length);
    sp_string_free(text);
    return SP_OK;
}

/* U+FFFD at the end stands for bytes of a character that is not complete. */
static size_t settled(const spi_buf *text) {
    size_t length = text->length;
    while (length >= 3 && !memcmp(text->data + length - 3, "\xef\xbf\xbd", 3)) length -= 3;
    return spi_whole_characters(text->data, length);
}

sp_status spi_sequence_add(sp_context *ctx, spi_sequence *seq, int32_t id, const spi_ending *e,
                           const char **fresh, size_t *fresh_length) {
    size_t final;
    *fresh_length = 0;
    if (!spi_grow((void **)&seq->ids, &seq->capacity, seq->count, sizeof *seq->ids))
        return spi_fail_memory(ctx, seq->count * sizeof *seq->ids, "a sequence");
    seq->ids[seq->count++] = id;
    if (contains(e->eos, e->eos_count, id)) {
        seq->done = true;
        seq->finish = SP_FINISH_EOS;
    } else if (seq->count - seq->prompt_count >= (size_t)e->max_new_tokens) {
        seq->done = true;
        seq->finish = SP_FINISH_LENGTH;
    }
    if (!e->tok) return SP_OK;
    SPI_TRY(decode(seq, e));
    const size_t reach = longest(e->stop), from = seq->streamed > reach ? seq->streamed - reach : 0;
    if (spi_find_stop(seq->text.data, seq->text.length, from, e->stop, &final)) {
        seq->done = true;
        seq->finish = SP_FINISH_STOP;
        seq->text.length = final;
        if (seq->text.data) seq->text.data[final] = 0;
    } else if (seq->done) {
        final = seq->text.length;
    } else {
        const size_t whole = seq->text.length ? settled(&seq->text) : 0;
        if (whole < final) final = whole;
    }
    if (seq->text.failed) return spi_fail_memory(ctx, seq->text.length, "generated text");
    if (final > seq->streamed) {
        *fresh = seq->text.data + seq->streamed;
        *fresh_length = final - seq->streamed;
        seq->streamed = final;
    }
    return SP_OK;
}
