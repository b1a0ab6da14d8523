/* Functions that the backend asks the driver for. */
#ifndef EMULATOR_CUDATYPEDEFS_H
#define EMULATOR_CUDATYPEDEFS_H

#include "cuda.h"

typedef CUresult (*PFN_cuTensorMapEncodeTiled_v12000)(
    CUtensorMap *map, CUtensorMapDataType type, cuuint32_t dimensions, void *data, const cuuint64_t *size,
    const cuuint64_t *pitch, const cuuint32_t *box, const cuuint32_t *step, CUtensorMapInterleave interleave,
    CUtensorMapSwizzle swizzle, CUtensorMapL2promotion promotion, CUtensorMapFloatOOBfill fill);

#endif
