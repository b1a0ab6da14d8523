/*
 * The text of a growing sequence: what of it is final. Characters whose bytes are not all there yet, and text
 * that may be the beginning of a stop string, are held back.
 */
#ifndef SPI_GENERATE_STOP_H
#define SPI_GENERATE_STOP_H

#include "base/mem.h"

/* Bytes of text [0, length) that end in whole characters. */
size_t spi_whole_characters(const char *text, size_t length);

/*
 * Looks for the earliest stop string in text, from byte `from` on. True when one is there: *final is where it
 * begins. Else *final is where the longest end of the text begins that is the beginning of a stop string.
 */
bool spi_find_stop(const char *text, size_t length, size_t from, const char *const *stop, size_t *final);

#endif
