#include <stdlib.h>

#include "tensor/backend.h"

#define POOL_ALIGN ((size_t)64)
#define POOL_BLOCK ((size_t)16 << 20)

typedef struct pool_block {
    char *data;
    size_t size;
} pool_block;

struct spi_pool {
    spi_device *dev;
    pool_block *blocks;
    size_t count, capacity;
    spi_pool_mark at;
    size_t peak;
};

spi_pool *spi_pool_new(spi_device *dev) {
    spi_pool *pool = calloc(1, sizeof *pool);
    if (pool) pool->dev = dev;
    return pool;
}

static void release_blocks(spi_pool *pool) {
    for (size_t i = 0; i < pool->count; i++) pool->dev->op->release(pool->dev, pool->blocks[i].data);
    pool->count = 0;
}

void spi_pool_free(spi_pool *pool) {
    if (!pool) return;
    release_blocks(pool);
    free(pool->blocks);
    free(pool);
}

size_t spi_pool_held(const spi_pool *pool) {
    size_t bytes = 0;
    for (size_t i = 0; i < pool->count; i++) bytes += pool->blocks[i].size;
    return bytes;
}

size_t spi_pool_peak(const spi_pool *pool) {
    return pool->peak;
}

static size_t in_use(const spi_pool *pool) {
    size_t bytes = pool->at.used;
    for (size_t i = 0; i < pool->at.block && i < pool->count; i++) bytes += pool->blocks[i].size;
    return bytes;
}

static bool add_block(spi_pool *pool, size_t size) {
    if (!spi_grow((void **)&pool->blocks, &pool->capacity, pool->count, sizeof *pool->blocks)) {
        pool->dev->status = spi_fail_memory(pool->dev->ctx, size, "the memory pool");
        return false;
    }
    char *data = pool->dev->op->alloc(pool->dev, size);
    if (!data) return false;
    pool->blocks[pool->count++] = (pool_block){data, size};
    return true;
}

void *spi_pool_alloc(spi_pool *pool, size_t bytes) {
    bytes = (bytes + POOL_ALIGN - 1) / POOL_ALIGN * POOL_ALIGN;
    while (pool->at.block < pool->count && pool->blocks[pool->at.block].size - pool->at.used < bytes)
        pool->at = (spi_pool_mark){pool->at.block + 1, 0};
    if (pool->at.block == pool->count && !add_block(pool, bytes > POOL_BLOCK ? bytes : POOL_BLOCK)) return NULL;
    void *data = pool->blocks[pool->at.block].data + pool->at.used;
    pool->at.used += bytes;
    const size_t used = in_use(pool);
    if (used > pool->peak) pool->peak = used;
    return data;
}

sp_status spi_pool_reserve(spi_pool *pool, size_t bytes) {
    if (spi_pool_held(pool) >= bytes) return SP_OK;
    release_blocks(pool);
    return add_block(pool, bytes) ? SP_OK : pool->dev->status;
}

spi_mat spi_pool_mat(spi_pool *pool, sp_dtype dtype, int64_t rows, int64_t cols) {
    const size_t bytes = (size_t)(rows * cols) * spi_dtype_size(dtype);
    return spi_mat_of(spi_pool_alloc(pool, bytes), dtype, rows, cols);
}

spi_pool_mark spi_pool_save(const spi_pool *pool) {
    return pool->at;
}

void spi_pool_restore(spi_pool *pool, spi_pool_mark mark) {
    pool->at = mark;
    /* Empty and in several pieces: one block of the whole size serves the next step without gaps. */
    if (mark.block == 0 && mark.used == 0 && pool->count > 1) {
        const size_t held = spi_pool_held(pool);
        release_blocks(pool);
        add_block(pool, held);
    }
}
