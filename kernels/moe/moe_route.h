#pragma once

#include "core/runtime/context.h"

namespace omnitrain {

/// What the weights of a token's K experts are: their probabilities as they are, or divided by
/// their sum (`norm_topk_prob`).
enum class MoeWeights { kPlain, kNormalized };

/// The router: probs = softmax(logits) over all experts, the K likeliest experts of each token,
/// likeliest first, and what they weigh. Of equal probabilities the lower expert id comes first.
/// Shapes: logits [T, E], dim 0 may be strided; probs [T, E]; expert_ids [T, K] int32, 1 <= K <= E;
/// weights [T, K]; T = 0 is legal.
/// Dtype: logits the compute dtype; everything else in f32 (f64 for f64), probs and weights stored
/// so.  Deterministic. A row with a NaN has NaN probabilities and weights, and the ids 0..K-1.
/// Source: Shazeer et al. 2017, eq. 3-5, in the order of Qwen3-MoE: softmax, top-K, division.
void MoeRouteForward(Context& ctx, const Tensor& logits, MoeWeights kind, Tensor probs,
                     Tensor expert_ids, Tensor weights);

/// Gradient of MoeRouteForward: with g_e the gradient of p_e,
///   g_e = d_probs_e + sum over k with id_k = e of
///           kPlain: dw_k;  kNormalized: (dw_k - sum_j dw_j w_j) / sum_j p_{id_j}
///   d_logits_e = p_e (g_e - sum_f p_f g_f).
/// The choice of experts itself has no gradient.
/// Shapes: probs, expert_ids, weights as the forward gave them; d_weights [T, K]; d_probs [E],
/// added to the gradient of every row's probabilities (MoeBalanceLoss), or absent; d_logits [T, E],
/// dim 0 may be strided.  Dtype: d_weights, d_probs f32 (f64 for f64); sums in the same; d_logits
/// the compute dtype.  d_logits is overwritten.  Deterministic. Errors: an expert id out of range
/// is kInternal with its place (CPU).
void MoeRouteBackward(Context& ctx, const Tensor& probs, const Tensor& expert_ids,
                      const Tensor& weights, const Tensor& d_weights, const Tensor& d_probs,
                      MoeWeights kind, Tensor d_logits);

}  // namespace omnitrain
