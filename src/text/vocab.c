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

static uint64_t mix(uint64_t h, uint64_t word) {
    h = (h ^ word) * UINT64_C(0x9E3779B97F4A7C15);
    return h ^ h >> 29;
}

uint64_t spi_hash_bytes(const char *text, size_t length) {
    uint64_t h = length;
    uint64_t word;
    for (; length >= sizeof word; text += sizeof word, length -= sizeof word) {
        memcpy(&word, text, sizeof word);
        h = mix(h, word);
    }
    word = 0;
    for (size_t i = 0; i < length; i++) word |= (uint64_t)(unsigned char)text[i] << 8 * i;
    h = mix(h, word);
    return mix(h, h >> 32);
}

/* The slot that holds the token, or the free one where it belongs. */
static size_t find_slot(const spi_vocab *v, const char *text, size_t length, uint32_t hash) {
    const size_t mask = v->slot_count - 1;
    size_t slot = hash & mask;
    for (; v->slots[slot]; slot = (slot + 1) & mask) {
        const spi_token *t = &v->tokens[v->slots[slot] - 1];
        if (t->hash == hash && t->length == length && memcmp(v->texts.data + t->start, text, length) == 0)
            break;
    }
    return slot;
}

/* Keeps the table at most half full. */
static bool grow_slots(spi_vocab *v) {
    if (v->slot_count >= 2 * (v->count + 1)) return true;
    const size_t wanted = v->slot_count ? v->slot_count * 2 : 1024;
    uint32_t *slots = calloc(wanted, sizeof *slots);
    if (!slots) return false;
    free(v->slots);
    v->slots = slots;
    v->slot_count = wanted;
    for (size_t i = 0; i < v->count; i++) {
        size_t slot = v->tokens[i].hash & (wanted - 1);
        while (slots[slot]) slot = (slot + 1) & (wanted - 1);
        slots[slot] = (uint32_t)i + 1;
    }
    return true;
}

bool spi_vocab_add(spi_vocab *v, const char *text, size_t length, int32_t id) {
    if (!grow_slots(v)) return false;
    const uint32_t hash = (uint32_t)spi_hash_bytes(text, length);
    const size_t slot = find_slot(v, text, length, hash);
    if (v->slots[slot]) {
        v->tokens[v->slots[slot] - 1].id = id;
        return true;
    }
    if (v->texts.length + length >= UINT32_MAX) return false;
    if (!spi_grow((void **)&v->tokens, &v->capacity, v->count, sizeof *v->tokens)) return false;
    v->tokens[v->count++] =
        (spi_token){.start = (uint32_t)v->texts.length, .length = (uint32_t)length, .id = id, .hash = hash};
    v->slots[slot] = (uint32_t)v->count;
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
    const size_t slot = find_slot(v, text, length, (uint32_t)spi_hash_bytes(text, length));
    return v->slots[slot] ? v->tokens[v->slots[slot] - 1].id : -1;
}

const char *spi_vocab_text(const spi_vocab *v, int32_t id, size_t *length) {
    if (id < 0 || id >= v->id_count || v->by_id[id] < 0) return NULL;
    const spi_token *t = &v->tokens[v->by_id[id]];
    if (length) *length = t->length;
    return v->texts.data + t->start;
}
