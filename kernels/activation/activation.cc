#include "kernels/activation/activation.h"

#include "core/runtime/has_cuda.h"
#include "kernels/activation/activation_impl.h"
#include "kernels/common/operands.h"

namespace omnitrain {
namespace {

void CheckRows(const Context& ctx, const char* op, const char* name, const Tensor& t) {
  OT_CHECK(t.shape.rank() == 2, "{}: {} is {}, expected [T, F]", op, name, Describe(t));
  CheckOperand(ctx, op, name, t, t.dtype, t.shape);
}

/// y or dy of gate_up [T, 2F].
void CheckGated(const Context& ctx, const char* name, const Tensor& t, const Tensor& gate_up) {
  constexpr char kOp[] = "gated_activation";
  CheckRows(ctx, kOp, "gate_up", gate_up);
  OT_CHECK(gate_up.shape[1] % 2 == 0, "gated_activation: gate_up is {}, expected [T, 2F]",
           Describe(gate_up));
  CheckOperand(ctx, kOp, name, t, gate_up.dtype, {gate_up.shape[0], gate_up.shape[1] / 2});
}

}  // namespace

void ActivationForward(Context& ctx, Activation act, const Tensor& x, Tensor y) {
  CheckRows(ctx, "activation", "x", x);
  CheckOperand(ctx, "activation", "y", y, x.dtype, x.shape);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::ActivationForward(ctx, act, x, y);
  }
  cpu::ActivationForward(act, x, y);
}

void ActivationBackward(Context& ctx, Activation act, const Tensor& dy, const Tensor& x,
                        Tensor dx) {
  CheckRows(ctx, "activation", "x", x);
  CheckOperand(ctx, "activation", "dy", dy, x.dtype, x.shape);
  CheckOperand(ctx, "activation", "dx", dx, x.dtype, x.shape);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::ActivationBackward(ctx, act, dy, x, dx);
  }
  cpu::ActivationBackward(act, dy, x, dx);
}

void GatedActivationForward(Context& ctx, Activation act, const Tensor& gate_up, Tensor y) {
  CheckGated(ctx, "y", y, gate_up);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::GatedActivationForward(ctx, act, gate_up, y);
  }
  cpu::GatedActivationForward(act, gate_up, y);
}

void GatedActivationBackward(Context& ctx, Activation act, const Tensor& dy, const Tensor& gate_up,
                             Tensor d_gate_up) {
  CheckGated(ctx, "dy", dy, gate_up);
  CheckOperand(ctx, "gated_activation", "d_gate_up", d_gate_up, gate_up.dtype, gate_up.shape);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::GatedActivationBackward(ctx, act, dy, gate_up, d_gate_up);
  }
  cpu::GatedActivationBackward(act, dy, gate_up, d_gate_up);
}

}  // namespace omnitrain
