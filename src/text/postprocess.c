#include "text/postprocess.h"

#include <stdlib.h>
#include <string.h>

#include "text/vocab.h"

#define KNOWN "TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel, Sequence"

void spi_template_free(spi_template *t) {
    free(t->before.data);
    free(t->copies);
    *t = (spi_template){0};
}

static sp_status fail_memory(const spi_component *c) {
    return spi_fail_memory(c->ctx, sizeof(int32_t), "a post-processor");
}

static sp_status push_copy(const spi_component *c, spi_template *t) {
    if (!spi_grow((void **)&t->copies, &t->copy_capacity, t->copy_count, sizeof *t->copies))
        return fail_memory(c);
    t->copies[t->copy_count++] = t->before.count;
    return SP_OK;
}

static sp_status push_id(const spi_component *c, const char *name, const json_t *id, spi_template *t) {
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) >= SPI_VOCAB_LIMIT)
        return spi_component_wrong(c, name, "ids of tokens");
    spi_ids_push(&t->before, (int32_t)json_integer_value(id));
    return t->before.failed ? fail_memory(c) : SP_OK;
}

/* {"SpecialToken": {"id": NAME}}, whose ids are special_tokens[NAME].ids. */
static sp_status push_special(const spi_component *c, const json_t *piece, spi_template *t) {
    const json_t *name = json_object_get(piece, "id");
    if (!json_is_string(name)) return spi_component_wrong(c, "single", "special tokens with an id");
    const json_t *token = json_object_get(json_object_get(c->json, "special_tokens"), json_string_value(name));
    const json_t *ids = json_object_get(token, "ids");
    if (!json_is_array(ids))
        return spi_fail(c->ctx, SP_ERR_FORMAT,
                        "%s: \"%s.special_tokens\": expected the ids of \"%s\", found none", c->file, c->key,
                        json_string_value(name));
    for (size_t i = 0; i < json_array_size(ids); i++)
        SPI_TRY(push_id(c, "special_tokens", json_array_get(ids, i), t));
    return SP_OK;
}

static sp_status read_template(const spi_component *c, spi_template *t) {
    const json_t *single = json_object_get(c->json, "single");
    if (!json_is_array(single)) return spi_component_wrong(c, "single", "an array");
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *piece = json_array_get(single, i);
        const json_t *special = json_object_get(piece, "SpecialToken");
        const json_t *sequence = json_object_get(json_object_get(piece, "Sequence"), "id");
        if (json_is_object(special)) SPI_TRY(push_special(c, special, t));
        else if (json_is_string(sequence) && strcmp(json_string_value(sequence), "A") == 0)
            SPI_TRY(push_copy(c, t));
        else return spi_component_wrong(c, "single", "special tokens and sequences \"A\"");
    }
    return SP_OK;
}

/* ["TOKEN", id] */
static sp_status push_pair(const spi_component *c, const char *name, spi_template *t) {
    const json_t *pair = json_object_get(c->json, name);
    if (!json_is_array(pair) || json_array_size(pair) != 2) return spi_component_wrong(c, name, "[token, id]");
    return push_id(c, name, json_array_get(pair, 1), t);
}

static sp_status read_processor(void *user, const spi_component *c) {
    spi_template *t = user;
    if (strcmp(c->type, "Sequence") == 0) return spi_component_each(c, "processors", read_processor, t);
    if (strcmp(c->type, "ByteLevel") == 0) return SP_OK;
    const bool template = strcmp(c->type, "TemplateProcessing") == 0;
    if (!template && strcmp(c->type, "BertProcessing") != 0 && strcmp(c->type, "RobertaProcessing") != 0)
        return spi_component_unknown(c, KNOWN);
    if (t->present)
        return spi_fail(c->ctx, SP_ERR_UNSUPPORTED,
                        "%s: \"%s\": expected one processor that adds tokens, found more", c->file, c->key);
    t->present = true;
    if (template) return read_template(c, t);
    SPI_TRY(push_pair(c, "cls", t));
    SPI_TRY(push_copy(c, t));
    return push_pair(c, "sep", t);
}

sp_status spi_template_read(sp_context *ctx, const char *file, const json_t *object, spi_template *out) {
    return spi_component_read(ctx, file, object, "post_processor", read_processor, out);
}

static void push_all(spi_ids *out, const int32_t *ids, size_t count) {
    for (size_t i = 0; i < count; i++) spi_ids_push(out, ids[i]);
}

void spi_template_apply(const spi_template *t, const spi_ids *text, bool add_special_tokens, spi_ids *out) {
    if (!t->present) {
        push_all(out, text->data, text->count);
        return;
    }
    size_t written = 0;
    for (size_t i = 0; i < t->copy_count; i++) {
        if (add_special_tokens) push_all(out, t->before.data + written, t->copies[i] - written);
        written = t->copies[i];
        push_all(out, text->data, text->count);
    }
    if (add_special_tokens) push_all(out, t->before.data + written, t->before.count - written);
}
