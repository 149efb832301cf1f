#pragma once

#include <vector>

#include "core/runtime/context.h"
#include "core/runtime/write.h"

namespace omnitrain {

// The linear layers of E experts, each on rows of its own: rows [offsets[e], offsets[e + 1]) belong
// to expert e. Weights stored [E, out, in], one tensor for all experts.
// Dtype: x, w, y, dx the compute dtype; dw the main-gradient dtype (f32 for bf16 and f32, f64 for
// f64); products accumulate in f32 (f64 for f64).  Rows of x, y, dx, dy may be strided; w and dw
// are dense. Groups may be empty: their dw is unchanged. offsets: on the host, E + 1 values that
// never fall, from 0 to R. No wait for the device. Deterministic, as the products of kernels/gemm
// are.  Errors: offsets that do not cover the rows are kInternal. Cost: bf16 on Hopper, of widths
// and strides that are multiples of 16 bytes: one launch over all groups. Else one product of
// kernels/gemm per group that is not empty, one after the other: each too small to fill a GPU when
// groups have few rows.

/// y[r] = w_e x[r], or y += with kAccumulate, e the expert of row r.
/// Shapes: x [R, I]; w [E, O, I]; y [R, O].
void GroupedLinearForward(Context& ctx, const Tensor& x, const Tensor& w,
                          const std::vector<int64_t>& offsets, Write write, Tensor y);

/// dx[r] = w_e^T dy[r], or dx +=.
/// Shapes: dy [R, O]; w [E, O, I]; dx [R, I].
void GroupedLinearInputGrad(Context& ctx, const Tensor& dy, const Tensor& w,
                            const std::vector<int64_t>& offsets, Write write, Tensor dx);

/// dw_e += dy_e^T x_e over the rows of each expert.
/// Shapes: x [R, I]; dy [R, O]; dw [E, O, I].
void GroupedLinearWeightGrad(Context& ctx, const Tensor& x, const Tensor& dy,
                             const std::vector<int64_t>& offsets, Tensor dw);

}  // namespace omnitrain
