/* Finds the tokens of a set in a text: the leftmost, and of those that begin there the longest. */
#ifndef SPI_TEXT_TRIE_H
#define SPI_TEXT_TRIE_H

#include "base/mem.h"

typedef struct spi_trie_node {
    int32_t child; /* the first, -1 = none; a node's children are a list by `sibling` */
    int32_t sibling;
    int32_t value; /* of the token that ends here, -1 = none */
    unsigned char byte;
} spi_trie_node;

/* Start with {0}. */
typedef struct spi_trie {
    spi_trie_node *nodes;
    size_t count, capacity;
    int32_t first[256]; /* the node of a token's first byte, 0 = none: node 0 is never one */
} spi_trie;

void spi_trie_free(spi_trie *t);
/* Adds a token, not empty; one that is there keeps its value. False when out of memory. */
bool spi_trie_add(spi_trie *t, const char *text, size_t length, int32_t value);

typedef struct spi_trie_match {
    size_t start, end;
    int32_t value;
} spi_trie_match;

/* The first token at `from` or behind it; false if there is none. */
bool spi_trie_find(const spi_trie *t, const char *text, size_t length, size_t from, spi_trie_match *m);

#endif
