#pragma once

#include "core/runtime/context.h"
#include "core/runtime/write.h"

namespace omnitrain {

// Tokens to their experts and back. A sorted row is one (token, slot) pair; rows of one expert lie
// together, in the order of tokens and then of slots, so that a product per expert has its rows in
// one piece. Nothing is dropped and nothing padded. T = 0 is legal everywhere.
// Dtype: x, sorted, y and their gradients the compute dtype; weights and d_weights f32 (f64 for
// f64); sums in f32 (f64 for f64). Rows of x, sorted, y and their gradients may be strided, the
// rest is dense.  Deterministic: one owner for each result, sums over k = 0..K-1 in order.
// Errors: an index out of range is kInternal with its place (CPU; the GPU trusts the plan).

/// Where every (token, slot) goes.
/// Shapes: expert_ids [T, K]; counts [E], rows of each expert; row_of [T, K], the sorted row of
/// (t, k); token_of [T * K], the token of each sorted row. All int32, T * K < 2^31.
/// Cost: the products want counts on the host, which is the caller's copy and wait.
void MoePlan(Context& ctx, const Tensor& expert_ids, Tensor counts, Tensor row_of, Tensor token_of);

/// sorted[r] = x[token_of[r]].  Shapes: x [T, D]; token_of [T * K] int32; sorted [T * K, D].
void MoeGatherForward(Context& ctx, const Tensor& x, const Tensor& token_of, Tensor sorted);

/// dx[t] (= or +=) sum_k d_sorted[row_of[t, k]].
/// Shapes: d_sorted [T * K, D]; row_of [T, K] int32; dx [T, D].
void MoeGatherBackward(Context& ctx, const Tensor& d_sorted, const Tensor& row_of, Write write,
                       Tensor dx);

/// y[t] (= or +=) sum_k weights[t, k] sorted[row_of[t, k]].
/// Shapes: sorted [T * K, D]; row_of [T, K] int32; weights [T, K]; y [T, D].
/// Source: Shazeer et al. 2017, eq. 1.
void MoeCombineForward(Context& ctx, const Tensor& sorted, const Tensor& row_of,
                       const Tensor& weights, Write write, Tensor y);

/// d_sorted[row_of[t, k]] = weights[t, k] dy[t];  d_weights[t, k] = <dy[t], sorted[row_of[t, k]]>.
/// Both are overwritten; d_sorted may be sorted itself.
/// Shapes: sorted, d_sorted [T * K, D]; row_of [T, K] int32, a permutation as MoePlan makes it;
/// weights, d_weights [T, K]; dy [T, D].
void MoeCombineBackward(Context& ctx, const Tensor& sorted, const Tensor& row_of,
                        const Tensor& weights, const Tensor& dy, Tensor d_sorted, Tensor d_weights);

}  // namespace omnitrain
