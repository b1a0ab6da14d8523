#include "text/tokenizer_file.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "text/utf8.h"

/* Bytes of a file for each token, its merges included, at most: a guess, to have room at once. */
#define BYTES_PER_TOKEN 128

/* A place in JSON text. The functions below return false where the text is not what they look for. */
typedef struct cursor {
    const char *at, *end;
} cursor;

typedef struct reader {
    sp_context *ctx;
    const char *path;
    spi_tokenizer_file *file;
    cursor in;
    const char *copied; /* up to here the text is in `rest` */
    spi_buf rest;       /* the text without the two large values */
    const char *vocab;  /* where it begins, or NULL: not met yet */
    cursor merges;      /* the same */
    bool prefixed;      /* the model has a continuing_subword_prefix */
    size_t merge_capacity;
    spi_buf left, right, joined; /* scratch for tokens */
    sp_status status;            /* of a failure that has its message, where a function returned false */
} reader;

/* ------------------------------------------------------------------ JSON text */

static void skip_space(cursor *c) {
    while (c->at < c->end && (*c->at == ' ' || *c->at == '\n' || *c->at == '\r' || *c->at == '\t')) c->at++;
}

/* Passes `wanted`, with space around it. */
static bool take(cursor *c, char wanted) {
    skip_space(c);
    if (c->at >= c->end || *c->at != wanted) return false;
    c->at++;
    skip_space(c);
    return true;
}

static int hex4(const char *p) {
    int value = 0;
    for (int i = 0; i < 4; i++) {
        const char c = p[i];
        int digit;
        if (c >= '0' && c <= '9') digit = c - '0';
        else if ((c | 32) >= 'a' && (c | 32) <= 'f') digit = (c | 32) - 'a' + 10;
        else return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* The character of "uXXXX" or "uXXXX\uXXXX" at c, which is passed; -1 where it is broken. */
static int32_t take_unicode(cursor *c) {
    if (c->end - c->at < 5) return -1;
    const int first = hex4(c->at + 1);
    c->at += 5;
    if (first < 0xD800 || first > 0xDFFF) return first;
    if (first > 0xDBFF || c->end - c->at < 6 || c->at[0] != '\\' || c->at[1] != 'u') return -1;
    const int second = hex4(c->at + 2);
    c->at += 6;
    if (second < 0xDC00 || second > 0xDFFF) return -1;
    return 0x10000 + ((first - 0xD800) << 10 | (second - 0xDC00));
}

static bool take_escape(cursor *c, spi_buf *out) {
    static const char letters[] = "\"\\/bfnrt";
    static const char meanings[] = "\"\\/\b\f\n\r\t";
    if (c->at >= c->end) return false;
    if (*c->at == 'u') {
        const int32_t character = take_unicode(c);
        if (character >= 0) spi_utf8_append(out, character);
        return character >= 0;
    }
    const char *letter = *c->at ? strchr(letters, *c->at) : NULL;
    if (!letter) return false;
    c->at++;
    spi_buf_putc(out, meanings[letter - letters]);
    return true;
}

/* Passes a string; *text is in the JSON text itself where nothing is escaped, else in `scratch`. */
static bool take_string(cursor *c, spi_buf *scratch, const char **text, size_t *length) {
    if (c->at >= c->end || *c->at != '"') return false;
    const char *start = ++c->at;
    while (c->at < c->end && *c->at != '"' && *c->at != '\\' && (unsigned char)*c->at >= 0x20) c->at++;
    if (c->at < c->end && *c->at == '"') {
        *text = start;
        *length = (size_t)(c->at++ - start);
        return true;
    }
    scratch->length = 0;
    spi_buf_append(scratch, start, (size_t)(c->at - start));
    while (c->at < c->end && *c->at != '"') {
        if ((unsigned char)*c->at < 0x20) return false;
        if (*c->at != '\\') spi_buf_putc(scratch, *c->at++);
        else if (c->at++, !take_escape(c, scratch)) return false;
    }
    if (c->at >= c->end || scratch->failed) return false;
    c->at++;
    *text = scratch->data;
    *length = scratch->length;
    return true;
}

static bool skip_string(cursor *c) {
    for (c->at++; c->at < c->end; c->at++) {
        if (*c->at == '"') return c->at++, true;
        if (*c->at == '\\') c->at++;
    }
    return false;
}

/* Passes any value by its brackets; what lies between them is not checked. */
static bool skip_value(cursor *c) {
    size_t depth = 0;
    do {
        if (c->at >= c->end) return false;
        if (*c->at == '"') {
            if (!skip_string(c)) return false;
            continue;
        }
        if (*c->at == '{' || *c->at == '[') depth++;
        else if (*c->at == '}' || *c->at == ']') {
            if (depth == 0) return false;
            depth--;
        } else if (depth == 0) { /* a number or a word */
            const char *start = c->at;
            while (c->at < c->end && !strchr(",]} \t\r\n", *c->at)) c->at++;
            return c->at > start;
        }
        c->at++;
    } while (depth > 0);
    return true;
}

static bool is_key(const char *text, size_t length, const char *key) {
    return length == strlen(key) && memcmp(text, key, length) == 0;
}

/* ------------------------------------------------------------------ vocabulary */

static bool fail(reader *r, sp_status status) {
    r->status = status;
    return false;
}

static bool fail_id(reader *r, const char *token, size_t length) {
    cursor end = r->in;
    while (end.at < end.end && end.at < r->in.at + 100 && !strchr(",}] \t\r\n", *end.at)) end.at++;
    return fail(r, spi_fail(r->ctx, SP_ERR_FORMAT,
                            "%s: \"model.vocab\": \"%.*s\": expected an id from 0 to %d, found %.*s", r->path,
                            (int)(length < 100 ? length : 100), token, (int)SPI_VOCAB_LIMIT - 1,
                            (int)(end.at - r->in.at), r->in.at));
}

static bool take_id(reader *r, const char *token, size_t length, int32_t *id) {
    cursor *c = &r->in;
    const char *start = c->at;
    int64_t value = 0;
    while (c->at < c->end && *c->at >= '0' && *c->at <= '9' && value < SPI_VOCAB_LIMIT)
        value = value * 10 + (*c->at++ - '0');
    const bool ended = c->at < c->end && strchr(",} \t\r\n", *c->at);
    if (c->at == start || !ended || value >= SPI_VOCAB_LIMIT) {
        c->at = start;
        return fail_id(r, token, length);
    }
    *id = (int32_t)value;
    return true;
}

static bool read_vocab(reader *r) {
    if (!take(&r->in, '{')) return false;
    if (take(&r->in, '}')) return true;
    const size_t bytes = (size_t)(r->in.end - r->in.at);
    if (!spi_vocab_reserve(&r->file->vocab, bytes / BYTES_PER_TOKEN))
        return fail(r, spi_fail_memory(r->ctx, bytes, "a tokenizer's vocabulary"));
    do {
        const char *token;
        size_t length;
        int32_t id;
        if (!take_string(&r->in, &r->left, &token, &length) || !take(&r->in, ':')) return false;
        if (!take_id(r, token, length, &id)) return false;
        if (!spi_vocab_add(&r->file->vocab, token, length, id))
            return fail(r, spi_fail_memory(r->ctx, length, "a tokenizer's vocabulary"));
    } while (take(&r->in, ','));
    if (r->in.at >= r->in.end || *r->in.at != '}') return false;
    r->in.at++;
    return spi_vocab_index(&r->file->vocab) ||
           fail(r, spi_fail_memory(r->ctx, r->file->vocab.count, "a tokenizer's vocabulary"));
}

/* ------------------------------------------------------------------ merges */

static bool fail_merge(reader *r, const char *what) {
    return fail(r, spi_fail(r->ctx, SP_ERR_FORMAT, "%s: \"model.merges[%zu]\": expected %s", r->path,
                            r->file->merge_count, what));
}

static bool find_token(reader *r, const char *text, size_t length, int32_t *id) {
    *id = spi_vocab_find(&r->file->vocab, text, length);
    if (*id >= 0) return true;
    return fail(r, spi_fail(r->ctx, SP_ERR_MISMATCH,
                            "%s: \"model.merges[%zu]\": the vocabulary has no token \"%.*s\"", r->path,
                            r->file->merge_count, (int)(length < 100 ? length : 100), text));
}

/* What two tokens become. Merges mostly come in the order of the ids that they make. */
static bool find_joined(reader *r, const char *left, size_t left_length, const char *right, size_t right_length,
                        int32_t *id) {
    const spi_tokenizer_file *f = r->file;
    const size_t total = left_length + right_length;
    *id = f->merge_count ? f->merges[f->merge_count - 1].merged + 1 : 0;
    size_t length;
    const char *guess = spi_vocab_text(&f->vocab, *id, &length);
    if (guess && length == total && memcmp(guess, left, left_length) == 0 &&
        memcmp(guess + left_length, right, right_length) == 0)
        return true;
    r->joined.length = 0;
    spi_buf_append(&r->joined, left, left_length);
    spi_buf_append(&r->joined, right, right_length);
    if (r->joined.failed) return fail(r, spi_fail_memory(r->ctx, total, "a token"));
    return find_token(r, r->joined.data, total, id);
}

static bool add_merge(reader *r, const char *left, size_t left_length, const char *right, size_t right_length) {
    spi_tokenizer_file *f = r->file;
    spi_merge m;
    if (!find_token(r, left, left_length, &m.left) || !find_token(r, right, right_length, &m.right) ||
        !find_joined(r, left, left_length, right, right_length, &m.merged))
        return false;
    size_t size;
    if (left_length && right_length)
        spi_joints_add(f->joints, spi_utf8_get(left + spi_utf8_last(left, left_length), &size),
                       spi_utf8_get(right, &size));
    if (!spi_grow((void **)&f->merges, &r->merge_capacity, f->merge_count, sizeof m))
        return fail(r, spi_fail_memory(r->ctx, f->merge_count * sizeof m, "a tokenizer's merges"));
    f->merges[f->merge_count++] = m;
    return true;
}

/* "a b", of which a leading "#version" line counts for nothing. */
static bool read_merge_line(reader *r) {
    const char *text;
    size_t length;
    if (!take_string(&r->in, &r->left, &text, &length)) return false;
    if (length >= 8 && memcmp(text, "#version", 8) == 0) return true;
    const char *space = memchr(text, ' ', length);
    const size_t left = space ? (size_t)(space - text) : length;
    if (!space || memchr(space + 1, ' ', length - left - 1))
        return fail_merge(r, "two tokens with one space between them");
    return add_merge(r, text, left, space + 1, length - left - 1);
}

static bool read_merge_pair(reader *r) {
    const char *left;
    const char *right;
    size_t left_length;
    size_t right_length;
    if (!take(&r->in, '[')) return fail_merge(r, "\"a b\" or [\"a\", \"b\"]");
    if (!take_string(&r->in, &r->left, &left, &left_length) || !take(&r->in, ',') ||
        !take_string(&r->in, &r->right, &right, &right_length))
        return fail_merge(r, "an array of two strings");
    skip_space(&r->in);
    if (r->in.at >= r->in.end || *r->in.at != ']') return fail_merge(r, "an array of two strings");
    r->in.at++;
    return add_merge(r, left, left_length, right, right_length);
}

static bool read_merges(reader *r) {
    if (!take(&r->in, '['))
        return fail(r, spi_fail(r->ctx, SP_ERR_FORMAT, "%s: \"model.merges\": expected an array", r->path));
    /* Never NULL, so that a model without merges is told from one that was not read. */
    r->file->joints = calloc(1, sizeof *r->file->joints);
    if (!r->file->joints ||
        !spi_grow((void **)&r->file->merges, &r->merge_capacity, 0, sizeof *r->file->merges))
        return fail(r, spi_fail_memory(r->ctx, sizeof *r->file->merges, "a tokenizer's merges"));
    if (take(&r->in, ']')) return true;
    do {
        if (!(r->in.at < r->in.end && *r->in.at == '"' ? read_merge_line(r) : read_merge_pair(r))) return false;
    } while (take(&r->in, ','));
    return take(&r->in, ']');
}

/* ------------------------------------------------------------------ taking the file apart */

/* What is before `value` goes to `rest`, and null for the value itself, which ends where the reader is. */
static void cut(reader *r, const char *value) {
    spi_buf_append(&r->rest, r->copied, (size_t)(value - r->copied));
    spi_buf_puts(&r->rest, "null");
    r->copied = r->in.at;
}

static bool fail_twice(reader *r, const char *key) {
    return fail(r, spi_fail(r->ctx, SP_ERR_FORMAT, "%s: \"model.%s\": there twice", r->path, key));
}

/* A vocabulary that is no object belongs to another type of model. */
static bool pass_vocab(reader *r) {
    const char *start = r->in.at;
    if (r->vocab) return fail_twice(r, "vocab");
    r->vocab = start;
    if (r->in.at < r->in.end && *r->in.at == '{' ? !read_vocab(r) : !skip_value(&r->in)) return false;
    cut(r, start);
    return true;
}

/* Merges can be read once the vocabulary is there; those of tokens with a prefix are left to be refused. */
static bool pass_merges(reader *r) {
    const char *start = r->in.at;
    if (r->merges.at) return fail_twice(r, "merges");
    if (r->vocab && !r->prefixed ? !read_merges(r) : !skip_value(&r->in)) return false;
    r->merges = (cursor){start, r->in.at};
    cut(r, start);
    return true;
}

static bool pass_prefix(reader *r) {
    const char *start = r->in.at;
    if (!skip_value(&r->in)) return false;
    r->prefixed = r->in.at - start > 2 && *start == '"';
    return true;
}

static bool pass_model(reader *r) {
    if (!take(&r->in, '{')) return skip_value(&r->in);
    if (take(&r->in, '}')) return true;
    do {
        const char *key;
        size_t length;
        if (!take_string(&r->in, &r->left, &key, &length) || !take(&r->in, ':')) return false;
        bool passed;
        if (is_key(key, length, "vocab")) passed = pass_vocab(r);
        else if (is_key(key, length, "merges")) passed = pass_merges(r);
        else if (is_key(key, length, "continuing_subword_prefix")) passed = pass_prefix(r);
        else passed = skip_value(&r->in);
        if (!passed) return false;
    } while (take(&r->in, ','));
    return take(&r->in, '}');
}

static bool pass_file(reader *r) {
    if (!take(&r->in, '{')) return false;
    do {
        const char *key;
        size_t length;
        if (!take_string(&r->in, &r->left, &key, &length) || !take(&r->in, ':')) return false;
        if (!(is_key(key, length, "model") ? pass_model(r) : skip_value(&r->in))) return false;
    } while (take(&r->in, ','));
    spi_buf_append(&r->rest, r->copied, (size_t)(r->in.end - r->copied));
    return !r->rest.failed || fail(r, spi_fail_memory(r->ctx, r->rest.length, r->path));
}

/* ------------------------------------------------------------------ the file */

static bool is_bpe(const spi_tokenizer_file *f) {
    const json_t *type = json_object_get(json_object_get(f->rest, "model"), "type");
    return !type || (json_is_string(type) && strcmp(json_string_value(type), "BPE") == 0);
}

static bool fail_missing(reader *r, const char *key, const char *what) {
    return fail(r, spi_fail(r->ctx, SP_ERR_FORMAT, "%s: \"model.%s\": expected %s, found nothing of the kind",
                            r->path, key, what));
}

static bool read_all(reader *r) {
    const size_t length = (size_t)(r->in.end - r->in.at);
    if (spi_utf8_valid(r->in.at, length) != length || !pass_file(r)) return false;
    if (spi_json_parse(r->ctx, r->path, r->rest.data, r->rest.length, &r->file->rest) != SP_OK) return false;
    if (!is_bpe(r->file)) return true;
    if (!r->vocab || *r->vocab != '{') return fail_missing(r, "vocab", "an object of ids");
    if (!r->merges.at) return fail_missing(r, "merges", "an array");
    if (r->file->merges || r->prefixed) return true;
    r->in = r->merges;
    return read_merges(r);
}

/* The failure of text that is not JSON, with jansson's words for it. */
static sp_status explain(reader *r, const char *text, size_t length) {
    json_t *value;
    SPI_TRY(spi_json_parse(r->ctx, r->path, text, length, &value));
    const char *kind = spi_json_kind(value);
    const bool object = json_is_object(value);
    json_decref(value);
    if (!object) return spi_fail(r->ctx, SP_ERR_FORMAT, "%s: expected a JSON object, found %s", r->path, kind);
    return spi_fail(r->ctx, SP_ERR_FORMAT, "%s: \"model\": its vocabulary or merges are malformed", r->path);
}

sp_status spi_tokenizer_file_read(sp_context *ctx, const char *path, spi_tokenizer_file *out) {
    *out = (spi_tokenizer_file){0};
    spi_map map;
    SPI_TRY(spi_map_open(ctx, path, &map));
    const char *text = map.data ? (const char *)map.data : "";
    reader r = {.ctx = ctx, .path = path, .file = out, .in = {text, text + map.length}, .copied = text};
    sp_status status = SP_OK;
    if (!read_all(&r)) status = r.status != SP_OK ? r.status : explain(&r, text, map.length);
    spi_buf_free(&r.left);
    spi_buf_free(&r.right);
    spi_buf_free(&r.joined);
    spi_buf_free(&r.rest);
    spi_map_close(&map);
    if (status != SP_OK) spi_tokenizer_file_free(out);
    return status;
}

void spi_tokenizer_file_free(spi_tokenizer_file *f) {
    json_decref(f->rest);
    spi_vocab_free(&f->vocab);
    free(f->merges);
    free(f->joints);
    *f = (spi_tokenizer_file){0};
}
