#pragma once

#include "kernels/adamw/adamw.h"

namespace omnitrain::cpu {

void AdamWStep(const AdamWParams& params, const Tensor& grad, Tensor master, Tensor m, Tensor v,
               Tensor param);

}  // namespace omnitrain::cpu

namespace omnitrain::cuda {

// The same on the GPU, for f32 and bf16.

void AdamWStep(Context& ctx, const AdamWParams& params, const Tensor& grad, Tensor master, Tensor m,
               Tensor v, Tensor param);

}  // namespace omnitrain::cuda
