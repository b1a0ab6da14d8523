/* A Hugging Face checkpoint directory: config.json, weights, and the small files that travel with a model. */
#ifndef SPI_FORMAT_CHECKPOINT_H
#define SPI_FORMAT_CHECKPOINT_H

#include "base/json.h"
#include "format/safetensors.h"

typedef struct spi_checkpoint {
    char *dir;
    char *config_path; /* DIR/config.json */
    json_t *config;
    json_t *generation;  /* generation_config.json, or NULL */
    spi_st_set *weights; /* NULL when opened without */
} spi_checkpoint;

/* `with_weights` false reads the JSON files only. On failure nothing stays open. */
sp_status spi_checkpoint_open(sp_context *ctx, const char *dir, bool with_weights, spi_checkpoint *out);
void spi_checkpoint_close(spi_checkpoint *ck);

/* Copies tokenizer.json, tokenizer_config.json, chat_template.jinja, ... from one directory to another, as far
 * as they exist. */
sp_status spi_checkpoint_copy_tokenizer(sp_context *ctx, const char *from, const char *to);

#endif
