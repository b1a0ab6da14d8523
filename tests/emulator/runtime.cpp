/* The runtime's calls (cuda_runtime_api.h): the machine, memory, streams, graphs. */
#include <stdio.h>

#include <map>
#include <mutex>
#include <vector>

#include "cudaTypedefs.h"
#include "emulator.h"

/* What was queued; `early`: a kernel that begins early. */
struct step {
    std::function<void()> work;
    emulator::early_work early;
};
typedef std::vector<step> works;

struct CUstream_st {
    bool records, broken; /* broken: something was asked for that a recording cannot hold */
    works recorded;
};
struct CUevent_st {
    int unused;
};
struct CUgraph_st {
    works steps;
};
struct CUgraphExec_st {
    works steps;
    size_t launches;
};

namespace emulator {
namespace {

/* A number of EMULATED_GPU. */
long setting(const char *name, long otherwise) {
    const char *text = getenv("EMULATED_GPU");
    const size_t length = strlen(name);
    for (const char *at = text ? strstr(text, name) : NULL; at; at = strstr(at + 1, name))
        if ((at == text || at[-1] == ' ') && at[length] == '=') return atol(at + length + 1);
    return otherwise;
}

std::mutex memory_mutex;
std::map<void *, size_t> blocks; /* that were taken */
size_t taken;
thread_local cudaError_t last = cudaSuccess;
thread_local cudaStream_t recording; /* of this thread */

size_t memory_size() {
    return (size_t)setting("memory", 81920) << 20;
}

} // namespace

cudaError_t fail(cudaError_t error) {
    if (error != cudaSuccess) last = error;
    return error;
}

cudaError_t queue(cudaStream_t stream, std::function<void()> work) {
    if (stream->records) stream->recorded.push_back({work, NULL});
    else work();
    return cudaSuccess;
}

cudaError_t queue_early(cudaStream_t stream, early_work work) {
    if (stream->records) stream->recorded.push_back({[work] { work(NULL); }, work});
    else work(NULL);
    return cudaSuccess;
}

/* Calls that no recording can hold. */
static bool forbidden() {
    if (recording) recording->broken = true;
    return recording != NULL;
}

} // namespace emulator

using namespace emulator;

/* ------------------------------------------------------------------ the machine */

cudaError_t cudaDriverGetVersion(int *version) {
    *version = (int)setting("driver", 13000);
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version) {
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaGetDeviceCount(int *count) {
    *count = (int)setting("cards", 1);
    return *count ? cudaSuccess : fail(cudaErrorNoDevice);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *card, int) {
    const long capability = setting("capability", 90);
    memset(card, 0, sizeof *card);
    snprintf(card->name, sizeof card->name, "Emulated GPU");
    card->major = (int)capability / 10;
    card->minor = (int)capability % 10;
    card->multiProcessorCount = (int)setting("processors", 132);
    card->sharedMemPerBlockOptin = (size_t)227 << 10;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int index) {
    return index < setting("cards", 1) ? cudaSuccess : fail(cudaErrorInvalidValue);
}

cudaError_t cudaGetLastError(void) {
    const cudaError_t error = last;
    last = cudaSuccess;
    return error;
}

const char *cudaGetErrorString(cudaError_t error) {
    switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorInsufficientDriver: return "CUDA driver version is insufficient for CUDA runtime version";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorIllegalState: return "the operation cannot be performed in the present state";
    case cudaErrorStreamCaptureUnsupported: return "operation not permitted when stream is capturing";
    }
    return "unrecognized error code";
}

/* As the driver refuses: what is not aligned, and boxes whose rows are no 128 bytes. */
static CUresult encode_map(CUtensorMap *map, CUtensorMapDataType, cuuint32_t dimensions, void *data,
                           const cuuint64_t *size, const cuuint64_t *pitch, const cuuint32_t *box,
                           const cuuint32_t *step, CUtensorMapInterleave, CUtensorMapSwizzle,
                           CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
    if (dimensions != 2 || (uintptr_t)data % 16 || pitch[0] % 16 || !size[0] || !size[1] || box[0] * 2 > 128 ||
        !box[0] || !box[1] || box[1] > 256 || step[0] != 1 || step[1] != 1 || (uintptr_t)map % 64)
        return CUDA_ERROR_INVALID_VALUE;
    *map = {static_cast<const char *>(data), size[1], size[0], pitch[0], box[1], box[0]};
    return CUDA_SUCCESS;
}

cudaError_t cudaGetDriverEntryPointByVersion(const char *symbol, void **function, unsigned, unsigned long long,
                                             enum cudaDriverEntryPointQueryResult *result) {
    const bool found = strcmp(symbol, "cuTensorMapEncodeTiled") == 0;
    *function = found ? reinterpret_cast<void *>(encode_map) : NULL;
    *result = found ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
    return cudaSuccess;
}

/* ------------------------------------------------------------------ memory */

cudaError_t cudaMalloc(void **data, size_t bytes) {
    const std::lock_guard<std::mutex> lock(memory_mutex);
    const size_t whole = (bytes + 511) / 512 * 512;
    *data = NULL;
    if (forbidden()) return fail(cudaErrorStreamCaptureUnsupported);
    if (whole > memory_size() - taken) return fail(cudaErrorMemoryAllocation);
    void *memory = aligned_alloc(512, whole ? whole : 512);
    if (!memory) return fail(cudaErrorMemoryAllocation);
    memset(memory, 0xff, whole);
    blocks[memory] = whole;
    taken += whole;
    *data = memory;
    return cudaSuccess;
}

cudaError_t cudaFree(void *data) {
    const std::lock_guard<std::mutex> lock(memory_mutex);
    if (!data) return cudaSuccess;
    if (forbidden()) return fail(cudaErrorStreamCaptureUnsupported);
    const auto found = blocks.find(data);
    if (found == blocks.end()) return fail(cudaErrorInvalidValue);
    taken -= found->second;
    blocks.erase(found);
    free(data);
    return cudaSuccess;
}

cudaError_t cudaMallocHost(void **data, size_t bytes) {
    *data = malloc(bytes);
    return *data ? cudaSuccess : fail(cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void *data) {
    free(data);
    return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t *unused, size_t *total) {
    const std::lock_guard<std::mutex> lock(memory_mutex);
    *total = memory_size();
    *unused = *total - taken;
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind,
                            cudaStream_t stream) {
    return queue(stream, [=] { memcpy(to, from, bytes); });
}

cudaError_t cudaMemsetAsync(void *data, int value, size_t bytes, cudaStream_t stream) {
    return queue(stream, [=] { memset(data, value, bytes); });
}

/* ------------------------------------------------------------------ streams and graphs */

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned) {
    *stream = new CUstream_st();
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t) {
    return forbidden() ? fail(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode) {
    if (stream->records) return fail(cudaErrorIllegalState);
    stream->records = true;
    stream->broken = false;
    recording = stream;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph) {
    *graph = NULL;
    if (!stream->records) return fail(cudaErrorIllegalState);
    const bool broken = stream->broken;
    works steps;
    steps.swap(stream->recorded);
    stream->records = false;
    recording = NULL;
    if (broken) return fail(cudaErrorStreamCaptureUnsupported);
    *graph = new CUgraph_st{steps};
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, enum cudaStreamCaptureStatus *status) {
    *status = stream->records ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned) {
    *event = new CUevent_st();
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t) {
    return forbidden() ? fail(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long) {
    *exec = new CUgraphExec_st{graph->steps, 0};
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    const works &steps = exec->steps;
    const size_t odd = exec->launches++ % 2;
    if (stream->records) return fail(cudaErrorStreamCaptureUnsupported);
    /* Every other step is done on the way of the kernel behind it, if that begins early; the others next time.
     */
    for (size_t i = 0; i < steps.size(); i++) {
        const bool inside = i % 2 == odd && i + 1 < steps.size() && steps[i + 1].early;
        if (inside) steps[i + 1].early(&steps[i].work);
        else steps[i].work();
        i += inside;
    }
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    delete exec;
    return cudaSuccess;
}
