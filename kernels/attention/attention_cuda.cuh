#pragma once

#include <type_traits>

#include "kernels/attention/attention_cuda.h"
#include "kernels/common/cuda.cuh"

namespace omnitrain::cuda {

// What the attention kernels share: how they see their tensors, and their grids.

using Bf16 = __nv_bfloat16;
constexpr float kLog2E = 1.4426950408889634f;

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

/// Two neighbours of a gradient, the first in an even column.
__device__ __forceinline__ void StorePair(const GradHeads<Bf16>& to, int64_t token, int head,
                                          int column, float x, float y) {
  const int64_t at = token * to.stride + static_cast<int64_t>(head) * to.head_dim + column;
  if (to.is_f32) {
    float2* pair = reinterpret_cast<float2*>(static_cast<float*>(to.data) + at);
    if (to.adds) x += pair->x, y += pair->y;
    *pair = make_float2(x, y);
  } else {
    __nv_bfloat162* pair = reinterpret_cast<__nv_bfloat162*>(static_cast<Bf16*>(to.data) + at);
    if (to.adds) x += __low2float(*pair), y += __high2float(*pair);
    *pair = __floats2bfloat162_rn(x, y);
  }
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

__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ uint32_t PackBf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

/// Calls f with the head dim that kernels are made for: head dims between go to the next.
template <typename F>
void DispatchHeadDim(int64_t head_dim, F&& f) {
  if (head_dim <= 64) return f(std::integral_constant<int, 64>{});
  if (head_dim <= 80) return f(std::integral_constant<int, 80>{});
  if (head_dim <= 96) return f(std::integral_constant<int, 96>{});
  return f(std::integral_constant<int, 128>{});
}

template <typename Kernel>
void AllowShared(Kernel kernel, size_t bytes) {
  OT_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(bytes)));
}

}  // namespace omnitrain::cuda
