#pragma once

#include <functional>

#include "core/runtime/context.h"

namespace omnitrain {

/// The slice of the vocabulary that this rank holds, of several. All ranks call with the same h,
/// rows, labels and weights, and each with its own rows of w.
struct VocabShard {
  int64_t first = 0;       // w holds the vocabulary from this row on
  int64_t vocabulary = 0;  // rows of all slices
  int64_t widest = 0;      // rows of the largest slice: all ranks cut the same chunks
  // Replace values [N] by their maximum or sum over the ranks, in the order of the context's
  // stream. Called equally often on all ranks, with equal sizes; never when there are no rows.
  std::function<void(const Tensor&values)> max, sum;
};

/// The output head and the loss in one op, over the M rows of h that have a label: logits = h w^T,
/// loss_sum += sum_i weight_i * (logsumexp(logits_i) - logits_i[label_i]). Logits exist a chunk of
/// rows at a time, in scratch. The gradient of that sum (of the loss, unscaled: the step divides
/// once by the global count of loss tokens) is made in the same pass where asked for: dh is
/// overwritten (rows without a label get 0), dw is accumulated (+=).
/// With a `shard`, labels count in the whole vocabulary; dw is that of the slice; dh is the part of
/// the gradient that comes from it, to be summed over the ranks; the loss is added on the rank with
/// the first slice alone.
/// Shapes: h, dh [T, D], dim 0 may be strided; w [V, D], of the slice; rows [M] int32, ascending:
/// the rows that predict something; labels [M] int32, what they predict; weights [M] f32 or absent
/// (all 1); loss_sum [1] f64; dh, dw absent for evaluation. Dtype: h, w, dh the compute dtype;
/// logits, softmax and sums in f32 (f64 for f64), the gradient of the logits in the compute dtype;
/// dw the main-gradient dtype.  Deterministic. Errors: a row or label out of range is kInternal
/// with both (CPU; the GPU trusts the loader, which refuses such samples). Source: Hsu et al. 2024
/// (Liger Kernel, section 3.2: fused linear cross-entropy, gradients in the forward).
void LinearCrossEntropy(Context& ctx, const Tensor& h, const Tensor& w, const Tensor& rows,
                        const Tensor& labels, const Tensor& weights, Tensor loss_sum, Tensor dh,
                        Tensor dw, const VocabShard* shard = nullptr);

/// Bytes of Context::Scratch that the op takes with gradients, over M rows with a label and
/// `widest` rows of w, for plans. Less than a per mille beside what it really takes where the
/// vocabulary is large.
size_t LinearCrossEntropyScratch(DeviceKind device, DType dtype, int64_t num_rows, int64_t width,
                                 int64_t widest);

}  // namespace omnitrain
