#pragma once

#include <cuda.h>

#include "kernels/common/cuda.cuh"

namespace omnitrain::cuda {

/// How TMA sees a tensor: dims from the innermost one, strides of the outer two in bytes.
struct TensorMapDims {
  int64_t dims[3];
  int64_t strides[2];
};

/// The map of a tensor whose boxes have rows of 128 bytes, swizzled, and `box_rows` of them (dim
/// 1). Requires: the address and both strides multiples of 16 bytes.  The driver's function is
/// looked up at run time: nothing links libcuda. Source: CUDA Driver API, "Tensor Map Object
/// Management", cuTensorMapEncodeTiled.
inline CUtensorMap MakeTensorMap(void* data, DType dtype, const TensorMapDims& t, int box_rows) {
  static const auto encode = [] {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found;
    OT_CUDA(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                             cudaEnableDefault, &found));
    OT_CHECK(found == cudaDriverEntryPointSuccess, "the driver has no cuTensorMapEncodeTiled");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
  }();
  constexpr uint32_t kRowBytes = 128;
  const auto scalar = static_cast<uint32_t>(DTypeBytes(dtype));
  const cuuint64_t dims[3] = {static_cast<cuuint64_t>(t.dims[0]),
                              static_cast<cuuint64_t>(t.dims[1]),
                              static_cast<cuuint64_t>(t.dims[2])};
  const cuuint64_t strides[2] = {static_cast<cuuint64_t>(t.strides[0]),
                                 static_cast<cuuint64_t>(t.strides[1])};
  const cuuint32_t box[3] = {kRowBytes / scalar, static_cast<cuuint32_t>(box_rows), 1};
  const cuuint32_t steps[3] = {1, 1, 1};
  CUtensorMap map;
  const CUresult result = encode(
      &map,
      dtype == DType::kF32 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT32 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 3,
      data, dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
      CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  OT_CHECK(result == CUDA_SUCCESS, "tensor map of [{}, {}, {}], strides {} and {} bytes: error {}",
           t.dims[2], t.dims[1], t.dims[0], t.strides[1], t.strides[0], static_cast<int>(result));
  return map;
}

}  // namespace omnitrain::cuda
