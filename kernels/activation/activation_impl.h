#pragma once

#include "kernels/activation/activation.h"

namespace omnitrain::cpu {

// The public functions behind their checks.

void ActivationForward(Activation act, const Tensor& x, Tensor y);
void ActivationBackward(Activation act, const Tensor& dy, const Tensor& x, Tensor dx);
void GatedActivationForward(Activation act, const Tensor& gate_up, Tensor y);
void GatedActivationBackward(Activation act, const Tensor& dy, const Tensor& gate_up,
                             Tensor d_gate_up);

}  // namespace omnitrain::cpu

namespace omnitrain::cuda {

// The same on the GPU, for f32 and bf16.

void ActivationForward(Context& ctx, Activation act, const Tensor& x, Tensor y);
void ActivationBackward(Context& ctx, Activation act, const Tensor& dy, const Tensor& x, Tensor dx);
void GatedActivationForward(Context& ctx, Activation act, const Tensor& gate_up, Tensor y);
void GatedActivationBackward(Context& ctx, Activation act, const Tensor& dy, const Tensor& gate_up,
                             Tensor d_gate_up);

}  // namespace omnitrain::cuda
