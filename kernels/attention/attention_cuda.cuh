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

struct Sequences {
  const int32_t* cu_seqlens;
  int64_t num_tokens;
  int num_heads, group;  // query heads, and how many of them share a kv head
  bool is_causal;
  float scale;
};
inline Sequences SequencesOf(const Tensor& q, const Tensor& k, const Tensor& cu_seqlens,
                             const AttentionParams& params) {
  return {static_cast<const int32_t*>(cu_seqlens.data),
          q.shape[0],
          static_cast<int>(q.shape[1]),
          static_cast<int>(q.shape[1] / k.shape[1]),
          params.is_causal,
          static_cast<float>(params.softmax_scale)};
}

/// (tiles of the longest sequence, heads, sequences): tiles past the end of theirs leave at once.
inline dim3 TileGrid(const Tensor& cu_seqlens, const AttentionParams& params, int64_t num_heads,
                     int tile) {
  return dim3(static_cast<unsigned>(CeilDiv(params.max_seqlen, tile)),
              static_cast<unsigned>(num_heads), static_cast<unsigned>(cu_seqlens.rows() - 1));
}

template <typename Kernel>
void AllowShared(Kernel kernel, size_t bytes) {
  OT_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(bytes)));
}

}  // namespace omnitrain::cuda
