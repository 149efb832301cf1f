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
/// on the tensors' device, from 0 to T, sequences of length 0 allowed; lse [H, T], the log-sum-exp
/// of the scaled scores, natural log. Dtype: compute dtype; scores, softmax and lse in f32 (f64 for
/// f64).  Memory: no T x T scores. Source: Dao et al. 2022 (FlashAttention), Dao 2023.
void AttentionForward(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                      const Tensor& cu_seqlens, const AttentionParams& params, Tensor o,
                      Tensor lse);

/// dq, dk, dv = gradients; scores are recomputed from q, k, lse.
/// Shapes: do, dq [T, H, K]; dk, dv [T, G, K], dim 0 may be strided.  Deterministic.
void AttentionBackward(Context& ctx, const Tensor& d_o, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& o, const Tensor& lse,
                       const Tensor& cu_seqlens, const AttentionParams& params, Tensor dq,
                       Tensor dk, Tensor dv);

}  // namespace omnitrain
