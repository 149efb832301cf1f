#pragma once

#include "kernels/cross_entropy/cross_entropy.h"

namespace omnitrain::cpu {

/// LinearCrossEntropy on operands that were checked, for T = float and double.
template <typename T>
void LinearCrossEntropy(Context& ctx, const Tensor& h, const Tensor& w, const Tensor& rows,
                        const Tensor& labels, const Tensor& weights, Tensor loss_sum, Tensor dh,
                        Tensor dw, const VocabShard* shard);

}  // namespace omnitrain::cpu

namespace omnitrain::cuda {

/// LinearCrossEntropy on operands that were checked, f32 and bf16.
void LinearCrossEntropy(Context& ctx, const Tensor& h, const Tensor& w, const Tensor& rows,
                        const Tensor& labels, const Tensor& weights, Tensor loss_sum, Tensor dh,
                        Tensor dw, const VocabShard* shard);

}  // namespace omnitrain::cuda
