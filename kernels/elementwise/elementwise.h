#pragma once

#include "core/runtime/context.h"

namespace omnitrain {

/// dst = src in the dtype of dst (f32, f64, bf16, f16 in any pair; rounds to nearest even). Shapes:
/// equal; dim 0 of [T, D] may be strided.  Overlap: not allowed, but dst may be src when the dtypes
/// are equal (no work).
void Cast(Context& ctx, const Tensor& src, Tensor dst);

/// y += x.  Shapes: equal, dim 0 of [T, D] may be strided.  Dtype: equal.
void AddInto(Context& ctx, const Tensor& x, Tensor y);

/// y = 0.  Dim 0 may be strided.
void Zero(Context& ctx, Tensor y);

/// y *= factor.  Dense.
void Scale(Context& ctx, double factor, Tensor y);

}  // namespace omnitrain
