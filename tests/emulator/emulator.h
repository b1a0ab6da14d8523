/* What the emulator's own files share. */
#pragma once

#include "cuda_runtime.h"

namespace emulator {

/* Does `work` now, or each time that the graph being recorded is launched. */
cudaError_t queue(cudaStream_t stream, std::function<void()> work);
/* The same of a kernel that begins early: `work` may be handed the step before it, which it does somewhere on
 * its way, or NULL. */
typedef std::function<void(const std::function<void()> *)> early_work;
cudaError_t queue_early(cudaStream_t stream, early_work work);
/* Keeps `error` for cudaGetLastError. */
cudaError_t fail(cudaError_t error);

} // namespace emulator
