#include "kernels/layer_norm/layer_norm.h"

#include "core/runtime/has_cuda.h"
#include "kernels/common/operands.h"
#include "kernels/layer_norm/layer_norm_impl.h"

namespace omnitrain {
namespace {

constexpr char kOp[] = "layer_norm";

void CheckShapes(const Context& ctx, const Tensor& x, const Tensor& w, const Tensor& mean,
                 const Tensor& rstd) {
  OT_CHECK(x.shape.rank() == 2, "layer_norm: x is {}, expected [T, D]", Describe(x));
  CheckOperand(ctx, kOp, "x", x, x.dtype, x.shape);
  CheckDenseOperand(ctx, kOp, "w", w, x.dtype, {x.shape[1]});
  CheckDenseOperand(ctx, kOp, "mean", mean, StatisticsDType(x.dtype), {x.shape[0]});
  CheckDenseOperand(ctx, kOp, "rstd", rstd, StatisticsDType(x.dtype), {x.shape[0]});
}

}  // namespace

void LayerNormForward(Context& ctx, const Tensor& x, const Tensor& w, const Tensor& b, double eps,
                      Tensor y, Tensor mean, Tensor rstd) {
  CheckShapes(ctx, x, w, mean, rstd);
  CheckDenseOperand(ctx, kOp, "b", b, x.dtype, w.shape);
  CheckOperand(ctx, kOp, "y", y, x.dtype, x.shape);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::LayerNormForward(ctx, x, w, b, eps, y, mean, rstd);
  }
  cpu::LayerNormForward(x, w, b, eps, y, mean, rstd);
}

void LayerNormBackward(Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& w,
                       const Tensor& mean, const Tensor& rstd, Write write, Tensor dx, Tensor dw,
                       Tensor db) {
  CheckShapes(ctx, x, w, mean, rstd);
  CheckOperand(ctx, kOp, "dy", dy, x.dtype, x.shape);
  CheckOperand(ctx, kOp, "dx", dx, x.dtype, x.shape);
  if (dw) CheckDenseOperand(ctx, kOp, "dw", dw, MainGradDType(x.dtype), w.shape);
  if (db) CheckDenseOperand(ctx, kOp, "db", db, MainGradDType(x.dtype), w.shape);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::LayerNormBackward(ctx, dy, x, w, mean, rstd, write, dx, dw, db);
  }
  cpu::LayerNormBackward(ctx, dy, x, w, mean, rstd, write, dx, dw, db);
}

}  // namespace omnitrain
