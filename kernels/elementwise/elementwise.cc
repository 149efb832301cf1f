#include "kernels/elementwise/elementwise.h"

#include "core/runtime/has_cuda.h"
#include "kernels/common/operands.h"
#include "kernels/elementwise/elementwise_impl.h"

namespace omnitrain {

void Cast(Context& ctx, const Tensor& src, Tensor dst) {
  CheckOperand(ctx, "cast", "src", src, src.dtype, dst.shape);
  CheckOperand(ctx, "cast", "dst", dst, dst.dtype, dst.shape);
  if (dst.num_elements() == 0) return;
  if (dst.data == src.data) {
    OT_CHECK(dst.dtype == src.dtype && dst.row_stride == src.row_stride,
             "cast: {} (rows {} apart) onto itself as {} (rows {} apart)", Describe(src),
             src.row_stride, Describe(dst), dst.row_stride);
    return;
  }
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::Cast(ctx, src, dst);
  }
  cpu::Cast(src, dst);
}

void AddInto(Context& ctx, const Tensor& x, Tensor y) {
  CheckOperand(ctx, "add_into", "x", x, y.dtype, y.shape);
  CheckOperand(ctx, "add_into", "y", y, y.dtype, y.shape);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::AddInto(ctx, x, y);
  }
  cpu::AddInto(x, y);
}

void Zero(Context& ctx, Tensor y) {
  CheckOperand(ctx, "zero", "y", y, y.dtype, y.shape);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::Zero(ctx, y);
  }
  cpu::Zero(y);
}

void Scale(Context& ctx, double factor, Tensor y) {
  CheckDenseOperand(ctx, "scale", "y", y, y.dtype, y.shape);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::Scale(ctx, factor, y);
  }
  cpu::Scale(factor, y);
}

}  // namespace omnitrain
