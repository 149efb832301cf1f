#include "kernels/reduce/reduce.h"

#include "core/runtime/has_cuda.h"
#include "kernels/common/operands.h"
#include "kernels/reduce/reduce_impl.h"

namespace omnitrain {

void SumOfSquares(Context& ctx, const Tensor& x, Tensor result) {
  CheckDenseOperand(ctx, "sum_of_squares", "x", x, x.dtype, x.shape);
  CheckDenseOperand(ctx, "sum_of_squares", "result", result, DType::kF64, {1});
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::SumOfSquares(ctx, x, result);
  }
  cpu::SumOfSquares(ctx, x, result);
}

}  // namespace omnitrain
