#include <algorithm>

#include "kernels/common/parallel.h"
#include "kernels/moe/moe_impl.h"

namespace omnitrain::cpu {

void MoeLoadSums(Context& ctx, const Tensor& probs, const Tensor& expert_ids, Tensor counts,
                 Tensor prob_sums) {
  const int64_t num_experts = probs.shape[1];
  CheckMoeIndices("moe_load_sums", expert_ids, num_experts);
  const int32_t* ids = expert_ids.ptr<int32_t>();
  int32_t* count = counts.ptr<int32_t>();
  for (int64_t i = 0; i < expert_ids.num_elements(); ++i) ++count[ids[i]];
  DispatchReal(probs.dtype, [&](auto zero) {
    using S = decltype(zero);
    const RowBlocks blocks(probs.shape[0]);
    ColumnSums<S> sums(ctx.Scratch(ColumnSums<S>::Bytes(blocks, num_experts)), blocks, num_experts);
    const S* p = probs.ptr<S>();
    ParallelFor(blocks.num_blocks, blocks.rows * num_experts / blocks.num_blocks,
                [&](int64_t block) {
                  S* partial = sums.Clear(block);
                  for (int64_t t = blocks.begin(block); t < blocks.end(block); ++t) {
                    const S* row = p + t * num_experts;
#pragma omp simd
                    for (int64_t e = 0; e < num_experts; ++e) partial[e] += row[e];
                  }
                });
    sums.AddTo(prob_sums.ptr<S>());
  });
}

void MoeBalanceLoss(const Tensor& counts, const Tensor& prob_sums, int64_t num_tokens,
                    double coefficient, Tensor loss_sum, Tensor d_probs) {
  DispatchReal(prob_sums.dtype, [&](auto zero) {
    using S = decltype(zero);
    const int64_t num_experts = counts.shape[0];
    const int32_t* count = counts.ptr<int32_t>();
    const S* sums = prob_sums.ptr<S>();
    if (num_tokens == 0) {
      if (d_probs) std::fill_n(d_probs.ptr<S>(), num_experts, S(0));
      return;
    }
    const auto n = static_cast<double>(num_tokens);
    const double scale = coefficient * static_cast<double>(num_experts) / (n * n);
    double sum = 0;
    for (int64_t e = 0; e < num_experts; ++e) {
      sum += scale * count[e] * static_cast<double>(sums[e]);
      if (d_probs) d_probs.ptr<S>()[e] = static_cast<S>(scale * count[e]);
    }
    *loss_sum.ptr<double>() += sum;
  });
}

}  // namespace omnitrain::cpu
