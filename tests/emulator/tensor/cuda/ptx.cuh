/* The instructions of src/tensor/cuda/ptx.cuh, which this file stands for, in C++. */
#pragma once

#include "tensor/cuda/kernel.cuh"

static inline uint32_t shared_address(const void *p) {
    return emulator::shared_address(p);
}

static inline void copy16(uint32_t to, const void *from, bool valid) {
    emulator::copy_later(emulator::shared_at(to), from, 16, valid);
}
static inline void copy4(uint32_t to, const void *from, bool valid) {
    emulator::copy_later(emulator::shared_at(to), from, 4, valid);
}
static inline void copies_wait() {
    emulator::wait_copies();
}
static inline void copies_close() {
    emulator::close_copies();
}
template <int LEFT> static inline void copies_wait_but() {
    emulator::wait_copies_but(LEFT);
}

/* Lane 8 i + r hands in where row r of matrix i lies; elements (row, column) are two bytes. */
static inline uint32_t element(const emulator::message *all, int matrix, int row, int column) {
    uint16_t bits;
    memcpy(&bits, emulator::shared_at(all[8 * matrix + row].word[0]) + 2 * column, sizeof bits);
    return bits;
}
static inline void load_matrices(uint32_t (&r)[4], uint32_t from) {
    const int g = emulator::lane / 4, t = emulator::lane % 4;
    if (from % 16) abort();
    const emulator::message *all = emulator::meet(emulator::LDMATRIX, {{from}});
    for (int i = 0; i < 4; i++) r[i] = element(all, i, g, 2 * t) | element(all, i, g, 2 * t + 1) << 16;
}
static inline void load_transposed(uint32_t (&r)[4], uint32_t from) {
    const int g = emulator::lane / 4, t = emulator::lane % 4;
    if (from % 16) abort();
    const emulator::message *all = emulator::meet(emulator::LDMATRIX_TRANS, {{from}});
    for (int i = 0; i < 4; i++) r[i] = element(all, i, 2 * t, g) | element(all, i, 2 * t + 1, g) << 16;
}

/* Half 0 or 1 of a register of two bf16. */
static inline float half_of(uint32_t bits, int half) {
    return __uint_as_float(half ? bits & 0xffff0000u : bits << 16);
}

/* Messages: A's four registers, then B's two. */
static inline void mma(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const int g = emulator::lane / 4, t = emulator::lane % 4;
    const emulator::message *all = emulator::meet(emulator::MMA_BF16, {{a[0], a[1], a[2], a[3], b0, b1}});
    for (int i = 0; i < 4; i++) {
        const int row = g + i / 2 * 8, column = 2 * t + i % 2;
        double sum = c[i];
        for (int k = 0; k < 16; k++) {
            const float x = half_of(all[row % 8 * 4 + k % 8 / 2].word[row / 8 + k / 8 * 2], k % 2);
            sum += (double)x * half_of(all[column * 4 + k % 8 / 2].word[4 + k / 8], k % 2);
        }
        c[i] = (float)sum;
    }
}

static inline float exp2_fast(float x) {
    return exp2f(x);
}

/* To nearest, ties away from zero. */
static inline float tf32(float x) {
    const uint32_t bits = __float_as_uint(x);
    return isfinite(x) ? __uint_as_float((bits + 0x1000u) & 0xffffe000u) : x;
}

/* The units ignore the last 13 bits. */
static inline void mma_tf32(float (&c)[4], float a0, float a1, float a2, float a3, float b0, float b1) {
    const int g = emulator::lane / 4, t = emulator::lane % 4;
    const float mine[6] = {a0, a1, a2, a3, b0, b1};
    emulator::message m;
    for (int i = 0; i < 6; i++) m.word[i] = __float_as_uint(mine[i]) & 0xffffe000u;
    const emulator::message *all = emulator::meet(emulator::MMA_TF32, m);
    for (int i = 0; i < 4; i++) {
        const int row = g + i / 2 * 8, column = 2 * t + i % 2;
        double sum = c[i];
        for (int k = 0; k < 8; k++) {
            const float x = __uint_as_float(all[row % 8 * 4 + k % 4].word[row / 8 + k / 4 * 2]);
            sum += (double)x * __uint_as_float(all[column * 4 + k % 4].word[4 + k / 4]);
        }
        c[i] = (float)sum;
    }
}

static inline void made_anew(uint4 &) {
}
#define BEGINS_EARLY true
static inline void dependents_may_start() {
}
static inline void dependency_wait() {
    emulator::wait_dependency();
}

static inline void prefetch(const void *) {
}
