#pragma once

#include "core/runtime/context.h"

namespace omnitrain {

/// result[0] += sum of x^2, in f64.  Shapes: x any, dense; result [1] f64, on the device of x.
/// Dtype: x f32 or f64 (main gradients).  Deterministic: fixed order for equal sizes, whatever the
/// thread count.
void SumOfSquares(Context& ctx, const Tensor& x, Tensor result);

}  // namespace omnitrain
