/* Tensor maps are made by the driver, which the backend does not link to: it is asked for the function. */
#include "tensor/cuda/tensor_map.h"

#include <cudaTypedefs.h>

static PFN_cuTensorMapEncodeTiled_v12000 encoder(spi_cuda *cuda) {
    if (!cuda->encode_map) {
        enum cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
        void *function = NULL;
#if CUDART_VERSION >= 12050
        const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                                   cudaEnableDefault, &found);
#else
        const cudaError_t error =
            cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
        if (error != cudaSuccess) (void)cudaGetLastError();
        else if (found == cudaDriverEntryPointSuccess) cuda->encode_map = function;
    }
    return (PFN_cuTensorMapEncodeTiled_v12000)cuda->encode_map;
}

bool spi_cuda_tensor_map(spi_cuda *cuda, CUtensorMap *map, spi_mat m) {
    const PFN_cuTensorMapEncodeTiled_v12000 encode = encoder(cuda);
    const cuuint64_t size[2] = {(cuuint64_t)m.cols, (cuuint64_t)m.rows};
    const cuuint64_t pitch[1] = {(cuuint64_t)m.ld * sizeof(uint16_t)};
    const cuuint32_t box[2] = {SPI_BOX_COLUMNS, SPI_BOX_ROWS}, step[2] = {1, 1};
    return encode &&
           encode(map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, m.data, size, pitch, box, step,
                  CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}
