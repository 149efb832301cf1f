#pragma once

#include "kernels/attention/attention.h"

namespace omnitrain::cpu {

// The ops of attention.h on operands that were checked, for T = float and double. Any block of
// queries gives the same bits as any other: the order of sums over keys is fixed by kKeyTile, over
// queries by their order, so neither the number of threads nor their timing shows.

template <typename T>
void AttentionForward(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                      const AttentionSegments& segments, const AttentionParams& params, Tensor o,
                      Tensor lse);

template <typename T>
void AttentionBackward(Context& ctx, const Tensor& d_o, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& o, const Tensor& lse,
                       const AttentionSegments& segments, const AttentionParams& params,
                       const AttentionGradients& gradients);

template <typename T>
void AttentionMerge(const Tensor& o_part, const Tensor& lse_part, Tensor o, Tensor lse);

}  // namespace omnitrain::cpu

namespace omnitrain::cuda {

// The ops of attention.h on operands that were checked, f32 and bf16, head dims up to 128.

void AttentionForward(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                      const AttentionSegments& segments, const AttentionParams& params, Tensor o,
                      Tensor lse);
void AttentionBackward(Context& ctx, const Tensor& d_o, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& o, const Tensor& lse,
                       const AttentionSegments& segments, const AttentionParams& params,
                       const AttentionGradients& gradients);
void AttentionMerge(Context& ctx, const Tensor& o_part, const Tensor& lse_part, Tensor o,
                    Tensor lse);

}  // namespace omnitrain::cuda
