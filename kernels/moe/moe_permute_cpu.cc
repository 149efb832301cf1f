#include <algorithm>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/moe/moe_impl.h"

namespace omnitrain::cpu {
namespace {

/// to[t] (= or +=) sum_k weights[t, k] sorted[row_of[t, k]], weights absent: 1.
template <typename S>
void SumRows(const Tensor& sorted, const Tensor& row_of, const S* weights, Write write,
             const Tensor& to) {
  const int64_t width = to.shape[1], top_k = row_of.shape[1];
  const int32_t* rows = row_of.ptr<int32_t>();
  ParallelFor(to.shape[0], top_k * width, [&](int64_t t) {
    S* sum = to.row<S>(t);
    if (write == Write::kOverwrite) std::fill_n(sum, width, S(0));
    for (int64_t i = t * top_k; i < (t + 1) * top_k; ++i) {
      const S scale = weights ? weights[i] : S(1);
      const S* row = sorted.row<S>(rows[i]);
#pragma omp simd
      for (int64_t j = 0; j < width; ++j) sum[j] += scale * row[j];
    }
  });
}

}  // namespace

void MoePlan(const Tensor& expert_ids, Tensor counts, Tensor row_of, Tensor token_of) {
  const int64_t num_experts = counts.shape[0], num_rows = expert_ids.num_elements();
  const int64_t top_k = expert_ids.shape[1];
  CheckMoeIndices("moe_plan", expert_ids, num_experts);
  const int32_t* ids = expert_ids.ptr<int32_t>();
  int32_t *count = counts.ptr<int32_t>(), *row = row_of.ptr<int32_t>();
  int32_t* token = token_of.ptr<int32_t>();
  std::fill_n(count, num_experts, 0);
  for (int64_t i = 0; i < num_rows; ++i) ++count[ids[i]];
  std::vector<int32_t> next(static_cast<size_t>(num_experts));
  for (size_t e = 1; e < next.size(); ++e) next[e] = next[e - 1] + count[e - 1];
  for (int64_t i = 0; i < num_rows; ++i) {
    row[i] = next[static_cast<size_t>(ids[i])]++;
    token[row[i]] = static_cast<int32_t>(i / top_k);
  }
}

void MoeGatherBackward(const Tensor& d_sorted, const Tensor& row_of, Write write, Tensor dx) {
  CheckMoeIndices("moe_gather_backward", row_of, d_sorted.shape[0]);
  DispatchReal(dx.dtype,
               [&](auto zero) { SumRows<decltype(zero)>(d_sorted, row_of, nullptr, write, dx); });
}

void MoeCombineForward(const Tensor& sorted, const Tensor& row_of, const Tensor& weights,
                       Write write, Tensor y) {
  CheckMoeIndices("moe_combine_forward", row_of, sorted.shape[0]);
  DispatchReal(y.dtype, [&](auto zero) {
    using S = decltype(zero);
    SumRows<S>(sorted, row_of, weights.ptr<S>(), write, y);
  });
}

void MoeCombineBackward(const Tensor& sorted, const Tensor& row_of, const Tensor& weights,
                        const Tensor& dy, Tensor d_sorted, Tensor d_weights) {
  CheckMoeIndices("moe_combine_backward", row_of, sorted.shape[0]);
  DispatchReal(dy.dtype, [&](auto zero) {
    using S = decltype(zero);
    const int64_t width = dy.shape[1], top_k = row_of.shape[1];
    const int32_t* rows = row_of.ptr<int32_t>();
    const S* w = weights.ptr<S>();
    S* dw = d_weights.ptr<S>();
    ParallelFor(dy.shape[0], 2 * top_k * width, [&](int64_t t) {
      const S* d = dy.row<S>(t);
      for (int64_t i = t * top_k; i < (t + 1) * top_k; ++i) {
        const S* from = sorted.row<S>(rows[i]);
        // Before the row is written, which may be the same memory.
        dw[i] = LaneSum<S>(width, [&](int64_t j) { return d[j] * from[j]; });
        S* to = d_sorted.row<S>(rows[i]);
#pragma omp simd
        for (int64_t j = 0; j < width; ++j) to[j] = w[i] * d[j];
      }
    });
  });
}

}  // namespace omnitrain::cpu
