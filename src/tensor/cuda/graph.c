/*
 * Recorded steps: what is queued on the stream between begin and end becomes a CUDA graph, and a launch of it
 * costs the host one call. And the letters by which a step's results reach the host while the next one runs.
 */
#include <string.h>

#include "tensor/cuda/cuda.h"

/* The graph ready to be launched goes by the opaque name. */
static cudaGraphExec_t exec_of(spi_graph *graph) {
    return (cudaGraphExec_t)(void *)graph;
}

/* Calls of this thread that a recording cannot hold, such as taking memory, fail instead of being left out. */
static void graph_begin(spi_device *dev) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK) return;
    cuda->after_kernel = false;
    cuda->recording =
        spi_cuda_check(cuda, cudaStreamBeginCapture(cuda->stream, cudaStreamCaptureModeThreadLocal),
                       "beginning to record a step");
}

/* Whatever failed meanwhile, the stream must not stay a recording one. */
static spi_graph *graph_end(spi_device *dev) {
    spi_cuda *cuda = spi_cuda_of(dev);
    enum cudaStreamCaptureStatus state = cudaStreamCaptureStatusNone;
    cudaGraph_t graph = NULL;
    cudaGraphExec_t exec = NULL;
    cuda->recording = false;
    if (cudaStreamIsCapturing(cuda->stream, &state) != cudaSuccess || state == cudaStreamCaptureStatusNone) {
        spi_cuda_check(cuda, cudaErrorIllegalState, "recording a step");
        return NULL;
    }
    if (spi_cuda_check(cuda, cudaStreamEndCapture(cuda->stream, &graph), "recording a step"))
        spi_cuda_check(cuda, cudaGraphInstantiate(&exec, graph, 0), "readying a recorded step");
    if (graph) (void)cudaGraphDestroy(graph);
    return (spi_graph *)(void *)exec;
}

static void graph_launch(spi_device *dev, spi_graph *graph) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK) return;
    spi_cuda_check(cuda, cudaGraphLaunch(exec_of(graph), cuda->stream), "running a recorded step");
}

static void graph_free(spi_device *dev, spi_graph *graph) {
    (void)dev;
    if (graph && cudaGraphExecDestroy(exec_of(graph)) != cudaSuccess) (void)cudaGetLastError();
}

/* ------------------------------------------------------------------ letters */

static bool make_room(spi_cuda *cuda, struct spi_cuda_letter *letter, size_t bytes) {
    if (!letter->sent && !spi_cuda_check(cuda, cudaEventCreateWithFlags(&letter->sent, cudaEventDisableTiming),
                                         "making an event"))
        return false;
    if (bytes <= letter->bytes) return true;
    if (letter->data && !spi_cuda_check(cuda, cudaFreeHost(letter->data), "giving page-locked memory back"))
        return false;
    letter->data = NULL;
    letter->bytes = 0;
    if (!spi_cuda_check(cuda, cudaMallocHost(&letter->data, bytes), "taking page-locked memory")) return false;
    letter->bytes = bytes;
    return true;
}

static void graph_send(spi_device *dev, int box, const void *from, size_t bytes) {
    spi_cuda *cuda = spi_cuda_of(dev);
    struct spi_cuda_letter *letter = &cuda->letters[box];
    if (dev->status != SP_OK || !make_room(cuda, letter, bytes)) return;
    if (spi_cuda_check(cuda, cudaMemcpyAsync(letter->data, from, bytes, cudaMemcpyDeviceToHost, cuda->stream),
                       "copying from the GPU"))
        spi_cuda_check(cuda, cudaEventRecord(letter->sent, cuda->stream), "marking a step's end");
}

static void graph_receive(spi_device *dev, int box, void *to_host, size_t bytes) {
    spi_cuda *cuda = spi_cuda_of(dev);
    if (dev->status != SP_OK) return;
    if (spi_cuda_check(cuda, cudaEventSynchronize(cuda->letters[box].sent), "waiting for the GPU"))
        memcpy(to_host, cuda->letters[box].data, bytes);
}

void spi_cuda_letters_close(spi_cuda *cuda) {
    for (int i = 0; i < 2; i++) {
        if (cuda->letters[i].data) (void)cudaFreeHost(cuda->letters[i].data);
        if (cuda->letters[i].sent) (void)cudaEventDestroy(cuda->letters[i].sent);
    }
}

const spi_graph_ops spi_cuda_graph_ops = {
    .begin = graph_begin,
    .end = graph_end,
    .launch = graph_launch,
    .free = graph_free,
    .choose = spi_cuda_choose,
    .send = graph_send,
    .receive = graph_receive,
};
