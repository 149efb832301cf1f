#pragma once

#include "kernels/gemm/gemm.h"

namespace omnitrain::cpu {

// The ops of gemm.h on operands that were checked, for T = float (oneDNN) and double (OpenBLAS).

template <typename T>
void LinearForward(const Tensor& x, const Tensor& w, const Tensor& bias, Write write, Tensor y);

template <typename T>
void LinearInputGrad(const Tensor& dy, const Tensor& w, Write write, Tensor dx);

template <typename T>
void LinearWeightGrad(const Tensor& x, const Tensor& dy, Tensor dw, Tensor dbias);

}  // namespace omnitrain::cpu

namespace omnitrain::cuda {

// The ops of gemm.h on operands that were checked, f32 and bf16 (cuBLASLt).

void LinearForward(Context& ctx, const Tensor& x, const Tensor& w, const Tensor& bias, Write write,
                   Tensor y);
void LinearInputGrad(Context& ctx, const Tensor& dy, const Tensor& w, Write write, Tensor dx);
void LinearWeightGrad(Context& ctx, const Tensor& x, const Tensor& dy, Tensor dw, Tensor dbias);

}  // namespace omnitrain::cuda
