/*
 * tokenizers.processors: TemplateProcessing, BertProcessing, RobertaProcessing, ByteLevel (which changes
 * offsets only) and Sequence: the special tokens that go around a text's ids.
 */
#ifndef SPI_TEXT_POSTPROCESS_H
#define SPI_TEXT_POSTPROCESS_H

#include "text/component.h"
#include "text/ids.h"

/* Start with {0}. */
typedef struct spi_template {
    bool present;
    spi_ids before; /* what stands before the text, between its copies (there is mostly one) and behind it: */
    size_t *copies; /* [copy_count] how many ids of `before` come before each copy of the text */
    size_t copy_count, copy_capacity;
} spi_template;

/*
 * The file's "post_processor". SP_ERR_UNSUPPORTED where several of a sequence add tokens: the Python package
 * gives the second one the first's output as a pair of texts.
 */
sp_status spi_template_read(sp_context *ctx, const char *file, const json_t *object, spi_template *out);
void spi_template_free(spi_template *t);

/* Appends the ids of a text with the special tokens around them. */
void spi_template_apply(const spi_template *t, const spi_ids *text, bool add_special_tokens, spi_ids *out);

#endif
