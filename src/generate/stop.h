/* Finding stop strings in a text that grows. */
#ifndef SPI_GENERATE_STOP_H
#define SPI_GENERATE_STOP_H

#include <stdbool.h>
#include <stddef.h>

/*
 * Looks for the earliest of the stop strings (NULL-ended, none empty; or NULL) in text [length], from byte
 * `from` on. True when one is there: *final is where it begins. Else *final is where the longest end of the
 * text begins that is itself the beginning of a stop string, or `length`: text before it will never be part of
 * one.
 */
bool spi_find_stop(const char *text, size_t length, size_t from, const char *const *stop, size_t *final);

#endif
