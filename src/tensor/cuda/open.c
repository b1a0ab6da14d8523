/* Opening a GPU, its memory, its stream, and the table of operations. */
#include <stdio.h>
#include <stdlib.h>

#include "tensor/cuda/cuda.h"
#include "tensor/plan.h"

/* What the kernels are built for and need: bf16 in the matrix units, asynchronous copies into shared memory. */
#define LEAST_CAPABILITY 80
#define LEAST_DRIVER 12000

bool spi_cuda_check(spi_cuda *cuda, cudaError_t error, const char *what) {
    if (error == cudaSuccess) return cuda->device.status == SP_OK;
    (void)cudaGetLastError();
    if (cuda->device.status != SP_OK) return false;
    cuda->device.status = cuda->host->fail(cuda->device.ctx, SP_ERR_DEVICE, "GPU %d: %s: %s", cuda->index, what,
                                           cudaGetErrorString(error));
    return false;
}

/* ------------------------------------------------------------------ memory */

static void fail_memory(spi_cuda *cuda, size_t bytes) {
    const double mib = 1.0 / (1 << 20);
    size_t unused = 0, total = 0;
    (void)cudaGetLastError();
    (void)cudaMemGetInfo(&unused, &total);
    cuda->device.status =
        cuda->host->fail(cuda->device.ctx, SP_ERR_MEMORY,
                         "GPU %d: out of memory: %.0f MiB more needed, %.0f of %.0f MiB free; a smaller batch, "
                         "shorter sequences or gradient checkpointing take less",
                         cuda->index, (double)bytes * mib, (double)unused * mib, (double)total * mib);
}

static void *cuda_alloc(spi_device *dev, size_t bytes) {
    spi_cuda *cuda = spi_cuda_of(dev);
    void *data = NULL;
    if (dev->status != SP_OK) return NULL;
    const cudaError_t error = cudaMalloc(&data, bytes ? bytes : 1);
    if (error == cudaErrorMemoryAllocation) fail_memory(cuda, bytes);
    else if (error != cudaSuccess) spi_cuda_check(cuda, error, "taking memory");
    return data;
}

static void cuda_release(spi_device *dev, void *data) {
    /* Waits for what is queued; a failed device is being taken down, and its errors are known. */
    if (data && cudaFree(data) != cudaSuccess && dev->status != SP_OK) (void)cudaGetLastError();
}

static void move(spi_device *dev, void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind,
                 const char *what) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK || bytes == 0) return;
    cuda->after_kernel = false;
    spi_cuda_check(cuda, cudaMemcpyAsync(to, from, bytes, kind, cuda->stream), what);
}

/* From ordinary memory: returns when `from_host` has been read. */
static void cuda_upload(spi_device *dev, void *to, const void *from_host, size_t bytes) {
    move(dev, to, from_host, bytes, cudaMemcpyHostToDevice, "copying to the GPU");
}

static void cuda_sync(spi_device *dev) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status == SP_OK) spi_cuda_check(cuda, cudaStreamSynchronize(cuda->stream), "waiting for the GPU");
}

static void cuda_download(spi_device *dev, void *to_host, const void *from, size_t bytes) {
    move(dev, to_host, from, bytes, cudaMemcpyDeviceToHost, "copying from the GPU");
    cuda_sync(dev);
}

static void cuda_copy(spi_device *dev, void *to, const void *from, size_t bytes) {
    move(dev, to, from, bytes, cudaMemcpyDeviceToDevice, "copying on the GPU");
}

static void cuda_zero(spi_device *dev, void *data, size_t bytes) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK || bytes == 0) return;
    cuda->after_kernel = false;
    spi_cuda_check(cuda, cudaMemsetAsync(data, 0, bytes, cuda->stream), "clearing memory");
}

static void cuda_memory(spi_device *dev, size_t *unused, size_t *total) {
    spi_cuda_check(spi_cuda_of(dev), cudaMemGetInfo(unused, total), "asking for free memory");
}

/* cudaFree waits for what still reads the old memory. */
static void *grow(spi_cuda *cuda, void **data, size_t *held, size_t bytes) {
    if (bytes <= *held) return *data;
    cuda_release(&cuda->device, *data);
    *data = cuda_alloc(&cuda->device, bytes);
    *held = *data ? bytes : 0;
    return *data;
}

void *spi_cuda_scratch(spi_cuda *cuda, size_t bytes) {
    if (cuda->device.plan)
        return spi_plan_working(cuda->device.plan, SPI_PLAN_SCRATCH, cuda->scratch_bytes, bytes);
    return grow(cuda, &cuda->scratch, &cuda->scratch_bytes, bytes);
}

void *spi_cuda_room(spi_cuda *cuda, size_t bytes) {
    if (cuda->device.plan) return spi_plan_working(cuda->device.plan, SPI_PLAN_ROOM, cuda->room_bytes, bytes);
    return grow(cuda, &cuda->room, &cuda->room_bytes, bytes);
}

/* ------------------------------------------------------------------ life */

static void cuda_close(spi_device *dev) {
    spi_cuda *cuda = spi_cuda_of(dev);
    spi_cuda_products_close(cuda);
    spi_cuda_letters_close(cuda);
    if (cuda->scratch) (void)cudaFree(cuda->scratch);
    if (cuda->room) (void)cudaFree(cuda->room);
    if (cuda->counters) (void)cudaFree(cuda->counters);
    if (cuda->stream) (void)cudaStreamDestroy(cuda->stream);
    free(cuda);
}

static const spi_ops cuda_ops = {
    .name = "cuda",
    .host_memory = false,
    .granule = (size_t)2 << 20, /* pages of the card's memory */
    .close = cuda_close,
    .memory = cuda_memory,
    .alloc = cuda_alloc,
    .release = cuda_release,
    .upload = cuda_upload,
    .download = cuda_download,
    .copy = cuda_copy,
    .zero = cuda_zero,
    .sync = cuda_sync,
    .convert = spi_cuda_convert,
    .linear = spi_cuda_linear,
    .linear_dx = spi_cuda_linear_dx,
    .linear_dw = spi_cuda_linear_dw,
    .project = spi_cuda_project,
    .project_gated = spi_cuda_project_gated,
    .quantize = spi_cuda_quantize,
    .embedding = spi_cuda_embedding,
    .embedding_backward = spi_cuda_embedding_backward,
    .gather_rows = spi_cuda_gather_rows,
    .scatter_rows = spi_cuda_scatter_rows,
    .add = spi_cuda_add,
    .norm = spi_cuda_norm,
    .norm_backward = spi_cuda_norm_backward,
    .qk = spi_cuda_qk,
    .qk_backward = spi_cuda_qk_backward,
    .attention = spi_cuda_attention,
    .attention_backward = spi_cuda_attention_backward,
    .attention_cached = spi_cuda_attention_cached,
    .gated = spi_cuda_gated,
    .gated_backward = spi_cuda_gated_backward,
    .inject = spi_cuda_inject,
    .inject_backward = spi_cuda_inject_backward,
    .update = spi_cuda_update,
    .update_backward = spi_cuda_update_backward,
    .softcap = spi_cuda_softcap,
    .head_loss = spi_cuda_head_loss,
    .distill_loss = spi_cuda_distill_loss,
    .sum_squares = spi_cuda_sum_squares,
    .adamw = spi_cuda_adamw,
    .graph = &spi_cuda_graph_ops,
};

/* The driver and the card are looked at before anything is taken from them. */
static sp_status check_machine(const spi_plugin_host *host, sp_context *ctx, int index) {
    int driver = 0, count = 0;
    cudaError_t error = cudaDriverGetVersion(&driver);
    if (error != cudaSuccess || driver == 0)
        return host->fail(ctx, SP_ERR_DEVICE, "cuda: expected an NVIDIA driver for CUDA %d, found none",
                          LEAST_DRIVER / 1000);
    if (driver < LEAST_DRIVER)
        return host->fail(ctx, SP_ERR_DEVICE,
                          "cuda: expected a driver for CUDA %d or newer, found one for %d.%d",
                          LEAST_DRIVER / 1000, driver / 1000, driver % 1000 / 10);
    error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0)
        return host->fail(ctx, SP_ERR_DEVICE, "cuda: expected a GPU, found none (%s)",
                          error == cudaSuccess ? "the driver sees no card" : cudaGetErrorString(error));
    if (index >= count)
        return host->fail(ctx, SP_ERR_DEVICE, "cuda:%d: expected a GPU below %d, the number of cards", index,
                          count);
    return SP_OK;
}

/* Graphs keep kernels that begin early since CUDA 12.3. */
static bool ask_versions(spi_cuda *cuda) {
    int driver = 0, runtime = 0;
    if (!spi_cuda_check(cuda, cudaDriverGetVersion(&driver), "asking for the driver's version") ||
        !spi_cuda_check(cuda, cudaRuntimeGetVersion(&runtime), "asking for CUDA's version"))
        return false;
    cuda->records_early = driver >= 12030 && runtime >= 12030;
    return true;
}

static bool make_counters(spi_cuda *cuda) {
    const size_t bytes = (size_t)cuda->processors * sizeof *cuda->counters;
    cuda->counters = cuda_alloc(&cuda->device, bytes);
    cuda_zero(&cuda->device, cuda->counters, bytes);
    return cuda->device.status == SP_OK;
}

static bool take_card(spi_cuda *cuda) {
    struct cudaDeviceProp card;
    size_t unused = 0;
    if (!spi_cuda_check(cuda, cudaSetDevice(cuda->index), "choosing the card") ||
        !spi_cuda_check(cuda, cudaGetDeviceProperties(&card, cuda->index), "asking for the card's properties"))
        return false;
    cuda->capability = 10 * card.major + card.minor;
    cuda->processors = card.multiProcessorCount;
    cuda->shared = (int)card.sharedMemPerBlockOptin;
    snprintf(cuda->device.label, sizeof cuda->device.label, "%.*s", (int)sizeof cuda->device.label - 1,
             card.name);
    if (cuda->capability < LEAST_CAPABILITY) {
        cuda->device.status = cuda->host->fail(
            cuda->device.ctx, SP_ERR_DEVICE,
            "cuda:%d: expected a card of compute capability %d.%d or newer, found %s of %d.%d", cuda->index,
            LEAST_CAPABILITY / 10, LEAST_CAPABILITY % 10, card.name, card.major, card.minor);
        return false;
    }
    return spi_cuda_check(cuda, cudaMemGetInfo(&unused, &cuda->memory), "asking for the memory's size") &&
           spi_cuda_check(cuda, cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking),
                          "making a stream") &&
           ask_versions(cuda) && make_counters(cuda) && spi_cuda_products_open(cuda);
}

__attribute__((visibility("default"))) sp_status spi_backend_open(const spi_plugin_host *host, sp_context *ctx,
                                                                  int index, spi_device **out) {
    *out = NULL;
    if (host->abi != SPI_PLUGIN_ABI || host->ops_bytes != sizeof(spi_ops))
        return host->fail(ctx, SP_ERR_DEVICE,
                          "cuda: libshadowpeft-cuda.so is of another version of shadowpeft than the program");
    const sp_status status = check_machine(host, ctx, index);
    if (status != SP_OK) return status;
    spi_cuda *cuda = calloc(1, sizeof *cuda);
    if (!cuda) return host->fail(ctx, SP_ERR_MEMORY, "cuda: out of memory for the backend");
    *cuda = (spi_cuda){.device = {.op = &cuda_ops, .ctx = ctx}, .host = host, .index = index};
    if (!take_card(cuda)) {
        const sp_status failed = cuda->device.status;
        cuda_close(&cuda->device);
        return failed;
    }
    *out = &cuda->device;
    return SP_OK;
}
