#pragma once

#include "kernels/attention/attention.h"

namespace omnitrain::cuda {

// The ways to compute attention on the GPU, behind cuda::AttentionForward and -Backward.

/// f32 arithmetic outside the matrix units, for f32 and bf16 of any layout.
void SimtAttentionForward(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                          const AttentionSegments& segments, const AttentionParams& params,
                          Tensor o, Tensor lse);
/// `delta` [H, T]: of AttentionDelta.
void SimtAttentionBackward(Context& ctx, const Tensor& d_o, const Tensor& q, const Tensor& k,
                           const Tensor& v, const Tensor& lse, const float* delta,
                           const AttentionSegments& segments, const AttentionParams& params,
                           const AttentionGradients& gradients);

/// On the matrix units: bf16 of head dims that are multiples of 8 up to 128, rows aligned to 16
/// bytes. P and dS are rounded to bf16 between their two products, as in Dao 2023.
bool FitsMma(const Tensor& q, const Tensor& k, const Tensor& v);
void MmaAttentionForward(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                         const AttentionSegments& segments, const AttentionParams& params, Tensor o,
                         Tensor lse);
/// `split_sums`: SplitSumsBytes of scratch.
size_t SplitSumsBytes(const Tensor& q, const Tensor& k);
void MmaAttentionBackward(Context& ctx, const Tensor& d_o, const Tensor& q, const Tensor& k,
                          const Tensor& v, const Tensor& lse, const float* delta, float* split_sums,
                          const AttentionSegments& segments, const AttentionParams& params,
                          const AttentionGradients& gradients);

/// The same through Hopper's own copies and products, for segments longer than a warp group's rows.
/// Requires: FitsMma.
bool FitsWgmma(const AttentionSegments& segments);
void WgmmaAttentionForward(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                           const AttentionSegments& segments, const AttentionParams& params,
                           Tensor o, Tensor lse);
void WgmmaAttentionBackward(Context& ctx, const Tensor& d_o, const Tensor& q, const Tensor& k,
                            const Tensor& v, const Tensor& lse, const float* delta,
                            float* split_sums, const AttentionSegments& segments,
                            const AttentionParams& params, const AttentionGradients& gradients);

/// delta[h, t] = <d_o[t, h], o[t, h]>: what the softmax's gradient subtracts.
/// Source: Dao et al. 2022, appendix B.4.
void AttentionDelta(Context& ctx, const Tensor& d_o, const Tensor& o, float* delta);

}  // namespace omnitrain::cuda
