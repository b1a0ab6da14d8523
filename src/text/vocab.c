#include "text/vocab.h"

#include <stdlib.h>
#include <string.h>

void spi_vocab_free(spi_vocab *v) {
    spi_buf_free(&v->texts);
    free(v->tokens);
    free(v->slots);
    free(v->by_id);
    *v = (spi_vocab){0};
}

/* Up to eight bytes as a number, zeros behind them. */
static uint64_t load_head(const char *text, size_t length) {
    const unsigned char *p = (const unsigned char *)text;
    uint64_t whole;
    uint32_t first;
    uint32_t last;
    if (length >= sizeof whole) {
        memcpy(&whole, p, sizeof whole);
        return whole;
    }
    if (length >= sizeof first) { /* two halves that overlap */
        memcpy(&first, p, sizeof first);
        memcpy(&last, p + length - sizeof last, sizeof last);
        return first | (uint64_t)last << 8 * (length - sizeof last);
    }
    if (!length) return 0;
    return p[0] | (uint64_t)p[length / 2] << 8 * (length / 2) | (uint64_t)p[length - 1] << 8 * (length - 1);
}

static uint64_t mix(uint64_t h, uint64_t word) {
    h = (h ^ word) * UINT64_C(0x9E3779B97F4A7C15);
    return h ^ h >> 32;
}

uint64_t spi_hash_bytes(const char *text, size_t length) {
    uint64_t h = length;
    for (; length > sizeof h; text += sizeof h, length -= sizeof h) h = mix(h, load_head(text, sizeof h));
    return mix(mix(h, load_head(text, length)), 0);
}

/* The slot that holds the token, or the free one where it belongs; *hash is what goes there. */
static spi_vocab_slot *find_slot(const spi_vocab *v, const char *text, size_t length, uint32_t *hash) {
    const size_t mask = v->slot_count - 1;
    const uint64_t head = load_head(text, length);
    *hash = (uint32_t)spi_hash_bytes(text, length);
    for (size_t i = *hash & mask;; i = (i + 1) & mask) {
        spi_vocab_slot *slot = &v->slots[i];
        if (!slot->index) return slot;
        if (slot->hash != *hash) continue;
        const spi_token *t = &v->tokens[slot->index - 1];
        if (t->head != head || t->length != length) continue;
        if (length <= sizeof head || memcmp(v->texts.data + t->start, text, length) == 0) return slot;
    }
}

/* Keeps the table at most half full with `count` tokens. */
static bool grow_slots(spi_vocab *v, size_t count) {
    if (v->slot_count >= 2 * count) return true;
    size_t wanted = v->slot_count ? v->slot_count * 2 : 1024;
    while (wanted < 2 * count) wanted *= 2;
    spi_vocab_slot *slots = calloc(wanted, sizeof *slots);
    if (!slots) return false;
    spi_vocab_slot *old = v->slots;
    const size_t old_count = v->slot_count;
    v->slots = slots;
    v->slot_count = wanted;
    for (size_t i = 0; i < old_count; i++) {
        if (!old[i].index) continue;
        size_t at = old[i].hash & (wanted - 1);
        while (slots[at].index) at = (at + 1) & (wanted - 1);
        slots[at] = old[i];
    }
    free(old);
    return true;
}

bool spi_vocab_reserve(spi_vocab *v, size_t count) {
    if (count > v->capacity) {
        spi_token *tokens = realloc(v->tokens, count * sizeof *tokens);
        if (!tokens) return false;
        v->tokens = tokens;
        v->capacity = count;
    }
    return grow_slots(v, count);
}

bool spi_vocab_add(spi_vocab *v, const char *text, size_t length, int32_t id) {
    if (!grow_slots(v, v->count + 1)) return false;
    uint32_t hash;
    spi_vocab_slot *slot = find_slot(v, text, length, &hash);
    if (slot->index) {
        v->tokens[slot->index - 1].id = id;
        return true;
    }
    if (v->texts.length + length >= UINT32_MAX) return false;
    if (!spi_grow((void **)&v->tokens, &v->capacity, v->count, sizeof *v->tokens)) return false;
    v->tokens[v->count++] =
        (spi_token){load_head(text, length), (uint32_t)v->texts.length, (uint32_t)length, id};
    *slot = (spi_vocab_slot){hash, (uint32_t)v->count};
    spi_buf_append(&v->texts, text, length);
    spi_buf_putc(&v->texts, 0);
    return !v->texts.failed;
}

bool spi_vocab_index(spi_vocab *v) {
    v->id_count = 0;
    for (size_t i = 0; i < v->count; i++)
        if (v->tokens[i].id >= v->id_count) v->id_count = v->tokens[i].id + 1;
    free(v->by_id);
    v->by_id = malloc(((size_t)v->id_count + 1) * sizeof *v->by_id);
    if (!v->by_id) return false;
    for (int32_t id = 0; id < v->id_count; id++) v->by_id[id] = -1;
    for (size_t i = 0; i < v->count; i++) v->by_id[v->tokens[i].id] = (int32_t)i;
    return true;
}

int32_t spi_vocab_find(const spi_vocab *v, const char *text, size_t length) {
    if (!v->slot_count) return -1;
    uint32_t hash;
    const spi_vocab_slot *slot = find_slot(v, text, length, &hash);
    return slot->index ? v->tokens[slot->index - 1].id : -1;
}

const char *spi_vocab_text(const spi_vocab *v, int32_t id, size_t *length) {
    if (id < 0 || id >= v->id_count || v->by_id[id] < 0) return NULL;
    const spi_token *t = &v->tokens[v->by_id[id]];
    if (length) *length = t->length;
    return v->texts.data + t->start;
}
