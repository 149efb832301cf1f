#include "kernels/moe/moe_permute.h"

#include "core/runtime/has_cuda.h"
#include "kernels/common/operands.h"
#include "kernels/moe/moe_impl.h"
#include "kernels/rows/rows.h"

namespace omnitrain {
namespace {

/// `sorted` [T * K, D] and `tokens` [T, D] joined by row_of [T, K].
void CheckSorted(const Context& ctx, const char* op, const char* sorted_name, const Tensor& sorted,
                 const char* tokens_name, const Tensor& tokens, const Tensor& row_of) {
  OT_CHECK(tokens.shape.rank() == 2, "{}: {} is {}, expected [T, D]", op, tokens_name,
           Describe(tokens));
  OT_CHECK(row_of.shape.rank() == 2, "{}: row_of is {}, expected [T, K]", op, Describe(row_of));
  const int64_t num_tokens = tokens.shape[0], top_k = row_of.shape[1];
  CheckOperand(ctx, op, tokens_name, tokens, tokens.dtype, tokens.shape);
  CheckOperand(ctx, op, sorted_name, sorted, tokens.dtype, {num_tokens * top_k, tokens.shape[1]});
  CheckDenseOperand(ctx, op, "row_of", row_of, DType::kI32, {num_tokens, top_k});
}

}  // namespace

void MoePlan(Context& ctx, const Tensor& expert_ids, Tensor counts, Tensor row_of,
             Tensor token_of) {
  constexpr char kOp[] = "MoePlan";
  OT_CHECK(expert_ids.shape.rank() == 2, "{}: expert_ids are {}, expected [T, K]", kOp,
           Describe(expert_ids));
  OT_CHECK(counts.shape.rank() == 1, "{}: counts are {}, expected [E]", kOp, Describe(counts));
  const int64_t num_rows = expert_ids.num_elements();
  OT_CHECK(num_rows <= INT32_MAX, "{}: {} rows, at most 2^31 - 1", kOp, num_rows);
  CheckDenseOperand(ctx, kOp, "expert_ids", expert_ids, DType::kI32, expert_ids.shape);
  CheckDenseOperand(ctx, kOp, "counts", counts, DType::kI32, counts.shape);
  CheckDenseOperand(ctx, kOp, "row_of", row_of, DType::kI32, expert_ids.shape);
  CheckDenseOperand(ctx, kOp, "token_of", token_of, DType::kI32, {num_rows});
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::MoePlan(ctx, expert_ids, counts, row_of, token_of);
  }
  cpu::MoePlan(expert_ids, counts, row_of, token_of);
}

void MoeGatherForward(Context& ctx, const Tensor& x, const Tensor& token_of, Tensor sorted) {
  GatherRows(ctx, x, token_of, Write::kOverwrite, sorted);
}

void MoeGatherBackward(Context& ctx, const Tensor& d_sorted, const Tensor& row_of, Write write,
                       Tensor dx) {
  CheckSorted(ctx, "MoeGatherBackward", "d_sorted", d_sorted, "dx", dx, row_of);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::MoeGatherBackward(ctx, d_sorted, row_of, write, dx);
  }
  cpu::MoeGatherBackward(d_sorted, row_of, write, dx);
}

void MoeCombineForward(Context& ctx, const Tensor& sorted, const Tensor& row_of,
                       const Tensor& weights, Write write, Tensor y) {
  constexpr char kOp[] = "MoeCombineForward";
  CheckSorted(ctx, kOp, "sorted", sorted, "y", y, row_of);
  CheckDenseOperand(ctx, kOp, "weights", weights, StatisticsDType(y.dtype), row_of.shape);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::MoeCombineForward(ctx, sorted, row_of, weights, write, y);
  }
  cpu::MoeCombineForward(sorted, row_of, weights, write, y);
}

void MoeCombineBackward(Context& ctx, const Tensor& sorted, const Tensor& row_of,
                        const Tensor& weights, const Tensor& dy, Tensor d_sorted,
                        Tensor d_weights) {
  constexpr char kOp[] = "MoeCombineBackward";
  CheckSorted(ctx, kOp, "sorted", sorted, "dy", dy, row_of);
  CheckOperand(ctx, kOp, "d_sorted", d_sorted, dy.dtype, sorted.shape);
  CheckDenseOperand(ctx, kOp, "weights", weights, StatisticsDType(dy.dtype), row_of.shape);
  CheckDenseOperand(ctx, kOp, "d_weights", d_weights, weights.dtype, row_of.shape);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) {
      return cuda::MoeCombineBackward(ctx, sorted, row_of, weights, dy, d_sorted, d_weights);
    }
  }
  cpu::MoeCombineBackward(sorted, row_of, weights, dy, d_sorted, d_weights);
}

}  // namespace omnitrain
