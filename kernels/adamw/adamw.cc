#include "kernels/adamw/adamw.h"

#include "core/runtime/has_cuda.h"
#include "kernels/adamw/adamw_impl.h"
#include "kernels/common/operands.h"

namespace omnitrain {

void AdamWStep(Context& ctx, const AdamWParams& params, const Tensor& grad, Tensor master, Tensor m,
               Tensor v, Tensor param) {
  constexpr char kOp[] = "adamw";
  OT_CHECK(params.step >= 1, "adamw: step {} (steps count from 1)", params.step);
  OT_CHECK(master.shape.rank() == 1, "adamw: master is {}, expected [N]", Describe(master));
  OT_CHECK(MainGradDType(param.dtype) == master.dtype, "adamw: param {} of a master {}",
           Describe(param), Describe(master));
  CheckDenseOperand(ctx, kOp, "master", master, master.dtype, master.shape);
  CheckDenseOperand(ctx, kOp, "grad", grad, master.dtype, master.shape);
  CheckDenseOperand(ctx, kOp, "m", m, master.dtype, master.shape);
  CheckDenseOperand(ctx, kOp, "v", v, master.dtype, master.shape);
  CheckDenseOperand(ctx, kOp, "param", param, param.dtype, master.shape);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::AdamWStep(ctx, params, grad, master, m, v, param);
  }
  OT_CHECK(param.dtype == master.dtype, "adamw: the CPU computes in f32 and f64, not {}",
           DTypeName(param.dtype));
  cpu::AdamWStep(params, grad, master, m, v, param);
}

}  // namespace omnitrain
