#include "text/pretokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "text/byte_level.h"
#include "text/splitter.h"
#include "text/utf8.h"

#define KNOWN "Split, ByteLevel, Digits, Punctuation, Whitespace, WhitespaceSplit, Metaspace, Sequence"

typedef struct stage stage;

/* A text on its way through the stages. */
typedef struct run {
    sp_context *ctx;
    spi_pretokenizer *p;
    spi_piece_fn fn;
    void *user;
} run;

/* Divides a piece and sends the parts on to the next stage. */
typedef sp_status (*stage_fn)(run *r, stage *s, const spi_piece *piece);

typedef enum scheme { PREPEND_ALWAYS = 0, PREPEND_FIRST, PREPEND_NEVER } scheme;

struct stage {
    stage_fn run;
    spi_pattern *pattern; /* Split; ByteLevel with use_regex */
    spi_behavior behavior;
    bool invert;         /* Split: the matches are what stays */
    bool prefix;         /* ByteLevel: add_prefix_space */
    bool map;            /* ByteLevel: bytes become characters here */
    bool single;         /* Digits: one by one */
    bool split;          /* Metaspace */
    scheme scheme;       /* Metaspace */
    char replacement[5]; /* Metaspace */
    spi_buf text;        /* scratch: the piece as this stage changed it */
    spi_buf mapped;      /* scratch: a part in GPT-2's alphabet */
};

struct spi_pretokenizer {
    stage *stages;
    size_t count, capacity;
};

/* ------------------------------------------------------------------ passing on */

static sp_status run_stage(run *r, size_t index, const spi_piece *piece) {
    if (index == r->p->count) return r->fn(r->user, piece);
    stage *s = &r->p->stages[index];
    return s->run(r, s, piece);
}

static sp_status next_stage(run *r, const stage *s, const spi_piece *piece) {
    return run_stage(r, (size_t)(s - r->p->stages) + 1, piece);
}

/* The parts of one piece at one stage. */
typedef struct parts {
    run *r;
    stage *s;
    const spi_piece *whole;
} parts;

static sp_status send_part(void *user, size_t start, size_t end) {
    const parts *p = user;
    if (start == end) return SP_OK;
    const spi_piece part = {p->whole->text + start, end - start, p->whole->origin && start == 0};
    return next_stage(p->r, p->s, &part);
}

/* Divides by a pattern; with `invert` what lies between the matches counts as the delimiter. */
static sp_status split_by_pattern(run *r, const spi_piece *piece, const spi_pattern *pattern, bool invert,
                                  spi_splitter *split) {
    spi_matches m = {.pattern = pattern, .text = piece->text, .length = piece->length};
    size_t done = 0;
    for (;;) {
        size_t start;
        size_t end;
        bool found;
        SPI_TRY(spi_matches_next(r->ctx, &m, &start, &end, &found));
        if (!found) break;
        if (done != start) SPI_TRY(spi_splitter_add(split, done, start, invert));
        SPI_TRY(spi_splitter_add(split, start, end, !invert));
        done = end;
    }
    if (done != piece->length) SPI_TRY(spi_splitter_add(split, done, piece->length, invert));
    return spi_splitter_end(split);
}

/* Divides by characters: each that `delimits` is a match of its own. */
static sp_status split_by_class(const spi_piece *piece, bool (*delimits)(int32_t), spi_splitter *split) {
    size_t done = 0;
    for (size_t i = 0, size; i < piece->length; i += size) {
        if (!delimits(spi_utf8_get(piece->text + i, &size))) continue;
        if (done != i) SPI_TRY(spi_splitter_add(split, done, i, false));
        SPI_TRY(spi_splitter_add(split, i, i + size, true));
        done = i + size;
    }
    if (done != piece->length) SPI_TRY(spi_splitter_add(split, done, piece->length, false));
    return spi_splitter_end(split);
}

/* ------------------------------------------------------------------ stages */

static sp_status run_split(run *r, stage *s, const spi_piece *piece) {
    parts p = {r, s, piece};
    spi_splitter split = {.behavior = s->behavior, .fn = send_part, .user = &p};
    return split_by_pattern(r, piece, s->pattern, s->invert, &split);
}

static sp_status run_digits(run *r, stage *s, const spi_piece *piece) {
    parts p = {r, s, piece};
    spi_splitter split = {.behavior = s->single ? SPI_ISOLATED : SPI_CONTIGUOUS, .fn = send_part, .user = &p};
    return split_by_class(piece, spi_is_numeric, &split);
}

static sp_status run_punctuation(run *r, stage *s, const spi_piece *piece) {
    parts p = {r, s, piece};
    spi_splitter split = {.behavior = s->behavior, .fn = send_part, .user = &p};
    return split_by_class(piece, spi_is_punctuation, &split);
}

static sp_status run_whitespace_split(run *r, stage *s, const spi_piece *piece) {
    parts p = {r, s, piece};
    spi_splitter split = {.behavior = SPI_REMOVED, .fn = send_part, .user = &p};
    return split_by_class(piece, spi_is_space, &split);
}

/* \w+|[^\w\s]+: 0 is space, which vanishes; 1 a word's character; 2 any other. */
static int whitespace_class(int32_t c) {
    if (spi_is_word(c)) return 1;
    return spi_is_space(c) ? 0 : 2;
}

static sp_status run_whitespace(run *r, stage *s, const spi_piece *piece) {
    parts p = {r, s, piece};
    size_t start = 0;
    int current = 0;
    for (size_t i = 0, size; i < piece->length; i += size) {
        const int class = whitespace_class(spi_utf8_get(piece->text + i, &size));
        if (class == current) continue;
        if (current) SPI_TRY(send_part(&p, start, i));
        start = i;
        current = class;
    }
    return current ? send_part(&p, start, piece->length) : SP_OK;
}

/* The piece with `prefix` before it, in the stage's own buffer. */
static sp_status prepend(run *r, stage *s, const char *prefix, const spi_piece *piece, spi_piece *out) {
    s->text.length = 0;
    spi_buf_puts(&s->text, prefix);
    spi_buf_append(&s->text, piece->text, piece->length);
    if (s->text.failed) return spi_fail_memory(r->ctx, piece->length, "a piece of text");
    *out = (spi_piece){s->text.data, s->text.length, piece->origin};
    return SP_OK;
}

static sp_status send_mapped(void *user, size_t start, size_t end) {
    const parts *p = user;
    stage *s = p->s;
    if (start == end) return SP_OK;
    s->mapped.length = 0;
    spi_bytes_to_chars(&s->mapped, p->whole->text + start, end - start);
    if (s->mapped.failed) return spi_fail_memory(p->r->ctx, end - start, "a piece of text");
    const spi_piece part = {s->mapped.data, s->mapped.length, p->whole->origin && start == 0};
    return next_stage(p->r, s, &part);
}

static sp_status run_byte_level(run *r, stage *s, const spi_piece *piece) {
    spi_piece whole = *piece;
    if (s->prefix && piece->text[0] != ' ') SPI_TRY(prepend(r, s, " ", piece, &whole));
    parts p = {r, s, &whole};
    spi_splitter split = {.behavior = SPI_ISOLATED, .fn = s->map ? send_mapped : send_part, .user = &p};
    if (s->pattern) return split_by_pattern(r, &whole, s->pattern, false, &split);
    return split.fn(&p, 0, whole.length);
}

/* Spaces become the replacement; *out is the piece itself where it has none. */
static sp_status replace_spaces(run *r, stage *s, const spi_piece *piece, bool prepended, spi_piece *out) {
    s->text.length = 0;
    if (prepended) spi_buf_puts(&s->text, s->replacement);
    for (size_t i = 0; i < piece->length;) {
        const char *space = memchr(piece->text + i, ' ', piece->length - i);
        const size_t end = space ? (size_t)(space - piece->text) : piece->length;
        spi_buf_append(&s->text, piece->text + i, end - i);
        if (space) spi_buf_puts(&s->text, s->replacement);
        i = end + 1;
    }
    if (s->text.failed) return spi_fail_memory(r->ctx, piece->length, "a piece of text");
    *out = (spi_piece){s->text.data, s->text.length, piece->origin};
    return SP_OK;
}

static bool begins_with(const spi_piece *piece, const char *text) {
    const size_t length = strlen(text);
    return piece->length >= length && memcmp(piece->text, text, length) == 0;
}

static sp_status run_metaspace(run *r, stage *s, const spi_piece *piece) {
    const bool begun = piece->text[0] == ' ' || begins_with(piece, s->replacement);
    const bool wanted = s->scheme == PREPEND_ALWAYS || (s->scheme == PREPEND_FIRST && piece->origin);
    spi_piece whole;
    SPI_TRY(replace_spaces(r, s, piece, wanted && !begun, &whole));
    if (!s->split) return next_stage(r, s, &whole);
    parts p = {r, s, &whole};
    spi_splitter split = {.behavior = SPI_MERGED_WITH_NEXT, .fn = send_part, .user = &p};
    return split_by_pattern(r, &whole, s->pattern, false, &split);
}

sp_status spi_pretokenize(sp_context *ctx, spi_pretokenizer *p, const spi_piece *text, spi_piece_fn fn,
                          void *user) {
    if (!p) return fn(user, text);
    run r = {ctx, p, fn, user};
    return run_stage(&r, 0, text);
}

/* ------------------------------------------------------------------ reading */

static sp_status read_behavior(const spi_component *c, spi_behavior *out) {
    const char *name;
    size_t length;
    SPI_TRY(spi_component_string(c, "behavior", &name, &length));
    if (spi_behavior_find(name, out)) return SP_OK;
    return spi_component_wrong(c, "behavior",
                               "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
}

static sp_status read_split(const spi_component *c, stage *s) {
    s->run = run_split;
    SPI_TRY(read_behavior(c, &s->behavior));
    SPI_TRY(spi_component_bool(c, "invert", false, &s->invert));
    return spi_component_pattern(c, "pattern", &s->pattern);
}

static sp_status read_byte_level(const spi_component *c, stage *s) {
    static const char gpt2[] =
        "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    bool use_regex;
    s->run = run_byte_level;
    s->map = true;
    SPI_TRY(spi_component_bool(c, "add_prefix_space", true, &s->prefix));
    SPI_TRY(spi_component_bool(c, "use_regex", true, &use_regex));
    if (!use_regex) return SP_OK;
    return spi_pattern_regex(c->ctx, c->file, c->key, gpt2, strlen(gpt2), &s->pattern);
}

static sp_status read_scheme(const spi_component *c, stage *s) {
    static const char *const names[] = {
        [PREPEND_ALWAYS] = "always", [PREPEND_FIRST] = "first", [PREPEND_NEVER] = "never"};
    bool prefix;
    SPI_TRY(spi_component_bool(c, "add_prefix_space", true, &prefix));
    s->scheme = prefix ? PREPEND_ALWAYS : PREPEND_NEVER;
    if (!json_object_get(c->json, "prepend_scheme")) return SP_OK;
    const char *name;
    size_t length;
    SPI_TRY(spi_component_string(c, "prepend_scheme", &name, &length));
    for (int i = PREPEND_ALWAYS; i <= PREPEND_NEVER; i++) {
        if (strcmp(names[i], name) != 0) continue;
        if (!prefix && i != PREPEND_NEVER)
            return spi_component_wrong(c, "prepend_scheme", "never, as add_prefix_space is false");
        s->scheme = (scheme)i;
        return SP_OK;
    }
    return spi_component_wrong(c, "prepend_scheme", "always, first or never");
}

static sp_status read_metaspace(const spi_component *c, stage *s) {
    const char *replacement;
    size_t length;
    s->run = run_metaspace;
    SPI_TRY(spi_component_char(c, "replacement", &replacement, &length));
    memcpy(s->replacement, replacement, length);
    SPI_TRY(spi_component_bool(c, "split", true, &s->split));
    SPI_TRY(read_scheme(c, s));
    s->pattern = spi_pattern_string(replacement, length);
    return s->pattern ? SP_OK : spi_fail_memory(c->ctx, length, "a pre-tokenizer");
}

static sp_status read_members(const spi_component *c, stage *s) {
    if (strcmp(c->type, "Split") == 0) return read_split(c, s);
    if (strcmp(c->type, "ByteLevel") == 0) return read_byte_level(c, s);
    if (strcmp(c->type, "Metaspace") == 0) return read_metaspace(c, s);
    if (strcmp(c->type, "Digits") == 0) {
        s->run = run_digits;
        return spi_component_bool(c, "individual_digits", false, &s->single);
    }
    if (strcmp(c->type, "Punctuation") == 0) {
        s->run = run_punctuation;
        s->behavior = SPI_ISOLATED;
        return json_object_get(c->json, "behavior") ? read_behavior(c, &s->behavior) : SP_OK;
    }
    if (strcmp(c->type, "Whitespace") == 0) s->run = run_whitespace;
    else if (strcmp(c->type, "WhitespaceSplit") == 0) s->run = run_whitespace_split;
    else return spi_component_unknown(c, KNOWN);
    return SP_OK;
}

static sp_status read_stage(void *user, const spi_component *c) {
    spi_pretokenizer *p = user;
    if (strcmp(c->type, "Sequence") == 0) return spi_component_each(c, "pretokenizers", read_stage, p);
    if (!spi_grow((void **)&p->stages, &p->capacity, p->count, sizeof *p->stages))
        return spi_fail_memory(c->ctx, sizeof *p->stages, "a pre-tokenizer");
    stage *s = &p->stages[p->count++];
    *s = (stage){0};
    return read_members(c, s);
}

sp_status spi_pretokenizer_create(sp_context *ctx, const char *file, const json_t *object, bool keep_bytes,
                                  spi_pretokenizer **out) {
    *out = NULL;
    spi_pretokenizer *p = calloc(1, sizeof *p);
    if (!p) return spi_fail_memory(ctx, sizeof *p, "a pre-tokenizer");
    const sp_status status = spi_component_read(ctx, file, object, "pre_tokenizer", read_stage, p);
    if (status != SP_OK || p->count == 0) {
        spi_pretokenizer_free(p);
        return status;
    }
    if (keep_bytes) p->stages[p->count - 1].map = false;
    *out = p;
    return SP_OK;
}

void spi_pretokenizer_free(spi_pretokenizer *p) {
    if (!p) return;
    for (size_t i = 0; i < p->count; i++) {
        spi_pattern_free(p->stages[i].pattern);
        spi_buf_free(&p->stages[i].text);
        spi_buf_free(&p->stages[i].mapped);
    }
    free(p->stages);
    free(p);
}

bool spi_pretokenizer_is_byte_level(const spi_pretokenizer *p) {
    return p && p->stages[p->count - 1].run == run_byte_level;
}
