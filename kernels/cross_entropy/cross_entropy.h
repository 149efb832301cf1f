#pragma once

#include "core/runtime/context.h"

namespace omnitrain {

/// The output head and the loss in one op: logits = h w^T, loss_sum += sum_i weight_i *
/// (logsumexp(logits_i) - logits_i[label_i]), over the rows with label_i >= 0. Logits exist a chunk
/// of labelled rows at a time, in scratch. The gradient of that sum (of the loss, unscaled: the
/// step divides once by the global count of loss tokens) is made in the same pass where asked for:
/// dh is overwritten (rows without a label get 0), dw is accumulated (+=). Shapes: h, dh [T, D],
/// dim 0 may be strided; w [V, D]; labels [T] int32, negative = ignored, already shifted (row i
/// predicts labels[i]); weights [T] in f32 or absent (all 1); loss_sum [1] f64; dh, dw absent for
/// evaluation. Dtype: h, w, dh the compute dtype; softmax and sums in f32 (f64 for f64); dw the
/// main-gradient dtype. Deterministic.  Errors: a label >= V is kInternal with the row and label
/// (the loader refuses such samples). Source: Hsu et al. 2024 (Liger Kernel, section 3.2: fused
/// linear cross-entropy, gradients in the forward).
void LinearCrossEntropy(Context& ctx, const Tensor& h, const Tensor& w, const Tensor& labels,
                        const Tensor& weights, Tensor loss_sum, Tensor dh, Tensor dw);

}  // namespace omnitrain
