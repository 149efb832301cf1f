#pragma once

#include "kernels/rope/rope.h"

namespace omnitrain::cpu {

void ApplyRope(const Tensor& cos, const Tensor& sin, RopeDirection direction, Tensor x);

}  // namespace omnitrain::cpu
