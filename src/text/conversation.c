#include "text/conversation.h"

#include <stdlib.h>
#include <string.h>

#include "text/ids.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

/* ------------------------------------------------------------------ the template */

sp_status spi_chat_source_open(sp_context *ctx, const sp_tokenizer *tok, const sp_dataset_options *opts,
                               spi_chat_source *out) {
    *out = (spi_chat_source){.ctx = ctx, .tok = tok};
    const char *kwargs = opts->chat_template_kwargs;
    if (kwargs) SPI_TRY(spi_json_parse(ctx, "chat_template_kwargs", kwargs, strlen(kwargs), &out->variables));
    if (kwargs && !json_is_object(out->variables))
        return spi_fail(ctx, SP_ERR_ARGUMENT, "chat_template_kwargs: expected an object, found %s",
                        spi_json_kind(out->variables));
    return sp_chat_template_load(ctx, spi_tokenizer_path(tok), opts->chat_template, &out->chat);
}

void spi_chat_source_close(spi_chat_source *source) {
    sp_chat_template_free(source->chat);
    json_decref(source->variables);
    *source = (spi_chat_source){0};
}

/* ------------------------------------------------------------------ one conversation */

typedef struct reading {
    const spi_chat_source *source;
    sp_context *ctx;
    const json_t *messages, *tools;
    spi_conversation_fn fn;
    void *user;
    spi_span *spans; /* [count] of answers, in order */
    size_t count, capacity;
} reading;

static sp_status add_span(reading *r, size_t start, size_t end) {
    if (!spi_grow((void **)&r->spans, &r->capacity, r->count, sizeof *r->spans))
        return spi_fail_memory(r->ctx, r->count * sizeof *r->spans, "a conversation");
    r->spans[r->count++] = (spi_span){start, end};
    return SP_OK;
}

static bool is_answer(const json_t *messages, size_t i) {
    const json_t *role = json_object_get(json_array_get(messages, i), "role");
    return json_is_string(role) && strcmp(json_string_value(role), "assistant") == 0;
}

/* The text of the first `count` messages. */
static sp_status render(const reading *r, size_t count, bool prompt, spi_jinja_output *out) {
    json_t *first = json_array();
    bool failed = !first;
    for (size_t i = 0; i < count && !failed; i++)
        failed = json_array_append(first, json_array_get(r->messages, i)) != 0;
    const spi_chat what = {.messages = first,
                           .tools = r->tools,
                           .variables = r->source->variables,
                           .add_generation_prompt = prompt};
    const sp_status status = failed ? spi_fail_memory(r->ctx, count, "a conversation")
                                    : spi_chat_render(r->source->chat, &what, out);
    json_decref(first);
    return status;
}

static bool starts_with(const spi_buf *text, const spi_buf *with) {
    return with->length <= text->length && memcmp(text->data, with->data, with->length) == 0;
}

/* ------------------------------------------------------------------ tokens */

static sp_status encode(const reading *r, const char *text, size_t length, spi_ids *out) {
    int32_t *ids;
    size_t count;
    SPI_TRY(sp_tokenizer_encode(r->source->tok, text, length, false, &ids, &count));
    for (size_t i = 0; i < count; i++) spi_ids_push(out, ids[i]);
    sp_ids_free(ids);
    return out->failed ? spi_fail_memory(r->ctx, count * sizeof *ids, "a conversation's ids") : SP_OK;
}

/* Where the ids of text[0, at) end among those of the whole; *fits is false where no token ends there. */
static sp_status find_boundary(const reading *r, const spi_buf *text, size_t at, const spi_ids *whole,
                               size_t *out, bool *fits) {
    spi_ids before = {0};
    const sp_status status = encode(r, text->data, at, &before);
    *out = before.count;
    *fits = before.count <= whole->count &&
            (!before.count || memcmp(before.data, whole->data, before.count * sizeof *before.data) == 0);
    free(before.data);
    return status;
}

/* The byte of boundary b: spans' starts and ends in turn. */
static size_t boundary(const reading *r, size_t b) {
    return b % 2 ? r->spans[b / 2].end : r->spans[b / 2].start;
}

/* Encodes the pieces between the boundaries one by one; where[b] becomes the token at boundary b. */
static sp_status encode_pieces(const reading *r, const spi_buf *text, spi_ids *ids, size_t *where) {
    size_t from = 0;
    ids->count = 0;
    for (size_t b = 0; b < 2 * r->count; b++) {
        SPI_TRY(encode(r, text->data + from, boundary(r, b) - from, ids));
        from = boundary(r, b);
        where[b] = ids->count;
    }
    return encode(r, text->data + from, text->length - from, ids);
}

static sp_status encode_text(const reading *r, const spi_buf *text, spi_ids *ids, size_t *where) {
    bool fits = true;
    SPI_TRY(encode(r, text->data, text->length, ids));
    for (size_t b = 0; b < 2 * r->count && fits; b++)
        SPI_TRY(find_boundary(r, text, boundary(r, b), ids, &where[b], &fits));
    return fits ? SP_OK : encode_pieces(r, text, ids, where);
}

/* Hands over the text with the ids and the mask that the spans give. */
static sp_status hand_over(const reading *r, const spi_buf *text, const spi_ids *ids, const size_t *where) {
    const size_t last = 2 * r->count - 2;
    uint8_t *mask = calloc(ids->count + 1, 1);
    char *answer = NULL;
    spi_turns turns = {.ids = ids->data, .mask = mask, .count = ids->count, .prompt = text->data};
    sp_status status = mask ? SP_OK : spi_fail_memory(r->ctx, ids->count, "a conversation");
    for (size_t b = 0; b < 2 * r->count && mask; b += 2)
        for (size_t i = where[b]; i < where[b + 1]; i++) mask[i] = 1;
    if (r->count) {
        turns.prompt_count = where[last];
        turns.prompt_length = r->spans[r->count - 1].start;
        if (status == SP_OK)
            status = sp_tokenizer_decode(r->source->tok, ids->data + where[last], where[last + 1] - where[last],
                                         true, &answer, &turns.answer_length);
        turns.answer = answer;
    }
    if (status == SP_OK) status = r->fn(r->user, &turns);
    sp_string_free(answer);
    free(mask);
    return status;
}

static sp_status finish(const reading *r, const spi_buf *text) {
    spi_ids ids = {0};
    size_t *where = calloc(2 * r->count + 1, sizeof *where);
    sp_status status = where ? encode_text(r, text, &ids, where)
                             : spi_fail_memory(r->ctx, r->count * sizeof *where, "a conversation");
    if (status == SP_OK) status = hand_over(r, text, &ids, where);
    free(where);
    free(ids.data);
    return status;
}

/* ------------------------------------------------------------------ spans */

/* Bytes that both begin with, ending between characters. */
static size_t common(const spi_buf *a, const spi_buf *b) {
    size_t n = 0;
    while (n < a->length && n < b->length && a->data[n] == b->data[n]) n++;
    while (n > 0 && n < b->length && ((unsigned char)b->data[n] & 0xC0) == 0x80) n--;
    return n;
}

/* The prompt of answer i and the text with it; the answer's place in that. */
static sp_status render_turn(const reading *r, size_t i, spi_jinja_output *before, spi_jinja_output *with,
                             spi_span *out) {
    spi_jinja_output plain = {0};
    SPI_TRY(render(r, i, true, before));
    SPI_TRY(render(r, i + 1, false, with));
    *out = (spi_span){common(&before->text, &with->text), with->text.length};
    if (starts_with(&with->text, &before->text)) return SP_OK;
    sp_status status = render(r, i, false, &plain);
    if (status == SP_OK && out->start < plain.text.length)
        status = spi_fail(r->ctx, SP_ERR_DATA,
                          "messages[%zu]: the template's text of this answer does not begin with that of the "
                          "messages before it",
                          i);
    spi_jinja_output_free(&plain);
    return status;
}

/* Whether all answers stand in the whole text as they were said; their spans. */
static sp_status find_spans(reading *r, const spi_buf *whole, bool *out) {
    const size_t count = json_array_size(r->messages);
    sp_status status = SP_OK;
    *out = true;
    for (size_t i = 0; i < count && *out && status == SP_OK; i++) {
        spi_jinja_output before = {0}, with = {0};
        spi_span span;
        if (!is_answer(r->messages, i)) continue;
        status = render_turn(r, i, &before, &with, &span);
        if (status == SP_OK) *out = starts_with(whole, &with.text) && starts_with(&with.text, &before.text);
        if (status == SP_OK && *out) status = add_span(r, span.start, span.end);
        spi_jinja_output_free(&before);
        spi_jinja_output_free(&with);
    }
    return status;
}

static sp_status each_turn(reading *r) {
    sp_status status = SP_OK;
    for (size_t i = 0; i < json_array_size(r->messages) && status == SP_OK; i++) {
        spi_jinja_output before = {0}, with = {0};
        spi_span span;
        if (!is_answer(r->messages, i)) continue;
        r->count = 0;
        status = render_turn(r, i, &before, &with, &span);
        if (status == SP_OK) status = add_span(r, span.start, span.end);
        if (status == SP_OK) status = finish(r, &with.text);
        spi_jinja_output_free(&before);
        spi_jinja_output_free(&with);
    }
    return status;
}

static sp_status read_rendered(reading *r, const spi_jinja_output *whole) {
    bool good = true;
    for (size_t i = 0; i < whole->span_count; i++)
        SPI_TRY(add_span(r, whole->spans[i].start, whole->spans[i].end));
    if (!whole->span_count) SPI_TRY(find_spans(r, &whole->text, &good));
    return good ? finish(r, &whole->text) : each_turn(r);
}

sp_status spi_conversation_read(const spi_chat_source *source, const json_t *messages, const json_t *tools,
                                spi_conversation_fn fn, void *user) {
    reading r = {
        .source = source, .ctx = source->ctx, .messages = messages, .tools = tools, .fn = fn, .user = user};
    spi_jinja_output whole = {0};
    sp_status status = render(&r, json_array_size(messages), false, &whole);
    if (status == SP_OK) status = read_rendered(&r, &whole);
    spi_jinja_output_free(&whole);
    free(r.spans);
    return status == SP_ERR_ARGUMENT ? SP_ERR_DATA : status;
}
