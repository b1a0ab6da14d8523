/* A tokenizer as other files of this module see it, beyond shadowpeft.h. */
#ifndef SPI_TEXT_TOKENIZER_H
#define SPI_TEXT_TOKENIZER_H

#include "base/context.h"

/* The tokenizer.json that it was loaded from. Lives as long as the tokenizer. */
const char *spi_tokenizer_path(const sp_tokenizer *tok);

#endif
