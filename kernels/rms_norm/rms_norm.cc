#include "kernels/rms_norm/rms_norm.h"

#include "core/runtime/has_cuda.h"
#include "kernels/common/operands.h"
#include "kernels/rms_norm/rms_norm_impl.h"

namespace omnitrain {
namespace {

constexpr char kOp[] = "rms_norm";

void CheckShapes(const Context& ctx, const Tensor& x, const Tensor& w, const Tensor& rstd) {
  const int rank = x.shape.rank();
  OT_CHECK(rank == 2 || rank == 3, "rms_norm: x is {}, expected [T, D] or [T, H, D]", Describe(x));
  CheckOperand(ctx, kOp, "x", x, x.dtype, x.shape);
  CheckDenseOperand(ctx, kOp, "w", w, x.dtype, {x.shape[rank - 1]});
  const Shape rows = rank == 2 ? Shape{x.shape[0]} : Shape{x.shape[0], x.shape[1]};
  CheckDenseOperand(ctx, kOp, "rstd", rstd, StatisticsDType(x.dtype), rows);
}

}  // namespace

void RmsNormForward(Context& ctx, const Tensor& x, const Tensor& w, double eps, Tensor y,
                    Tensor rstd) {
  CheckShapes(ctx, x, w, rstd);
  CheckOperand(ctx, kOp, "y", y, x.dtype, x.shape);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::RmsNormForward(ctx, x, w, eps, y, rstd);
  }
  cpu::RmsNormForward(x, w, eps, y, rstd);
}

void RmsNormBackward(Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& w,
                     const Tensor& rstd, Write write, Tensor dx, Tensor dw) {
  CheckShapes(ctx, x, w, rstd);
  CheckOperand(ctx, kOp, "dy", dy, x.dtype, x.shape);
  CheckOperand(ctx, kOp, "dx", dx, x.dtype, x.shape);
  if (dw) CheckDenseOperand(ctx, kOp, "dw", dw, MainGradDType(x.dtype), w.shape);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::RmsNormBackward(ctx, dy, x, w, rstd, write, dx, dw);
  }
  cpu::RmsNormBackward(ctx, dy, x, w, rstd, write, dx, dw);
}

}  // namespace omnitrain
