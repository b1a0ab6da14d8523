/* What the emulator's own files share. */
#pragma once

#include "cuda_runtime.h"

namespace emulator {

/* Does `work` now, or each time that the graph being recorded is launched. */
cudaError_t queue(cudaStream_t stream, std::function<void()> work);
/* Keeps `error` for cudaGetLastError. */
cudaError_t fail(cudaError_t error);

} // namespace emulator
