#include "kernels/common/operands.h"

namespace omnitrain {

void CheckOperand(const Context& ctx, const char* op, const char* name, const Tensor& t,
                  DType dtype, const Shape& shape) {
  OT_CHECK(t.dtype == dtype && t.shape == shape, "{}: {} is {}, expected {} {}", op, name,
           Describe(t), DTypeName(dtype), shape.ToString());
  OT_CHECK(t.device == ctx.device().kind(), "{}: {} {} is on the {}, the context on the {}", op,
           name, Describe(t), t.device == DeviceKind::kCpu ? "host" : "GPU",
           ctx.is_cuda() ? "GPU" : "host");
  OT_CHECK(t.data != nullptr || t.num_elements() == 0, "{}: {} {} has no memory", op, name,
           Describe(t));
}

void CheckDenseOperand(const Context& ctx, const char* op, const char* name, const Tensor& t,
                       DType dtype, const Shape& shape) {
  CheckOperand(ctx, op, name, t, dtype, shape);
  OT_CHECK(t.is_dense(), "{}: {} {} has rows {} elements apart, expected {}", op, name, Describe(t),
           t.row_stride, t.shape.row_elements());
}

}  // namespace omnitrain
