#pragma once

#include "kernels/rms_norm/rms_norm.h"

namespace omnitrain::cpu {

// The public functions behind their checks. x, y, dx, dy hold `rstd.num_elements()` rows of w.

void RmsNormForward(const Tensor& x, const Tensor& w, double eps, Tensor y, Tensor rstd);
void RmsNormBackward(Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& w,
                     const Tensor& rstd, Write write, Tensor dx, Tensor dw);

}  // namespace omnitrain::cpu

namespace omnitrain::cuda {

// The same for f32 and bf16 on the GPU.

void RmsNormForward(Context& ctx, const Tensor& x, const Tensor& w, double eps, Tensor y,
                    Tensor rstd);
void RmsNormBackward(Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& w,
                     const Tensor& rstd, Write write, Tensor dx, Tensor dw);

}  // namespace omnitrain::cuda
