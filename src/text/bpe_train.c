#include "text/bpe_train.h"

#include <stdlib.h>
#include <string.h>

#include "text/byte_level.h"
#include "text/utf8.h"

/* Indices of words. */
typedef struct places {
    uint32_t *items;
    size_t count, capacity;
} places;

/* Two ids that stand side by side in some word. */
typedef struct pair {
    int32_t left, right;
    int64_t count;  /* occurrences in all words */
    places waiting; /* words where it has newly come up and no candidate knows of */
    int64_t merge;  /* index of its merge, -1 = none */
} pair;

/*
 * A pair to be merged in some of its words. Several candidates may stand for one pair; each counts as often as
 * the pair did when it was queued.
 */
typedef struct candidate {
    uint64_t count;
    size_t pair;
    places words;
} candidate;

typedef struct word {
    size_t start; /* in `symbols` */
    uint32_t length;
} word;

typedef struct trainer {
    sp_context *ctx;
    const spi_words *words;
    spi_learnt *out;
    int32_t *symbols; /* of all words, end to end */
    word *spans;      /* [words] */
    pair *pairs;
    size_t pair_count, pair_capacity;
    uint32_t *slots; /* [slot_count] 1 + index into `pairs`; 0 = free */
    size_t slot_count;
    candidate *heap;
    size_t heap_count, heap_capacity;
    size_t *touched; /* pairs with something in `waiting` */
    size_t touched_count, touched_capacity;
} trainer;

bool spi_words_add(spi_words *words, const char *text, size_t length) {
    const int32_t index = spi_vocab_find(&words->texts, text, length);
    if (index >= 0) {
        words->counts[index]++;
        return true;
    }
    const size_t count = words->texts.count;
    if (count >= INT32_MAX) return false;
    if (!spi_grow((void **)&words->counts, &words->capacity, count, sizeof *words->counts)) return false;
    words->counts[count] = 1;
    return spi_vocab_add(&words->texts, text, length, (int32_t)count);
}

void spi_words_free(spi_words *words) {
    spi_vocab_free(&words->texts);
    free(words->counts);
}

void spi_learnt_free(spi_learnt *l) {
    spi_vocab_free(&l->vocab);
    free(l->merges);
}

static void trainer_free(trainer *t) {
    for (size_t i = 0; i < t->pair_count; i++) free(t->pairs[i].waiting.items);
    for (size_t i = 0; i < t->heap_count; i++) free(t->heap[i].words.items);
    free(t->symbols);
    free(t->spans);
    free(t->pairs);
    free(t->slots);
    free(t->heap);
    free(t->touched);
}

/* ------------------------------------------------------------------ pairs */

static size_t find_slot(const trainer *t, int32_t left, int32_t right) {
    const uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    const size_t mask = t->slot_count - 1;
    size_t slot = (size_t)(key * UINT64_C(0x9E3779B97F4A7C15) >> 32) & mask;
    for (; t->slots[slot]; slot = (slot + 1) & mask) {
        const pair *p = &t->pairs[t->slots[slot] - 1];
        if (p->left == left && p->right == right) break;
    }
    return slot;
}

static bool grow_slots(trainer *t) {
    if (t->slot_count >= 2 * (t->pair_count + 1)) return true;
    if (t->pair_count >= UINT32_MAX / 4) return false;
    const size_t wanted = t->slot_count ? t->slot_count * 2 : 4096;
    uint32_t *slots = calloc(wanted, sizeof *slots);
    if (!slots) return false;
    free(t->slots);
    t->slots = slots;
    t->slot_count = wanted;
    for (size_t i = 0; i < t->pair_count; i++)
        slots[find_slot(t, t->pairs[i].left, t->pairs[i].right)] = (uint32_t)i + 1;
    return true;
}

static pair *get_pair(trainer *t, int32_t left, int32_t right) {
    if (!grow_slots(t)) return NULL;
    const size_t slot = find_slot(t, left, right);
    if (!t->slots[slot]) {
        if (!spi_grow((void **)&t->pairs, &t->pair_capacity, t->pair_count, sizeof *t->pairs)) return NULL;
        t->pairs[t->pair_count++] = (pair){.left = left, .right = right, .merge = -1};
        t->slots[slot] = (uint32_t)t->pair_count;
    }
    return &t->pairs[t->slots[slot] - 1];
}

/* The pair occurs `times` more often in a word; where that is above 0 the word waits for it. */
static bool change_pair(trainer *t, int32_t left, int32_t right, int times, uint32_t in_word) {
    pair *p = get_pair(t, left, right);
    if (!p) return false;
    p->count += times * t->words->counts[in_word];
    if (times < 0) return true;
    places *w = &p->waiting;
    if (w->count > 0 && w->items[w->count - 1] == in_word) return true;
    if (w->count == 0) {
        if (!spi_grow((void **)&t->touched, &t->touched_capacity, t->touched_count, sizeof *t->touched))
            return false;
        t->touched[t->touched_count++] = (size_t)(p - t->pairs);
    }
    if (!spi_grow((void **)&w->items, &w->capacity, w->count, sizeof *w->items)) return false;
    w->items[w->count++] = in_word;
    return true;
}

/* ------------------------------------------------------------------ candidates */

static bool comes_first(const trainer *t, const candidate *a, const candidate *b) {
    if (a->count != b->count) return a->count > b->count;
    const pair *p = &t->pairs[a->pair];
    const pair *q = &t->pairs[b->pair];
    return p->left != q->left ? p->left < q->left : p->right < q->right;
}

static bool heap_push(trainer *t, const candidate *c) {
    if (!spi_grow((void **)&t->heap, &t->heap_capacity, t->heap_count, sizeof *c)) return false;
    size_t at = t->heap_count++;
    for (; at > 0 && comes_first(t, c, &t->heap[(at - 1) / 2]); at = (at - 1) / 2)
        t->heap[at] = t->heap[(at - 1) / 2];
    t->heap[at] = *c;
    return true;
}

static candidate heap_pop(trainer *t) {
    const candidate top = t->heap[0];
    const candidate last = t->heap[--t->heap_count];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < t->heap_count; at = child) {
        if (child + 1 < t->heap_count && comes_first(t, &t->heap[child + 1], &t->heap[child])) child++;
        if (!comes_first(t, &t->heap[child], &last)) break;
        t->heap[at] = t->heap[child];
    }
    t->heap[at] = last;
    return top;
}

/* Makes candidates of the pairs that have come up, each with the words that wait for it. */
static bool queue_touched(trainer *t) {
    for (size_t i = 0; i < t->touched_count; i++) {
        pair *p = &t->pairs[t->touched[i]];
        const candidate c = {(uint64_t)p->count, t->touched[i], p->waiting};
        if (p->count > 0 && !heap_push(t, &c)) return false;
        if (p->count <= 0) free(p->waiting.items);
        p->waiting = (places){0};
    }
    t->touched_count = 0;
    return true;
}

/* ------------------------------------------------------------------ training */

/* GPT-2's characters in the order of their code points, behind the special tokens. */
static bool add_alphabet(spi_vocab *vocab, int32_t ids[256]) {
    for (int32_t c = 0; c <= 0x143; c++) {
        const int byte = spi_char_to_byte(c);
        if (byte < 0) continue;
        char text[4];
        const size_t length = spi_utf8_put(text, c);
        ids[byte] = spi_vocab_find(vocab, text, length);
        if (ids[byte] >= 0) continue;
        ids[byte] = (int32_t)vocab->count;
        if (!spi_vocab_add(vocab, text, length, ids[byte])) return false;
    }
    return true;
}

/* Every word as its bytes' ids, and the pairs in it. */
static bool take_words(trainer *t) {
    const spi_vocab *texts = &t->words->texts;
    int32_t ids[256];
    t->symbols = malloc((texts->texts.length + 1) * sizeof *t->symbols);
    t->spans = malloc((texts->count + 1) * sizeof *t->spans);
    if (!t->symbols || !t->spans || !add_alphabet(&t->out->vocab, ids)) return false;
    size_t used = 0;
    for (size_t i = 0; i < texts->count; i++) {
        const spi_token *token = &texts->tokens[i];
        const char *bytes = texts->texts.data + token->start;
        t->spans[i] = (word){used, token->length};
        for (uint32_t at = 0; at < token->length; at++) t->symbols[used++] = ids[(unsigned char)bytes[at]];
        const int32_t *s = t->symbols + t->spans[i].start;
        for (uint32_t at = 0; at + 1 < token->length; at++)
            if (!change_pair(t, s[at], s[at + 1], 1, (uint32_t)i)) return false;
    }
    return queue_touched(t);
}

/* Joins a pair in one word, and counts the neighbours that this parts and brings together. */
static bool merge_in_word(trainer *t, int32_t left, int32_t right, int32_t merged, uint32_t index) {
    word *w = &t->spans[index];
    int32_t *s = t->symbols + w->start;
    uint32_t to = 0;
    for (uint32_t from = 0; from < w->length; from++) {
        if (s[from] != left || from + 1 >= w->length || s[from + 1] != right) {
            s[to++] = s[from];
            continue;
        }
        if (to > 0 &&
            (!change_pair(t, s[to - 1], left, -1, index) || !change_pair(t, s[to - 1], merged, 1, index)))
            return false;
        from++;
        if (from + 1 < w->length &&
            (!change_pair(t, right, s[from + 1], -1, index) || !change_pair(t, merged, s[from + 1], 1, index)))
            return false;
        s[to++] = merged;
    }
    w->length = to;
    return true;
}

/* The id of what two tokens make together, new or known; -1 when out of memory. */
static int32_t join_tokens(spi_vocab *vocab, int32_t left, int32_t right) {
    spi_buf text = {0};
    const spi_token *a = &vocab->tokens[left];
    const spi_token *b = &vocab->tokens[right];
    spi_buf_append(&text, vocab->texts.data + a->start, a->length);
    spi_buf_append(&text, vocab->texts.data + b->start, b->length);
    int32_t id = text.failed ? -1 : spi_vocab_find(vocab, text.data, text.length);
    if (id < 0 && !text.failed && spi_vocab_add(vocab, text.data, text.length, (int32_t)vocab->count))
        id = (int32_t)vocab->count - 1;
    spi_buf_free(&text);
    return id;
}

/* A pair that is merged a second time, in words where it came up again, keeps its last rank only. */
static bool record_merge(trainer *t, size_t index, int32_t merged) {
    spi_learnt *l = t->out;
    pair *p = &t->pairs[index];
    if (p->merge >= 0) l->merges[p->merge].merged = -1;
    if (!spi_grow((void **)&l->merges, &l->merge_capacity, l->merge_count, sizeof *l->merges)) return false;
    p->merge = (int64_t)l->merge_count;
    l->merges[l->merge_count++] = (spi_merge){p->left, p->right, merged};
    return true;
}

static bool merge_candidate(trainer *t, const candidate *c) {
    const int32_t left = t->pairs[c->pair].left;
    const int32_t right = t->pairs[c->pair].right;
    const int32_t merged = join_tokens(&t->out->vocab, left, right);
    if (merged < 0 || !record_merge(t, c->pair, merged)) return false;
    for (size_t i = 0; i < c->words.count; i++)
        if (!merge_in_word(t, left, right, merged, c->words.items[i])) return false;
    return queue_touched(t);
}

static bool train(trainer *t, size_t vocab_size) {
    if (!take_words(t)) return false;
    while (t->out->vocab.count < vocab_size && t->heap_count > 0) {
        candidate top = heap_pop(t);
        /* Overlapping pairs ("aaa") can be counted down below 0; as in the Python package that is a large
         * number. */
        const uint64_t count = (uint64_t)t->pairs[top.pair].count;
        bool ok = true;
        if (top.count != count) {
            top.count = count;
            if (heap_push(t, &top)) continue;
            ok = false;
        }
        const bool done = ok && count == 0;
        ok = ok && (done || merge_candidate(t, &top));
        free(top.words.items);
        if (!ok) return false;
        if (done) break;
    }
    return true;
}

/* Closes the gaps of merges that were made again later. */
static void drop_repeated(spi_learnt *l) {
    size_t kept = 0;
    for (size_t i = 0; i < l->merge_count; i++)
        if (l->merges[i].merged >= 0) l->merges[kept++] = l->merges[i];
    l->merge_count = kept;
}

sp_status spi_bpe_train(sp_context *ctx, const spi_words *words, size_t vocab_size, spi_learnt *out) {
    trainer t = {.ctx = ctx, .words = words, .out = out};
    const bool ok = train(&t, vocab_size);
    trainer_free(&t);
    if (!ok) return spi_fail_memory(ctx, words->texts.texts.length, "the training of a tokenizer");
    drop_repeated(out);
    return SP_OK;
}
