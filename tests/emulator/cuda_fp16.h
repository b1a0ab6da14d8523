/* f16 as CUDA names it. */
#pragma once

struct __half {
    _Float16 value;
};

static inline float __half2float(__half x) {
    return (float)x.value;
}
static inline __half __float2half_rn(float x) {
    return {(_Float16)x};
}
