/* The table of families: see families.c to add one. */
#ifndef SPI_MODEL_FAMILIES_H
#define SPI_MODEL_FAMILIES_H

#include "model/arch.h"

extern const spi_family spi_family_llama, spi_family_mistral, spi_family_qwen2, spi_family_qwen3;

#endif
