#include "text/packing.h"

int64_t spi_pack_rows(const int64_t *lengths, const int64_t *order, int64_t count, int64_t capacity,
                      int64_t *starts) {
    int64_t rows = 0;
    int64_t room = 0;
    for (int64_t i = 0; i < count; i++) {
        const int64_t length = lengths[order[i]];
        if (i == 0 || length > room) {
            starts[rows++] = i;
            room = capacity;
        }
        room -= length;
    }
    starts[rows] = count;
    return rows;
}
