#pragma once

#include "kernels/attention/attention_cuda.h"
#include "kernels/common/cuda.cuh"

namespace omnitrain::cuda {

// What the attention kernels share: how they see their tensors, and their grids.

/// One [T, heads, K] tensor.
template <typename T>
struct Heads {
  T* data;
  int64_t stride;
  int head_dim;
  __device__ __forceinline__ T* Row(int64_t token, int head) const {
    return data + token * stride + static_cast<int64_t>(head) * head_dim;
  }
};
template <typename T>
Heads<T> HeadsOf(const Tensor& t) {
  return {Data<T>(t), t.row_stride, static_cast<int>(t.shape[2])};
}

/// Where a gradient of [T, heads, K] goes: rows of T or of f32, overwritten or added to.
template <typename T>
struct GradHeads {
  void* data;
  int64_t stride;
  int head_dim;
  bool is_f32, adds;

  __device__ __forceinline__ void Store(int64_t token, int head, int column, float x) const {
    const int64_t at = token * stride + static_cast<int64_t>(head) * head_dim + column;
    if (is_f32) {
      float* to = static_cast<float*>(data) + at;
      *to = adds ? *to + x : x;
    } else {
      T* to = static_cast<T*>(data) + at;
      *to = FromFloat<T>(adds ? ToFloat(*to) + x : x);
    }
  }
};
template <typename T>
GradHeads<T> GradHeadsOf(const Tensor& t, Write write) {
  return {t.data, t.row_stride, static_cast<int>(t.shape[2]), t.dtype == DType::kF32,
          write == Write::kAccumulate};
}

struct Sequences {
  const int32_t *queries, *keys;    // the segments of each
  int64_t num_queries, lse_stride;  // rows apart: heads of delta, heads of lse
  int num_heads, group;             // query heads, and how many of them share a kv head
  bool is_causal;
  float scale;
};
inline Sequences SequencesOf(const Tensor& q, const Tensor& k, const Tensor& lse,
                             const AttentionSegments& segments, const AttentionParams& params) {
  return {static_cast<const int32_t*>(segments.q.data),
          static_cast<const int32_t*>(segments.k.data),
          q.shape[0],
          lse.row_stride,
          static_cast<int>(q.shape[1]),
          static_cast<int>(q.shape[1] / k.shape[1]),
          params.is_causal,
          static_cast<float>(params.softmax_scale)};
}

/// (tiles of the longest segment, heads, segments): tiles past the end of theirs leave at once.
inline dim3 TileGrid(const Tensor& cu_seqlens, int64_t max_seqlen, int64_t num_heads, int tile) {
  return dim3(static_cast<unsigned>(CeilDiv(max_seqlen, tile)), static_cast<unsigned>(num_heads),
              static_cast<unsigned>(cu_seqlens.rows() - 1));
}

template <typename Kernel>
void AllowShared(Kernel kernel, size_t bytes) {
  OT_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(bytes)));
}

}  // namespace omnitrain::cuda
