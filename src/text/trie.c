#include "text/trie.h"

#include <stdlib.h>

void spi_trie_free(spi_trie *t) {
    free(t->nodes);
    *t = (spi_trie){0};
}

/* A new node; -1 when out of memory. */
static int32_t add_node(spi_trie *t, unsigned char byte, int32_t sibling) {
    if (t->count >= INT32_MAX || !spi_grow((void **)&t->nodes, &t->capacity, t->count, sizeof *t->nodes))
        return -1;
    t->nodes[t->count] = (spi_trie_node){.child = -1, .sibling = sibling, .value = -1, .byte = byte};
    return (int32_t)t->count++;
}

static int32_t find_child(const spi_trie *t, int32_t node, unsigned char byte) {
    int32_t child = t->nodes[node].child;
    while (child >= 0 && t->nodes[child].byte != byte) child = t->nodes[child].sibling;
    return child;
}

/* The node of a token's first byte, made if it is not there; -1 when out of memory. */
static int32_t first_node(spi_trie *t, unsigned char byte) {
    if (t->count == 0 && add_node(t, 0, -1) < 0) return -1;
    if (t->first[byte]) return t->first[byte];
    const int32_t node = add_node(t, byte, -1);
    if (node > 0) t->first[byte] = node;
    return node;
}

bool spi_trie_add(spi_trie *t, const char *text, size_t length, int32_t value) {
    int32_t node = first_node(t, (unsigned char)text[0]);
    for (size_t i = 1; i < length && node >= 0; i++) {
        int32_t child = find_child(t, node, (unsigned char)text[i]);
        if (child < 0) {
            child = add_node(t, (unsigned char)text[i], t->nodes[node].child);
            if (child >= 0) t->nodes[node].child = child;
        }
        node = child;
    }
    if (node < 0) return false;
    if (t->nodes[node].value < 0) t->nodes[node].value = value;
    return true;
}

bool spi_trie_find(const spi_trie *t, const char *text, size_t length, size_t from, spi_trie_match *m) {
    if (t->count == 0) return false;
    for (size_t start = from; start < length; start++) {
        int32_t node = t->first[(unsigned char)text[start]];
        if (!node) continue;
        bool found = false;
        for (size_t end = start + 1;; end++) {
            if (t->nodes[node].value >= 0) {
                *m = (spi_trie_match){start, end, t->nodes[node].value};
                found = true;
            }
            if (end == length || (node = find_child(t, node, (unsigned char)text[end])) < 0) break;
        }
        if (found) return true;
    }
    return false;
}
