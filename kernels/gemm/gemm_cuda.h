#pragma once

#include "core/runtime/context.h"
#include "core/runtime/write.h"

namespace omnitrain::cuda {

/// One matrix of a product, row-major with rows `row_stride` apart; transposed where it says so.
struct GemmOperand {
  Tensor matrix;
  bool is_transposed = false;
};

/// d = op(a) op(b) + bias, or d += without a bias: the one door to cuBLASLt.
/// Shapes: op(a) [m, k]; op(b) [k, n]; d [m, n]; bias [n] or absent; k > 0.  Dtype: a and b alike,
/// f32 or bf16; d theirs or f32; bias as d; sums in f32, never in TF32.  Deterministic: the same
/// algorithm for the same shapes, strides and alignment, and no split sums in the output's dtype.
void Gemm(Context& ctx, const GemmOperand& a, const GemmOperand& b, const Tensor& bias, Write write,
          const Tensor& d);

/// sums[j] += sum_i x[i, j].  Shapes: x [T, O], dim 0 may be strided; sums [O] f32.
/// Uses the context's scratch.  Deterministic.
void AddColumnSums(Context& ctx, const Tensor& x, const Tensor& sums);

}  // namespace omnitrain::cuda
