#include "generate/stop.h"

#include <string.h>

bool spi_find_stop(const char *text, size_t length, size_t from, const char *const *stop, size_t *final) {
    bool begun = false;
    *final = length;
    for (size_t at = from; stop && at < length; at++) {
        const size_t rest = length - at;
        for (size_t i = 0; stop[i]; i++) {
            const size_t n = strlen(stop[i]), compared = n < rest ? n : rest;
            if (memcmp(text + at, stop[i], compared) != 0) continue;
            if (n <= rest || !begun) *final = at;
            if (n <= rest) return true;
            begun = true;
        }
    }
    return false;
}
