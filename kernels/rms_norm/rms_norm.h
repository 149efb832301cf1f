#pragma once

#include "core/runtime/context.h"
#include "core/runtime/write.h"

namespace omnitrain {

// RMSNorm over the last dim: y = w * x * rstd, rstd = 1 / sqrt(mean(x^2) + eps).
// Source: Zhang & Sennrich 2019, eq. 4.
// Shapes: x, y, dx, dy [T, D] or [T, H, D] (a norm per head, H*T rows of D), dim 0 may be strided;
// w, dw [D]; rstd [T] or [T, H], dense.  y may be x, and dx may be dy. Dtype: x, y, w the compute
// dtype, rstd and sums f32 (f64 for f64); dw the main-gradient dtype.

void RmsNormForward(Context& ctx, const Tensor& x, const Tensor& w, double eps, Tensor y,
                    Tensor rstd);

/// dx (= or +=, by `write`) from dy, the input x and rstd of the forward; dw += when present.
/// Deterministic: dw is summed in a fixed order for equal shapes and thread counts.
void RmsNormBackward(Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& w,
                     const Tensor& rstd, Write write, Tensor dx, Tensor dw);

}  // namespace omnitrain
