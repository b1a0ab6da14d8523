/* Packing: which examples share a row of a batch. */
#ifndef SPI_TEXT_PACKING_H
#define SPI_TEXT_PACKING_H

#include <stdint.h>

/*
 * Fills rows of `capacity` tokens with the examples order[0 .. count), whose lengths are lengths[order[i]]:
 * each goes into the current row if it fits whole, else it begins the next one. No example is split; one longer
 * than the capacity has a row of its own. Returns the number of rows; row r holds order[starts[r] ..
 * starts[r+1]), with `starts` [count + 1] the caller's. The plan depends on nothing but its arguments.
 */
int64_t spi_pack_rows(const int64_t *lengths, const int64_t *order, int64_t count, int64_t capacity,
                      int64_t *starts);

#endif
