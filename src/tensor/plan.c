#include "tensor/plan.h"

#include <stdlib.h>
#include <string.h>

#define PLAN_ALIGN ((size_t)256)

/* What a piece of memory takes of the device: large ones whole granules, several small ones share one. */
static size_t taken_for(const spi_ops *op, size_t bytes) {
    const size_t granule = bytes < op->granule / 2 || op->granule < PLAN_ALIGN ? PLAN_ALIGN : op->granule;
    return ((bytes ? bytes : 1) + granule - 1) / granule * granule;
}

static void *plan_alloc(spi_device *dev, size_t bytes) {
    spi_plan *plan = dev->plan;
    if (dev->status != SP_OK) return NULL;
    if (!spi_grow((void **)&plan->blocks, &plan->capacity, plan->count, sizeof *plan->blocks)) {
        dev->status = spi_fail_memory(dev->ctx, plan->count * sizeof *plan->blocks, "planning memory");
        return NULL;
    }
    const size_t taken = taken_for(plan->inner, bytes);
    char *data = plan->next;
    plan->blocks[plan->count++] = (spi_plan_block){data, taken};
    plan->next += taken;
    plan->now += taken;
    if (plan->now > plan->peak) plan->peak = plan->now;
    return data;
}

/* What the device gave before it planned stays where it is. */
static void plan_release(spi_device *dev, void *data) {
    spi_plan *plan = dev->plan;
    for (size_t i = plan->count; i-- > 0;) {
        if (plan->blocks[i].data != data) continue;
        plan->now -= plan->blocks[i].bytes;
        plan->blocks[i] = plan->blocks[--plan->count];
        return;
    }
}

static void plan_upload(spi_device *dev, void *to, const void *from_host, size_t bytes) {
    (void)dev, (void)to, (void)from_host, (void)bytes;
}

static void plan_download(spi_device *dev, void *to_host, const void *from, size_t bytes) {
    (void)dev, (void)from;
    memset(to_host, 0, bytes);
}

static void plan_zero(spi_device *dev, void *data, size_t bytes) {
    (void)dev, (void)data, (void)bytes;
}

static void plan_sync(spi_device *dev) {
    (void)dev;
}

void spi_plan_begin(spi_device *dev, spi_plan *plan) {
    *plan = (spi_plan){.inner = dev->op, .table = *dev->op, .before = dev->status};
    plan->next = (char *)SPI_PLAN_ADDRESS; /* NOLINT(performance-no-int-to-ptr) */
    spi_ops *op = &plan->table;
    op->alloc = plan_alloc;
    op->release = plan_release;
    op->upload = op->copy = plan_upload;
    op->download = plan_download;
    op->zero = plan_zero;
    op->sync = plan_sync;
    op->graph = NULL;
    dev->plan = plan;
    dev->op = op;
}

void spi_plan_end(spi_device *dev) {
    spi_plan *plan = dev->plan;
    if (!plan) return;
    dev->op = plan->inner;
    dev->status = plan->before;
    dev->plan = NULL;
    free(plan->blocks);
    plan->blocks = NULL;
    plan->count = plan->capacity = 0;
}

size_t spi_plan_bytes(const spi_plan *plan) {
    size_t bytes = plan->peak;
    for (int i = 0; i < SPI_PLAN_PLACES; i++) bytes += plan->growth[i];
    return bytes;
}
