#include "kernels/common/row_group.cuh"
#include "kernels/moe/moe_impl.h"

namespace omnitrain::cuda {
namespace {

// A warp a token: lane l has the experts l, l + 32, ... and reads back only what it wrote itself.

constexpr int kTokens = kRowThreads / 32;

/// A place in the order of falling probability and, among equals, rising id; a NaN counts as less
/// than any probability.
struct Choice {
  float key;
  int id;
};

__device__ __forceinline__ bool ComesBefore(Choice a, Choice b) {
  return a.key > b.key || (a.key == b.key && a.id < b.id);
}

template <typename T>
__global__ void __launch_bounds__(kRowThreads)
    RouteForwardKernel(const T* logits, int64_t logits_stride, int64_t num_tokens, int num_experts,
                       int top_k, bool is_normalized, float* all_probs, int32_t* all_ids,
                       float* all_weights) {
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kTokens + threadIdx.x / 32;
  if (token >= num_tokens) return;
  const int lane = threadIdx.x % 32;
  const T* z = logits + token * logits_stride;
  float* p = all_probs + token * num_experts;
  int32_t* ids = all_ids + token * top_k;
  float* weights = all_weights + token * top_k;

  float largest = -INFINITY;
  for (int e = lane; e < num_experts; e += 32) largest = fmaxf(largest, ToFloat(z[e]));
  largest = WarpMax(largest);
  float sum = 0;
  for (int e = lane; e < num_experts; e += 32) {
    p[e] = expf(ToFloat(z[e]) - largest);
    sum += p[e];
  }
  sum = WarpSum(sum);
  for (int e = lane; e < num_experts; e += 32) p[e] /= sum;

  Choice last = {INFINITY, -1};
  float chosen = 0;
  for (int k = 0; k < top_k; ++k) {
    Choice best = {-2, INT32_MAX};
    for (int e = lane; e < num_experts; e += 32) {
      const Choice c = {p[e] >= 0 ? p[e] : -1, e};
      if (ComesBefore(last, c) && ComesBefore(c, best)) best = c;
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      const Choice other = {__shfl_xor_sync(0xffffffffu, best.key, offset),
                            __shfl_xor_sync(0xffffffffu, best.id, offset)};
      if (ComesBefore(other, best)) best = other;
    }
    const float weight = best.key >= 0 ? best.key : NAN;
    chosen += weight;
    if (lane == k % 32) {
      ids[k] = best.id;
      weights[k] = weight;
    }
    last = best;
  }
  if (!is_normalized) return;
  for (int k = lane; k < top_k; k += 32) weights[k] /= chosen;
}

template <typename T>
__global__ void __launch_bounds__(kRowThreads)
    RouteBackwardKernel(const float* all_probs, const int32_t* all_ids, const float* all_weights,
                        const float* all_d_weights, const float* d_probs, int64_t num_tokens,
                        int num_experts, int top_k, bool is_normalized, T* d_logits,
                        int64_t d_logits_stride) {
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kTokens + threadIdx.x / 32;
  if (token >= num_tokens) return;
  const int lane = threadIdx.x % 32;
  const float* p = all_probs + token * num_experts;
  const int32_t* ids = all_ids + token * top_k;
  const float *weights = all_weights + token * top_k, *dw = all_d_weights + token * top_k;
  T* d = d_logits + token * d_logits_stride;

  float shift = 0, scale = 1;
  if (is_normalized) {
    float sum = 0;
    for (int k = lane; k < top_k; k += 32) {
      shift += dw[k] * weights[k];
      sum += p[ids[k]];
    }
    shift = WarpSum(shift);
    scale = 1 / WarpSum(sum);
  }
  const auto gradient = [&](int e) {
    float g = d_probs == nullptr ? 0 : d_probs[e];
    for (int k = 0; k < top_k; ++k) {
      if (ids[k] == e) g += (dw[k] - shift) * scale;
    }
    return g;
  };
  float mean = 0;
  for (int e = lane; e < num_experts; e += 32) mean += p[e] * gradient(e);
  mean = WarpSum(mean);
  for (int e = lane; e < num_experts; e += 32) d[e] = FromFloat<T>(p[e] * (gradient(e) - mean));
}

}  // namespace

void MoeRouteForward(Context& ctx, const Tensor& logits, MoeWeights kind, Tensor probs,
                     Tensor expert_ids, Tensor weights) {
  const int64_t num_tokens = probs.shape[0];
  if (num_tokens == 0) return;
  DispatchCompute(logits.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    RouteForwardKernel<T><<<NumRowBlocks<32>(num_tokens), kRowThreads, 0, StreamOf(ctx)>>>(
        Data<T>(logits), logits.row_stride, num_tokens, static_cast<int>(probs.shape[1]),
        static_cast<int>(weights.shape[1]), kind == MoeWeights::kNormalized, Data<float>(probs),
        Data<int32_t>(expert_ids), Data<float>(weights));
    CheckLaunch("RouteForwardKernel");
  });
}

void MoeRouteBackward(Context& ctx, const Tensor& probs, const Tensor& expert_ids,
                      const Tensor& weights, const Tensor& d_weights, const Tensor& d_probs,
                      MoeWeights kind, Tensor d_logits) {
  const int64_t num_tokens = probs.shape[0];
  if (num_tokens == 0) return;
  DispatchCompute(d_logits.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    RouteBackwardKernel<T><<<NumRowBlocks<32>(num_tokens), kRowThreads, 0, StreamOf(ctx)>>>(
        Data<float>(probs), Data<int32_t>(expert_ids), Data<float>(weights), Data<float>(d_weights),
        d_probs ? Data<float>(d_probs) : nullptr, num_tokens, static_cast<int>(probs.shape[1]),
        static_cast<int>(weights.shape[1]), kind == MoeWeights::kNormalized, Data<T>(d_logits),
        d_logits.row_stride);
    CheckLaunch("RouteBackwardKernel");
  });
}

}  // namespace omnitrain::cuda
