#include "harness.h"
int time_operations(spi_device *dev, const char *only) {
    (void)dev;
    (void)only;
    return 0;
}
