#pragma once

#include "core/runtime/context.h"

namespace omnitrain {

// The auxiliary loss that keeps experts evenly loaded. Both of its sums may run over several
// micro-batches or layers, and be added over ranks, before the loss is taken of them.

/// counts[e] += how many of the T K choices are e;  prob_sums[e] += sum_t probs[t, e].
/// Shapes: probs [T, E]; expert_ids [T, K] int32; counts [E] int32; prob_sums [E].
/// Dtype: probs and prob_sums f32 (f64 for f64), sums in the same.  Deterministic: fixed order for
/// equal shapes.  Errors: an expert id out of range is kInternal with its place (CPU).
void MoeLoadSums(Context& ctx, const Tensor& probs, const Tensor& expert_ids, Tensor counts,
                 Tensor prob_sums);

/// With N = num_tokens, the rows that both sums run over:
///   loss = E sum_e (counts_e / N) (prob_sums_e / N),  loss_sum += coefficient loss,
///   d_probs_e = coefficient E counts_e / N^2, the gradient of every row's probability of e; counts
/// have none. A balanced load gives loss = K: the fractions of the K slots are added, not averaged.
/// N = 0 adds nothing and gives zeros.
/// Shapes: counts [E] int32; prob_sums, d_probs [E]; loss_sum [1] f64.  d_probs is overwritten, or
/// absent.  Dtype: prob_sums, d_probs f32 (f64 for f64); the loss in f64.  Deterministic. No wait
/// for the device.
/// Source: Fedus et al. 2022, eq. 4-6, with the K slots of transformers' load_balancing_loss_func.
void MoeBalanceLoss(Context& ctx, const Tensor& counts, const Tensor& prob_sums, int64_t num_tokens,
                    double coefficient, Tensor loss_sum, Tensor d_probs);

}  // namespace omnitrain
