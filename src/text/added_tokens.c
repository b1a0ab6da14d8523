#include "text/added_tokens.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "text/trie.h"
#include "text/utf8.h"

typedef struct added {
    char *content; /* as the file has it */
    size_t content_length;
    char *text; /* normalized, where that applies; else `content` itself */
    size_t length;
    int32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
} added;

struct spi_added_tokens {
    spi_vocab vocab;    /* contents to ids */
    spi_vocab specials; /* contents of special tokens; their ids mean nothing */
    added *tokens;      /* [count], each id once */
    size_t count, capacity;
    int32_t *by_id;             /* [id_count] index into `tokens`, -1 = not an added token */
    int32_t id_count;           /* one more than the largest id */
    spi_trie plain, normalized; /* the values are indices into `tokens` */
};

/* The arguments of spi_added_tokens_create. */
typedef struct builder {
    sp_context *ctx;
    const char *file;
    const spi_vocab *model;
    spi_normalizer *normalizer;
    spi_added_tokens *a;
    int32_t next_id;
} builder;

static void free_texts(added *t) {
    if (t->text != t->content) free(t->text);
    free(t->content);
}

void spi_added_tokens_free(spi_added_tokens *a) {
    if (!a) return;
    for (size_t i = 0; i < a->count; i++) free_texts(&a->tokens[i]);
    free(a->tokens);
    free(a->by_id);
    spi_vocab_free(&a->vocab);
    spi_vocab_free(&a->specials);
    spi_trie_free(&a->plain);
    spi_trie_free(&a->normalized);
    free(a);
}

/* ------------------------------------------------------------------ reading */

static sp_status fail_memory(const builder *b, size_t bytes) {
    return spi_fail_memory(b->ctx, bytes, "the added tokens of a tokenizer");
}

static char *copy(const char *text, size_t length) {
    char *result = malloc(length + 1);
    if (!result) return NULL;
    memcpy(result, text, length);
    result[length] = 0;
    return result;
}

static sp_status read_flags(const builder *b, size_t index, const json_t *json, added *t) {
    const struct {
        const char *name;
        bool *flag;
    } flags[] = {{"single_word", &t->single_word},
                 {"lstrip", &t->lstrip},
                 {"rstrip", &t->rstrip},
                 {"normalized", &t->normalized},
                 {"special", &t->special}};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        const json_t *value = json_object_get(json, flags[i].name);
        if (!json_is_boolean(value))
            return spi_fail(b->ctx, SP_ERR_FORMAT,
                            "%s: \"added_tokens[%zu].%s\": expected true or false, found %s", b->file, index,
                            flags[i].name, value ? spi_json_kind(value) : "nothing");
        *flags[i].flag = json_is_true(value);
    }
    return SP_OK;
}

/* The id that the token gets, as against the one that the file gives. */
static sp_status choose_id(builder *b, size_t index, const json_t *json, added *t) {
    t->id = spi_added_tokens_find(b->a, t->content, t->content_length);
    if (t->id < 0) t->id = spi_vocab_find(b->model, t->content, t->content_length);
    if (t->id < 0) t->id = b->next_id++;
    if (t->id >= SPI_VOCAB_LIMIT)
        return spi_fail(b->ctx, SP_ERR_FORMAT, "%s: \"added_tokens[%zu]\": too many tokens", b->file, index);
    const json_t *id = json_object_get(json, "id");
    if (!json_is_integer(id))
        return spi_fail(b->ctx, SP_ERR_FORMAT, "%s: \"added_tokens[%zu].id\": expected an integer, found %s",
                        b->file, index, id ? spi_json_kind(id) : "nothing");
    if (json_integer_value(id) != t->id)
        spi_log(b->ctx, SP_LOG_WARNING,
                "%s: \"added_tokens[%zu].id\": \"%s\" gets the id %" PRId32
                ", as in the Python package, not %" PRId64,
                b->file, index, t->content, t->id, (int64_t)json_integer_value(id));
    return SP_OK;
}

static sp_status normalize(const builder *b, added *t) {
    t->text = t->content;
    t->length = t->content_length;
    if (!t->normalized || !b->normalizer) return SP_OK;
    const char *text = t->content;
    size_t length = t->content_length;
    bool cut;
    SPI_TRY(spi_normalize(b->ctx, b->normalizer, &text, &length, &cut));
    if (length == t->length && memcmp(text, t->text, length) == 0) return SP_OK;
    char *normalized = copy(text, length);
    if (!normalized) return fail_memory(b, length);
    t->text = normalized;
    t->length = length;
    return SP_OK;
}

/* Grows the table by id so that `id` is in it. */
static bool reserve_id(spi_added_tokens *a, int32_t id) {
    if (id < a->id_count) return true;
    int32_t *by_id = realloc(a->by_id, ((size_t)id + 1) * sizeof *by_id);
    if (!by_id) return false;
    for (int32_t i = a->id_count; i <= id; i++) by_id[i] = -1;
    a->by_id = by_id;
    a->id_count = id + 1;
    return true;
}

/* Takes the token over on success; one of the same id is replaced. */
static bool store(spi_added_tokens *a, const added *t) {
    if (!reserve_id(a, t->id) || !spi_vocab_add(&a->vocab, t->content, t->content_length, t->id)) return false;
    if (t->special && !spi_vocab_add(&a->specials, t->content, t->content_length, 0)) return false;
    if (a->by_id[t->id] >= 0) {
        added *old = &a->tokens[a->by_id[t->id]];
        free_texts(old);
        *old = *t;
        return true;
    }
    if (!spi_grow((void **)&a->tokens, &a->capacity, a->count, sizeof *t)) return false;
    a->by_id[t->id] = (int32_t)a->count;
    a->tokens[a->count++] = *t;
    return true;
}

static sp_status add(builder *b, size_t index, const json_t *json) {
    const json_t *content = json_object_get(json, "content");
    if (!json_is_string(content))
        return spi_fail(b->ctx, SP_ERR_FORMAT, "%s: \"added_tokens[%zu].content\": expected a string, found %s",
                        b->file, index, content ? spi_json_kind(content) : "nothing");
    if (!json_string_length(content)) return SP_OK;
    added t = {.content_length = json_string_length(content)};
    t.text = t.content = copy(json_string_value(content), t.content_length);
    if (!t.content) return fail_memory(b, t.content_length);
    sp_status status = read_flags(b, index, json, &t);
    if (status == SP_OK) status = choose_id(b, index, json, &t);
    if (status == SP_OK) status = normalize(b, &t);
    if (status == SP_OK && !store(b->a, &t)) status = fail_memory(b, sizeof t);
    if (status != SP_OK) free_texts(&t);
    return status;
}

static bool build_tries(spi_added_tokens *a) {
    for (size_t i = 0; i < a->count; i++) {
        const added *t = &a->tokens[i];
        if (t->length &&
            !spi_trie_add(t->normalized ? &a->normalized : &a->plain, t->text, t->length, (int32_t)i))
            return false;
    }
    return true;
}

static sp_status read_all(builder *b, const json_t *object) {
    const json_t *list = json_object_get(object, "added_tokens");
    if (!list || json_is_null(list)) return SP_OK;
    if (!json_is_array(list))
        return spi_fail(b->ctx, SP_ERR_FORMAT, "%s: \"added_tokens\": expected an array, found %s", b->file,
                        spi_json_kind(list));
    for (size_t i = 0; i < json_array_size(list); i++) SPI_TRY(add(b, i, json_array_get(list, i)));
    return build_tries(b->a) ? SP_OK : fail_memory(b, b->a->count);
}

sp_status spi_added_tokens_create(sp_context *ctx, const char *file, const json_t *object,
                                  const spi_vocab *model, spi_normalizer *normalizer, spi_added_tokens **out) {
    *out = NULL;
    spi_added_tokens *a = calloc(1, sizeof *a);
    if (!a) return spi_fail_memory(ctx, sizeof *a, "the added tokens of a tokenizer");
    builder b = {ctx, file, model, normalizer, a, (int32_t)model->count};
    const sp_status status = read_all(&b, object);
    if (status == SP_OK) *out = a;
    else spi_added_tokens_free(a);
    return status;
}

/* ------------------------------------------------------------------ splitting */

/* Whether no word's character touches text[start, end). */
static bool stands_alone(const char *text, size_t length, size_t start, size_t end) {
    size_t size;
    if (start > 0 && spi_is_word(spi_utf8_get(text + spi_utf8_last(text, start), &size))) return false;
    return end == length || !spi_is_word(spi_utf8_get(text + end, &size));
}

/*
 * White space that a token takes along may hold the beginning of the next one: stretches can then overlap, as
 * they do in the Python package.
 */
sp_status spi_added_tokens_split(const spi_added_tokens *a, bool normalized, const char *text, size_t length,
                                 spi_stretch_fn fn, void *user) {
    const spi_trie *trie = normalized ? &a->normalized : &a->plain;
    size_t done = 0;
    size_t from = 0;
    spi_trie_match m;
    while (spi_trie_find(trie, text, length, from, &m)) {
        from = m.end;
        const added *t = &a->tokens[m.value];
        if (t->single_word && !stands_alone(text, length, m.start, m.end)) continue;
        if (t->lstrip) m.start = spi_space_suffix(text, m.start);
        if (t->lstrip && m.start < done) m.start = done;
        if (t->rstrip) m.end += spi_space_prefix(text + m.end, length - m.end);
        if (done < m.start) SPI_TRY(fn(user, -1, done, m.start));
        SPI_TRY(fn(user, t->id, m.start, m.end));
        done = m.end;
    }
    return done < length ? fn(user, -1, done, length) : SP_OK;
}

/* ------------------------------------------------------------------ looking up */

int32_t spi_added_tokens_end(const spi_added_tokens *a) {
    return a->id_count;
}

int32_t spi_added_tokens_find(const spi_added_tokens *a, const char *text, size_t length) {
    return spi_vocab_find(&a->vocab, text, length);
}

const char *spi_added_tokens_text(const spi_added_tokens *a, int32_t id, size_t *length) {
    if (id < 0 || id >= a->id_count || a->by_id[id] < 0) return NULL;
    const added *t = &a->tokens[a->by_id[id]];
    if (length) *length = t->length;
    return t->text;
}

bool spi_added_tokens_is_special(const spi_added_tokens *a, const char *text, size_t length) {
    return spi_vocab_find(&a->specials, text, length) >= 0;
}
