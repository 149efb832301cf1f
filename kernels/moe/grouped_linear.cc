#include "kernels/moe/grouped_linear.h"

#include "core/runtime/has_cuda.h"
#include "kernels/common/operands.h"
#include "kernels/gemm/gemm.h"
#include "kernels/moe/grouped_linear_cuda.h"

namespace omnitrain {
namespace {

/// `rows` [R, ...] and `experts` [E, O, I] joined by offsets.
void CheckGroups(const char* op, const Tensor& rows, const Tensor& experts,
                 const std::vector<int64_t>& offsets) {
  OT_CHECK(rows.shape.rank() == 2, "{}: rows are {}, expected two dims", op, Describe(rows));
  OT_CHECK(experts.shape.rank() == 3, "{}: weights are {}, expected [E, O, I]", op,
           Describe(experts));
  const auto num_experts = experts.shape[0];
  OT_CHECK(static_cast<int64_t>(offsets.size()) == num_experts + 1,
           "{}: {} offsets of {} experts, expected one more", op, offsets.size(), num_experts);
  OT_CHECK(offsets.front() == 0 && offsets.back() == rows.shape[0],
           "{}: offsets from {} to {} of {} rows", op, offsets.front(), offsets.back(),
           rows.shape[0]);
  for (size_t e = 0; e + 1 < offsets.size(); ++e) {
    OT_CHECK(offsets[e] <= offsets[e + 1], "{}: offset {} of expert {} is followed by {}", op,
             offsets[e], e, offsets[e + 1]);
  }
}

Tensor Expert(const Tensor& w, int64_t e) { return w.Rows(e, 1).View({w.shape[1], w.shape[2]}); }

/// Whether one kernel serves all groups, or kernels/gemm each of them.
bool IsOneKernel(Context& ctx, const Tensor& x, const Tensor& w, const Tensor& y) {
  if constexpr (kHasCuda) return ctx.is_cuda() && cuda::FitsGroupedKernel(x, w, y);
  return false;
}

/// f(expert, first row, number of rows) for the groups that are not empty.
template <typename F>
void ForGroups(const std::vector<int64_t>& offsets, F&& f) {
  for (size_t e = 0; e + 1 < offsets.size(); ++e) {
    const int64_t num_rows = offsets[e + 1] - offsets[e];
    if (num_rows > 0) f(static_cast<int64_t>(e), offsets[e], num_rows);
  }
}

}  // namespace

void GroupedLinearForward(Context& ctx, const Tensor& x, const Tensor& w,
                          const std::vector<int64_t>& offsets, Write write, Tensor y) {
  constexpr char kOp[] = "GroupedLinearForward";
  CheckGroups(kOp, x, w, offsets);
  CheckOperand(ctx, kOp, "x", x, x.dtype, {x.shape[0], w.shape[2]});
  CheckDenseOperand(ctx, kOp, "w", w, x.dtype, w.shape);
  CheckOperand(ctx, kOp, "y", y, x.dtype, {x.shape[0], w.shape[1]});
  if constexpr (kHasCuda) {
    if (IsOneKernel(ctx, x, w, y)) return cuda::GroupedLinearForward(ctx, x, w, offsets, write, y);
  }
  ForGroups(offsets, [&](int64_t e, int64_t begin, int64_t count) {
    LinearForward(ctx, x.Rows(begin, count), Expert(w, e), Tensor(), write, y.Rows(begin, count));
  });
}

void GroupedLinearInputGrad(Context& ctx, const Tensor& dy, const Tensor& w,
                            const std::vector<int64_t>& offsets, Write write, Tensor dx) {
  constexpr char kOp[] = "GroupedLinearInputGrad";
  CheckGroups(kOp, dy, w, offsets);
  CheckOperand(ctx, kOp, "dy", dy, dy.dtype, {dy.shape[0], w.shape[1]});
  CheckDenseOperand(ctx, kOp, "w", w, dy.dtype, w.shape);
  CheckOperand(ctx, kOp, "dx", dx, dy.dtype, {dy.shape[0], w.shape[2]});
  if constexpr (kHasCuda) {
    if (IsOneKernel(ctx, dx, w, dy))
      return cuda::GroupedLinearInputGrad(ctx, dy, w, offsets, write, dx);
  }
  ForGroups(offsets, [&](int64_t e, int64_t begin, int64_t count) {
    LinearInputGrad(ctx, dy.Rows(begin, count), Expert(w, e), write, dx.Rows(begin, count));
  });
}

void GroupedLinearWeightGrad(Context& ctx, const Tensor& x, const Tensor& dy,
                             const std::vector<int64_t>& offsets, Tensor dw) {
  constexpr char kOp[] = "GroupedLinearWeightGrad";
  CheckGroups(kOp, x, dw, offsets);
  CheckOperand(ctx, kOp, "x", x, x.dtype, {x.shape[0], dw.shape[2]});
  CheckOperand(ctx, kOp, "dy", dy, x.dtype, {x.shape[0], dw.shape[1]});
  CheckDenseOperand(ctx, kOp, "dw", dw, MainGradDType(x.dtype), dw.shape);
  if constexpr (kHasCuda) {
    if (IsOneKernel(ctx, x, dw, dy)) return cuda::GroupedLinearWeightGrad(ctx, x, dy, offsets, dw);
  }
  ForGroups(offsets, [&](int64_t e, int64_t begin, int64_t count) {
    LinearWeightGrad(ctx, x.Rows(begin, count), dy.Rows(begin, count), Expert(dw, e), Tensor());
  });
}

}  // namespace omnitrain
