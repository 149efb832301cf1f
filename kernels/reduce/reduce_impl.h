#pragma once

#include "kernels/reduce/reduce.h"

namespace omnitrain::cpu {

void SumOfSquares(Context& ctx, const Tensor& x, Tensor result);

}  // namespace omnitrain::cpu
