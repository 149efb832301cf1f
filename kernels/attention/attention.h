#pragma once

#include "core/runtime/context.h"
#include "core/runtime/write.h"

namespace omnitrain {

/// Attention over packed sequences: rows [cu_seqlens[i], cu_seqlens[i+1]) see each other and
/// nothing else.
struct AttentionParams {
  bool is_causal = false;
  double softmax_scale = 0;  // usually 1 / sqrt(K)
  int64_t max_seqlen = 0;    // of cu_seqlens
};

/// o = softmax(scale * q k^T) v, per head; query head h reads kv head floor(h * G / H).
/// Shapes: q, o [T, H, K]; k, v [T, G, K]; dim 0 of each may be strided; cu_seqlens [S + 1] int32
/// on the tensors' device, from 0 to T, sequences of length 0 allowed; lse [H, T], may be strided,
/// the log-sum-exp of the scaled scores, natural log. Dtype: compute dtype; scores, softmax and lse
/// in f32 (f64 for f64).  Memory: no T x T scores. Source: Dao et al. 2022 (FlashAttention), Dao
/// 2023.
void AttentionForward(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                      const Tensor& cu_seqlens, const AttentionParams& params, Tensor o,
                      Tensor lse);

/// dq, dk, dv = gradients; scores are recomputed from q, k, lse.
/// Shapes: do, dq [T, H, K]; dk, dv [T, G, K], dim 0 may be strided.  Deterministic.
void AttentionBackward(Context& ctx, const Tensor& d_o, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& o, const Tensor& lse,
                       const Tensor& cu_seqlens, const AttentionParams& params, Tensor dq,
                       Tensor dk, Tensor dv);

/// Queries and keys of different rows: queries [q[i], q[i+1]) see keys [k[i], k[i+1]).
/// Shapes: q, k [S + 1] int32.  Requires: a segment without keys has no queries, and the other way
/// round; under causal attention both lists are one.
struct AttentionSegments {
  Tensor q, k;
  int64_t max_q = 0, max_k = 0;  // the longest of each
};

/// AttentionForward of q, o [Tq, H, K]; lse [H, Tq]; k, v [Tk, G, K].  Uses is_causal and
/// softmax_scale of `params`.
void AttentionForward(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                      const AttentionSegments& segments, const AttentionParams& params, Tensor o,
                      Tensor lse);

/// Where gradients go.  Dtype of each: that of q, or the one lse has, for sums over several calls.
struct AttentionGradients {
  Tensor dq, dk, dv;
  Write dq_write = Write::kOverwrite, dkv_write = Write::kOverwrite;
};

/// The part of AttentionBackward that comes from these keys: o and lse may be those of queries that
/// saw further keys too (as AttentionMerge makes them). The parts of disjoint keys add up.
void AttentionBackward(Context& ctx, const Tensor& d_o, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& o, const Tensor& lse,
                       const AttentionSegments& segments, const AttentionParams& params,
                       const AttentionGradients& gradients);

/// Attention of the same queries over two disjoint sets of keys: (o, lse) becomes what one call
/// over both sets gives.
/// Shapes: o_part, o [T, H, K]; lse_part, lse [H, T]; all may be strided.  Dtype: o_part compute
/// dtype; o that or the one lse has; sums in that.  A set may be empty: lse = -inf.
/// Source: Dao et al. 2022, appendix B.3; Liu et al. 2023 (ring attention).
void AttentionMerge(Context& ctx, const Tensor& o_part, const Tensor& lse_part, Tensor o,
                    Tensor lse);

}  // namespace omnitrain
