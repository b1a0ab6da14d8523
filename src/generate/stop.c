#include "generate/stop.h"

#include <string.h>

size_t spi_whole_characters(const char *text, size_t length) {
    size_t back = 0;
    while (back < 4 && back < length) {
        const unsigned char c = (unsigned char)text[length - 1 - back++];
        if (c < 0x80) return length;
        if (c < 0xc0) continue;
        const size_t needed = c >= 0xf0 ? 4 : c >= 0xe0 ? 3 : 2;
        return back < needed ? length - back : length;
    }
    return length;
}

/* Whether text that ends here is the beginning of a stop string. */
static bool begins_stop(const char *text, size_t length, const char *const *stop) {
    for (size_t i = 0; stop[i]; i++)
        if (strlen(stop[i]) > length && !memcmp(stop[i], text, length)) return true;
    return false;
}

bool spi_find_stop(const char *text, size_t length, size_t from, const char *const *stop, size_t *final) {
    *final = length;
    if (!stop) return false;
    for (size_t at = from; at < length; at++) {
        for (size_t i = 0; stop[i]; i++) {
            const size_t n = strlen(stop[i]);
            if (n <= length - at && !memcmp(text + at, stop[i], n)) {
                *final = at;
                return true;
            }
        }
    }
    for (size_t at = from; at < length; at++)
        if (begins_stop(text + at, length - at, stop)) {
            *final = at;
            return false;
        }
    return false;
}
