/*
 * A tokenizer.json taken apart. Its `model.vocab` and `model.merges` are most of its bytes: they are read
 * straight from the text, several times faster than through a JSON tree; the rest is parsed by jansson.
 */
#ifndef SPI_TEXT_TOKENIZER_FILE_H
#define SPI_TEXT_TOKENIZER_FILE_H

#include "base/json.h"
#include "text/joints.h"
#include "text/vocab.h"

/* A merge: two tokens of the vocabulary, which become a third. */
typedef struct spi_merge {
    int32_t left, right, merged;
} spi_merge;

typedef struct spi_tokenizer_file {
    json_t *rest; /* the object without model.vocab and model.merges */
    spi_vocab vocab;
    spi_merge *merges; /* [merge_count], by rank */
    size_t merge_count;
    spi_joints *joints; /* of the merges */
} spi_tokenizer_file;

/*
 * Reads the file. SP_ERR_FORMAT where it is no JSON, has no model.vocab or model.merges, or they are not an
 * object of ids and an array of "a b" or ["a", "b"]; SP_ERR_MISMATCH where a merge names a token that the
 * vocabulary lacks. Of a model that is no BPE, or that has a continuing_subword_prefix, the merges may be left
 * unread.
 */
sp_status spi_tokenizer_file_read(sp_context *ctx, const char *path, spi_tokenizer_file *out);
void spi_tokenizer_file_free(spi_tokenizer_file *f);

#endif
