#include "kernels/moe/moe_route.h"

#include "core/runtime/has_cuda.h"
#include "kernels/common/operands.h"
#include "kernels/moe/moe_impl.h"

namespace omnitrain {
namespace {

/// What both passes share: probs [T, E], expert_ids [T, K], weights [T, K].
void CheckRoute(const Context& ctx, const char* op, const Tensor& probs, const Tensor& expert_ids,
                const Tensor& weights, DType compute) {
  OT_CHECK(probs.shape.rank() == 2, "{}: probs are {}, expected [T, E]", op, Describe(probs));
  OT_CHECK(expert_ids.shape.rank() == 2, "{}: expert_ids are {}, expected [T, K]", op,
           Describe(expert_ids));
  const int64_t num_tokens = probs.shape[0], num_experts = probs.shape[1];
  const int64_t top_k = expert_ids.shape[1];
  OT_CHECK(top_k >= 1 && top_k <= num_experts, "{}: the top {} of {} experts", op, top_k,
           num_experts);
  CheckDenseOperand(ctx, op, "probs", probs, StatisticsDType(compute), {num_tokens, num_experts});
  CheckDenseOperand(ctx, op, "expert_ids", expert_ids, DType::kI32, {num_tokens, top_k});
  CheckDenseOperand(ctx, op, "weights", weights, StatisticsDType(compute), {num_tokens, top_k});
}

}  // namespace

void MoeRouteForward(Context& ctx, const Tensor& logits, MoeWeights kind, Tensor probs,
                     Tensor expert_ids, Tensor weights) {
  constexpr char kOp[] = "MoeRouteForward";
  CheckRoute(ctx, kOp, probs, expert_ids, weights, logits.dtype);
  CheckOperand(ctx, kOp, "logits", logits, logits.dtype, probs.shape);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) {
      return cuda::MoeRouteForward(ctx, logits, kind, probs, expert_ids, weights);
    }
  }
  cpu::MoeRouteForward(logits, kind, probs, expert_ids, weights);
}

void MoeRouteBackward(Context& ctx, const Tensor& probs, const Tensor& expert_ids,
                      const Tensor& weights, const Tensor& d_weights, const Tensor& d_probs,
                      MoeWeights kind, Tensor d_logits) {
  constexpr char kOp[] = "MoeRouteBackward";
  CheckRoute(ctx, kOp, probs, expert_ids, weights, d_logits.dtype);
  CheckDenseOperand(ctx, kOp, "d_weights", d_weights, weights.dtype, weights.shape);
  if (d_probs) {
    CheckDenseOperand(ctx, kOp, "d_probs", d_probs, probs.dtype, {probs.shape[1]});
  }
  CheckOperand(ctx, kOp, "d_logits", d_logits, d_logits.dtype, probs.shape);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) {
      return cuda::MoeRouteBackward(ctx, probs, expert_ids, weights, d_weights, d_probs, kind,
                                    d_logits);
    }
  }
  cpu::MoeRouteBackward(probs, expert_ids, weights, d_weights, d_probs, kind, d_logits);
}

}  // namespace omnitrain
