#pragma once

#include "core/runtime/context.h"

namespace omnitrain {

enum class Activation {
  kSilu,       // x sigmoid(x)
  kGeluTanh,   // 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
  kGeluErf,    // 0.5 x (1 + erf(x / sqrt(2)))
  kQuickGelu,  // x sigmoid(1.702 x)
};
// Source: Hendrycks & Gimpel 2016 (GELU, its tanh and sigmoid forms); Shazeer 2020 (gated units).
// Dtype: compute dtype, arithmetic in f32 (f64 for f64).

/// y = act(x), element by element.  Shapes: x, y [T, F], dim 0 may be strided.  y may be x.
void ActivationForward(Context& ctx, Activation act, const Tensor& x, Tensor y);
/// dx = dy act'(x).  dx may be dy.
void ActivationBackward(Context& ctx, Activation act, const Tensor& dy, const Tensor& x, Tensor dx);

/// y = act(gate) * up.  Shapes: gate_up [T, 2F], gate in columns [0, F), up in [F, 2F); y [T, F].
void GatedActivationForward(Context& ctx, Activation act, const Tensor& gate_up, Tensor y);
/// d_gate_up from dy [T, F] and gate_up.  d_gate_up may be gate_up (in place).
void GatedActivationBackward(Context& ctx, Activation act, const Tensor& dy, const Tensor& gate_up,
                             Tensor d_gate_up);

}  // namespace omnitrain
