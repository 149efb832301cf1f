#include "kernels/reduce/reduce.h"

#include "kernels/common/operands.h"
#include "kernels/reduce/reduce_impl.h"

namespace omnitrain {

void SumOfSquares(Context& ctx, const Tensor& x, Tensor result) {
  CheckDenseOperand(ctx, "sum_of_squares", "x", x, x.dtype, x.shape);
  CheckDenseOperand(ctx, "sum_of_squares", "result", result, DType::kF64, {1});
  RequireCpu(ctx, "sum_of_squares");
  cpu::SumOfSquares(ctx, x, result);
}

}  // namespace omnitrain
