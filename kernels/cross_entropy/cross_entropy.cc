#include "kernels/cross_entropy/cross_entropy.h"

#include "kernels/common/operands.h"
#include "kernels/cross_entropy/cross_entropy_impl.h"

namespace omnitrain {

void LinearCrossEntropy(Context& ctx, const Tensor& h, const Tensor& w, const Tensor& labels,
                        const Tensor& weights, Tensor loss_sum, Tensor dh, Tensor dw) {
  constexpr char kOp[] = "LinearCrossEntropy";
  OT_CHECK(h.shape.rank() == 2 && w.shape.rank() == 2, "{}: h is {}, w is {}, expected two dims",
           kOp, Describe(h), Describe(w));
  const int64_t rows = h.shape[0], width = h.shape[1], vocabulary = w.shape[0];
  CheckOperand(ctx, kOp, "h", h, h.dtype, {rows, width});
  CheckDenseOperand(ctx, kOp, "w", w, h.dtype, {vocabulary, width});
  CheckDenseOperand(ctx, kOp, "labels", labels, DType::kI32, {rows});
  if (weights) CheckDenseOperand(ctx, kOp, "weights", weights, DType::kF32, {rows});
  CheckDenseOperand(ctx, kOp, "loss_sum", loss_sum, DType::kF64, {1});
  if (dh) CheckOperand(ctx, kOp, "dh", dh, h.dtype, {rows, width});
  if (dw) CheckDenseOperand(ctx, kOp, "dw", dw, MainGradDType(h.dtype), {vocabulary, width});
  RequireCpu(ctx, kOp);
  DispatchReal(h.dtype, [&](auto real) {
    cpu::LinearCrossEntropy<decltype(real)>(ctx, h, w, labels, weights, loss_sum, dh, dw);
  });
}

}  // namespace omnitrain
