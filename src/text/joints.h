/*
 * Which characters a BPE model can bring together: (x, y) where some merge has a left token that ends in x and
 * a right one that begins with y. Between any other two a text may be divided before its merges are applied. A
 * set by hash: it may say yes to a pair too many, never no to one that is there.
 */
#ifndef SPI_TEXT_JOINTS_H
#define SPI_TEXT_JOINTS_H

#include "base/mem.h"

#define SPI_JOINT_BITS 20

typedef struct spi_joints {
    uint64_t bits[((size_t)1 << SPI_JOINT_BITS) / 64];
} spi_joints;

static inline uint32_t spi_joint_place(int32_t x, int32_t y) {
    return ((uint32_t)x * UINT32_C(0x9E3779B1) ^ (uint32_t)y * UINT32_C(0x85EBCA6B)) * UINT32_C(0xC2B2AE35) >>
           (32 - SPI_JOINT_BITS);
}

static inline void spi_joints_add(spi_joints *j, int32_t x, int32_t y) {
    const uint32_t place = spi_joint_place(x, y);
    j->bits[place / 64] |= (uint64_t)1 << place % 64;
}

static inline bool spi_joints_has(const spi_joints *j, int32_t x, int32_t y) {
    const uint32_t place = spi_joint_place(x, y);
    return j->bits[place / 64] >> place % 64 & 1;
}

#endif
