#pragma once

#include "kernels/reduce/reduce.h"

namespace omnitrain::cpu {

void SumOfSquares(Context& ctx, const Tensor& x, Tensor result);

}  // namespace omnitrain::cpu

namespace omnitrain::cuda {

// The same on the GPU, for f32 and bf16.

void SumOfSquares(Context& ctx, const Tensor& x, Tensor result);

}  // namespace omnitrain::cuda
