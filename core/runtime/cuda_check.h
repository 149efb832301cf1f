#pragma once

#include <cuda_runtime_api.h>

#include "core/base/check.h"

namespace omnitrain::internal {

[[noreturn]] inline void CudaFailed(const char* file, int line, const char* call,
                                    cudaError_t error) {
  Fail(ErrorCode::kInternal, "{}:{}: {}: {} ({})", file, line, call, cudaGetErrorString(error),
       cudaGetErrorName(error));
}

}  // namespace omnitrain::internal

/// Throws Error(kInternal), with place, call and reason, unless a CUDA call succeeded.
#define OT_CUDA(call)                                                              \
  do {                                                                             \
    const cudaError_t ot_cuda_error = (call);                                      \
    if (ot_cuda_error != cudaSuccess) {                                            \
      ::omnitrain::internal::CudaFailed(__FILE__, __LINE__, #call, ot_cuda_error); \
    }                                                                              \
  } while (false)
