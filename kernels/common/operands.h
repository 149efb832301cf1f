#pragma once

#include "core/runtime/context.h"

namespace omnitrain {

/// The dtype that gradients of parameters accumulate in: f64 for f64, else f32.
constexpr DType MainGradDType(DType compute) {
  return compute == DType::kF64 ? DType::kF64 : DType::kF32;
}

/// Statistics of a row (rstd, lse) have the same rule.
constexpr DType StatisticsDType(DType compute) { return MainGradDType(compute); }

/// Checks that operand `name` of op `op` is on the context's device and has this dtype and shape
/// (kInternal, naming both). Rows may be strided.
void CheckOperand(const Context& ctx, const char* op, const char* name, const Tensor& t,
                  DType dtype, const Shape& shape);
/// The same for an operand that must be dense.
void CheckDenseOperand(const Context& ctx, const char* op, const char* name, const Tensor& t,
                       DType dtype, const Shape& shape);

}  // namespace omnitrain
