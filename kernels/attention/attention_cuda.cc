#include "kernels/attention/attention_cuda.h"

#include "kernels/attention/attention_impl.h"

namespace omnitrain::cuda {
namespace {

/// Whether neighbours in even columns may be written as one.
bool TakesPairs(const Tensor& t) {
  return reinterpret_cast<uintptr_t>(t.data) % (2 * DTypeBytes(t.dtype)) == 0 &&
         t.row_stride % 2 == 0;
}

}  // namespace

void AttentionForward(Context& ctx, const Tensor& q, const Tensor& k, const Tensor& v,
                      const AttentionSegments& segments, const AttentionParams& params, Tensor o,
                      Tensor lse) {
  if (q.shape[0] == 0 || segments.max_q == 0) return;
  const auto forward = !FitsMma(q, k, v)     ? SimtAttentionForward
                       : FitsWgmma(segments) ? WgmmaAttentionForward
                                             : MmaAttentionForward;
  forward(ctx, q, k, v, segments, params, o, lse);
}

void AttentionBackward(Context& ctx, const Tensor& d_o, const Tensor& q, const Tensor& k,
                       const Tensor& v, const Tensor& o, const Tensor& lse,
                       const AttentionSegments& segments, const AttentionParams& params,
                       const AttentionGradients& gradients) {
  if (q.shape[0] == 0 || segments.max_q == 0) return;
  const bool fits_mma = FitsMma(q, k, v) && FitsMma(d_o, k, v) && TakesPairs(gradients.dq) &&
                        TakesPairs(gradients.dk) && TakesPairs(gradients.dv);
  constexpr size_t kAlignment = 256;
  const size_t rows = static_cast<size_t>(q.shape[0] * q.shape[1]);
  const size_t delta_bytes = (rows * sizeof(float) + kAlignment - 1) / kAlignment * kAlignment;
  char* scratch =
      static_cast<char*>(ctx.Scratch(delta_bytes + (fits_mma ? SplitSumsBytes(q, k) : 0)));
  auto* delta = reinterpret_cast<float*>(scratch);
  AttentionDelta(ctx, d_o, o, delta);
  if (fits_mma) {
    const auto backward = FitsWgmma(segments) ? WgmmaAttentionBackward : MmaAttentionBackward;
    backward(ctx, d_o, q, k, v, lse, delta, reinterpret_cast<float*>(scratch + delta_bytes),
             segments, params, gradients);
  } else {
    SimtAttentionBackward(ctx, d_o, q, k, v, lse, delta, segments, params, gradients);
  }
}

}  // namespace omnitrain::cuda
