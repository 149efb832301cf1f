#pragma once

#include "kernels/layer_norm/layer_norm.h"

namespace omnitrain::cpu {

// The public functions behind their checks.

void LayerNormForward(const Tensor& x, const Tensor& w, const Tensor& b, double eps, Tensor y,
                      Tensor mean, Tensor rstd);
void LayerNormBackward(Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& w,
                       const Tensor& mean, const Tensor& rstd, Write write, Tensor dx, Tensor dw,
                       Tensor db);

}  // namespace omnitrain::cpu

namespace omnitrain::cuda {

// The same for f32 and bf16 on the GPU.

void LayerNormForward(Context& ctx, const Tensor& x, const Tensor& w, const Tensor& b, double eps,
                      Tensor y, Tensor mean, Tensor rstd);
void LayerNormBackward(Context& ctx, const Tensor& dy, const Tensor& x, const Tensor& w,
                       const Tensor& mean, const Tensor& rstd, Write write, Tensor dx, Tensor dw,
                       Tensor db);

}  // namespace omnitrain::cuda
