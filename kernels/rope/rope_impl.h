#pragma once

#include "kernels/rope/rope.h"

namespace omnitrain::cpu {

void ApplyRope(const Tensor& cos, const Tensor& sin, RopeDirection direction, Tensor x);

}  // namespace omnitrain::cpu

namespace omnitrain::cuda {

// The same on the GPU, for f32 and bf16.

void ApplyRope(Context& ctx, const Tensor& cos, const Tensor& sin, RopeDirection direction,
               Tensor x);

}  // namespace omnitrain::cuda
