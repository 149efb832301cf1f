#pragma once

#include "kernels/cross_entropy/cross_entropy.h"

namespace omnitrain::cpu {

/// Logits in memory at once, unless kMinChunkRows rows are more: small enough to leave memory to
/// the model, and enough rows that reading w and dw once a chunk is hidden by the products.
constexpr int64_t kChunkBytes = int64_t{32} << 20;
constexpr int64_t kMinChunkRows = 64;

/// LinearCrossEntropy on operands that were checked, for T = float and double.
template <typename T>
void LinearCrossEntropy(Context& ctx, const Tensor& h, const Tensor& w, const Tensor& rows,
                        const Tensor& labels, const Tensor& weights, Tensor loss_sum, Tensor dh,
                        Tensor dw, const VocabShard* shard);

}  // namespace omnitrain::cpu

namespace omnitrain::cuda {

/// f32 logits in memory at once. Each chunk of rows reads and writes the whole gradient of w once
/// (f32: 8 V D bytes), which the products of a thousand rows hide.
constexpr int64_t kChunkBytes = int64_t{1} << 30;
constexpr int64_t kMinChunkRows = 128;

/// LinearCrossEntropy on operands that were checked, f32 and bf16.
void LinearCrossEntropy(Context& ctx, const Tensor& h, const Tensor& w, const Tensor& rows,
                        const Tensor& labels, const Tensor& weights, Tensor loss_sum, Tensor dh,
                        Tensor dw, const VocabShard* shard);

}  // namespace omnitrain::cuda
