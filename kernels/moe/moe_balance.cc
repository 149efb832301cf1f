#include "kernels/moe/moe_balance.h"

#include "core/runtime/has_cuda.h"
#include "kernels/common/operands.h"
#include "kernels/moe/moe_impl.h"

namespace omnitrain {

void MoeLoadSums(Context& ctx, const Tensor& probs, const Tensor& expert_ids, Tensor counts,
                 Tensor prob_sums) {
  constexpr char kOp[] = "MoeLoadSums";
  OT_CHECK(probs.shape.rank() == 2, "{}: probs are {}, expected [T, E]", kOp, Describe(probs));
  OT_CHECK(expert_ids.shape.rank() == 2, "{}: expert_ids are {}, expected [T, K]", kOp,
           Describe(expert_ids));
  const int64_t num_tokens = probs.shape[0], num_experts = probs.shape[1];
  CheckDenseOperand(ctx, kOp, "probs", probs, StatisticsDType(probs.dtype), probs.shape);
  CheckDenseOperand(ctx, kOp, "expert_ids", expert_ids, DType::kI32,
                    {num_tokens, expert_ids.shape[1]});
  CheckDenseOperand(ctx, kOp, "counts", counts, DType::kI32, {num_experts});
  CheckDenseOperand(ctx, kOp, "prob_sums", prob_sums, probs.dtype, {num_experts});
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::MoeLoadSums(ctx, probs, expert_ids, counts, prob_sums);
  }
  cpu::MoeLoadSums(ctx, probs, expert_ids, counts, prob_sums);
}

void MoeBalanceLoss(Context& ctx, const Tensor& counts, const Tensor& prob_sums, int64_t num_tokens,
                    double coefficient, Tensor loss_sum, Tensor d_probs) {
  constexpr char kOp[] = "MoeBalanceLoss";
  OT_CHECK(counts.shape.rank() == 1, "{}: counts are {}, expected [E]", kOp, Describe(counts));
  OT_CHECK(num_tokens >= 0, "{}: {} tokens", kOp, num_tokens);
  CheckDenseOperand(ctx, kOp, "counts", counts, DType::kI32, counts.shape);
  CheckDenseOperand(ctx, kOp, "prob_sums", prob_sums, StatisticsDType(prob_sums.dtype),
                    counts.shape);
  CheckDenseOperand(ctx, kOp, "loss_sum", loss_sum, DType::kF64, {1});
  if (d_probs) CheckDenseOperand(ctx, kOp, "d_probs", d_probs, prob_sums.dtype, counts.shape);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) {
      return cuda::MoeBalanceLoss(ctx, counts, prob_sums, num_tokens, coefficient, loss_sum,
                                  d_probs);
    }
  }
  cpu::MoeBalanceLoss(counts, prob_sums, num_tokens, coefficient, loss_sum, d_probs);
}

}  // namespace omnitrain
