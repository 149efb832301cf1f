#pragma once

#include "kernels/elementwise/elementwise.h"

namespace omnitrain::cpu {

// The public functions behind their checks.

void Cast(const Tensor& src, Tensor dst);
void AddInto(const Tensor& x, Tensor y);
void Zero(Tensor y);
void Scale(double factor, Tensor y);

}  // namespace omnitrain::cpu

namespace omnitrain::cuda {

// The same on the GPU, for f32 and bf16.

// Cast, AddInto, Zero and Scale of f64 too; f16 is cast and zeroed only.
void Cast(Context& ctx, const Tensor& src, Tensor dst);
void AddInto(Context& ctx, const Tensor& x, Tensor y);
void Zero(Context& ctx, Tensor y);
void Scale(Context& ctx, double factor, Tensor y);

}  // namespace omnitrain::cuda
