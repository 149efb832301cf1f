#include <cmath>
#include <limits>

#include "kernels/common/parallel.h"
#include "kernels/moe/moe_impl.h"

namespace omnitrain::cpu {
namespace {

/// p = softmax(z) over n experts.
template <typename S>
void Softmax(const S* z, int64_t n, S* p) {
  S largest = -std::numeric_limits<S>::infinity();
  for (int64_t e = 0; e < n; ++e) largest = z[e] > largest ? z[e] : largest;
  S sum = 0;
  for (int64_t e = 0; e < n; ++e) {
    p[e] = std::exp(z[e] - largest);
    sum += p[e];
  }
  for (int64_t e = 0; e < n; ++e) p[e] /= sum;
}

/// The expert that follows `before` (-1: none) in the order of falling probability and, among
/// equals, rising id. NaN counts as less than any probability.
template <typename S>
int64_t NextExpert(const S* p, int64_t n, int64_t before) {
  const auto key = [&](int64_t e) { return p[e] >= 0 ? p[e] : S(-1); };
  int64_t best = -1;
  for (int64_t e = 0; e < n; ++e) {
    const bool is_left =
        before < 0 || key(e) < key(before) || (key(e) == key(before) && e > before);
    if (is_left && (best < 0 || key(e) > key(best))) best = e;
  }
  return best;
}

}  // namespace

void MoeRouteForward(const Tensor& logits, MoeWeights kind, Tensor probs, Tensor expert_ids,
                     Tensor weights) {
  DispatchReal(logits.dtype, [&](auto zero) {
    using S = decltype(zero);
    const int64_t num_experts = probs.shape[1], top_k = expert_ids.shape[1];
    auto* all_ids = expert_ids.ptr<int32_t>();
    S *all_probs = probs.ptr<S>(), *all_weights = weights.ptr<S>();
    const S* z = logits.ptr<S>();
    ParallelFor(probs.shape[0], num_experts * top_k, [&](int64_t t) {
      S* p = all_probs + t * num_experts;
      int32_t* ids = all_ids + t * top_k;
      S* w = all_weights + t * top_k;
      Softmax(z + t * logits.row_stride, num_experts, p);
      S sum = 0;
      for (int64_t k = 0; k < top_k; ++k) {
        ids[k] = static_cast<int32_t>(NextExpert(p, num_experts, k == 0 ? -1 : ids[k - 1]));
        w[k] = p[ids[k]];
        sum += w[k];
      }
      if (kind == MoeWeights::kPlain) return;
      for (int64_t k = 0; k < top_k; ++k) w[k] /= sum;
    });
  });
}

void MoeRouteBackward(const Tensor& probs, const Tensor& expert_ids, const Tensor& weights,
                      const Tensor& d_weights, const Tensor& d_probs, MoeWeights kind,
                      Tensor d_logits) {
  const int64_t num_experts = probs.shape[1], top_k = expert_ids.shape[1];
  CheckMoeIndices("moe_route_backward", expert_ids, num_experts);
  DispatchReal(d_logits.dtype, [&](auto zero) {
    using S = decltype(zero);
    const auto* all_ids = expert_ids.ptr<int32_t>();
    const S *all_probs = probs.ptr<S>(), *all_weights = weights.ptr<S>();
    const S *all_d_weights = d_weights.ptr<S>(), *aux = d_probs ? d_probs.ptr<S>() : nullptr;
    S* d = d_logits.ptr<S>();
    ParallelFor(probs.shape[0], num_experts, [&](int64_t t) {
      const S* p = all_probs + t * num_experts;
      const int32_t* ids = all_ids + t * top_k;
      const S *w = all_weights + t * top_k, *dw = all_d_weights + t * top_k;
      S shift = 0, scale = 1;
      if (kind == MoeWeights::kNormalized) {
        S sum = 0;
        for (int64_t k = 0; k < top_k; ++k) {
          shift += dw[k] * w[k];
          sum += p[ids[k]];
        }
        scale = 1 / sum;
      }
      // g lies where d_logits will.
      S* g = d + t * d_logits.row_stride;
      for (int64_t e = 0; e < num_experts; ++e) g[e] = aux ? aux[e] : S(0);
      for (int64_t k = 0; k < top_k; ++k) g[ids[k]] += (dw[k] - shift) * scale;
      S mean = 0;
      for (int64_t e = 0; e < num_experts; ++e) mean += p[e] * g[e];
      for (int64_t e = 0; e < num_experts; ++e) g[e] = p[e] * (g[e] - mean);
    });
  });
}

}  // namespace omnitrain::cpu
