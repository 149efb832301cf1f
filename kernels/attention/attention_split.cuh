#pragma once

#include "kernels/attention/attention_cuda.cuh"

namespace omnitrain::cuda {

/// Query heads that share a kv head, divided over `count` blocks, so that short batches fill the
/// GPU too; each block leaves its sums in f32 and SumSplits adds them, in order.
struct Split {
  int count;
  float *dk, *dv;  // [count, T, G, K]; absent for one
  int64_t num_keys;
  int num_kv_heads, head_dim;
  __device__ __forceinline__ int64_t Row(int part, int64_t token, int kv_head) const {
    return ((part * num_keys + token) * num_kv_heads + kv_head) * head_dim;
  }
};

/// How many blocks share a kv head's queries: the fewest that give every multiprocessor some.
inline int NumSplits(int64_t num_keys, int64_t num_kv_heads, int group) {
  constexpr int64_t kKeys = 64, kEnoughBlocks = 8 * 132;
  for (int count = 1; count < group; ++count) {
    if (group % count == 0 && CeilDiv(num_keys, kKeys) * num_kv_heads * count >= kEnoughBlocks) {
      return count;
    }
  }
  return group;
}

/// `sums`: SplitSumsBytes.
inline Split SplitOf(const Tensor& k, int group, float* sums) {
  const int64_t T = k.shape[0], G = k.shape[1], K = k.shape[2];
  const int count = NumSplits(T, G, group);
  return {count, sums, sums + count * T * G * K, T, static_cast<int>(G), static_cast<int>(K)};
}

/// dk = scale * the sum of its parts, dv likewise without the scale; two elements a thread.
static __global__ void SumSplitsKernel(Split split, float scale, GradHeads<Bf16> dk,
                                       GradHeads<Bf16> dv) {
  const int64_t i = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * 2;
  const int64_t row_width = int64_t{split.num_kv_heads} * split.head_dim;
  const int64_t size = split.num_keys * row_width;
  if (i >= size) return;
  float2 k = {0, 0}, v = {0, 0};
  for (int part = 0; part < split.count; ++part) {
    const float2 a = *reinterpret_cast<const float2*>(split.dk + part * size + i);
    const float2 b = *reinterpret_cast<const float2*>(split.dv + part * size + i);
    k = {k.x + a.x, k.y + a.y};
    v = {v.x + b.x, v.y + b.y};
  }
  const int64_t token = i / row_width;
  const int column = static_cast<int>(i % row_width);
  StorePair(dk, token, 0, column, k.x * scale, k.y * scale);
  StorePair(dv, token, 0, column, v.x, v.y);
}

inline void SumSplits(Context& ctx, const Split& split, float scale, const GradHeads<Bf16>& dk,
                      const GradHeads<Bf16>& dv) {
  if (split.count == 1) return;
  constexpr int kThreads = 256;
  const int64_t pairs = split.num_keys * split.num_kv_heads * split.head_dim / 2;
  SumSplitsKernel<<<static_cast<unsigned>(CeilDiv(pairs, kThreads)), kThreads, 0, StreamOf(ctx)>>>(
      split, scale, dk, dv);
  CheckLaunch("attention backward: sums");
}

}  // namespace omnitrain::cuda
