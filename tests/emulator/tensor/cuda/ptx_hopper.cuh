/* The instructions of src/tensor/cuda/ptx_hopper.cuh, which this file stands for, in C++. */
#pragma once

#include "cuda.h"
#include "tensor/cuda/ptx.cuh"

static inline void barrier_make(uint32_t barrier, int count) {
    emulator::make_barrier(barrier, count);
}
static inline void barriers_made() {
}
static inline void barrier_arrive(uint32_t barrier) {
    emulator::arrive_at(barrier, 0);
}
static inline void barrier_expect(uint32_t barrier, int bytes) {
    emulator::arrive_at(barrier, bytes);
}
static inline void barrier_wait(uint32_t barrier, uint32_t parity) {
    emulator::wait_barrier(barrier, parity);
}

static inline void turn_wait(int id, int threads) {
    emulator::wait_turn(id, threads);
}
static inline void turn_pass(int id, int threads) {
    emulator::pass_turn(id, threads);
}

/* The 16-byte piece in a row of 128 is swapped by the row's place among eight. */
static inline uint32_t swapped(uint32_t address) {
    return address ^ (address >> 7 & 7) << 4;
}

static inline void copy_box(uint32_t to, const CUtensorMap *map, uint32_t barrier, int row, int column) {
    if (to % 128 || map->box_columns != 64) abort();
    emulator::copy_telling(barrier, (int)(map->box_rows * map->box_columns * 2), [=, m = *map] {
        for (int r = 0; r < (int)m.box_rows; r++)
            for (int c = 0; c < (int)m.box_columns; c++) {
                const int64_t i = row + r, j = column + c;
                char *element = emulator::shared_at(swapped(to + (uint32_t)(r * 128 + c * 2)));
                if (i < 0 || j < 0 || i >= (int64_t)m.rows || j >= (int64_t)m.columns) memset(element, 0, 2);
                else memcpy(element, m.data + i * (int64_t)m.pitch + j * 2, 2);
            }
    });
}
static inline void prefetch_map(const CUtensorMap *) {
}

template <int COUNT> static inline void registers_fewer() {
    static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256, "as the card takes them");
}
template <int COUNT> static inline void registers_more() {
    static_assert(COUNT % 8 == 0 && COUNT >= 24 && COUNT <= 256, "as the card takes them");
}

static inline uint64_t matrix_at(uint32_t address, uint32_t leading, uint32_t stride) {
    return (uint64_t)1 << 62 | (uint64_t)(stride >> 4) << 32 | (uint64_t)(leading >> 4) << 16 |
           (address & 0x3ffff) >> 4;
}

static inline void products_begin() {
}
static inline void products_end() {
    emulator::end_group();
}
template <int COUNT> static inline void products_wait() {
    emulator::wait_groups(COUNT);
}
template <int T> static inline void settle(float (&)[T][4]) {
}

/* Row i of the matrix that a descriptor tells of, 16 k of it. `down`: k goes down the rows of shared memory. */
static inline void read_row(float (&x)[16], uint64_t matrix, int i, bool down) {
    const uint32_t start = (uint32_t)(matrix & 0x3fff) << 4, stride = (uint32_t)(matrix >> 32 & 0x3fff) << 4;
    const uint32_t leading = (uint32_t)(matrix >> 16 & 0x3fff) << 4;
    if (matrix >> 62 != 1 || start & 0x380 || stride % 1024 || leading % 1024) abort();
    const char *rows =
        emulator::shared_at(emulator::whole_address(start & ~1023u)); /* a multiple of 1024 too */
    for (int k = 0; k < 16; k++) {
        const int along = down ? i % 64 : k, row = down ? k : i;
        const uint32_t at = start % 1024 + (uint32_t)(row / 8) * stride +
                            (uint32_t)(row % 8 * 128 + along * 2) + (down ? (uint32_t)(i / 64) * leading : 0);
        uint16_t bits;
        memcpy(&bits, rows + swapped(at), sizeof bits);
        x[k] = __uint_as_float((uint32_t)bits << 16);
    }
}

/* d [64, columns] = A B, or += with `keep`, of this thread; x: its two rows of A. */
static inline void multiply_rows_of(float (*d)[4], int columns, const float (&x)[2][16], uint64_t b, bool down,
                                    bool keep) {
    const int t = emulator::lane % 4;
    for (int c = 0; c < columns / 4; c++) {
        const int n = c / 2, odd = c % 2;
        float y[16];
        read_row(y, b, 8 * n + 2 * t + odd, down);
        for (int half = 0; half < 2; half++) {
            float &sum = d[n][2 * half + odd];
            double all = keep ? sum : 0.0f;
            for (int k = 0; k < 16; k++) all += (double)x[half][k] * y[k];
            sum = (float)all;
        }
    }
}

static inline void multiply_shared(float (*d)[4], int columns, uint64_t a, uint64_t b, bool keep) {
    const int row = (int)threadIdx.x % 128 / 32 * 16 + emulator::lane / 4;
    emulator::later([=] {
        float x[2][16];
        emulator::meet(emulator::WGMMA, {});
        for (int half = 0; half < 2; half++) read_row(x[half], a, row + 8 * half, false);
        multiply_rows_of(d, columns, x, b, false, keep);
    });
}
/* A's registers are read when the products are made. */
static inline void multiply_registers(float (*d)[4], int columns, const uint32_t *a, uint64_t b, bool keep) {
    const int g = emulator::lane / 4;
    emulator::later([=] {
        float x[2][16];
        const emulator::message *all = emulator::meet(emulator::WGMMA, {{a[0], a[1], a[2], a[3]}});
        for (int half = 0; half < 2; half++)
            for (int k = 0; k < 16; k++)
                x[half][k] = half_of(all[4 * g + k % 8 / 2].word[half + k / 8 * 2], k % 2);
        multiply_rows_of(d, columns, x, b, true, keep);
    });
}

template <int T> static inline void multiply_64(float (&d)[T][4], uint64_t a, uint64_t b, bool keep) {
    static_assert(T >= 8, "64 columns");
    multiply_shared(d, 64, a, b, keep);
}
template <int T> static inline void multiply_128(float (&d)[T][4], uint64_t a, uint64_t b, bool keep) {
    static_assert(T >= 16, "128 columns");
    multiply_shared(d, 128, a, b, keep);
}
template <int T>
static inline void multiply_by_64(float (&d)[T][4], const uint32_t (&a)[4], uint64_t b, bool keep) {
    static_assert(T >= 8, "64 columns");
    multiply_registers(d, 64, a, b, keep);
}
template <int T>
static inline void multiply_by_128(float (&d)[T][4], const uint32_t (&a)[4], uint64_t b, bool keep) {
    static_assert(T >= 16, "128 columns");
    multiply_registers(d, 128, a, b, keep);
}
