/* Static division of work among the threads of an OpenMP region. */
#ifndef SPI_TENSOR_CPU_SPLIT_H
#define SPI_TENSOR_CPU_SPLIT_H

#include <omp.h>
#include <stdint.h>

typedef struct spi_range {
    int64_t begin, end;
} spi_range;

/* Part `index` of `parts` of [0, n), cut at multiples of `grain`. */
static inline spi_range spi_split(int64_t n, int64_t grain, int index, int parts) {
    const int64_t units = (n + grain - 1) / grain;
    const int64_t begin = units * index / parts * grain, end = units * (index + 1) / parts * grain;
    return (spi_range){begin < n ? begin : n, end < n ? end : n};
}

/* This thread's part, inside an OpenMP region. */
static inline spi_range spi_my_split(int64_t n, int64_t grain) {
    return spi_split(n, grain, omp_get_thread_num(), omp_get_num_threads());
}

/*
 * Threads for work of `elements` cheap operations: one where starting more costs more than the work. Nothing
 * in between: libgomp ends the threads that a smaller team leaves over and starts new ones for the next team.
 */
static inline int spi_threads_for(int threads, int64_t elements) {
    return elements < 32768 ? 1 : threads;
}

#endif
