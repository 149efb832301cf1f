#pragma once

#include "core/runtime/context.h"

namespace omnitrain {

/// The output head and the loss in one op, over the M rows of h that have a label: logits = h w^T,
/// loss_sum += sum_i weight_i * (logsumexp(logits_i) - logits_i[label_i]). Logits exist a chunk of
/// rows at a time, in scratch. The gradient of that sum (of the loss, unscaled: the step divides
/// once by the global count of loss tokens) is made in the same pass where asked for: dh is
/// overwritten (rows without a label get 0), dw is accumulated (+=).
/// Shapes: h, dh [T, D], dim 0 may be strided; w [V, D]; rows [M] int32, ascending: the rows that
/// predict something; labels [M] int32, what they predict; weights [M] f32 or absent (all 1);
/// loss_sum [1] f64; dh, dw absent for evaluation.
/// Dtype: h, w, dh the compute dtype; logits, softmax and sums in f32 (f64 for f64), the gradient
/// of the logits in the compute dtype; dw the main-gradient dtype.  Deterministic. Errors: a row or
/// label out of range is kInternal with both (CPU; the GPU trusts the loader, which refuses such
/// samples). Source: Hsu et al. 2024 (Liger Kernel, section 3.2: fused linear cross-entropy,
/// gradients in the forward).
void LinearCrossEntropy(Context& ctx, const Tensor& h, const Tensor& w, const Tensor& rows,
                        const Tensor& labels, const Tensor& weights, Tensor loss_sum, Tensor dh,
                        Tensor dw);

}  // namespace omnitrain
