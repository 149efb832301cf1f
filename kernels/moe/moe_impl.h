#pragma once

#include "kernels/moe/moe_balance.h"
#include "kernels/moe/moe_permute.h"
#include "kernels/moe/moe_route.h"

namespace omnitrain::cpu {

// The public functions behind their checks, f32 and f64; those that read indices refuse ones out of
// range.

void MoeRouteForward(const Tensor& logits, MoeWeights kind, Tensor probs, Tensor expert_ids,
                     Tensor weights);
void MoeRouteBackward(const Tensor& probs, const Tensor& expert_ids, const Tensor& weights,
                      const Tensor& d_weights, const Tensor& d_probs, MoeWeights kind,
                      Tensor d_logits);
void MoeLoadSums(Context& ctx, const Tensor& probs, const Tensor& expert_ids, Tensor counts,
                 Tensor prob_sums);
void MoeBalanceLoss(const Tensor& counts, const Tensor& prob_sums, int64_t num_tokens,
                    double coefficient, Tensor loss_sum, Tensor d_probs);
void MoePlan(const Tensor& expert_ids, Tensor counts, Tensor row_of, Tensor token_of);
void MoeGatherBackward(const Tensor& d_sorted, const Tensor& row_of, Write write, Tensor dx);
void MoeCombineForward(const Tensor& sorted, const Tensor& row_of, const Tensor& weights,
                       Write write, Tensor y);
void MoeCombineBackward(const Tensor& sorted, const Tensor& row_of, const Tensor& weights,
                        const Tensor& dy, Tensor d_sorted, Tensor d_weights);

/// Before any thread starts, since nothing may throw inside a parallel loop: every index is one of
/// `size` things.
inline void CheckMoeIndices(const char* op, const Tensor& index, int64_t size) {
  const int32_t* p = index.ptr<int32_t>();
  for (int64_t i = 0; i < index.num_elements(); ++i) {
    OT_CHECK(p[i] >= 0 && p[i] < size, "{}: index {} at {} of {}", op, p[i], i, size);
  }
}

}  // namespace omnitrain::cpu

namespace omnitrain::cuda {

// The same on the GPU, f32 and bf16; indices are trusted.

void MoeRouteForward(Context& ctx, const Tensor& logits, MoeWeights kind, Tensor probs,
                     Tensor expert_ids, Tensor weights);
void MoeRouteBackward(Context& ctx, const Tensor& probs, const Tensor& expert_ids,
                      const Tensor& weights, const Tensor& d_weights, const Tensor& d_probs,
                      MoeWeights kind, Tensor d_logits);
void MoeLoadSums(Context& ctx, const Tensor& probs, const Tensor& expert_ids, Tensor counts,
                 Tensor prob_sums);
void MoeBalanceLoss(Context& ctx, const Tensor& counts, const Tensor& prob_sums, int64_t num_tokens,
                    double coefficient, Tensor loss_sum, Tensor d_probs);
void MoePlan(Context& ctx, const Tensor& expert_ids, Tensor counts, Tensor row_of, Tensor token_of);
void MoeGatherBackward(Context& ctx, const Tensor& d_sorted, const Tensor& row_of, Write write,
                       Tensor dx);
void MoeCombineForward(Context& ctx, const Tensor& sorted, const Tensor& row_of,
                       const Tensor& weights, Write write, Tensor y);
void MoeCombineBackward(Context& ctx, const Tensor& sorted, const Tensor& row_of,
                        const Tensor& weights, const Tensor& dy, Tensor d_sorted, Tensor d_weights);

}  // namespace omnitrain::cuda
