#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/postprocess.h"
#include "text/pretokenizer.h"
#include "text/token_decoder.h"
#include "text/utf8.h"

struct sp_tokenizer {
    sp_context *ctx;
    spi_arena arena;
    const char *path; /* of the tokenizer.json */
    spi_bpe *model;
    spi_added_tokens *added;
    spi_normalizer *normalizer;     /* or NULL */
    spi_pretokenizer *pretokenizer; /* or NULL */
    spi_template template;
    spi_token_decoder *decoder; /* or NULL */
    int32_t bos, eos, pad;      /* -1: tokenizer_config.json names none */
};

/* ------------------------------------------------------------------ loading */

/* BOS, EOS or PAD: a string, or an object with the string as its "content". */
static sp_status read_special(sp_tokenizer *tok, const char *path, const json_t *config, const char *key,
                              int32_t *id) {
    const json_t *value = json_object_get(config, key);
    *id = -1;
    if (json_is_object(value)) value = json_object_get(value, "content");
    if (!value || json_is_null(value)) return SP_OK;
    if (!json_is_string(value))
        return spi_fail(tok->ctx, SP_ERR_FORMAT, "%s: \"%s\": expected a token, found %s", path, key,
                        spi_json_kind(value));
    *id = sp_tokenizer_token_id(tok, json_string_value(value));
    if (*id < 0)
        spi_log(tok->ctx, SP_LOG_WARNING, "%s: \"%s\": the vocabulary has no token \"%s\"", path, key,
                json_string_value(value));
    return SP_OK;
}

static sp_status read_config(sp_tokenizer *tok, const char *dir) {
    tok->bos = tok->eos = tok->pad = -1;
    const char *path = spi_path_join(&tok->arena, dir, "tokenizer_config.json");
    if (!path) return spi_fail_memory(tok->ctx, strlen(dir), "a path");
    if (!spi_path_exists(path)) return SP_OK;
    json_t *config;
    SPI_TRY(spi_json_load(tok->ctx, path, &config));
    sp_status status = read_special(tok, path, config, "bos_token", &tok->bos);
    if (status == SP_OK) status = read_special(tok, path, config, "eos_token", &tok->eos);
    if (status == SP_OK) status = read_special(tok, path, config, "pad_token", &tok->pad);
    json_decref(config);
    return status;
}

static sp_status check_model(sp_context *ctx, const char *path, const json_t *model) {
    const char *type;
    SPI_TRY(spi_json_string(ctx, path, model, "type", "BPE", &type));
    if (strcmp(type, "BPE") == 0) return SP_OK;
    return spi_fail(ctx, SP_ERR_UNSUPPORTED, "%s: \"model.type\": expected \"BPE\", found \"%s\"", path, type);
}

/* Truncation and padding that the file may ask for are left out, as transformers does unless asked. */
static sp_status read_parts(sp_tokenizer *tok, spi_tokenizer_file *file) {
    sp_context *ctx = tok->ctx;
    const char *path = tok->path;
    const json_t *json = file->rest;
    bool fallback;
    SPI_TRY(check_model(ctx, path, json_object_get(json, "model")));
    SPI_TRY(spi_json_bool(ctx, path, json_object_get(json, "model"), "byte_fallback", false, &fallback));
    SPI_TRY(spi_normalizer_create(ctx, path, json, &tok->normalizer));
    /* Falling back to bytes is defined on GPT-2's characters, so there they must be written out. */
    SPI_TRY(spi_pretokenizer_create(ctx, path, json, !fallback, &tok->pretokenizer));
    const bool bytes = !fallback && spi_pretokenizer_is_byte_level(tok->pretokenizer);
    SPI_TRY(spi_bpe_create(ctx, path, file, bytes, &tok->model));
    SPI_TRY(spi_added_tokens_create(ctx, path, json, spi_bpe_vocab(tok->model), tok->normalizer, &tok->added));
    SPI_TRY(spi_template_read(ctx, path, json, &tok->template));
    return spi_token_decoder_create(ctx, path, json, &tok->decoder);
}

static sp_status load(sp_tokenizer *tok, const char *dir) {
    const bool is_dir = spi_path_is_dir(dir);
    tok->path = is_dir ? spi_path_join(&tok->arena, dir, "tokenizer.json") : spi_arena_strdup(&tok->arena, dir);
    const char *parent = dir;
    if (!is_dir) {
        const char *slash = strrchr(dir, '/');
        parent = spi_arena_strndup(&tok->arena, dir, slash ? (size_t)(slash + 1 - dir) : 0);
    }
    if (!tok->path || !parent) {
        spi_fail_memory(tok->ctx, 1, "the path of a tokenizer");
        return SP_ERR_MEMORY; /* in sight of static analysis: never SP_OK */
    }
    spi_tokenizer_file file;
    SPI_TRY(spi_tokenizer_file_read(tok->ctx, tok->path, &file));
    const sp_status status = read_parts(tok, &file);
    spi_tokenizer_file_free(&file);
    return status == SP_OK ? read_config(tok, parent) : status;
}

sp_status sp_tokenizer_load(sp_context *ctx, const char *dir, sp_tokenizer **out) {
    *out = NULL;
    sp_tokenizer *tok = calloc(1, sizeof *tok);
    if (!tok) return spi_fail_memory(ctx, sizeof *tok, "a tokenizer");
    tok->ctx = ctx;
    const sp_status status = load(tok, dir);
    if (status == SP_OK) *out = tok;
    else sp_tokenizer_free(tok);
    return status;
}

void sp_tokenizer_free(sp_tokenizer *tok) {
    if (!tok) return;
    spi_bpe_free(tok->model);
    spi_added_tokens_free(tok->added);
    spi_normalizer_free(tok->normalizer);
    spi_pretokenizer_free(tok->pretokenizer);
    spi_template_free(&tok->template);
    spi_token_decoder_free(tok->decoder);
    spi_arena_free(&tok->arena);
    free(tok);
}

/* ------------------------------------------------------------------ encoding */

/* A text on its way to ids; the stretches between added tokens and the pieces of those. */
typedef struct encoding {
    const sp_tokenizer *tok;
    const char *text;       /* repaired input */
    const char *normalized; /* of the current stretch */
    bool origin;            /* it begins where the input does */
    spi_ids ids;
} encoding;

static sp_status encode_piece(void *user, const spi_piece *piece) {
    encoding *e = user;
    return spi_bpe_encode(e->tok->ctx, e->tok->model, piece->text, piece->length, &e->ids);
}

static sp_status encode_normalized(void *user, int32_t id, size_t start, size_t end) {
    encoding *e = user;
    if (start == end) return SP_OK;
    if (id >= 0) {
        spi_ids_push(&e->ids, id);
        return SP_OK;
    }
    const spi_piece piece = {e->normalized + start, end - start, e->origin && start == 0};
    return spi_pretokenize(e->tok->ctx, e->tok->pretokenizer, &piece, encode_piece, e);
}

static sp_status encode_stretch(void *user, int32_t id, size_t start, size_t end) {
    encoding *e = user;
    if (start == end) return SP_OK;
    if (id >= 0) {
        spi_ids_push(&e->ids, id);
        return SP_OK;
    }
    const char *text = e->text + start;
    size_t length = end - start;
    bool cut;
    SPI_TRY(spi_normalize(e->tok->ctx, e->tok->normalizer, &text, &length, &cut));
    e->normalized = text;
    e->origin = start == 0 && !cut;
    return spi_added_tokens_split(e->tok->added, true, text, length, encode_normalized, e);
}

static sp_status encode(encoding *e, const char *text, size_t length) {
    spi_buf repaired = {0};
    if (spi_utf8_valid(text, length) != length) {
        spi_utf8_repair(&repaired, text, length);
        text = repaired.data;
        length = repaired.length;
    }
    sp_status status = SP_OK;
    e->text = text;
    if (repaired.failed) status = spi_fail_memory(e->tok->ctx, length, "a text");
    else status = spi_added_tokens_split(e->tok->added, false, text, length, encode_stretch, e);
    spi_buf_free(&repaired);
    if (status == SP_OK && e->ids.failed)
        status = spi_fail_memory(e->tok->ctx, e->ids.count * 4, "a text's ids");
    return status;
}

sp_status sp_tokenizer_encode(const sp_tokenizer *tok, const char *text, size_t length, bool add_special_tokens,
                              int32_t **ids, size_t *count) {
    *ids = NULL;
    *count = 0;
    encoding e = {.tok = tok};
    spi_ids out = {0};
    sp_status status = encode(&e, text, length);
    if (status == SP_OK) {
        spi_template_apply(&tok->template, &e.ids, add_special_tokens, &out);
        if (!out.data) out.data = malloc(sizeof *out.data); /* no ids, but something to free */
        if (out.failed || !out.data) status = spi_fail_memory(tok->ctx, e.ids.count * 4, "a text's ids");
    }
    free(e.ids.data);
    if (status != SP_OK) {
        free(out.data);
        return status;
    }
    *ids = out.data;
    *count = out.count;
    return SP_OK;
}

void sp_ids_free(int32_t *ids) {
    free(ids);
}

/* ------------------------------------------------------------------ decoding */

/* The token of an id as it is decoded, or NULL. */
static const char *token_text(const sp_tokenizer *tok, int32_t id, size_t *length) {
    const char *text = spi_added_tokens_text(tok->added, id, length);
    return text ? text : spi_vocab_text(spi_bpe_vocab(tok->model), id, length);
}

sp_status sp_tokenizer_decode(const sp_tokenizer *tok, const int32_t *ids, size_t count,
                              bool skip_special_tokens, char **text, size_t *length) {
    *text = NULL;
    *length = 0;
    spi_token_list tokens = {0};
    for (size_t i = 0; i < count; i++) {
        size_t token_length;
        const char *token = token_text(tok, ids[i], &token_length);
        if (!token || (skip_special_tokens && spi_added_tokens_is_special(tok->added, token, token_length)))
            continue;
        spi_buf_append(&tokens.text, token, token_length);
        spi_token_list_close(&tokens);
    }
    spi_buf out = {0};
    sp_status status = spi_token_decoder_run(tok->ctx, tok->decoder, &tokens, &out);
    spi_token_list_free(&tokens);
    const size_t total = out.length;
    char *result = status == SP_OK ? spi_buf_take(&out) : NULL;
    spi_buf_free(&out);
    if (status != SP_OK) return status;
    if (!result) return spi_fail_memory(tok->ctx, total, "a decoded text");
    *text = result;
    *length = total;
    return SP_OK;
}

/* ------------------------------------------------------------------ looking up */

const char *spi_tokenizer_path(const sp_tokenizer *tok) {
    return tok->path;
}

int32_t sp_tokenizer_vocab_size(const sp_tokenizer *tok) {
    int32_t end = spi_bpe_vocab(tok->model)->id_count;
    if (spi_added_tokens_end(tok->added) > end) end = spi_added_tokens_end(tok->added);
    if (spi_template_end(&tok->template) > end) end = spi_template_end(&tok->template);
    return end;
}

int32_t sp_tokenizer_token_id(const sp_tokenizer *tok, const char *token) {
    const int32_t id = spi_added_tokens_find(tok->added, token, strlen(token));
    return id >= 0 ? id : spi_vocab_find(spi_bpe_vocab(tok->model), token, strlen(token));
}

const char *sp_tokenizer_token(const sp_tokenizer *tok, int32_t id) {
    return token_text(tok, id, NULL);
}

int32_t sp_tokenizer_bos_id(const sp_tokenizer *tok) {
    return tok->bos;
}

int32_t sp_tokenizer_eos_id(const sp_tokenizer *tok) {
    return tok->eos;
}

int32_t sp_tokenizer_pad_id(const sp_tokenizer *tok) {
    return tok->pad;
}
