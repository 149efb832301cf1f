#include "kernels/rows/rows.h"

#include "core/runtime/has_cuda.h"
#include "kernels/common/operands.h"
#include "kernels/rows/rows_impl.h"

namespace omnitrain {
namespace {

/// `many` [S, D] and `few` [N, D] joined by index [N].
void CheckIndexed(const Context& ctx, const char* op, const char* many_name, const Tensor& many,
                  DType many_dtype, const char* few_name, const Tensor& few, const Tensor& index) {
  OT_CHECK(many.shape.rank() == 2, "{}: {} is {}, expected [S, D]", op, many_name, Describe(many));
  OT_CHECK(few.shape.rank() == 2, "{}: {} is {}, expected [N, D]", op, few_name, Describe(few));
  CheckOperand(ctx, op, many_name, many, many_dtype, many.shape);
  CheckOperand(ctx, op, few_name, few, few.dtype, {few.shape[0], many.shape[1]});
  CheckDenseOperand(ctx, op, "index", index, DType::kI32, {few.shape[0]});
}

/// `table` [S, D] and `rows` [N, D] joined by four weighted indices a row.
void CheckWeighted(const Context& ctx, const char* op, const Tensor& table, DType table_dtype,
                   const Tensor& rows, const Tensor& index, const Tensor& weight) {
  OT_CHECK(table.shape.rank() == 2, "{}: table is {}, expected [S, D]", op, Describe(table));
  OT_CHECK(rows.shape.rank() == 2, "{}: rows are {}, expected [N, D]", op, Describe(rows));
  CheckOperand(ctx, op, "table", table, table_dtype, table.shape);
  CheckOperand(ctx, op, "rows", rows, rows.dtype, {rows.shape[0], table.shape[1]});
  CheckDenseOperand(ctx, op, "index", index, DType::kI32, {rows.shape[0], 4});
  CheckDenseOperand(ctx, op, "weight", weight, rows.dtype, {rows.shape[0], 4});
}

}  // namespace

void GatherRows(Context& ctx, const Tensor& src, const Tensor& index, Write write, Tensor dst) {
  CheckIndexed(ctx, "gather_rows", "src", src, dst.dtype, "dst", dst, index);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::GatherRows(ctx, src, index, write, dst);
  }
  cpu::GatherRows(src, index, write, dst);
}

void ScatterRows(Context& ctx, const Tensor& src, const Tensor& index, Write write, Tensor dst) {
  CheckIndexed(ctx, "scatter_rows", "dst", dst, src.dtype, "src", src, index);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::ScatterRows(ctx, src, index, write, dst);
  }
  cpu::ScatterRows(src, index, write, dst);
}

void ScatterAddRows(Context& ctx, const Tensor& src, const Tensor& index, Tensor dst) {
  CheckIndexed(ctx, "scatter_add_rows", "dst", dst, MainGradDType(src.dtype), "src", src, index);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::ScatterAddRows(ctx, src, index, dst);
  }
  cpu::ScatterAddRows(src, index, dst);
}

void InterpolateRows(Context& ctx, const Tensor& table, const Tensor& index, const Tensor& weight,
                     Write write, Tensor dst) {
  CheckWeighted(ctx, "interpolate_rows", table, dst.dtype, dst, index, weight);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::InterpolateRows(ctx, table, index, weight, write, dst);
  }
  cpu::InterpolateRows(table, index, weight, write, dst);
}

void InterpolateRowsBackward(Context& ctx, const Tensor& d, const Tensor& index,
                             const Tensor& weight, Tensor dtable) {
  CheckWeighted(ctx, "interpolate_rows_backward", dtable, MainGradDType(d.dtype), d, index, weight);
  if constexpr (kHasCuda) {
    if (ctx.is_cuda()) return cuda::InterpolateRowsBackward(ctx, d, index, weight, dtable);
  }
  cpu::InterpolateRowsBackward(d, index, weight, dtable);
}

}  // namespace omnitrain
