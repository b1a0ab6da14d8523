#include "tensor/cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensor/compose.h"
#include "tensor/cpu/open.h"
#include "tensor/plan.h"

#define CPU_ALIGN ((size_t)64)

static void *cpu_alloc(spi_device *dev, size_t bytes) {
    if (dev->status != SP_OK) return NULL;
    void *data = NULL;
    if (posix_memalign(&data, CPU_ALIGN, bytes ? bytes : CPU_ALIGN) != 0)
        dev->status = spi_fail_memory(dev->ctx, bytes, "tensors");
    return data;
}

static void cpu_release(spi_device *dev, void *data) {
    (void)dev;
    free(data);
}

static void cpu_copy(spi_device *dev, void *to, const void *from, size_t bytes) {
    if (dev->status == SP_OK && bytes) memcpy(to, from, bytes);
}

static void cpu_zero(spi_device *dev, void *data, size_t bytes) {
    if (dev->status == SP_OK && bytes) memset(data, 0, bytes);
}

static void cpu_sync(spi_device *dev) {
    (void)dev;
}

void *spi_cpu_scratch(spi_cpu *cpu, size_t bytes) {
    if (cpu->device.plan) {
        spi_plan_working(cpu->device.plan, SPI_PLAN_SCRATCH, cpu->scratch_bytes, bytes);
        return NULL;
    }
    if (bytes <= cpu->scratch_bytes) return cpu->scratch;
    free(cpu->scratch);
    cpu->scratch = cpu_alloc(&cpu->device, bytes);
    cpu->scratch_bytes = cpu->scratch ? bytes : 0;
    return cpu->scratch;
}

/* "MemTotal:       16318412 kB" -> bytes */
static void read_line(const char *line, const char *key, size_t *bytes) {
    const size_t length = strlen(key);
    if (strncmp(line, key, length) == 0) *bytes = (size_t)strtoull(line + length, NULL, 10) * 1024;
}

/* Linux's own estimate, which counts pages of files that it would drop. Elsewhere nobody can tell. */
static void cpu_memory(spi_device *dev, size_t *unused, size_t *total) {
    char line[256];
    (void)dev;
    *unused = *total = 0;
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && fgets(line, sizeof line, file)) {
        read_line(line, "MemTotal:", total);
        read_line(line, "MemAvailable:", unused);
    }
    if (file) fclose(file);
}

static void cpu_close(spi_device *dev) {
    spi_cpu *cpu = spi_cpu_of(dev);
    spi_cpu_products_close(cpu);
    free(cpu->scratch);
    free(cpu);
}

static const spi_ops cpu_ops = {
    .name = "cpu",
    .host_memory = true,
    .close = cpu_close,
    .memory = cpu_memory,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .upload = cpu_copy,
    .download = cpu_copy,
    .copy = cpu_copy,
    .zero = cpu_zero,
    .sync = cpu_sync,
    .convert = spi_cpu_convert,
    .linear = spi_cpu_linear,
    .linear_dx = spi_cpu_linear_dx,
    .linear_dw = spi_cpu_linear_dw,
    .project = spi_compose_project,
    .project_gated = spi_compose_project_gated,
    .quantize = spi_cpu_quantize,
    .embedding = spi_cpu_embedding,
    .embedding_backward = spi_cpu_embedding_backward,
    .gather_rows = spi_cpu_gather_rows,
    .scatter_rows = spi_cpu_scatter_rows,
    .add = spi_cpu_add,
    .norm = spi_cpu_norm,
    .norm_backward = spi_cpu_norm_backward,
    .qk = spi_cpu_qk,
    .qk_backward = spi_cpu_qk_backward,
    .attention = spi_cpu_attention,
    .attention_backward = spi_cpu_attention_backward,
    .attention_cached = spi_cpu_attention_cached,
    .gated = spi_cpu_gated,
    .gated_backward = spi_cpu_gated_backward,
    .inject = spi_cpu_inject,
    .inject_backward = spi_cpu_inject_backward,
    .update = spi_cpu_update,
    .update_backward = spi_cpu_update_backward,
    .softcap = spi_cpu_softcap,
    .head_loss = spi_cpu_head_loss,
    .distill_loss = spi_cpu_distill_loss,
    .sum_squares = spi_cpu_sum_squares,
    .adamw = spi_cpu_adamw,
};

sp_status spi_cpu_open(sp_context *ctx, spi_device **out) {
    spi_cpu *cpu = calloc(1, sizeof *cpu);
    if (!cpu) return spi_fail_memory(ctx, sizeof *cpu, "the CPU backend");
    cpu->device = (spi_device){.op = &cpu_ops, .ctx = ctx, .label = "CPU"};
    cpu->threads = spi_threads(ctx);
    sp_status status = spi_cpu_products_open(cpu);
    if (status != SP_OK) {
        free(cpu);
        return status;
    }
    *out = &cpu->device;
    return SP_OK;
}
