#include "kernels/attention/attention_cuda.h"

#include "kernels/attention/attention_impl.h"

namespace omnitrain::cuda {

void AttentionForward(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                      const Tensor& cu_seqlens, const AttentionParams& params, Tensor o,
                      Tensor lse) {
  if (q.shape[0] == 0 || params.max_seqlen == 0) return;
  const auto forward = FitsMma(q, k, v) ? MmaAttentionForward : SimtAttentionForward;
  forward(ctx, q, k, v, cu_seqlens, params, o, lse);
}

void AttentionBackward(Context& ctx, const Tensor& d_o, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& o, const Tensor& lse,
                       const Tensor& cu_seqlens, const AttentionParams& params, Tensor dq,
                       Tensor dk, Tensor dv) {
  if (q.shape[0] == 0 || params.max_seqlen == 0) return;
  auto* delta = static_cast<float*>(
      ctx.Scratch(static_cast<size_t>(q.shape[0] * q.shape[1]) * sizeof(float)));
  AttentionDelta(ctx, d_o, o, delta);
  const bool fits_mma = FitsMma(q, k, v) && FitsMma(d_o, k, v);
  const auto backward = fits_mma ? MmaAttentionBackward : SimtAttentionBackward;
  backward(ctx, d_o, q, k, v, lse, delta, cu_seqlens, params, dq, dk, dv);
}

}  // namespace omnitrain::cuda
