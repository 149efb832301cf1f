#include "kernels/cross_entropy/cross_entropy.h"

#include <algorithm>

#include "core/runtime/carver.h"
#include "core/runtime/has_cuda.h"
#include "kernels/common/operands.h"
#include "kernels/cross_entropy/cross_entropy_impl.h"

namespace omnitrain {

void LinearCrossEntropy(Context& ctx, const Tensor& h, const Tensor& w, const Tensor& rows,
                        const Tensor& labels, const Tensor& weights, Tensor loss_sum, Tensor dh,
                        Tensor dw, const VocabShard* shard) {
  constexpr char kOp[] = "LinearCrossEntropy";
  OT_CHECK(h.shape.rank() == 2 && w.shape.rank() == 2, "{}: h is {}, w is {}, expected two dims",
           kOp, Describe(h), Describe(w));
  const int64_t num_tokens = h.shape[0], width = h.shape[1], vocabulary = w.shape[0];
  const int64_t num_rows = rows.rows();
  CheckOperand(ctx, kOp, "h", h, h.dtype, {num_tokens, width});
  CheckDenseOperand(ctx, kOp, "w", w, h.dtype, {vocabulary, width});
  CheckDenseOperand(ctx, kOp, "rows", rows, DType::kI32, {num_rows});
  CheckDenseOperand(ctx, kOp, "labels", labels, DType::kI32, {num_rows});
  if (weights) CheckDenseOperand(ctx, kOp, "weights", weights, DType::kF32, {num_rows});
  CheckDenseOperand(ctx, kOp, "loss_sum", loss_sum, DType::kF64, {1});
  if (dh) CheckOperand(ctx, kOp, "dh", dh, h.dtype, {num_tokens, width});
  if (dw) CheckDenseOperand(ctx, kOp, "dw", dw, MainGradDType(h.dtype), {vocabulary, width});
  if (shard != nullptr) {
    OT_CHECK(shard->first >= 0 && shard->first + vocabulary <= shard->vocabulary &&
                 vocabulary <= shard->widest && shard->max && shard->sum,
             "{}: slice [{}, +{}) of {}, the largest has {}", kOp, shard->first, vocabulary,
             shard->vocabulary, shard->widest);
  }
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) {
      return cuda::LinearCrossEntropy(ctx, h, w, rows, labels, weights, loss_sum, dh, dw, shard);
    }
  }
  DispatchReal(h.dtype, [&](auto real) {
    cpu::LinearCrossEntropy<decltype(real)>(ctx, h, w, rows, labels, weights, loss_sum, dh, dw,
                                            shard);
  });
}

size_t LinearCrossEntropyScratch(DeviceKind device, DType dtype, int64_t num_rows, int64_t width,
                                 int64_t widest) {
  if (num_rows == 0) return 0;
  const bool is_cuda = device == DeviceKind::kCuda;
  const DType logits = is_cuda ? DType::kF32 : dtype;
  const int64_t row_bytes = widest * static_cast<int64_t>(DTypeBytes(logits));
  const int64_t chunk =
      std::min(num_rows, is_cuda ? std::max(cuda::kMinChunkRows, cuda::kChunkBytes / row_bytes)
                                 : std::max(cpu::kMinChunkRows, cpu::kChunkBytes / row_bytes));
  Carver carver(device);
  if (is_cuda) carver.Take(DType::kF64, {num_rows});
  for (int i = 0; i < 2; ++i) carver.Take(dtype, {chunk, width});
  carver.Take(logits, {chunk, widest});
  if (logits != dtype) carver.Take(dtype, {chunk, widest});
  return carver.used();
}

}  // namespace omnitrain
