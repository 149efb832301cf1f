#pragma once

#include "core/runtime/context.h"
#include "core/runtime/write.h"

namespace omnitrain {

// Linear layers: y = x W^T + b, weights stored [out, in] as in PyTorch.
// Dtype: x, w, y, dx the compute dtype; weight and bias gradients the main-gradient dtype (f32 for
// bf16 and f32, f64 for f64); products accumulate in f32 (f64 for f64).  Rows of x, y, dx, dy may
// be strided; w and dw are dense. T = 0 is legal everywhere: outputs of no rows, gradients
// unchanged. CPU: oneDNN (f32), OpenBLAS (f64); CUDA: cuBLASLt.

/// y = x w^T + bias, or y += with kAccumulate (a residual stream). y may be of the main-gradient
/// dtype instead, where rounding its sums to bf16 would decide too much (a router's logits).
/// Shapes: x [T, I]; w [O, I]; bias [O] or absent; y [T, O].
void LinearForward(Context& ctx, const Tensor& x, const Tensor& w, const Tensor& bias, Write write,
                   Tensor y);

/// dx = dy w, or dx +=.
/// Shapes: dy [T, O]; w [O, I]; dx [T, I].
void LinearInputGrad(Context& ctx, const Tensor& dy, const Tensor& w, Write write, Tensor dx);

/// dw += dy^T x;  dbias += column sums of dy, where dbias is present.
/// Shapes: x [T, I]; dy [T, O]; dw [O, I]; dbias [O] or absent.  Deterministic: fixed order of sums
/// for equal shapes and thread counts.
void LinearWeightGrad(Context& ctx, const Tensor& x, const Tensor& dy, Tensor dw, Tensor dbias);

}  // namespace omnitrain
