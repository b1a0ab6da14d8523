#include "generate/sequence.h"

#include <stdlib.h>
#include <string.h>

#include "generate/stop.h"

sp_status spi_sequence_start(sp_context *ctx, spi_sequence *seq, const int32_t *ids, size_t count) {
    *seq = (spi_sequence){.capacity = count + 128, .count = count, .prompt_count = count};
    seq->anchor = seq->read = count;
    seq->ids = malloc(seq->capacity * sizeof *seq->ids);
    if (!seq->ids) return spi_fail_memory(ctx, seq->capacity * sizeof *seq->ids, "a sequence");
    if (count) memcpy(seq->ids, ids, count * sizeof *ids);
    return SP_OK;
}

void spi_sequence_free(spi_sequence *seq) {
    free(seq->ids);
    spi_buf_free(&seq->text);
    *seq = (spi_sequence){0};
}

static void set_length(spi_sequence *seq, size_t length) {
    seq->text.length = length;
    if (seq->text.data) seq->text.data[length] = 0;
}

void spi_sequence_cut(spi_sequence *seq) {
    set_length(seq, seq->streamed);
}

/* ------------------------------------------------------------------ text */

typedef struct piece {
    char *text;
    size_t length;
} piece;

/* Ids [from, to) as text; sp_string_free it. */
static sp_status decode(const spi_sequence *seq, const spi_ending *e, size_t from, size_t to, piece *out) {
    return sp_tokenizer_decode(e->tok, seq->ids + from, to - from, e->skip_special_tokens, &out->text,
                               &out->length);
}

/* The bytes of text before U+FFFDs at its end, which may stand for a character whose bytes are not all there.
 */
static size_t whole_characters(const char *text, size_t length) {
    while (length >= 3 && !memcmp(text + length - 3, "\xef\xbf\xbd", 3)) length -= 3;
    return length;
}

/* Puts `tail`, the text of the ids from seq->read on, behind what is settled, and settles it too if it can be.
 */
static void put_tail(spi_sequence *seq, const char *tail, size_t length) {
    set_length(seq, seq->settled);
    spi_buf_append(&seq->text, tail, length);
    if (length && whole_characters(tail, length) < length) return;
    seq->settled += length;
    if (length) seq->anchor = seq->read; /* else the text before tells more of how the next token is read */
    seq->read = seq->count;
}

/*
 * The tail is what decode(anchor .. count) has beyond decode(anchor .. read). Where the one does not begin with
 * the other (tokens of single bytes turn the valid characters next to them into U+FFFD until their own is
 * complete), it is decoded alone.
 */
static sp_status update_text(spi_sequence *seq, const spi_ending *e) {
    piece before = {0}, all = {0};
    sp_status status = decode(seq, e, seq->anchor, seq->read, &before);
    if (status == SP_OK) status = decode(seq, e, seq->anchor, seq->count, &all);
    size_t skip = before.length;
    if (status == SP_OK && (skip > all.length || (skip && memcmp(before.text, all.text, skip) != 0))) {
        sp_string_free(all.text);
        all = (piece){0};
        skip = 0;
        status = decode(seq, e, seq->read, seq->count, &all);
    }
    if (status == SP_OK) put_tail(seq, all.text + skip, all.length - skip);
    sp_string_free(before.text);
    sp_string_free(all.text);
    return status;
}

/* ------------------------------------------------------------------ ends */

static bool contains(const int32_t *ids, size_t count, int32_t id) {
    for (size_t i = 0; i < count; i++)
        if (ids[i] == id) return true;
    return false;
}

static void end(spi_sequence *seq, sp_finish finish) {
    seq->done = true;
    seq->finish = finish;
}

static void check_id(spi_sequence *seq, int32_t id, const spi_ending *e) {
    if (contains(e->eos, e->eos_count, id)) end(seq, SP_FINISH_EOS);
    else if (contains(e->stop_ids, e->stop_id_count, id)) end(seq, SP_FINISH_STOP);
    else if (seq->count - seq->prompt_count >= (size_t)e->max_new_tokens) end(seq, SP_FINISH_LENGTH);
}

/* How much of the text is final, cutting off a stop string. */
static size_t settle(spi_sequence *seq, const spi_ending *e) {
    size_t final;
    if (spi_find_stop(seq->text.data, seq->text.length, seq->streamed, e->stop, &final)) {
        end(seq, SP_FINISH_STOP);
        set_length(seq, final);
        return final;
    }
    if (seq->done) return seq->text.length;
    const size_t whole = whole_characters(seq->text.data, seq->text.length);
    return whole < final ? whole : final;
}

sp_status spi_sequence_add(sp_context *ctx, spi_sequence *seq, int32_t id, const spi_ending *e,
                           const char **fresh, size_t *fresh_length) {
    *fresh = "";
    *fresh_length = 0;
    if (!spi_grow((void **)&seq->ids, &seq->capacity, seq->count, sizeof *seq->ids))
        return spi_fail_memory(ctx, seq->count * sizeof *seq->ids, "a sequence");
    seq->ids[seq->count++] = id;
    check_id(seq, id, e);
    if (!e->tok) return SP_OK;
    SPI_TRY(update_text(seq, e));
    if (seq->text.failed) return spi_fail_memory(ctx, seq->text.length, "generated text");
    const size_t final = settle(seq, e);
    if (final > seq->streamed) {
        *fresh = seq->text.data + seq->streamed;
        *fresh_length = final - seq->streamed;
        seq->streamed = final;
    }
    return SP_OK;
}
