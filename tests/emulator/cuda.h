/* The part of CUDA's driver that the GPU backend calls, and what kernels get from it. */
#ifndef EMULATOR_CUDA_H
#define EMULATOR_CUDA_H

#include <stdint.h>

typedef uint32_t cuuint32_t;
typedef uint64_t cuuint64_t;
typedef enum CUresult { CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_VALUE = 1 } CUresult;
typedef enum CUtensorMapDataType { CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 = 9 } CUtensorMapDataType;
typedef enum CUtensorMapInterleave { CU_TENSOR_MAP_INTERLEAVE_NONE = 0 } CUtensorMapInterleave;
typedef enum CUtensorMapSwizzle { CU_TENSOR_MAP_SWIZZLE_128B = 3 } CUtensorMapSwizzle;
typedef enum CUtensorMapL2promotion { CU_TENSOR_MAP_L2_PROMOTION_L2_256B = 3 } CUtensorMapL2promotion;
typedef enum CUtensorMapFloatOOBfill { CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE = 0 } CUtensorMapFloatOOBfill;

/* A matrix of two-byte elements, rows `pitch` bytes apart, and the box that is copied from it. */
typedef struct CUtensorMap {
#ifdef __cplusplus
    alignas(64)
#else
    _Alignas(64)
#endif
        const char *data;
    uint64_t rows, columns, pitch;
    uint32_t box_rows, box_columns;
} CUtensorMap;

#endif
