#pragma once

#include "kernels/elementwise/elementwise.h"

namespace omnitrain::cpu {

// The public functions behind their checks.

void Cast(const Tensor& src, Tensor dst);
void AddInto(const Tensor& x, Tensor y);
void Zero(Tensor y);
void Scale(double factor, Tensor y);

}  // namespace omnitrain::cpu
