/* Tokens by id and ids by token, as a tokenizer.json's model lists them. */
#ifndef SPI_TEXT_VOCAB_H
#define SPI_TEXT_VOCAB_H

#include "base/mem.h"

/* Ids are below this, so that a table by id is never absurd. */
#define SPI_VOCAB_LIMIT ((int32_t)1 << 24)

typedef struct spi_token {
    uint64_t head;          /* the first eight bytes, zeros behind a shorter text: most searches end here */
    uint32_t start, length; /* in `texts` */
    int32_t id;
} spi_token;

/* A place in the table by text. */
typedef struct spi_vocab_slot {
    uint32_t hash;
    uint32_t index; /* 1 + index into the tokens; 0 = free */
} spi_vocab_slot;

/* Start with {0}. */
typedef struct spi_vocab {
    spi_buf texts;     /* every token followed by a NUL */
    spi_token *tokens; /* [count], in the order they were added */
    size_t count, capacity;
    spi_vocab_slot *slots; /* [slot_count], a power of two, at most half of them used; linear probing */
    size_t slot_count;
    int32_t *by_id; /* [id_count] index into `tokens`, -1 = no token; made by spi_vocab_index */
    int32_t id_count;
} spi_vocab;

void spi_vocab_free(spi_vocab *v);

/* Room for that many tokens in all; false when out of memory. */
bool spi_vocab_reserve(spi_vocab *v, size_t count);

/*
 * Adds a token with id in [0, SPI_VOCAB_LIMIT); a token that is there already gets the new id. False when out
 * of memory. Pointers to texts die with it.
 */
bool spi_vocab_add(spi_vocab *v, const char *text, size_t length, int32_t id);
/* Makes the table by id; to be called once all tokens are there. False when out of memory. */
bool spi_vocab_index(spi_vocab *v);

/* The id of a token, or -1. */
int32_t spi_vocab_find(const spi_vocab *v, const char *text, size_t length);
/* The token of an id, followed by a NUL, or NULL. */
const char *spi_vocab_text(const spi_vocab *v, int32_t id, size_t *length);

/* A hash of a few bytes, for tables of words. */
uint64_t spi_hash_bytes(const char *text, size_t length);

#endif
