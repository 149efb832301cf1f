#pragma once

#include "kernels/moe/grouped_linear.h"

namespace omnitrain::cuda {

// The ops of grouped_linear.h for all groups in one launch, on operands that were checked: bf16 on
// Hopper. Deterministic: one block computes a tile, over K in order.

/// Whether these operands can be used: bf16 (and f32 main gradients), widths, strides and addresses
/// multiples of 16 bytes, on a GPU of compute capability 9.0.
bool FitsGroupedKernel(const Tensor& x, const Tensor& w, const Tensor& y);

void GroupedLinearForward(Context& ctx, const Tensor& x, const Tensor& w,
                          const std::vector<int64_t>& offsets, Write write, const Tensor& y);
void GroupedLinearInputGrad(Context& ctx, const Tensor& dy, const Tensor& w,
                            const std::vector<int64_t>& offsets, Write write, const Tensor& dx);
void GroupedLinearWeightGrad(Context& ctx, const Tensor& x, const Tensor& dy,
                             const std::vector<int64_t>& offsets, const Tensor& dw);

}  // namespace omnitrain::cuda
