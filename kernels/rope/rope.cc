#include "kernels/rope/rope.h"

#include "core/runtime/has_cuda.h"
#include "kernels/common/operands.h"
#include "kernels/rope/rope_impl.h"

namespace omnitrain {

void ApplyRope(Context& ctx, const Tensor& cos, const Tensor& sin, RopeDirection direction,
               Tensor x) {
  OT_CHECK(x.shape.rank() == 3 && x.shape[2] % 2 == 0, "rope: x is {}, expected [T, H, even K]",
           Describe(x));
  const Shape table = {x.shape[0], x.shape[2] / 2};
  CheckOperand(ctx, "rope", "x", x, x.dtype, x.shape);
  const DType table_dtype = x.dtype == DType::kF64 ? DType::kF64 : DType::kF32;
  CheckOperand(ctx, "rope", "cos", cos, table_dtype, table);
  CheckOperand(ctx, "rope", "sin", sin, table_dtype, table);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::ApplyRope(ctx, cos, sin, direction, x);
  }
  cpu::ApplyRope(cos, sin, direction, x);
}

}  // namespace omnitrain
