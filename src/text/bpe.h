/*
 * tokenizers.models.BPE: a word's characters are joined, two by two, in the order of the merges' ranks, the
 * leftmost first among equals, until no merge applies.
 */
#ifndef SPI_TEXT_BPE_H
#define SPI_TEXT_BPE_H

#include "base/json.h"
#include "text/ids.h"
#include "text/tokenizer_file.h"

typedef struct spi_bpe spi_bpe;

/*
 * The model of `file`, whose vocabulary and merges it takes over. With `bytes`, words are given as plain bytes,
 * each of which stands for its character of GPT-2's alphabet; else as UTF-8.
 */
sp_status spi_bpe_create(sp_context *ctx, const char *path, spi_tokenizer_file *file, bool bytes,
                         spi_bpe **out);
void spi_bpe_free(spi_bpe *bpe);

/* The model's own vocabulary, without added tokens. */
const spi_vocab *spi_bpe_vocab(const spi_bpe *bpe);

/*
 * Appends the ids of a text that the pre-tokenizer does not divide further. It may be divided here, where no
 * merge can reach across. Errors: SP_ERR_MEMORY; SP_ERR_MISMATCH where an unknown character needs an unk_token
 * that the vocabulary lacks.
 */
sp_status spi_bpe_encode(sp_context *ctx, spi_bpe *bpe, const char *word, size_t length, spi_ids *out);

#endif
