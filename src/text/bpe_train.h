/*
 * tokenizers.trainers.BpeTrainer: learns the merges of a byte-level BPE from counted words.
 *
 * The pair with the highest count is merged next; of pairs with equal counts the one whose left id is smallest,
 * then the one whose right id is. Ids are given in this order: special tokens, GPT-2's 256 characters by code
 * point, merges.
 */
#ifndef SPI_TEXT_BPE_TRAIN_H
#define SPI_TEXT_BPE_TRAIN_H

#include "text/tokenizer_file.h"

/* Words as plain bytes; word i of `texts` occurs counts[i] times. */
typedef struct spi_words {
    spi_vocab texts;
    int64_t *counts; /* [texts.count] */
    size_t capacity;
} spi_words;

/* Counts a word; false when out of memory. */
bool spi_words_add(spi_words *words, const char *text, size_t length);
void spi_words_free(spi_words *words);

/* What was learnt. Start with {0}. */
typedef struct spi_learnt {
    spi_vocab vocab;   /* ids are indices into its tokens */
    spi_merge *merges; /* [merge_count], by rank */
    size_t merge_count, merge_capacity;
} spi_learnt;

/* Fills `out`, in whose vocabulary the special tokens already are, up to `vocab_size` tokens. SP_ERR_MEMORY. */
sp_status spi_bpe_train(sp_context *ctx, const spi_words *words, size_t vocab_size, spi_learnt *out);
void spi_learnt_free(spi_learnt *l);

#endif
