#include "kernels/gemm/gemm.h"

#include "core/runtime/has_cuda.h"
#include "kernels/common/operands.h"
#include "kernels/gemm/gemm_impl.h"

namespace omnitrain {
namespace {

void CheckRank2(const char* op, const char* name, const Tensor& t) {
  OT_CHECK(t.shape.rank() == 2, "{}: {} is {}, expected two dims", op, name, Describe(t));
}

}  // namespace

void LinearForward(Context& ctx, const Tensor& x, const Tensor& w, const Tensor& bias, Write write,
                   Tensor y) {
  constexpr char kOp[] = "LinearForward";
  CheckRank2(kOp, "x", x);
  CheckRank2(kOp, "w", w);
  const int64_t rows = x.shape[0], in = x.shape[1], out = w.shape[0];
  CheckOperand(ctx, kOp, "x", x, x.dtype, {rows, in});
  CheckDenseOperand(ctx, kOp, "w", w, x.dtype, {out, in});
  CheckOperand(ctx, kOp, "y", y, y.dtype == MainGradDType(x.dtype) ? y.dtype : x.dtype,
               {rows, out});
  if (bias) CheckDenseOperand(ctx, kOp, "bias", bias, x.dtype, {out});
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::LinearForward(ctx, x, w, bias, write, y);
  }
  DispatchReal(x.dtype,
               [&](auto real) { cpu::LinearForward<decltype(real)>(x, w, bias, write, y); });
}

void LinearInputGrad(Context& ctx, const Tensor& dy, const Tensor& w, Write write, Tensor dx) {
  constexpr char kOp[] = "LinearInputGrad";
  CheckRank2(kOp, "dy", dy);
  CheckRank2(kOp, "w", w);
  const int64_t rows = dy.shape[0], out = dy.shape[1], in = w.shape[1];
  CheckOperand(ctx, kOp, "dy", dy, dy.dtype, {rows, out});
  CheckDenseOperand(ctx, kOp, "w", w, dy.dtype, {out, in});
  CheckOperand(ctx, kOp, "dx", dx, dy.dtype, {rows, in});
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::LinearInputGrad(ctx, dy, w, write, dx);
  }
  DispatchReal(dy.dtype,
               [&](auto real) { cpu::LinearInputGrad<decltype(real)>(dy, w, write, dx); });
}

void LinearWeightGrad(Context& ctx, const Tensor& x, const Tensor& dy, Tensor dw, Tensor dbias) {
  constexpr char kOp[] = "LinearWeightGrad";
  CheckRank2(kOp, "x", x);
  CheckRank2(kOp, "dy", dy);
  const int64_t rows = x.shape[0], in = x.shape[1], out = dy.shape[1];
  CheckOperand(ctx, kOp, "x", x, x.dtype, {rows, in});
  CheckOperand(ctx, kOp, "dy", dy, x.dtype, {rows, out});
  CheckDenseOperand(ctx, kOp, "dw", dw, MainGradDType(x.dtype), {out, in});
  if (dbias) CheckDenseOperand(ctx, kOp, "dbias", dbias, MainGradDType(x.dtype), {out});
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::LinearWeightGrad(ctx, x, dy, dw, dbias);
  }
  DispatchReal(x.dtype,
               [&](auto real) { cpu::LinearWeightGrad<decltype(real)>(x, dy, dw, dbias); });
}

}  // namespace omnitrain
