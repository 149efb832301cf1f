#pragma once

#include "core/runtime/context.h"
#include "core/runtime/write.h"

namespace omnitrain {

// LayerNorm over the last dim: y = w * (x - mean) * rstd + b, rstd = 1 / sqrt(var + eps), biased
// variance. Source: Ba, Kiros & Hinton 2016, eq. 4. Shapes: x, y, dx, dy [T, D], dim 0 may be
// strided; w, b, dw, db [D]; mean, rstd [T].  dx may be dy. Dtype: as RmsNorm; variance from
// centred values (two passes), never from E[x^2] - mean^2.

void LayerNormForward(Context& ctx, const Tensor& x, const Tensor& w, const Tensor& b, double eps,
                      Tensor y, Tensor mean, Tensor rstd);

/// dx (= or +=, by `write`); dw, db += when present.  Deterministic.
void LayerNormBackward(Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& w,
                       const Tensor& mean, const Tensor& rstd, Write write, Tensor dx, Tensor dw,
                       Tensor db);

}  // namespace omnitrain
